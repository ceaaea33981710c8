"""What do several users at once cost each other? Throughput by streams, their texts beside solo, and 10,000 impatient requests.

    run.py [--models FOLDER] [--seconds N] [--quick]

    streams   1, 2, 4, 8 requests at once, each with a prompt of its own: tokens a second of all, in turn, and whether each text is the one
              that the request has alone
    churn     requests of random lengths, of which some are cancelled at any moment and some stop at a random token: slots, blocks, memory

Each machine has rows of its own. With `--seconds` nothing is begun after so long: call again to go on.
"""

import random
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_models import file_of
from trials import Rows, device

import jax

from pikojax.config import LlamaConfig, cache_dir
from pikojax.infer.engine import Busy, Engine, EngineConfig
from pikojax.infer.peer_decode import random_ids
from pikojax.models import catalog

HERE = Path(__file__).parent
STREAMS, ROUNDS, PROMPT_TOKENS = (1, 2, 4, 8), 3, 16
TINY = LlamaConfig(d_model=32, n_layers=1, n_heads=2, n_kv_heads=1, d_hidden=32, vocab_size=300, context=128)
MODELS = {"13M q8_0": 96, "1.1B q4_0": 32}  # tokens a request
REQUESTS, PARTS = 10_000, 20  # memory is read after each part


def tiny_engine(**settings) -> Engine:
    return Engine(catalog["llama"], TINY, catalog["llama"].init(TINY, jax.random.key(0)), None, EngineConfig(**settings))


# ---------------------------------------------------------------- streams


def together(engine: Engine, n: int, tokens: int, prompts: list) -> tuple[float, list]:
    """(tokens a second of all, from the first request to the end of the last, their ids)"""
    began_s = time.perf_counter()
    handles = [engine.submit(ids, max_tokens=tokens, temperature=0, ignore_eos=True) for ids in prompts[:n]]
    engine.run()
    seconds = time.perf_counter() - began_s
    return n * tokens / seconds, [handle.result().ids for handle in handles]


def streams(rows: Rows, name: str, engine: Engine, tokens: int, rounds: int, counts=STREAMS) -> None:
    prompts = [random_ids(PROMPT_TOKENS, engine.cfg.vocab_size, seed) for seed in range(max(counts))]
    alone = [together(engine, 1, tokens, [ids])[1][0] for ids in prompts]
    for n in counts:
        together(engine, n, tokens, prompts)  # compiles
    found = {n: [] for n in counts}
    same = {n: True for n in counts}
    for _ in range(rounds):
        for n in counts:
            rate, ids = together(engine, n, tokens, prompts)
            found[n].append(rate)
            same[n] &= ids == alone[:n]
    for n in counts:
        ratio = statistics.median(a / b for a, b in zip(found[n], found[1], strict=True))
        rows.append(kind="streams", model=name, streams=n, tokens_per_s=found[n], times_one=ratio, same_text=same[n])


# ---------------------------------------------------------------- churn


def memory_bytes() -> int:
    """Resident now."""
    try:
        return next(1024 * int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    except OSError:
        return 0


def churn(rows: Rows, n_requests: int, parts: int, slots: int) -> None:
    engine, drawn = tiny_engine(slots=slots, queue=4 * slots, step_s=0.002), random.Random(0)
    ended, live, resident, submitted, refused = {}, [], [], 0, 0

    def settle() -> None:
        for handle in [h for h in live if h.done]:
            live.remove(handle)
            why = handle.result().stopped
            ended[why] = ended.get(why, 0) + 1

    began_s = time.perf_counter()
    while submitted < n_requests or live:
        while submitted < n_requests and len(live) < 6 * slots:
            prompt = random_ids(drawn.randrange(1, 70), TINY.vocab_size, drawn.randrange(50))
            stops = drawn.sample(range(TINY.vocab_size), 8)
            try:
                live.append(engine.submit(prompt, max_tokens=drawn.randrange(1, 40), seed=submitted, temperature=1.0, stop_ids=stops))
                submitted += 1
                resident += [memory_bytes()] if submitted % (n_requests // parts) == 0 else []
            except Busy:
                refused += 1
                break
        for handle in live:
            if drawn.random() < 0.03:
                handle.cancel()
        engine.step()
        settle()
    seconds = time.perf_counter() - began_s
    lost = len(engine.waiting) + len(engine.reading) + len(engine.writing)
    held = engine.pool.n_blocks - 1 - engine.pool.n_free
    assert lost == 0 and held == 0, f"{lost} requests and {held} blocks are still held"
    handed = engine.generate([1, 2, 3], max_tokens=5, temperature=0, ignore_eos=True).ids
    fresh = tiny_engine(slots=slots).generate([1, 2, 3], max_tokens=5, temperature=0, ignore_eos=True).ids
    rows.append(
        **{"kind": "churn", "requests": submitted, "ended": ended, "refused": refused, "seconds": seconds, "slots_lost": lost},
        **{"blocks_lost": held, "resident_bytes": resident, "same_text_after": handed == fresh},
    )


def main(quick: bool, folder: Path, limit_s: float) -> None:
    rows, began_s = Rows(HERE / "results.jsonl", quick), time.monotonic()
    if quick:
        streams(rows, "tiny", tiny_engine(slots=2, remember=False), 8, 1, (1, 2))
        return churn(rows, 60, 2, 2)
    if not rows.has(kind="churn", device=device()):
        churn(rows, REQUESTS, PARTS, max(STREAMS))
    for name, tokens in MODELS.items():
        if rows.has(kind="streams", model=name, streams=STREAMS[-1], device=device()) or time.monotonic() - began_s > limit_s:
            continue
        config = EngineConfig(slots=max(STREAMS), remember=False, context=256, step_s=0.1)
        streams(rows, name, Engine.load(file_of(name, folder), config=config), tokens, ROUNDS)


def after(word: str) -> str | None:
    return sys.argv[sys.argv.index(word) + 1] if word in sys.argv else None


if __name__ == "__main__":
    main("--quick" in sys.argv, Path(after("--models") or cache_dir("models")), float(after("--seconds") or "inf"))
