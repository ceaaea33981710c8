"""How soon is the loss of nanoGPT's CPU recipe reached? run.py --peer-python PYTHON [--quick]

For each seed in turn: the recipe in PyTorch, all of it; its final weights' loss over the whole validation split, by our evaluator; then
`pikojax train configs/shakespeare_char_cpu.toml` until its own loss, by the same evaluator, is as low. Both are timed as whole
processes from start to exit, imports and compiling included; our compile and data caches are empty each time.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import ROOT, Rows, data_file
from weights import validation_loss

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)


def timed(command: list[str], **env: str) -> tuple[float, dict]:
    began_s = time.perf_counter()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}  # this process's compile cache is not theirs
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**inherited, "PYTHONPATH": str(ROOT), **env})
    seconds = time.perf_counter() - began_s
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return seconds, json.loads(done.stdout.strip().splitlines()[-1])


def theirs(python: str, text: Path, seed: int, folder: Path) -> dict:
    weights = folder / "torch.npz"
    wall_s, found = timed([python, str(HERE / "torch_recipe.py"), str(text), str(seed), str(weights)])
    return {**found, "wall_s": wall_s, "val_loss": validation_loss(weights, text)}


def ours(text: Path, seed: int, target: float, folder: Path, extra: list[str]) -> dict:
    command = [sys.executable, "-m", "pikojax", "train", "configs/shakespeare_char_cpu.toml", f"data.path={text}", f"seed={seed}"]
    command += [f"train.target_val_loss={target}", f"run.dir={folder / 'run'}", "--json", *extra]
    wall_s, found = timed(command, PIKOJAX_CACHE=str(folder / "cache"))
    keys = ("seconds", "steps", "val_loss", "parameters", "stopped", "compile_s")
    return {**{key: found[key] for key in keys if key in found}, "wall_s": wall_s}


def main(quick: bool, python: str | None) -> None:
    rows = Rows(HERE / "results.jsonl", quick)
    if quick:
        with tempfile.TemporaryDirectory() as folder:
            text = Path(folder) / "text.txt"
            text.write_text("one two three four five six seven eight nine ten\n" * 200)
            rows.append(seed=0, side="pikojax", **ours(text, 0, 3.0, Path(folder), ["train.steps=20", "eval_interval=10", "sample_tokens=5"]))
        return
    if python is None:
        raise SystemExit("give --peer-python PYTHON, an interpreter that has torch")
    text = data_file("tinyshakespeare.txt")
    for seed in SEEDS:
        if rows.has(seed=seed, side="pikojax"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            peer = rows.append(seed=seed, side="torch", **theirs(python, text, seed, Path(folder)))
            mine = ours(text, seed, peer["val_loss"], Path(folder), [])
            reached = mine["stopped"] == "target"
            ratio = mine["wall_s"] / peer["wall_s"] if reached else None  # what was not reached has no time
            rows.append(seed=seed, side="pikojax", target=peer["val_loss"], wall_ratio=ratio, **mine)


if __name__ == "__main__":
    words = sys.argv[1:]
    main("--quick" in words, words[words.index("--peer-python") + 1] if "--peer-python" in words else None)
