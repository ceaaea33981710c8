"""The scales with the least squared error, which all searched formats share.

For fixed whole numbers q the best scale, or the best straight line, is that of least squares:

    w ≈ s · q        s = Σqw / Σq²                                         explains s · Σqw       of Σw²
    w ≈ s · q + m    s = (nΣqw − ΣqΣw) / (nΣq² − (Σq)²), m = (Σw − sΣq)/n    explains s · Σqw + mΣw

So: try a few ways of rounding the weights of a group to whole numbers, and keep the fit that explains most. Each try is one pass.

With an importance u of each weight (calibration: how large its input is, squared, on average) every sum is weighed by it: Σuqw, Σuq², Σu for n.

Leaves out: choosing the whole numbers one after the other (`quant/feedback.py`).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Grid(NamedTuple):
    """What the weights of each group can become: scales · q + mins, with q of `low` to `high`."""

    scales: jax.Array  # [..., n_groups, 1], as they are stored
    mins: jax.Array | float = 0.0
    parts: tuple = ()  # what else is stored


def inverse(x):
    return jnp.where(x == 0.0, 0.0, 1.0 / jnp.where(x == 0.0, 1.0, x))


def rounded(groups, scales, low: int, high: int, mins=0.0):
    return jnp.clip(jnp.round((groups - mins) * inverse(scales)), low, high)


def nearest(rows, grid: Grid, low: int, high: int):
    """The whole number for each weight, rows [..., K] → the same shape."""
    n_groups = math.prod(grid.scales.shape[rows.ndim - 1 : -1])
    groups = rows.reshape(*grid.scales.shape[:-1], rows.shape[-1] // n_groups)
    return rounded(groups, grid.scales, low, high, grid.mins).reshape(rows.shape)


def total(x):
    return jnp.sum(x, axis=-1, keepdims=True)


def weighed(x, importance):
    return x if importance is None else x * importance


def squared_error(groups, q, scales, mins=0.0, importance=None):
    return total(weighed(jnp.square(q * scales + mins - groups), importance))


def best_scale(groups, low: int, high: int, ends, importance=None):
    """The scale of each group [..., n] → [..., 1]. The weight furthest from zero is mapped onto each of `ends` in turn, from
    a little beyond what `low` … `high` reach (so that it is cut off, and the others are finer) to well within."""
    top, bottom = jnp.max(groups, axis=-1, keepdims=True), jnp.min(groups, axis=-1, keepdims=True)
    furthest = inverse(jnp.where(top > -bottom, top, bottom))
    ends = jnp.asarray(ends, jnp.float32)

    def attempt(i, best):
        q = jnp.clip(jnp.round(groups * (ends[i] * furthest)), low, high)
        uq = weighed(q, importance)
        qw = total(uq * groups)
        scales = qw * inverse(total(uq * q))
        return _better((scales * qw, scales), best)

    nothing = jnp.zeros_like(furthest)
    return jax.lax.fori_loop(0, len(ends), attempt, (nothing, nothing))[1]


def best_line(groups, high: int, cuts, min_at_most_zero: bool = False, importance=None):
    """The scale and minimum of each group, for q in 0…high. Each of `cuts` takes a share off the range, (at its lower end, at its
    upper one), and so cuts off what lies there."""
    n = float(groups.shape[-1]) if importance is None else jnp.maximum(total(jnp.broadcast_to(importance, groups.shape)), 1e-20)
    bottom, top, w = jnp.min(groups, axis=-1, keepdims=True), jnp.max(groups, axis=-1, keepdims=True), total(weighed(groups, importance))
    if min_at_most_zero:
        bottom, top = jnp.minimum(bottom, 0.0), jnp.maximum(top, 0.0)
    cuts = jnp.asarray(cuts, jnp.float32)

    def attempt(i, best):
        length = (1.0 - cuts[i, 0] - cuts[i, 1]) * (top - bottom)
        q = rounded(groups, length / high, 0, high, bottom + cuts[i, 0] * (top - bottom))
        uq = weighed(q, importance)
        sum_q, qq, qw = total(uq), total(uq * q), total(uq * groups)
        scales = (n * qw - sum_q * w) * inverse(n * qq - sum_q * sum_q)
        mins = (w - scales * sum_q) / n
        if min_at_most_zero:
            through_zero = (mins > 0.0) | (scales <= 0.0)
            scales = jnp.where(through_zero, qw * inverse(qq), scales)
            mins = jnp.where(through_zero, 0.0, mins)
        return _better((scales * qw + mins * w, scales, mins), best)

    level = jnp.zeros_like(w) if min_at_most_zero else w / n  # what one number for the whole group explains
    return jax.lax.fori_loop(0, len(cuts), attempt, (level * w, jnp.zeros_like(w), level))[1:]


def _better(new: tuple, best: tuple) -> tuple:
    """Of two tuples (explained, numbers …) the numbers of the one that explains more, group by group."""
    wins = new[0] > best[0]
    return tuple(jnp.where(wins, a, b) for a, b in zip(new, best))
