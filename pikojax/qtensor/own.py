"""Our own formats: rows of float32 ↔ packed integers with float16 scales.

    symmetric:   w ≈ q · scale           int8: q in −127…127; int4: q in −8…7, stored as q + 8
    asymmetric:  w ≈ q · scale + min     q in 0…15
    nf4:         w ≈ NF4[q] · scale      sixteen values where a normal distribution has equal mass (QLoRA, arXiv 2305.14314)

A row is one output's K weights, padded to a multiple of the group. Four-bit numbers lie as GGUF's do: within each 32 weights byte
j holds weight j in its low half and weight j + 16 in its high half. The four-bit scales are searched: of a few candidates the one
with the least squared error, each refitted by least squares.

Leaves out: calibration on activations; scales below float16's smallest number (such a group is rounded to zero).
"""

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.qtensor.formats import Format

LARGEST_SCALE = float(np.finfo(np.float16).max)
NF4 = np.array(
    # fmt: off
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    # fmt: on
    np.float32,
)


def split(x, size: int):
    """[..., K] → [..., K / size, size]; `-1` would not do, as there may be no outputs at all."""
    return x.reshape(*x.shape[:-1], x.shape[-1] // size, size)


def join(x):
    """[..., n, size] → [..., n · size]."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def pack4(q):
    """Numbers 0…15 [..., K] → bytes [..., K/2]."""
    halves = split(q.astype(jnp.uint8), 32)
    return join(halves[..., :16] | (halves[..., 16:] << 4))


def unpack4(data):
    """Bytes [..., K/2] → uint8 numbers 0…15 [..., K]."""
    halves = (split(data, 16)[..., None, :] >> jnp.asarray([[0], [4]], jnp.uint8).reshape((1,) * data.ndim + (2, 1))) & 15
    return join(join(halves))  # shifts and no concatenation, which XLA would not fuse with what reads it


# ---------------------------------------------------------------- float32 rows → packed


def encode(rows, format: Format):
    """rows float32 [..., K_padded] → data, scales, mins."""
    if format.name == "int8":
        scales = jnp.max(jnp.abs(rows), axis=-1, keepdims=True) / 127.0
        return _rounded(rows, scales, -127, 127).astype(jnp.int8), scales, None
    groups = split(rows, format.group)
    mins = None
    if format.name.startswith("int8"):
        scales = _as_float16(jnp.max(jnp.abs(groups), axis=-1, keepdims=True) / 127.0)
        q = _rounded(groups, scales, -127, 127).astype(jnp.int8)
    elif format.name == "nf4":
        scales = _as_float16(jnp.max(jnp.abs(groups), axis=-1, keepdims=True))
        q = _nearest_nf4(groups * _inverse(scales))
    elif format.asymmetric:
        q, scales, mins = _searched_asymmetric(groups)
    else:
        q, scales = _searched_symmetric(groups)
        q = q + 8.0
    q = q.reshape(rows.shape)
    data = q if q.dtype == jnp.int8 else pack4(q)
    return data, scales[..., 0].astype(jnp.float16), None if mins is None else mins[..., 0].astype(jnp.float16)


def _as_float16(scales):
    """Rounded to what float16 holds, as float32: what is stored is what the weights are divided by."""
    return jnp.clip(scales, -LARGEST_SCALE, LARGEST_SCALE).astype(jnp.float16).astype(jnp.float32)


def _inverse(scales):
    return jnp.where(scales == 0.0, 0.0, 1.0 / jnp.where(scales == 0.0, 1.0, scales))


def _rounded(x, scales, low: int, high: int):
    return jnp.clip(jnp.round(x * _inverse(scales)), low, high)


def _squared_error(groups, q, scales, mins=0.0):
    return jnp.sum(jnp.square(q * scales + mins - groups), axis=-1, keepdims=True)


def _searched_symmetric(groups):
    """The scale maps the largest weight onto a number a little beyond, or short of, either end of −8…7."""
    at = jnp.argmax(jnp.abs(groups), axis=-1, keepdims=True)
    largest = jnp.take_along_axis(groups, at, axis=-1)
    ends = jnp.asarray([-9.0, -8.5, -8.0, -7.7, -7.4, -7.0, -6.5, -6.0, 6.0, 6.5, 7.0, 7.4, 7.7, 8.0], jnp.float32)

    def candidate(i, best):
        best_error, best_scales = best
        q = _rounded(groups, largest / ends[i], -8, 7)
        fit = jnp.sum(q * groups, axis=-1, keepdims=True) * _inverse(jnp.sum(q * q, axis=-1, keepdims=True))
        scales = _as_float16(fit)
        error = _squared_error(groups, q, scales)
        better = error < best_error
        return jnp.where(better, error, best_error), jnp.where(better, scales, best_scales)

    start = _as_float16(largest / -8.0)
    start = _squared_error(groups, _rounded(groups, start, -8, 7), start), start
    _, scales = jax.lax.fori_loop(0, len(ends), candidate, start)
    return _rounded(groups, scales, -8, 7), scales


def _searched_asymmetric(groups):
    """The range is narrowed a little from both sides; scale and minimum are then the straight line through (q, w)."""
    low, high = jnp.min(groups, axis=-1, keepdims=True), jnp.max(groups, axis=-1, keepdims=True)

    def rounded(scales, mins):
        return jnp.clip(jnp.round((groups - mins) * _inverse(scales)), 0.0, 15.0)

    def candidate(i, best):
        best_error, best_scales, best_mins = best
        narrowed = 0.02 * i.astype(jnp.float32) * (high - low)
        q = rounded((high - low - 2.0 * narrowed) / 15.0, low + narrowed)
        q_mean, w_mean = jnp.mean(q, axis=-1, keepdims=True), jnp.mean(groups, axis=-1, keepdims=True)
        spread = jnp.sum(jnp.square(q - q_mean), axis=-1, keepdims=True)
        fit = jnp.sum((q - q_mean) * (groups - w_mean), axis=-1, keepdims=True) * _inverse(spread)
        scales = _as_float16(fit)
        mins = _as_float16(w_mean - scales * q_mean)
        error = _squared_error(groups, q, scales, mins)
        better = error < best_error
        return tuple(jnp.where(better, new, old) for new, old in zip((error, scales, mins), best))

    scales, mins = _as_float16((high - low) / 15.0), _as_float16(low)
    start = _squared_error(groups, rounded(scales, mins), scales, mins), scales, mins
    _, scales, mins = jax.lax.fori_loop(0, 8, candidate, start)
    return rounded(scales, mins), scales, mins


def _nearest_nf4(x):
    q = jnp.zeros(x.shape, jnp.uint8)
    for border in (NF4[1:] + NF4[:-1]) / 2:
        q += (x > float(border)).astype(jnp.uint8)
    return q


# ---------------------------------------------------------------- packed → float32 rows


def decode(data, scales, mins, format: Format):
    """data, scales, mins → float32 [..., K_padded]."""
    if data.dtype == jnp.int8:
        q = data.astype(jnp.float32)
    elif format.name == "nf4":
        q = jnp.take(jnp.asarray(NF4), unpack4(data).astype(jnp.int32), mode="clip")
    else:
        q = unpack4(data).astype(jnp.float32) - (0.0 if format.asymmetric else 8.0)
    groups = split(q, format.group or q.shape[-1]) * scales.astype(jnp.float32)[..., None]
    if mins is not None:
        groups = groups + mins.astype(jnp.float32)[..., None]
    return groups.reshape(q.shape)
