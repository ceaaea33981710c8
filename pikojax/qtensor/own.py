"""Our own formats: rows of float32 ↔ packed integers with float16 scales.

    symmetric:   w ≈ q · scale           int8: q in −127…127; int4: q in −8…7, stored as q + 8
    asymmetric:  w ≈ q · scale + min     q in 0…15
    nf4:         w ≈ NF4[q] · scale      sixteen values where a normal distribution has equal mass (QLoRA, arXiv 2305.14314)

A row is one output's K weights, padded to a multiple of the group. Four-bit numbers lie as GGUF's do: within each 32 weights byte
j holds weight j in its low half and weight j + 16 in its high half. Scales of four-bit formats are searched (`search.py`); those of
eight-bit formats and NF4 keep the weight furthest from zero.

Leaves out: scales below float16's smallest number (such a group is rounded to zero).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.qtensor import search
from pikojax.qtensor.formats import Format
from pikojax.qtensor.search import Grid, best_line, best_scale, inverse

LARGEST_SCALE = float(np.finfo(np.float16).max)
ENDS = [-9.0, -8.5, -8.0, -7.7, -7.4, -7.0, -6.5, -6.0, 6.0, 6.5, 7.0, 7.4, 7.7, 8.0]
CUTS = [(a, b) for a in (-0.02, 0.0, 0.03, 0.06) for b in (-0.02, 0.0, 0.03, 0.06)]
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
    return join(join(parts_of_bytes(split(data, 16), 4, -2)))


def parts_of_bytes(data, bits: int, axis: int):
    """Bytes → the numbers of so many bits in each, the lowest first, along a new axis. Shifts alone: a concatenation or a stack would
    keep XLA from unpacking where the numbers are used."""
    by = jnp.arange(0, 8, bits, dtype=jnp.uint8)
    data = jnp.expand_dims(data, axis)
    return (data >> jnp.expand_dims(by, [i for i in range(data.ndim) if i != axis % data.ndim])) & ((1 << bits) - 1)


# ---------------------------------------------------------------- float32 rows → packed


@functools.partial(jax.jit, static_argnames="format")
def encode(rows, format: Format):
    """rows float32 [..., K_padded] → data, scales, mins."""
    grid = fit(rows, format)
    return pack(nearest(rows, grid, format), grid, format)


def fit(rows, format: Format, importance=None) -> Grid:
    """As `gguf_blocks.fit`; the eight-bit formats and NF4 do not ask for the importance."""
    groups = split(rows, format.group or rows.shape[-1])
    importance = None if importance is None else split(importance, groups.shape[-1])
    furthest = jnp.max(jnp.abs(groups), axis=-1, keepdims=True)
    if format.name == "int8":
        return Grid(furthest / 127.0)
    if format.name.startswith("int8"):
        return Grid(as_float16(furthest / 127.0))
    if format.name == "nf4":
        return Grid(as_float16(furthest))
    if format.asymmetric:
        return Grid(*(as_float16(x) for x in best_line(groups, 15, CUTS, importance=importance)))
    return Grid(as_float16(best_scale(groups, -8, 7, ENDS, importance)))


def nearest(rows, grid: Grid, format: Format):
    """The number that stands for each weight; NF4's are places in its table."""
    if format.name == "nf4":
        return _nearest_nf4(split(rows, format.group) * inverse(grid.scales)).reshape(rows.shape)
    return search.nearest(rows, grid, *levels(format))


def nearest_nf4(x):
    return jnp.take(jnp.asarray(NF4), _nearest_nf4(x).astype(jnp.int32), mode="clip")


def levels(format: Format) -> tuple[int, int]:
    return (-127, 127) if format.name.startswith("int8") else (0, 15) if format.asymmetric else (-8, 7)


def pack(q, grid: Grid, format: Format):
    scales = grid.scales[..., 0]
    if format.name.startswith("int8"):
        return q.astype(jnp.int8), scales if format.group is None else scales.astype(jnp.float16), None
    data = pack4(q if format.asymmetric or format.name == "nf4" else q + 8.0)
    return data, scales.astype(jnp.float16), grid.mins[..., 0].astype(jnp.float16) if format.asymmetric else None


def as_float16(x):
    """Rounded to what float16 holds, as float32: weights are divided by what is stored."""
    return jnp.clip(x, -LARGEST_SCALE, LARGEST_SCALE).astype(jnp.float16).astype(jnp.float32)


def _nearest_nf4(x):
    q = jnp.zeros(x.shape, jnp.uint8)
    for border in (NF4[1:] + NF4[:-1]) / 2:
        q += (x > float(border)).astype(jnp.uint8)
    return q


# ---------------------------------------------------------------- packed → float32 rows


@functools.partial(jax.jit, static_argnames="format")
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
