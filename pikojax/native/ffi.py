"""Native kernels as JAX operations: `register` tells XLA's CPU backend where a compiled handler lies.

    target = register("read_sum", "pikojax_read_sum")        # None: no native code, take the reference
    out    = jax.ffi.ffi_call(target, shape_and_dtype)(x)    # inside jit, like any other operation

A native call is opaque to the partitioner: under a mesh it belongs inside `shard_map`.
Leaves out: GPU handlers (those kernels are Pallas).
"""

import functools

import jax
import jax.numpy as jnp

from pikojax.native import cpu
from pikojax.native.build import library


def register(name: str, symbol: str) -> str | None:
    """Register the handler `symbol` of library `name` and return the target to call, or None where there is no native code.

    The target carries the path: one process may run several (tests do), and a cached program must not change its path.
    """
    return _registered(name, symbol, cpu.chosen_path())


@functools.lru_cache(maxsize=None)
def _registered(name: str, symbol: str, path: str) -> str | None:
    loaded = library(name)
    if loaded is None:
        return None
    target = f"{symbol}_{path}"
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(loaded, symbol)), platform="cpu")
    return target


def read_sum(words: jax.Array) -> jax.Array:
    """The sum of uint32 words modulo 2³². Reads every byte once, so its time shows the bandwidth inside a jitted function."""
    target = register("read_sum", "pikojax_read_sum")
    if target is None:
        return jnp.sum(words, dtype=jnp.uint32)
    return jax.ffi.ffi_call(target, jax.ShapeDtypeStruct((), jnp.uint32))(words)
