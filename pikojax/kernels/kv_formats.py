"""Formats of cached keys and values: quantize new slots, read them back.

    int8           q = round(x / s),  s = max|x| / 127, one a slot and head          int8_g32: one for each 32 values of it
    int4           q + 8 in a nibble,  s one for each 32 values; byte j of a group holds the values j and j + 16
    int4_rotated   the same of x·H, H the orthonormal Hadamard matrix: an outlier channel of the keys is spread over all of them,
                   and (q·H)·(k·H) = q·k

A head as wide as no power of two is rotated block by block, a block as wide as the largest power of two that divides it.
Cache arrays are head-major, [..., S, C] behind the axes (layer,) batch, kv head; scales are never negative.

Writing them where they belong is kv_write.py's. Leaves out: formats below 4 bits.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import require

GROUP = 32
FORMATS = ("int8", "int8_g32", "int4", "int4_rotated")
OF_CACHE = {"int8": ("int8", "int8"), "int8_g32": ("int8_g32", "int8_g32"), "int4": ("int4_rotated", "int4")}  # keys, values


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QuantizedKV:
    data: jax.Array  # int8 [..., S, C], or uint8 [..., S, 16 · groups]
    scales: jax.Array  # float16 or float32 [..., S, 1] or [..., S, groups]
    format: str = field(metadata={"static": True})


def n_groups(width: int) -> int:
    return -(-width // GROUP)


def shapes_of(format: str, width: int) -> tuple[int, int]:
    """How wide a slot's data and scales are."""
    require(format in FORMATS, f"got the cache format {format!r}, wanted one of {', '.join(FORMATS)}")
    groups = n_groups(width)
    return (width if format.startswith("int8") else groups * GROUP // 2), (1 if format == "int8" else groups)


def quantize_kv(x, format: str, scale_dtype=jnp.float16) -> QuantizedKV:
    """Quantizes the last axis, whatever stands before it."""
    width = x.shape[-1]
    data_width, scales_width = shapes_of(format, width)
    x = x.astype(jnp.float32)
    if format == "int4_rotated":
        x = rotate(x)
    groups = x if format == "int8" else jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, n_groups(width) * GROUP - width)])
    groups = groups.reshape(*x.shape[:-1], scales_width, -1)
    if format.startswith("int8"):
        scales = jnp.max(jnp.abs(groups), axis=-1) / 127
    else:  # −8 reaches further than 7
        scales = jnp.maximum(jnp.max(groups, axis=-1) / 7, jnp.max(-groups, axis=-1) / 8)
    scales = jnp.minimum(scales, float(jnp.finfo(scale_dtype).max)).astype(scale_dtype)
    wide = scales.astype(jnp.float32)[..., None]
    steps = jnp.round(groups * jnp.where(wide > 0, 1 / jnp.where(wide > 0, wide, 1.0), 0.0))
    if format.startswith("int8"):
        data = jnp.clip(steps, -127, 127).astype(jnp.int8).reshape(*x.shape[:-1], -1)[..., :width]
    else:
        nibbles = (jnp.clip(steps, -8, 7) + 8).astype(jnp.uint8)
        data = (nibbles[..., :16] | (nibbles[..., 16:] << 4)).reshape(*x.shape[:-1], data_width)
    return QuantizedKV(data, scales, format)


def dequantize_kv(kv: QuantizedKV, width: int | None = None, keep_rotation: bool = False):
    """float32 [..., width]. `width` is needed where the data's is rounded up (int4, width no multiple of 32)."""
    if kv.format.startswith("int8"):
        values = kv.data
    else:
        bytes_of = kv.data.reshape(*kv.data.shape[:-1], -1, GROUP // 2)
        values = jnp.concatenate([bytes_of & 15, bytes_of >> 4], axis=-1).astype(jnp.int8) - 8
        values = values.reshape(*kv.data.shape[:-1], -1)
    width = values.shape[-1] if width is None else width
    scales = kv.scales.astype(jnp.float32)
    if kv.format != "int8":
        scales = jnp.repeat(scales, GROUP, axis=-1)
    x = values[..., :width].astype(jnp.float32) * scales[..., : 1 if kv.format == "int8" else width]
    return rotate(x) if kv.format == "int4_rotated" and not keep_rotation else x


def one_layer(cache, layer, width: int, block_table=None, keep_rotation: bool = False):
    """One layer of a stack (or, with `layer` None, what is one already), as floats [B, G, S, C]; of a pool, the rows' own slots in order."""
    if layer is not None:
        cache = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False), cache)
    if block_table is not None:

        def gather(pool):
            blocks = jnp.take(pool, block_table, axis=0, mode="clip").swapaxes(1, 2)  # [B, G, n_blocks, block, …]
            return blocks.reshape(*blocks.shape[:2], -1, blocks.shape[-1])

        cache = jax.tree.map(gather, cache)
    return dequantize_kv(cache, width, keep_rotation) if isinstance(cache, QuantizedKV) else cache


def hadamard(width: int) -> np.ndarray:
    """Orthonormal and symmetric, so its own inverse: [width, width], blocks along the diagonal."""
    n = width & -width
    block = np.ones((1, 1), np.float32)
    while block.shape[0] < n:
        block = np.kron(np.asarray([[1, 1], [1, -1]], np.float32), block)
    return np.kron(np.eye(width // n, dtype=np.float32), block) / np.float32(n) ** 0.5


def rotate(x):
    h = jnp.asarray(hadamard(x.shape[-1]))
    return jnp.einsum("...c,cd->...d", x, h, precision=jax.lax.Precision.HIGHEST)


def zeros(shape: tuple[int, ...], format: str, scale_dtype=jnp.float16):
    """An empty cache array [..., S, C]: a QuantizedKV, or a plain array where `format` is a dtype of floats."""
    if format not in FORMATS:
        return jnp.zeros(shape, format)
    data_width, scales_width = shapes_of(format, shape[-1])
    data = jnp.zeros((*shape[:-1], data_width), jnp.int8 if format.startswith("int8") else jnp.uint8)
    return QuantizedKV(data, jnp.zeros((*shape[:-1], scales_width), scale_dtype), format)


