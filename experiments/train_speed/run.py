"""Tokens a second of the LightLLM training step: ours against PyTorch, eager and compiled, in turn: run.py --peer-python PYTHON [--quick]

PYTHON is an interpreter with torch. Every turn is a fresh process that warms up and then times its steps; the order is
eager, ours, compiled, ours and again, so that a drift of the machine falls on all sides. Each round also has one turn of ours
without each of its speed-ups (without.py), one of the whole training loop beside the bare step, and each side's products alone
(products.py), which are the floor of its step, and one of PyTorch's with the C library's settings of ours.
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
from trials import ROOT, Rows

from pikojax.cli.startup import KEEP_MEMORY

HERE = Path(__file__).parent
ROUNDS, STEPS, TOKENS = 3, 10, 8 * 256
SIDES = ("torch eager", "pikojax", "torch compile", "pikojax", "pikojax train")
SIDES += ("pikojax without unrolling", "pikojax without pieces", "pikojax without memory")  # the names are without.py's
SIDES += ("torch eager, memory kept", "products: torch", "products: pikojax")


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


def torch(python: str, mode: str, steps: int, memory_kept: bool) -> dict:
    environ = {"GLIBC_TUNABLES": KEEP_MEMORY} if memory_kept else {}
    found = last_json([python, str(ROOT / "experiments" / "peers" / "torch_train_speed.py"), mode, str(steps)], **environ)
    return {"step_s": statistics.median(found["step_s"]), "parameters": found["parameters"]}


def products(python: str, side: str) -> dict:
    return last_json([python, str(HERE / "products.py"), {"pikojax": "jax"}.get(side, side)])


def main(quick: bool, python: str | None) -> None:
    rows = Rows(HERE / "results.jsonl", quick)
    if quick:
        small = ["d_model=32", "n_layers=1", "n_heads=2", "context=32", "batch_size=2", "stories_mb=0.05"]
        rows.append(round=0, side="pikojax", **ours(2, small))
        rows.append(round=0, side="pikojax without unrolling", **ours(2, small, "unrolling"))
        rows.append(round=0, side="pikojax train", **loop([*small, "train.steps=5"]))
        return
    if python is None:
        raise SystemExit("give --peer-python PYTHON, an interpreter that has torch")
    for number in range(ROUNDS):
        for turn, side in enumerate(SIDES):
            if rows.has(round=number, turn=turn):
                continue
            if side.startswith("products"):
                name = side.split()[1]
                rows.append(round=number, turn=turn, side=side, **products(python if name == "torch" else sys.executable, name))
                continue
            if side.startswith("torch"):
                found = torch(python, side.split()[1].rstrip(","), STEPS, side.endswith("memory kept"))
            elif side == "pikojax train":
                found = loop([])
            else:
                found = ours(STEPS, [], side.partition(" without ")[2])
            rows.append(round=number, turn=turn, side=side, tokens_per_s=TOKENS / found["step_s"], **found)


if __name__ == "__main__":
    words = sys.argv[1:]
    main("--quick" in words, words[words.index("--peer-python") + 1] if "--peer-python" in words else None)
