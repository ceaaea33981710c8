"""Matmul with int8 and int4 weights on TPUs: y = x · dequantize(w), weights read packed, in Pallas.

    y[m, n] = Σ_k  x[m, k] · (q[k, n] · scale[k / group, n] + min[k / group, n])

A TPU's registers are 8 rows of 128 lanes, and what is spread along rows costs nothing: so the weights lie with the outputs along the
lanes, and a group's scale is one row that is repeated below itself. Blocks of weights are fetched while the ones before are widened
and multiplied; the sums stay on the chip, in float32, until all of K has passed.

Leaves out: nf4 and GGUF's blocks (the reference), integer products, gradients (`dispatch`). Never run on a TPU: checked in the
interpreter, and lowered for one.
"""

import functools

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.tpu as pltpu
import jax.numpy as jnp

from pikojax.kernels import dispatch, signed
from pikojax.kernels.matmul import why_not_prepared
from pikojax.qtensor import FORMATS, QTensor

LAYOUT = "tpu"
TILE_M, (TILE_N, TILE_K) = 256, signed.PADDED_TO[LAYOUT]
prepare = functools.partial(signed.pack, layout=LAYOUT)


def run(x, w: QTensor, layer, out_dtype):
    return matmul(x, w, layer, out_dtype=out_dtype)


def why_not_run(x, w: QTensor, layer) -> str | None:
    return why_not_here(w) or why_not_prepared(w, LAYOUT) or dispatch.why_not_on_mesh(x, w)


def why_not_here(w: QTensor | None = None) -> str | None:
    return why_not(dispatch.card().platform, None, (1, *(w.shape if w else (1, 1))), w.format if w else "int8")


def why_not(platform: str, capability: tuple[int, int] | None, shape: tuple[int, int, int], format: str) -> str | None:
    """Why this kernel cannot multiply x [M, K] by w [K, N] of this format there; None if it can."""
    if platform != "tpu":
        return f"the TPU kernel needs a TPU, not {platform!r}"
    if not signed.packs(format):
        return f"the TPU kernel reads int8 and int4 weights of our own formats, not {format!r}"
    return None


def matmul(x, w: QTensor, layer=None, *, out_dtype=None, interpret: bool = False):
    """x [..., K] · w, in `out_dtype` (x's by default); `layer` picks one of a stack of weights without copying it."""
    if w.layout == "canonical":
        w = prepare(w)
    K, N = w.shape
    rows = x.reshape(-1, K)
    M = rows.shape[0]
    out_dtype = jnp.dtype(out_dtype or x.dtype)
    if M == 0 or N == 0:
        return jnp.zeros((*x.shape[:-1], N), out_dtype)
    leaves = [leaf for leaf in (w.data, w.scales, w.mins) if leaf is not None]
    if w.data.ndim == 2:
        leaves, layer = [leaf[None] for leaf in leaves], 0
    k_padded, n_padded = leaves[0].shape[1:]
    tile_m = min(TILE_M, -(-M // 16) * 16)
    rows = jnp.pad(rows, [(0, -M % tile_m), (0, k_padded - K)])

    def of_weights(leaf):  # all groups' scales of some outputs: a block of few rows would not fill a register
        if leaf.shape[1] == k_padded:
            return pl.BlockSpec((None, TILE_K, TILE_N), lambda m, n, k, layer: (layer[0], k, n))
        return pl.BlockSpec((None, leaf.shape[1], TILE_N), lambda m, n, k, layer: (layer[0], 0, n))

    y = pl.pallas_call(
        lambda layer_ref, *refs: _body(*refs, group=FORMATS[w.format].group),
        out_shape=jax.ShapeDtypeStruct((rows.shape[0], n_padded), out_dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(rows.shape[0] // tile_m, n_padded // TILE_N, k_padded // TILE_K),
            in_specs=[pl.BlockSpec((tile_m, TILE_K), lambda m, n, k, layer: (m, k)), *map(of_weights, leaves)],
            out_specs=pl.BlockSpec((tile_m, TILE_N), lambda m, n, k, layer: (m, n)),
            scratch_shapes=[pltpu.VMEM((tile_m, TILE_N), jnp.float32)],
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=interpret,
    )(jnp.asarray(layer, jnp.int32).reshape(1), rows, *leaves)
    return y[:M, :N].reshape(*x.shape[:-1], N)


def _body(x_ref, data_ref, *refs, group: int | None):
    *scaling, out_ref, sums_ref = refs
    k = pl.program_id(2)

    @pl.when(k == 0)
    def _():
        sums_ref[...] = jnp.zeros_like(sums_ref)

    def spread(ref):
        """This block's rows of scales or minimums, each repeated over its group."""
        groups = TILE_K // group
        rows = [jnp.broadcast_to(ref[pl.ds(k * groups + i, 1), :], (group, TILE_N)) for i in range(groups)]
        return jnp.concatenate(rows, axis=0)

    weights = data_ref[...].astype(jnp.float32)
    if group is not None:
        weights = weights * spread(scaling[0])
    if len(scaling) > 1:
        weights = weights + spread(scaling[1])
    precision = jax.lax.Precision.HIGHEST if x_ref.dtype == jnp.float32 else None
    product = jnp.dot(x_ref[...], weights.astype(x_ref.dtype), preferred_element_type=jnp.float32, precision=precision)
    sums_ref[...] += product

    @pl.when(k == pl.num_programs(2) - 1)
    def _():
        sums = sums_ref[...] if group is not None else sums_ref[...] * scaling[0][...]
        out_ref[...] = sums.astype(out_ref.dtype)
