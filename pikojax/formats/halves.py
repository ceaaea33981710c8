"""Weights in half precision, or one line: what float16 cannot hold would become infinite, and nobody would say so."""

import numpy as np

from pikojax.config import require


def narrowed(values, dtype, name: str) -> np.ndarray:
    """`values` in `dtype`, finite where they were."""
    values, dtype = np.asarray(values), np.dtype(dtype)
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore"):
        made = values.astype(dtype)
    lost = np.isfinite(values) & ~np.isfinite(made)
    require(not lost.any(), f"{name} has weights up to {np.abs(values[lost]).max() if lost.any() else 0:.3g}, beyond {dtype.name}; take another type")
    return made
