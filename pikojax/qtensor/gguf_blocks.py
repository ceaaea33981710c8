"""GGUF's blocks: rows of float32 ↔ the bytes of a GGUF file, bit for bit.

    q8_0   32 weights: d, 32 × int8                                     w = d · q
    q4_0   32 weights: d, 16 bytes of nibbles                           w = d · (q − 8)
    q5_0   32 weights: d, 32 fifth bits, 16 bytes of nibbles            w = d · (q − 16)
    q4_1, q5_1   the same with a float16 minimum m after d              w = d · q + m
    q4_k   256 weights: d, dmin, 12 bytes of scales, 128 of nibbles     w = d · scale · q − dmin · min       scale and min for 32 weights each
    q5_k   … with 32 bytes of fifth bits before the nibbles
    q6_k   256 weights: 128 bytes of nibbles, 64 of upper bits, 16 × int8 scale, d     w = d · scale · (q − 32)     a scale for 16 weights

d and dmin are float16; a scale and a min of q4_k and q5_k have six bits. The simple blocks are what llama.cpp makes, bit for
bit. For the k-blocks llama.cpp's own search is one of many; ours has a smaller squared error: scales by least squares
(`search.py`), then each six-bit number and its neighbours are tried. With an importance of each weight all scales are searched.

Leaves out: q2_k, q3_k, q8_k, and the blocks with tables (iq…); precision for k-blocks whose weights are all below about 1e-4,
where d runs out of float16's numbers.
"""

import functools

import jax
import jax.numpy as jnp

from pikojax.qtensor import search
from pikojax.qtensor.formats import Format
from pikojax.qtensor.own import CUTS, ENDS, as_float16, join, pack4, parts_of_bytes, split, unpack4
from pikojax.qtensor.search import Grid, best_line, best_scale, inverse, rounded, squared_error

_bitcast = jax.lax.bitcast_convert_type
ENDS_6_BIT = [-33.0, -32.0, -31.5, -31.0, -30.5, -30.0, -29.0, 30.0, 30.5, 31.0, 31.5]


@functools.partial(jax.jit, static_argnames="format")
def encode(rows, format: Format):
    """rows float32 [..., K_padded] → bytes [..., K_padded / block_weights · block_bytes]."""
    blocks = split(rows, format.block_weights)
    if format.name in _NEAREST:
        return join(_NEAREST[format.name](blocks))
    grid = fit(rows, format)
    return pack(search.nearest(rows, grid, *LEVELS[format.name]), grid, format)


def fit(rows, format: Format, importance=None) -> Grid:
    """Scales for rows float32 [..., K_padded] by least squares, weighed by `importance`, of the same shape, if there is one."""
    in_blocks = lambda x: None if x is None else split(x, format.block_weights)
    return _CODECS[format.name][0](in_blocks(rows), in_blocks(importance))


def pack(q, grid: Grid, format: Format):
    """Whole numbers [..., K_padded] → bytes."""
    return join(_CODECS[format.name][1](split(split(q, format.block_weights), format.group), grid))


@functools.partial(jax.jit, static_argnames="format")
def decode(data, format: Format):
    """bytes → float32 [..., K_padded]."""
    return join(_CODECS[format.name][2](split(data, format.block_bytes)))


# ---------------------------------------------------------------- bytes


def _float16_bytes(x):
    return join(_bitcast(as_float16(x).astype(jnp.float16), jnp.uint8))


def _float16_at(blocks, at: int):
    return _bitcast(blocks[..., at : at + 2], jnp.float16).astype(jnp.float32)[..., None]


def _pack_bits(bits):
    """0 or 1 [..., n, 8] → bytes [..., n], the first bit the lowest."""
    return jnp.sum(bits << jnp.arange(8, dtype=jnp.uint8).reshape(*[1] * (bits.ndim - 1), 8), axis=-1, dtype=jnp.uint8)


def _unpack_bits(data):
    return (data[..., None] >> jnp.arange(8, dtype=jnp.uint8).reshape(*[1] * data.ndim, 8)) & 1


