"""How near a quantized product comes to the machine's limits: run.py [--quick] [--seconds S]

Each row is one format, size and number of rows, with the bandwidth of memory, the peak of the integer units and XLA's float32
product of the same size measured in the same process, float32 and quantized in turn. Rows that are there are not measured again,
but each processor has its own; with --seconds no new row is begun after so long.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import Rows, device

HERE = Path(__file__).parent
FORMATS = ("float32", "q4_0", "int8", "q4_k", "float32", "int4_g128", "q8_0", "q6_k")
SIZES, ROWS, THREADS = (4096, 2048, 8192), (1, 4, 512, 16, 64), 2


def wanted(quick: bool) -> list[dict]:
    if quick:
        return [
            {"format": format, "size": 256, "rows": rows, "turn": 0} for format in ("float32", "q4_0", "q4_k") for rows in (1, 5)
        ]
    listed = [(rows, size, turn, format) for rows in ROWS for size in SIZES for turn, format in enumerate(FORMATS)]
    return [{"format": format, "size": size, "rows": rows, "turn": turn} for rows, size, turn, format in listed]


def main(quick: bool, seconds: float | None) -> None:
    from pikojax.kernels.measure_matmul import STACK_BYTES, measure
    from pikojax.native.peak import int8_gop_per_s

    results = Rows(HERE / "results.jsonl", quick)
    began_s = time.monotonic()
    for key in wanted(quick):
        if results.has(**key, device=device()):
            continue
        if seconds is not None and time.monotonic() - began_s > seconds:
            raise SystemExit("stopped: time is up; run again to go on")
        size = key["size"]
        found = measure(key["format"], key["rows"], size, size, THREADS, 1 << 22 if quick else STACK_BYTES)
        results.append(
            **key, peak_gop_per_s=int8_gop_per_s(THREADS), **{k: v for k, v in found.items() if k not in ("format", "rows")}
        )


if __name__ == "__main__":
    words = sys.argv[1:]
    main("--quick" in words, float(words[words.index("--seconds") + 1]) if "--seconds" in words else None)
