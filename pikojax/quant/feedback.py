"""Rounding with error feedback: what one weight's rounding does to the output, the weights after it make good.

    output error of one output's weights w, rounded to ŵ:   (ŵ − w)ᵀ H (ŵ − w),   H = mean of x·xᵀ over the inputs x of a text

Weights are rounded one input after the other, those with the largest inputs first. When input i is rounded off by e, the weights not yet
rounded change by −e · U[i, j] / U[i, i], the least squares answer, where UᵀU = H⁻¹ and U is upper triangular (GPTQ, arXiv 2210.17323). The scales
are chosen before, by least squares weighed by the diagonal of H, so that the order of inputs is free and any format will do: all that is
asked of one is the nearest number.

Leaves out: experts (too few inputs reach each; their scales are weighed alone), scales chosen anew on the way.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import require
from pikojax.qtensor import FORMATS, QTensor
from pikojax.qtensor.tensor import fit, in_blocks, nearest, nearest_value, pack

DAMPING = 0.01  # of the mean of H's diagonal, added to it: inputs that the text hardly had are not trusted
COLUMNS = 64  # that are rounded before the weights beyond them hear of it
WEIGHTS_AT_ONCE = 1 << 21


def factor_of(gram_KK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order of the inputs, U for inputs in that order). One Cholesky factorization, of H turned around: H = R·Rᵀ with R upper, U = R⁻¹."""
    import scipy.linalg

    diagonal = np.diagonal(gram_KK)
    order = np.argsort(-diagonal, kind="stable")
    hessian = gram_KK[np.ix_(order, order)].astype(np.float64)
    hessian[np.diag_indices_from(hessian)] += DAMPING * max(float(diagonal.mean()), 1e-20)
    reversed_factor = np.linalg.cholesky(hessian[::-1, ::-1])
    upper = scipy.linalg.solve_triangular(reversed_factor[::-1, ::-1], np.eye(len(order)), lower=False)
    return order, upper.astype(np.float32)


def quantize(kernel_KN: np.ndarray, format: str, gram_KK: np.ndarray) -> QTensor:
    """A matrix [K, N] whose inputs have the mean products `gram_KK`; canonical, in memory of the host."""
    K, N = kernel_KN.shape
    require(gram_KK.shape == (K, K), f"the inputs of a matrix of shape {kernel_KN.shape} were observed as {gram_KK.shape}; give its own")
    order, upper = factor_of(gram_KK)
    importance = np.diagonal(gram_KK) + DAMPING * gram_KK.diagonal().mean()
    step = max(1, min(N, WEIGHTS_AT_ONCE // K))
    parts = []
    for at in range(0, N, step):
        rows = np.zeros((step, K), np.float32)  # one shape for all parts, compiled once
        rows[: N - at] = kernel_KN[:, at : at + step].T
        part = _rounded(rows, importance / importance.mean(), order, upper, format)
        parts.append(jax.tree.map(lambda leaf: np.asarray(leaf)[: N - at], part))
    made = parts[0] if len(parts) == 1 else jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return QTensor(made.data, made.scales, made.mins, format, (K, N))


@functools.partial(jax.jit, static_argnames="format")
def _rounded(rows_NK, importance_K, order_K, upper_KK, format: str) -> QTensor:
    known, (N, K) = FORMATS[format], rows_NK.shape
    padded = in_blocks(rows_NK, known)
    grid = fit(padded, known, in_blocks(importance_K[None, :], known))
    each = grid._replace(scales=_each_weight(grid.scales, padded)[:, :K], mins=_each_weight(grid.mins, padded)[:, :K])
    ordered = jax.tree.map(lambda x: x[:, order_K], each._replace(parts=()))
    wanted_NK = _followed(rows_NK[:, order_K], ordered.scales, ordered.mins, upper_KK, format)
    wanted_NK = jnp.zeros_like(rows_NK).at[:, order_K].set(wanted_NK)
    return pack(nearest(in_blocks(wanted_NK, known), grid, known), grid, known, (K, N))


def _each_weight(of_groups, rows_NK):
    """The number of each weight's group."""
    of_groups = jnp.asarray(of_groups, jnp.float32)
    if of_groups.ndim == 0:
        return jnp.full_like(rows_NK, of_groups)
    flat = of_groups.reshape(len(rows_NK), -1)
    return jnp.repeat(flat, rows_NK.shape[1] // flat.shape[1], axis=1)


def _followed(w_NK, scales_NK, mins_NK, upper_KK, format: str):
    """What each weight should be when its turn comes, those before it rounded."""
    N, K = w_NK.shape
    padding = -K % COLUMNS
    w_NK, scales_NK, mins_NK = (jnp.pad(x, [(0, 0), (0, padding)]) for x in (w_NK, scales_NK, mins_NK))
    upper_KK = jnp.pad(upper_KK, [(0, padding), (0, padding)]) + jnp.diag(jnp.pad(jnp.zeros(K), (0, padding), constant_values=1.0))

    def column(i, carried, scales, mins, upper):
        w, errors = carried
        wanted, one = jax.lax.dynamic_slice(w, (0, i), (N, 1)), (N, 1)
        off = wanted - nearest_value(wanted, jax.lax.dynamic_slice(scales, (0, i), one), jax.lax.dynamic_slice(mins, (0, i), one), FORMATS[format])
        row = jax.lax.dynamic_slice(upper, (i, 0), (1, COLUMNS))
        error = off / jax.lax.dynamic_slice(row, (0, i), (1, 1))
        later = jnp.where(jnp.arange(COLUMNS)[None, :] > i, row, 0.0)
        return w - error * later, jax.lax.dynamic_update_slice(errors, error, (0, i))

    def stretch(b, w_NK):
        at = b * COLUMNS
        here = lambda x: jax.lax.dynamic_slice(x, (0, at), (N, COLUMNS))
        upper = jax.lax.dynamic_slice(upper_KK, (at, at), (COLUMNS, COLUMNS))
        scales, mins = here(scales_NK), here(mins_NK)
        w, errors = jax.lax.fori_loop(0, COLUMNS, lambda i, carried: column(i, carried, scales, mins, upper), (here(w_NK), jnp.zeros((N, COLUMNS))))
        row = jax.lax.dynamic_slice(upper_KK, (at, 0), (COLUMNS, K + padding))
        row = jnp.where(jnp.arange(K + padding)[None, :] >= at + COLUMNS, row, 0.0)
        return jax.lax.dynamic_update_slice(w_NK - jnp.dot(errors, row), w, (0, at))

    return jax.lax.fori_loop(0, (K + padding) // COLUMNS, stretch, w_NK)[:, :K]