def _divided(x, by: float):
    """x / by as IEEE 754 has it: XLA makes a division by one number for all into a multiplication by its reciprocal."""
    return x / _concealed(jnp.full_like(x, by), x)


def _alone(x):
    """x, rounded before anything is added to it, not kept whole inside a fused multiply-add."""
    return _concealed(x, x)


def _concealed(value, x):
    """`value`, of which the compiler knows nothing: an exclusive or with zero, as far as no x is NaN, stands before it."""
    return _bitcast(_bitcast(value, jnp.int32) ^ (x != x).astype(jnp.int32), jnp.float32)


# ---------------------------------------------------------------- blocks of 32: one scale, perhaps a minimum


def _encode_q8_0(blocks):
    d = _divided(jnp.max(jnp.abs(blocks), axis=-1, keepdims=True), 127.0)
    scaled = _alone(blocks * inverse(d))
    whole = jnp.trunc(scaled)
    q = whole + jnp.trunc(2.0 * (scaled - whole))  # halves away from zero
    return jnp.concatenate([_float16_bytes(d), _bitcast(q.astype(jnp.int8), jnp.uint8)], axis=-1)


def _fit_q8_0(blocks, importance) -> Grid:
    return Grid(as_float16(jnp.max(jnp.abs(blocks), axis=-1, keepdims=True) / 127.0)[..., None, :])


def _pack_q8_0(q, grid: Grid):
    return jnp.concatenate([_float16_bytes(grid.scales[..., 0, :]), _bitcast(join(q).astype(jnp.int8), jnp.uint8)], axis=-1)


def _decode_q8_0(blocks):
    return _float16_at(blocks, 0) * _bitcast(blocks[..., 2:], jnp.int8).astype(jnp.float32)


def _encode_symmetric(blocks, middle: int):
    at = jnp.argmax(jnp.abs(blocks), axis=-1, keepdims=True)
    d = jnp.take_along_axis(blocks, at, axis=-1) / -float(middle)  # the weight furthest from zero is q = 0
    q = jnp.clip(jnp.trunc(_alone(blocks * inverse(d)) + (middle + 0.5)), 0.0, 2.0 * middle - 1).astype(jnp.uint8)
    return jnp.concatenate([_float16_bytes(d), _small_bytes(q, middle)], axis=-1)


def _fit_symmetric(blocks, importance, middle: int) -> Grid:
    ends = [end * (middle / 8) for end in ENDS]
    return Grid(as_float16(best_scale(blocks, -middle, middle - 1, ends, importance))[..., None, :])


def _pack_symmetric(q, grid: Grid, middle: int):
    return jnp.concatenate([_float16_bytes(grid.scales[..., 0, :]), _small_bytes((join(q) + middle).astype(jnp.uint8), middle)], axis=-1)


def _decode_symmetric(blocks, middle: int):
    return _float16_at(blocks, 0) * (_small_numbers(blocks[..., 2:], middle) - middle)


def _encode_with_min(blocks, middle: int):
    low, high = jnp.min(blocks, axis=-1, keepdims=True), jnp.max(blocks, axis=-1, keepdims=True)
    d = _divided(high - low, 2.0 * middle - 1)
    q = jnp.clip(jnp.trunc(_alone((blocks - low) * inverse(d)) + 0.5), 0.0, 2.0 * middle - 1).astype(jnp.uint8)
    return jnp.concatenate([_float16_bytes(d), _float16_bytes(low), _small_bytes(q, middle)], axis=-1)


def _fit_with_min(blocks, importance, middle: int) -> Grid:
    scales, mins = best_line(blocks, 2 * middle - 1, CUTS, importance=importance)
    return Grid(as_float16(scales)[..., None, :], as_float16(mins)[..., None, :])


def _pack_with_min(q, grid: Grid, middle: int):
    parts = [_float16_bytes(grid.scales[..., 0, :]), _float16_bytes(grid.mins[..., 0, :])]
    return jnp.concatenate([*parts, _small_bytes(join(q).astype(jnp.uint8), middle)], axis=-1)


def _decode_with_min(blocks, middle: int):
    return _float16_at(blocks, 0) * _small_numbers(blocks[..., 4:], middle) + _float16_at(blocks, 2)


