"""On one GPU: tinyshakespeare to 1.47 in how many seconds, and tokens/s against torch.compile in bf16: run.py [--quick]

Needs a Python with JAX's CUDA plug-in and torch with CUDA. `--quick` goes through the first part on whatever device is there.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import ROOT, Rows, data_file, finished, run_trial

from pikojax.config import load_config

HERE = Path(__file__).parent
SEEDS, ROUNDS, STEPS = (0, 1, 2), 3, 60
TINY = ["d_model=16", "n_layers=1", "n_heads=2", "context=16", "batch_size=2", "train.steps=4", "eval_interval=4"]


def to_loss(rows: Rows, text: Path, seed: int, extra: list[str]) -> None:
    if not rows.has(part="to loss", seed=seed):
        config = load_config(HERE / "config.toml", [f"data.path={text}", f"seed={seed}", *extra])
        rows.append(part="to loss", seed=seed, target=config.train.target_val_loss, **finished(run_trial(config)))


def speed(rows: Rows, number: int) -> None:
    """The LightLLM step at batch 8, both sides in bf16 with float32 weights."""
    ours = [sys.executable, "-m", "pikojax", "bench", "train", "configs/lightllm.toml", "--steps", str(STEPS), "--json"]
    theirs = [sys.executable, str(ROOT / "experiments/peers/torch_train_speed.py"), "compile", str(STEPS), "--gpu"]
    for side, command in (("torch compile", theirs), ("pikojax", ours)):
        if rows.has(part="speed", round=number, side=side):
            continue
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        step_s = json.loads(done.stdout.strip().splitlines()[-1])["step_s"]
        step_s = statistics.median(step_s) if isinstance(step_s, list) else step_s
        rows.append(part="speed", round=number, side=side, step_s=step_s, tokens_per_s=2048 / step_s)


def main(quick: bool) -> None:
    rows = Rows(HERE / "results.jsonl", quick)
    if quick:
        with tempfile.TemporaryDirectory() as folder:
            text = Path(folder) / "text.txt"
            text.write_text("all the world is a stage and all the players are merely so\n" * 50)
            to_loss(rows, text, 0, TINY)
        return
    import jax

    if jax.default_backend() != "gpu":
        raise SystemExit(f"this experiment needs a GPU, JAX finds {jax.devices()[0].device_kind}")
    for number in range(ROUNDS):
        speed(rows, number)
    for seed in SEEDS:
        to_loss(rows, data_file("tinyshakespeare.txt"), seed, [])


if __name__ == "__main__":
    main("--quick" in sys.argv)
