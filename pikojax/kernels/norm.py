"""Norms and softmax for texts that are read in pieces: a row has the same bits whatever rows stand beside it, as products and attention over
a cache have.

    n = (x − mean) / √(mean((x − mean)²) + ε)          the mean is 0 unless `centered`
    p = exp(x − max) / Σ exp(x − max)

XLA sums a row in an order that depends on how many rows there are. On a CPU `native/norm.h` does it in one.

Leaves out: gradients (models/layers.py has its own norm for training), several devices, whose rows XLA sums.
"""

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.kernels import dispatch
from pikojax.native.ffi import register


def normalized(x, eps: float, centered: bool):
    """float32, over the last axis."""
    if _why_not(x):
        return reference(x, eps, centered)
    return _by_rows("pikojax_norm", x, eps=np.float32(eps), centered=centered)


def softmax(x):
    """float32, over the last axis."""
    return jax.nn.softmax(x, axis=-1) if _why_not(x) else _by_rows("pikojax_softmax", x)


def reference(x, eps: float, centered: bool):
    mean = jnp.mean(x, axis=-1, keepdims=True) if centered else 0.0
    return (x - mean) * jax.lax.rsqrt(jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True) + eps)


def _why_not(x) -> bool:
    return dispatch.why_not_native("gemm") is not None or dispatch.mesh_of(x) is not None


def _by_rows(symbol: str, x, **settings):
    rows_RD = x.reshape(-1, x.shape[-1])
    call = jax.ffi.ffi_call(register("gemm", symbol), jax.ShapeDtypeStruct(rows_RD.shape, jnp.float32), vmap_method="sequential")
    return call(rows_RD, **settings).reshape(x.shape)
