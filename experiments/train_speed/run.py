"""Tokens a second of a training step: ours against PyTorch, eager and compiled, in turn: run.py --peer-python PYTHON [--turns N] [--quick]

PYTHON is an interpreter with torch. Every turn is a fresh process that warms up and then times its steps; in each round come
eager, ours, compiled, ours and again, so that a drift of the machine falls on all sides, then the same on a model four times larger.
Last, and counted to the first round, comes one turn of ours without each of its speed-ups (without.py), one of the whole training loop beside the
bare step, one of PyTorch's with the C library's settings of ours, and the products alone (products.py), which are the floor of a step.
With `--turns N` it stops after N turns; the next call goes on from there. Each machine has rows of its own.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import ROOT, Rows, device

from pikojax.cli.startup import KEEP_MEMORY

HERE = Path(__file__).parent
ROUNDS, STEPS, TOKENS = 3, 10, 8 * 256
COMPARED = ("torch eager", "pikojax", "torch compile", "pikojax")
# the names after "without" are without.py's
ONCE = ("pikojax train", "pikojax without products", "pikojax without unrolling", "pikojax without memory", "torch eager, memory kept")
ONCE += ("products: torch", "products: pikojax", "products: XLA")
LARGE = ["d_model=768", "n_heads=12"]  # 42.7M parameters



def last_json(command: list[str], **environ: str) -> dict:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"} | environ
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(steps: int, overrides: list[str], without: str | None = None) -> dict:
    command = [sys.executable, "-m", "pikojax", "bench", "train", str(HERE / "config.toml"), "--steps", str(steps), "--threads", "2", "--json"]
    if without:
        command[1:3] = [str(HERE / "without.py"), without]
    found = last_json([*command, *overrides])
    return {"step_s": found["step_s"], "parameters": found["parameters"]}


def loop(overrides: list[str]) -> dict:
    """The same steps inside `pikojax train`, with no evaluation on the way; the second start finds its programs compiled."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pikojax", "train", str(HERE / "config.toml"), "train.steps=20", "eval_interval=1000", "--json"]
        command += ["sample_tokens=0", "checkpoint.interval=1000", "log_interval=1", "--threads", "2", *overrides]
        for start in ("cold", "warm"):
            run = Path(folder) / start
            began_s = time.time()
            found = last_json([*command, f"run.dir={run}"])
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        seconds = [line["seconds"] for line in lines if line.get("loss") is not None]
        first_step_s = (run / "config.toml").stat().st_mtime - began_s + seconds[0]
        step_s = statistics.median(after - before for before, after in zip(seconds[1:], seconds[2:], strict=False))
    return {"step_s": step_s, "data_wait_fraction": found["data_wait_fraction"], "first_step_warm_s": first_step_s}


def torch(python: str, mode: str, steps: int, large: bool, memory_kept: bool) -> dict:
    environ = {"GLIBC_TUNABLES": KEEP_MEMORY} if memory_kept else {}
    words = [mode, str(steps), *(["768"] if large else [])]
    found = last_json([python, str(ROOT / "experiments" / "peers" / "torch_train_speed.py"), *words], **environ)
    return {"step_s": statistics.median(found["step_s"]), "parameters": found["parameters"]}


def products(python: str, side: str) -> dict:
    return last_json([python if side == "torch" else sys.executable, str(HERE / "products.py"), side])


def one_turn(python: str, model: str, side: str) -> dict:
    large = model == "large"
    steps = STEPS // 2 if large else STEPS
    if side.startswith("products"):
        return products(python, side.split()[1])
    if side.startswith("torch"):
        found = torch(python, side.split()[1].rstrip(","), steps, large, side.endswith("memory kept"))
    elif side == "pikojax train":
        found = loop([])
    else:
        found = ours(steps, LARGE if large else [], side.partition(" without ")[2])
    return {"tokens_per_s": TOKENS / found["step_s"], **found}


def main(quick: bool, python: str | None, most_turns: int | None) -> None:
    rows = Rows(HERE / "results.jsonl", quick)
    if quick:
        small = ["d_model=32", "n_layers=1", "n_heads=2", "context=32", "batch_size=2", "stories_mb=0.05"]
        rows.append(round=0, side="pikojax", **ours(2, small))
        rows.append(round=0, side="pikojax without unrolling", **ours(2, small, "unrolling"))
        rows.append(round=0, side="pikojax train", **loop([*small, "train.steps=5"]))
        return
    if python is None:
        raise SystemExit("give --peer-python PYTHON, an interpreter that has torch")
    turns = [("lightllm", side) for side in COMPARED] + [("large", side) for side in COMPARED] + [("lightllm", side) for side in ONCE]
    compared = 2 * len(COMPARED)
    wanted = [(number, turn) for number in range(ROUNDS) for turn in range(compared)] + [(0, turn) for turn in range(compared, len(turns))]
    open_turns = [(number, turn) for number, turn in wanted if not rows.has(round=number, turn=turn, device=device())]
    for number, turn in open_turns[:most_turns]:
        model, side = turns[turn]
        rows.append(round=number, turn=turn, model=model, side=side, **one_turn(python, model, side))


def after(word: str) -> str | None:
    return sys.argv[sys.argv.index(word) + 1] if word in sys.argv else None


if __name__ == "__main__":
    turns = after("--turns")
    main("--quick" in sys.argv, after("--peer-python"), None if turns is None else int(turns))
