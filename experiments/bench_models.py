"""The models whose speed is measured: shapes with random weights, written where they are not there yet."""

from pathlib import Path

import random_gguf

from pikojax.config import LlamaConfig

SMALL = LlamaConfig(
    d_model=512, n_layers=4, n_heads=8, n_kv_heads=4, d_hidden=1024, vocab_size=4096, context=1024, tie=False, norm_eps=1e-5
)
FILES = {  # name → (file, its weights, its shape)
    "1.1B q4_0": ("1b-q4_0.gguf", "q4_0", random_gguf.LARGE),
    "1.1B q8_0": ("1b-q8_0.gguf", "q8_0", random_gguf.LARGE),
    "13M q8_0": ("13m-q8_0.gguf", "q8_0", SMALL),
}


def file_of(name: str, folder: Path) -> Path:
    file, type, cfg = FILES[name]
    if not (folder / file).is_file():
        random_gguf.write(folder / file, type, cfg)
    return folder / file
