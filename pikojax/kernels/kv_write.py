"""New keys or values into a cache, where they belong and in its format: in place, each row from its own length on.

    slot length_B[b] + t of row b  ←  quantize(new[b, t])          of a pool: slot s of row b is slot s mod block of block_table[b, s ÷ block]

A slot beyond the end is left out. The native operation writes into the buffer that it is given, quantizing on the way; XLA's own way is
one slice update a row, or, into a pool, a scatter.

An empty cache is made here too: on the CPU its pages take memory when they are first written, so that a long context costs what is used
of it.

Leaves out: reading (decode_attention.py).
"""

import functools

import jax
import jax.numpy as jnp

from pikojax.kernels import dispatch, kv_formats
from pikojax.kernels.decode_attention import leaves
from pikojax.kernels.kv_formats import QuantizedKV, quantize_kv
from pikojax.native.ffi import register


LAZY_BYTES = 1 << 20  # smaller ones are not worth a call


def empty(shape: tuple[int, ...], format: str):
    """`kv_formats.zeros`, the large ones lazily."""
    like = jax.eval_shape(lambda: kv_formats.zeros(shape, format))
    if dispatch.best_here("decode_attention") != "native" or jax.device_count() > 1:
        return kv_formats.zeros(shape, format)
    return jax.tree.map(lambda leaf: _lazy(leaf.shape, leaf.dtype.name) if leaf.size >= LAZY_BYTES else jnp.zeros(leaf.shape, leaf.dtype), like)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _lazy(shape: tuple[int, ...], dtype: str):
    return jax.ffi.ffi_call(register("attention", "pikojax_kv_zeros"), jax.ShapeDtypeStruct(shape, dtype))()


def kv_write(cache, layer, new_BTGC, length_B, block_table=None):
    """The cache (an array or QuantizedKV [L, B, G, S, C], or a pool of blocks) with T new slots a row in `layer`."""
    native_here = dispatch.best_here("decode_attention") == "native" and dispatch.why_not_on_mesh(cache, new_BTGC) is None
    floats = cache.data.dtype if isinstance(cache, QuantizedKV) else cache.dtype
    write = native if native_here and floats != jnp.float16 else reference
    return write(cache, jnp.asarray(layer, jnp.int32), new_BTGC, length_B.astype(jnp.int32), block_table)


def native(cache, layer, new_BTGC, length_B, block_table=None):
    target = register("attention", "pikojax_kv_write")
    data, scales = leaves(cache, layer)
    table = jnp.zeros((len(length_B), 0), jnp.int32) if block_table is None else jnp.asarray(block_table, jnp.int32)
    out = jax.ShapeDtypeStruct(data.shape, data.dtype), jax.ShapeDtypeStruct(scales.shape, scales.dtype)
    write = jax.ffi.ffi_call(target, out, input_output_aliases={1: 0, 2: 1}, vmap_method="sequential")
    rotated = isinstance(cache, QuantizedKV) and cache.format == "int4_rotated"
    data, scales = write(new_BTGC.astype(jnp.float32), data, scales, length_B, layer, table, rotated=rotated)
    return QuantizedKV(data, scales, cache.format) if isinstance(cache, QuantizedKV) else data


def reference(cache, layer, new_BTGC, length_B, block_table=None):
    if isinstance(cache, QuantizedKV):
        new = quantize_kv(new_BTGC, cache.format, cache.scales.dtype)
    else:
        new = new_BTGC.astype(cache.dtype)
    B, T = new_BTGC.shape[:2]
    slot_BT = length_B[:, None] + jnp.arange(T, dtype=jnp.int32)[None, :]
    S = jax.tree.leaves(cache)[0].shape[3]
    if block_table is None:
        page_BT = jnp.broadcast_to(jnp.arange(B, dtype=jnp.int32)[:, None], (B, T))
        inside_BT = slot_BT < S
    else:
        inside_BT = slot_BT < S * block_table.shape[1]
        page_BT = jnp.take_along_axis(block_table, jnp.minimum(slot_BT // S, block_table.shape[1] - 1), axis=1)
        slot_BT = slot_BT % S
    slot_BT = jnp.where(inside_BT, slot_BT, S)  # no such slot: dropped
    put = lambda all_LPGSC, new_BTGC: all_LPGSC.at[layer, page_BT, :, slot_BT].set(new_BTGC, mode="drop")
    return jax.tree.map(put, cache, new)
