"""Tokens a second of the LightLLM training step: ours against PyTorch, eager and compiled, in turn: run.py --peer-python PYTHON [--quick]

PYTHON is an interpreter with torch. Every turn is a fresh process that warms up and then times its steps; the order is
eager, ours, compiled, ours and again, so that a drift of the machine falls on all sides.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import ROOT, Rows

HERE = Path(__file__).parent
ROUNDS, STEPS, TOKENS = 3, 10, 8 * 256


def last_json(command: list[str]) -> dict:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(steps: int, overrides: list[str]) -> dict:
    command = [sys.executable, "-m", "pikojax", "bench", "train", str(HERE / "config.toml"), "--steps", str(steps), "--threads", "2", "--json"]
    found = last_json([*command, *overrides])
    return {"step_s": found["step_s"], "parameters": found["parameters"]}


def torch(python: str, mode: str, steps: int) -> dict:
    found = last_json([python, str(ROOT / "experiments" / "peers" / "torch_train_speed.py"), mode, str(steps)])
    return {"step_s": statistics.median(found["step_s"]), "parameters": found["parameters"]}


def main(quick: bool, python: str | None) -> None:
    rows = Rows(HERE / "results.jsonl", quick)
    if quick:
        small = ["d_model=32", "n_layers=1", "n_heads=2", "context=32", "batch_size=2", "stories_mb=0.05"]
        rows.append(round=0, side="pikojax", **ours(2, small))
        return
    if python is None:
        raise SystemExit("give --peer-python PYTHON, an interpreter that has torch")
    for number in range(ROUNDS):
        for turn, side in enumerate(("torch eager", "pikojax", "torch compile", "pikojax")):
            if rows.has(round=number, turn=turn):
                continue
            found = ours(STEPS, []) if side == "pikojax" else torch(python, side.split()[1], STEPS)
            rows.append(round=number, turn=turn, side=side, tokens_per_s=TOKENS / found["step_s"], **found)


if __name__ == "__main__":
    words = sys.argv[1:]
    main("--quick" in words, words[words.index("--peer-python") + 1] if "--peer-python" in words else None)
