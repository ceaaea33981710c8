"""How fast a cache is attended to, by format, beside XLA's float32 attention and the memory's bandwidth: run.py [--seconds N] [--quick]

One round of a shape times each side once, in turn, with a reading of the bandwidth before each; the sides' medians are over the
rounds. Each machine has rows of its own. With --seconds no shape is begun after so long: call again to go on.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import Rows, device

from pikojax.kernels import measure_attention as m
from pikojax.native.bandwidth import read_bandwidth_gb_per_s

HERE = Path(__file__).parent
HEADS, KV_HEADS, WIDTH, THREADS, ROUNDS = 32, 8, 64, 2, 5
SHAPES = [(slots, rows) for slots in (4096, 512, 16384) for rows in (1, 4, 16)]


def sides(slots: int, rows: int, buffer_bytes: int):
    """Name → (a pass that gives seconds a call, bytes of cache a call, errors)."""
    q_BTHC = m.random_queries(rows, HEADS, WIDTH)
    found = {}
    for cache in ("float32", "bfloat16", "int8", "int4"):
        keys, values, cache_bytes = m.filled_stacks(cache, slots, KV_HEADS, WIDTH, buffer_bytes)
        errors = m.errors(cache, slots, rows, HEADS, KV_HEADS, WIDTH)
        found[cache] = m.stack_pass(q_BTHC, keys, values, slots), cache_bytes, errors
    float_bytes = 2 * 4 * slots * KV_HEADS * WIDTH
    for name, head_major in (("XLA, slot-major", False), ("XLA, head-major", True)):
        if name == "XLA, slot-major" and (slots, rows) != (4096, 1):
            continue  # ten times slower: once is enough
        found[name] = m.xla_pass(q_BTHC, slots, KV_HEADS, head_major, buffer_bytes), float_bytes, {}
    return found


def measure(rows: Rows, slots: int, n_rows: int, buffer_bytes: int, rounds: int) -> None:
    contenders = sides(slots, n_rows, buffer_bytes)
    seconds, bandwidths = {name: [] for name in contenders}, {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (one_pass, _, _) in contenders.items():
            bandwidths[name].append(read_bandwidth_gb_per_s(THREADS, buffer_bytes, 1))
            seconds[name].append(one_pass())
    for name, (_, cache_bytes, errors) in contenders.items():
        rates = [cache_bytes / s / 1e9 for s in seconds[name]]
        shares = [rate / b for rate, b in zip(rates, bandwidths[name], strict=True)]
        rows.append(
            **{"slots": slots, "rows": n_rows, "side": name, "call_us": [s * 1e6 for s in seconds[name]], "gb_per_s": statistics.median(rates)},
            **{"read_bandwidth_gb_per_s": statistics.median(bandwidths[name]), "of_bandwidth": statistics.median(shares), **errors},
        )


def main(quick: bool, limit_s: float) -> None:
    rows, began_s = Rows(HERE / "results.jsonl", quick), time.monotonic()
    for slots, n_rows in [(64, 2)] if quick else SHAPES:
        if rows.has(slots=slots, rows=n_rows, side="XLA, head-major", device=device()):
            continue
        if time.monotonic() - began_s > limit_s:
            return
        measure(rows, slots, n_rows, 1 << (20 if quick else 30), 2 if quick else ROUNDS)


if __name__ == "__main__":
    words = sys.argv[1:]
    main("--quick" in words, float(words[words.index("--seconds") + 1]) if "--seconds" in words else float("inf"))
