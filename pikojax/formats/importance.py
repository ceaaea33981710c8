"""Importance matrices: how large the inputs of each matrix are on some text, in the layout of llama.cpp's imatrix files, which are GGUF.

    general.type = "imatrix", imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size
    NAME.in_sum2 [stack, K]    sums of squares of the inputs, NAME as in a GGUF model: blk.0.attn_q.weight
    NAME.counts  [stack, 1]    of how many inputs (here the sums are means and the counts 1)

A model that GGUF has no names for has ours: blocks/0/qkv/kernel. A path that neither names is rounded without importance.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pikojax.config import require
from pikojax.formats import gguf
from pikojax.formats.gguf_save import LINEAR
from pikojax.formats.gguf_write import Tensor, write

SUMS, COUNTS = ".in_sum2", ".counts"


def save(file: Path, importance: Mapping[str, np.ndarray], llama: bool, dataset: str, n_chunks: int, chunk_tokens: int) -> int:
    """The bytes written. `importance`: by path, [K] or [stack, K]; `llama`: under GGUF's names."""
    tensors = []
    for path, values in importance.items():
        sums = np.atleast_2d(values).astype(np.float32)
        name = _theirs(path) if llama else path
        tensors.append(Tensor(name + SUMS, sums.shape, "f32", lambda sums=sums: sums))
        tensors.append(Tensor(name + COUNTS, (len(sums), 1), "f32", lambda n=len(sums): np.ones((n, 1), np.float32)))
    about = {"general.type": "imatrix", "imatrix.datasets": [dataset], "imatrix.chunk_count": n_chunks, "imatrix.chunk_size": chunk_tokens}
    return write(file, about, tensors)


def read(file: Path, paths) -> dict[str, np.ndarray]:
    """By path, for those of `paths` that the file has."""
    opened = gguf.read(file)
    known = opened.metadata.get("general.type") == "imatrix" or any(name.endswith(SUMS) for name in opened.tensors)
    require(known, f"{file} is no importance matrix (general.type is {str(opened.metadata.get('general.type'))[:20]!r}); make one with --calibrate TEXT --save-importance FILE")
    made = {}
    for path in paths:
        name = next((name for name in (path, _theirs(path)) if name + SUMS in opened.tensors), None)
        if name is None:
            continue
        sums, counts = (np.asarray(opened.tensor(name + part), np.float64) if name + part in opened.tensors else None for part in (SUMS, COUNTS))
        good = counts is not None and counts.size in (1, sums.size // sums.shape[-1]) and np.isfinite(sums).all() and (sums >= 0).all() and np.isfinite(counts).all()
        require(good, f"{file} has {name} without counts that fit, or with numbers that are no sums of squares; make the file anew")
        mean = sums.reshape(-1, sums.shape[-1]) / np.maximum(counts.reshape(-1, 1), 1)
        made[path] = (mean[0] if len(mean) == 1 else mean).astype(np.float32)
    require(bool(made), f"{file} has nothing about this model's matrices, such as {next(iter(paths), '')}; it is another model's")
    return made


def _theirs(path: str) -> str:
    parts = path.split("/")
    return f"blk.{parts[1]}.{LINEAR[parts[2]]}.weight" if len(parts) == 4 and parts[2] in LINEAR else path
