"""How long does loading a model take, and how much memory? run.py [--seconds N] [--quick]

Each model is made with random weights (random_gguf.py) in a temporary folder, and loaded by `ROUNDS` fresh processes (once.py) after one that
warms the caches of files and of compiled programs. With --seconds no model is begun after so long: call again to go on.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import Rows

import ml_dtypes
import numpy as np

import random_gguf
from pikojax.config import LlamaConfig
from pikojax.formats import hf_write

HERE, ROUNDS = Path(__file__).parent, 3
TINY = LlamaConfig(d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, d_hidden=64, vocab_size=300, context=64, tie=False)
FOLDER = LlamaConfig(d_model=1024, n_layers=8, n_heads=16, n_kv_heads=8, d_hidden=4096, vocab_size=32_000, context=1024, tie=False)
MIXTURE = LlamaConfig(d_model=512, n_layers=6, n_heads=8, n_kv_heads=4, d_hidden=1024, vocab_size=32_000, context=1024, tie=False, n_experts=16)
MODELS = {  # name → (config, how it is written)
    "GGUF q4_0": (random_gguf.LARGE, "q4_0"), "GGUF q8_0": (random_gguf.LARGE, "q8_0"), "folder float32": (FOLDER, np.float32),
    "folder bfloat16": (FOLDER, ml_dtypes.bfloat16), "folder of a mixture, float32": (MIXTURE, np.float32),
}  # fmt: skip


def main(quick: bool, limit_s: float) -> None:
    rows, began_s = Rows(HERE / "results.jsonl", quick), time.monotonic()
    for name, (cfg, how) in list(MODELS.items())[:: 2 if quick else 1]:
        if rows.has(model=name):
            continue
        if time.monotonic() - began_s > limit_s:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = made(Path(folder), TINY if quick else cfg, how)
            size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
            for round in range(-1, 1 if quick else ROUNDS):
                done = subprocess.run([sys.executable, str(HERE / "once.py"), str(path)], capture_output=True, text=True, check=True)
                if round >= 0:
                    rows.append(model=name, round=round, file_bytes=size, **json.loads(done.stdout.splitlines()[-1]))


def made(folder: Path, cfg: LlamaConfig, how) -> Path:
    if isinstance(how, str):
        random_gguf.write(folder / "m.gguf", how, cfg)
        return folder / "m.gguf"
    return hf_write.write(folder / "hf", cfg, with_experts(cfg, random_gguf.random_params(cfg, "f32", np.random.default_rng(0))), dtype=how)


def with_experts(cfg: LlamaConfig, params: dict) -> dict:
    """Of a mixture: the one MLP of each layer in as many copies as it has experts."""
    if cfg.n_experts is None:
        return params
    stack = lambda leaf: np.broadcast_to(leaf, (cfg.n_experts, *leaf.shape))
    blocks = [{name: part for name, part in block.items() if name not in ("gate", "up", "down")} | {"experts": {
        name: {"kernel": stack(block[name]["kernel"])} for name in ("gate", "up", "down")} | {"router": np.ones((cfg.d_model, cfg.n_experts), np.float32)}}
        for block in params["blocks"]]  # fmt: skip
    return params | {"blocks": tuple(blocks)}


if __name__ == "__main__":
    words = sys.argv[1:]
    main("--quick" in words, float(words[words.index("--seconds") + 1]) if "--seconds" in words else float("inf"))
