"""What do damaged files do? Each mutant loads or is refused in one line, soon and in little memory: run.py [--seconds N] [--part K/N] [--quick]

A child process takes a chunk of mutants of one kind, and this one watches it: a mutant that ends the child, or stops it for `HANGS_S`, is
saved, and the next child begins behind it. A mutant that raises anything but one line, takes longer than `SLOW_S` (three times in a row)
or more memory than twice its bytes and 16 MB is saved too. With --seconds no chunk is begun after so long: call again to go on.
With --part 0/2 and 1/2 two processes share the chunks.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import Rows

HERE = Path(__file__).parent
CHUNK, QUICK_CHUNK = 20_000, 40
CHUNKS = {"gguf": 12, "gguf packed": 12, "config.json of GPT-2": 8, "tokenizer.model": 5, "tiktoken": 5, "safetensors": 3, "config.json": 3}  # the cheap ones
CHUNKS_ELSE = 1
SLOW_S, HANGS_S, MORE_BYTES = 1.0, 20.0, 16 << 20
RUN_EVERY, COMPILE_EVERY = 20, 400  # of models that load, so many compute: those whose config is new to the child have to be compiled
OFFENDERS = HERE / "offenders"


def main(quick: bool, limit_s: float, part: tuple[int, int]) -> None:
    from mutants import SEEDS

    rows, began_s = Rows(HERE / "results.jsonl", quick), time.monotonic()
    size = QUICK_CHUNK if quick else CHUNK
    for chunk in range(1 if quick else max(CHUNKS.values())):
        for kind in list(SEEDS)[:: 4 if quick else 1]:
            if chunk % part[1] != part[0] or chunk >= CHUNKS.get(kind, CHUNKS_ELSE) or rows.has(kind=kind, chunk=chunk):
                continue
            if time.monotonic() - began_s > limit_s:
                return
            rows.append(kind=kind, chunk=chunk, mutants=size, **watched(kind, chunk * size, size))


def watched(kind: str, first: int, n: int) -> dict:
    """The sums over mutants first … first + n."""
    total, slowest_s, most_bytes, offenders, at = Counter(), 0.0, 0, 0, first
    while at < first + n:
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
            place, said = Path(folder) / "at", Path(folder) / "said"
            child = subprocess.Popen([sys.executable, __file__, "--child", kind, str(at), str(first + n - at), folder])
            seen, since_s = None, time.monotonic()
            while child.poll() is None:
                time.sleep(0.05)
                now = place.read_bytes() if place.is_file() else None
                seen, since_s = (seen, since_s) if now == seen else (now, time.monotonic())
                if time.monotonic() - since_s > (HANGS_S if seen else 6 * HANGS_S):
                    child.kill()
            stopped = int(place.read_bytes()) if place.is_file() and child.returncode != 0 else None
            for line in said.read_text().splitlines() if said.is_file() else ():
                found = json.loads(line)
                total.update(found["outcomes"])
                slowest_s, most_bytes, offenders = max(slowest_s, found["slowest_s"]), max(most_bytes, found["most_bytes"]), offenders + found["offenders"]
            if child.returncode == 0:
                break
            if stopped is None:
                raise SystemExit(f"the child of {kind} ended with {child.returncode} before its first mutant")
            save(kind, stopped, f"ended or hung: exit code {child.returncode}")
            offenders, at = offenders + 1, stopped + 1
    return {**{name: total[name] for name in ("run", "loaded", "refused")}, "slowest_ms": slowest_s * 1e3, "most_extra_mb": most_bytes / 2**20, "offenders": offenders}


def save(kind: str, i: int, why: str) -> None:
    from mutants import SEEDS, mutant

    with tempfile.TemporaryDirectory() as folder:
        content = SEEDS[kind](Path(folder)).content
    OFFENDERS.mkdir(exist_ok=True)
    (OFFENDERS / f"{kind.replace('/', '_')} {i}").write_bytes(mutant(content, random.Random(f"{kind} {i}")))
    print(f"{kind} {i}: {why}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the child


def child(kind: str, first: int, n: int, folder: Path) -> None:
    """Takes the mutants one by one; a line of sums every 500, so that little is lost with it."""
    from mutants import SEEDS, mutant

    (folder / "seed").mkdir()
    seed = SEEDS[kind](folder / "seed")
    whole, configs = seed.content, set()
    attempt(seed, 0, configs)  # what the first load imports and compiles is no mutant's
    place = os.open(folder / "at", os.O_CREAT | os.O_WRONLY)
    fresh = lambda: {"outcomes": Counter(), "slowest_s": 0.0, "most_bytes": 0, "offenders": 0}
    sums = fresh()
    for i in range(first, first + n):
        content = mutant(whole, random.Random(f"{kind} {i}"))
        os.pwrite(place, b"%020d" % i, 0)
        seed.damaged.write_bytes(content)
        result, seconds, more_bytes = attempt(seed, i, configs)
        tries = 1
        while (seconds > SLOW_S or more_bytes > 2 * len(content) + MORE_BYTES) and tries < 3:  # the machine is shared; a first regular expression loads tables
            _, *again = attempt(seed, i, configs)
            seconds, more_bytes, tries = min(seconds, again[0]), min(more_bytes, again[1]), tries + 1
        bad = result if result not in ("run", "loaded", "refused") else f"took {seconds:.1f} s" if seconds > SLOW_S else ""
        bad = bad or (f"took {more_bytes >> 20} MB" if more_bytes > 2 * len(content) + MORE_BYTES else "")
        if bad:
            save(kind, i, bad)
        sums["outcomes"][result] += 1
        sums["slowest_s"], sums["most_bytes"] = max(sums["slowest_s"], seconds), max(sums["most_bytes"], more_bytes)
        sums["offenders"] += bool(bad)
        if (i - first) % 500 == 499 or i == first + n - 1:
            with open(folder / "said", "a") as said:
                said.write(json.dumps(sums) + "\n")
            sums = fresh()


def attempt(seed, i: int, configs: set) -> tuple[str, float, int]:
    """(outcome, or what was raised; seconds; bytes of memory more than before). Running comes after both are taken: it compiles."""
    from mutants import outcome

    before, began_s = resident("VmRSS", reset=True), time.perf_counter()
    try:
        result = outcome(seed, run=False)
        seconds, more_bytes = time.perf_counter() - began_s, resident("VmHWM") - before
        if result == "loaded" and runs(seed, i, configs):
            result = outcome(seed)
        return result, seconds, more_bytes
    except Exception as error:  # whatever it is: it has no business here
        return f"{type(error).__name__}: {error}"[:300], time.perf_counter() - began_s, 0


def runs(seed, i: int, configs: set) -> bool:
    import pikojax

    if i % RUN_EVERY:
        return False
    config = pikojax.load(seed.opened, ready=False).config
    known = config in configs or i % COMPILE_EVERY == 0
    if known:
        configs.add(config)
    return known


def resident(what: str, reset: bool = False) -> int:
    """Bytes, of Linux's account of this process; `reset` begins a new high-water mark."""
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(what)) << 10


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["--child"]:
        child(words[1], int(words[2]), int(words[3]), Path(words[4]))
    else:
        value = lambda flag, usual: words[words.index(flag) + 1] if flag in words else usual
        k, n = map(int, value("--part", "0/1").split("/"))
        main("--quick" in words, float(value("--seconds", "inf")), (k, n))