def _small_bytes(q, middle: int):
    """32 numbers of four bits, or (middle 16) of five, whose fifth bits come first."""
    return pack4(q) if middle == 8 else jnp.concatenate([_pack_bits(split(q >> 4, 8)), pack4(q & 15)], axis=-1)


def _small_numbers(data, middle: int):
    if middle == 8:
        return unpack4(data).astype(jnp.float32)
    return (unpack4(data[..., 4:]) | (join(_unpack_bits(data[..., :4])) << 4)).astype(jnp.float32)


# ---------------------------------------------------------------- blocks of 256: scales that are themselves quantized


def _fit_with_scaled_min(blocks, importance, high: int) -> Grid:
    groups, u = split(blocks, 32), None if importance is None else split(importance, 32)
    scales, mins = best_line(groups, high, CUTS, min_at_most_zero=True, importance=u)
    d, dmin = (as_float16(jnp.max(x, axis=-2, keepdims=True) / 63.0) for x in (scales, -mins))

    start = [jnp.clip(jnp.round(x * inverse(y)), 0.0, 63.0) for x, y in ((scales, d), (-mins, dmin))]

    def attempt(i, best):
        scale, m = (jnp.clip(x + step.astype(jnp.float32), 0.0, 63.0) for x, step in zip(start, (i % 3 - 1, i // 3 - 1)))
        q = rounded(groups, d * scale, 0, high, -dmin * m)
        return _smaller((squared_error(groups, q, d * scale, -dmin * m, u), scale, m), best)

    _, scale, m = jax.lax.fori_loop(0, 9, attempt, (jnp.full_like(scales, jnp.inf), *start))
    return Grid(d * scale, -dmin * m, (d, dmin, scale, m))


def _pack_with_scaled_min(q, grid: Grid, high: int):
    d, dmin, scale, m = grid.parts
    q = q.astype(jnp.uint8)
    parts = [_float16_bytes(d[..., 0, :]), _float16_bytes(dmin[..., 0, :]), _pack_six_bits(scale, m)]
    if high == 31:
        parts.append(_pack_bits(jnp.swapaxes(q >> 4, -1, -2)))
    pairs = (q & 15).reshape(*q.shape[:-2], 4, 2, 32)
    return jnp.concatenate([*parts, join(pairs[..., 0, :] | (pairs[..., 1, :] << 4))], axis=-1)


def _decode_with_scaled_min(blocks, high: int):
    scale, m = _unpack_six_bits(blocks[..., 4:16])
    nibbles = split(blocks[..., -128:], 32)
    q = parts_of_bytes(nibbles, 4, -2)
    q = q.reshape(*q.shape[:-3], 8, 32)
    if high == 31:
        q = q | (jnp.swapaxes(_unpack_bits(blocks[..., 16:48]), -1, -2) << 4)
    d, dmin = _float16_at(blocks, 0)[..., None], _float16_at(blocks, 2)[..., None]
    return join(d * scale * q.astype(jnp.float32) - dmin * m)


def _pack_six_bits(scale, m):
    """Eight scales and eight mins [..., 8, 1] → 12 bytes: the last four of each have their upper two bits above the first four's."""
    scale, m = scale[..., 0].astype(jnp.uint8), m[..., 0].astype(jnp.uint8)
    upper = [x[..., :4] | ((x[..., 4:] >> 4) << 6) for x in (scale, m)]
    return jnp.concatenate([*upper, (scale[..., 4:] & 15) | ((m[..., 4:] & 15) << 4)], axis=-1)


def _unpack_six_bits(data):
    a, b, lower = data[..., :4], data[..., 4:8], data[..., 8:]
    scale = jnp.concatenate([a & 63, (lower & 15) | ((a >> 6) << 4)], axis=-1)
    m = jnp.concatenate([b & 63, (lower >> 4) | ((b >> 6) << 4)], axis=-1)
    return scale.astype(jnp.float32)[..., None], m.astype(jnp.float32)[..., None]


def _fit_q6_k(blocks, importance) -> Grid:
    groups, u = split(blocks, 16), None if importance is None else split(importance, 16)
    scales = best_scale(groups, -32, 31, ENDS_6_BIT, u)
    largest = jnp.take_along_axis(scales, jnp.argmax(jnp.abs(scales), axis=-2, keepdims=True), axis=-2)
    d = as_float16(largest / -128.0)
    start = jnp.clip(jnp.round(scales * inverse(d)), -128.0, 127.0)

    def attempt(i, best):
        scale = jnp.clip(start + (i - 1).astype(jnp.float32), -128.0, 127.0)
        return _smaller((squared_error(groups, rounded(groups, d * scale, -32, 31), d * scale, importance=u), scale), best)

    _, scale = jax.lax.fori_loop(0, 3, attempt, (jnp.full_like(start, jnp.inf), start))
    return Grid(d * scale, 0.0, (d, scale))


def _pack_q6_k(q, grid: Grid):
    d, scale = grid.parts
    q = (q + 32.0).astype(jnp.uint8).reshape(*q.shape[:-2], 2, 4, 32)
    lower = (q[..., :2, :] & 15) | ((q[..., 2:, :] & 15) << 4)
    upper = functools.reduce(jnp.bitwise_or, ((q[..., i, :] >> 4) << (2 * i) for i in range(4)))
    parts = [join(join(lower)), join(upper), _bitcast(scale[..., 0].astype(jnp.int8), jnp.uint8), _float16_bytes(d[..., 0, :])]
    return jnp.concatenate(parts, axis=-1)


def _decode_q6_k(blocks):
    lower = blocks[..., :128].reshape(*blocks.shape[:-1], 2, 2, 32)
    upper = split(blocks[..., 128:192], 32)
    upper = parts_of_bytes(upper, 2, -2)
    q = parts_of_bytes(lower, 4, -3).reshape(*upper.shape) | (upper << 4)
    q = q.reshape(*blocks.shape[:-1], 16, 16).astype(jnp.float32) - 32.0
    scale = _bitcast(blocks[..., 192:208], jnp.int8).astype(jnp.float32)[..., None]
    return join(_float16_at(blocks, 208)[..., None] * scale * q)


def _smaller(new: tuple, best: tuple) -> tuple:
    """Of two tuples (error, numbers …) the one with the smaller error, group by group."""
    wins = new[0] < best[0]
    return tuple(jnp.where(wins, a, b) for a, b in zip(new, best))


def _of(functions: tuple, **choice) -> tuple:
    return tuple(functools.partial(function, **choice) for function in functions)


_SYMMETRIC, _WITH_MIN = (_fit_symmetric, _pack_symmetric, _decode_symmetric), (_fit_with_min, _pack_with_min, _decode_with_min)
_SCALED_MIN = _fit_with_scaled_min, _pack_with_scaled_min, _decode_with_scaled_min
_CODECS = {  # format → how scales are fitted, how whole numbers are packed, how bytes are read
    "q8_0": (_fit_q8_0, _pack_q8_0, _decode_q8_0),
    "q6_k": (_fit_q6_k, _pack_q6_k, _decode_q6_k),
    "q4_0": _of(_SYMMETRIC, middle=8),
    "q5_0": _of(_SYMMETRIC, middle=16),
    "q4_1": _of(_WITH_MIN, middle=8),
    "q5_1": _of(_WITH_MIN, middle=16),
    "q4_k": _of(_SCALED_MIN, high=15),
    "q5_k": _of(_SCALED_MIN, high=31),
}
LEVELS = {  # the smallest and the largest whole number
    "q8_0": (-127, 127), "q6_k": (-32, 31), "q4_0": (-8, 7), "q5_0": (-16, 15), "q4_1": (0, 15), "q5_1": (0, 31), "q4_k": (0, 15), "q5_k": (0, 31),
}
_NEAREST = {  # of the simple blocks, what llama.cpp makes without an importance, bit for bit
    "q8_0": _encode_q8_0,
    "q4_0": functools.partial(_encode_symmetric, middle=8),
    "q5_0": functools.partial(_encode_symmetric, middle=16),
    "q4_1": functools.partial(_encode_with_min, middle=8),
    "q5_1": functools.partial(_encode_with_min, middle=16),
}
