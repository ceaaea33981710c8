"""Matmul with int8 and int4 weights on TPUs: y = x · dequantize(w), weights read packed, in Pallas.

    y[m, n] = Σ_k  x[m, k] · (q[k, n] · scale[k / group, n] + min[k / group, n])

A TPU's registers are 8 rows of 128 lanes, and what is spread along rows costs nothing: so the weights lie with the outputs along the
lanes, and a group's scale is one row that is repeated below itself. Blocks of weights are fetched while the ones before are widened
and multiplied; the sums stay on the chip, in float32, until all of K has passed.

Leaves out: nf4 and GGUF's blocks (the reference), integer products, gradients (`dispatch`). Never run on a TPU: checked in the
interpreter, and lowered for one.
"""

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.tpu as pltpu
import jax.numpy as jnp

from pikojax.qtensor import FORMATS, QTensor
from pikojax.qtensor.own import unpack4

TILE_M, TILE_N, TILE_K = 256, 256, 256
LAYOUT = "tpu"


def why_not(platform: str, capability: tuple[int, int] | None, shape: tuple[int, int, int], format: str) -> str | None:
    """Why this kernel cannot multiply x [M, K] by w [K, N] of this format there; None if it can."""
    if platform != "tpu":
        return f"the TPU kernel needs a TPU, not {platform!r}"
    known = FORMATS.get(format)
    if known is None or known.gguf or known.name == "nf4":
        return f"the TPU kernel reads int8 and int4 weights of our own formats, not {format!r}"
    return None


def prepare(w: QTensor) -> QTensor:
    """Canonical → "tpu": data int8 or int4 [..., K, N], scales and minimums float32 [..., groups, N], both sides padded to 256."""
    assert w.layout == "canonical" and why_not("tpu", None, (1, *w.shape), w.format) is None
    known = FORMATS[w.format]
    packed = w.data.dtype == jnp.uint8
    offset = 8 if packed and not known.asymmetric else 0
    q = unpack4(w.data).astype(jnp.int8) - jnp.int8(offset) if packed else w.data
    if known.asymmetric:  # int4 is signed: w = (q − 8) · scale + (min + 8 · scale)
        q = q - jnp.int8(8)
    n, k = -w.shape[1] % TILE_N, -q.shape[-1] % TILE_K
    scales = w.scales.astype(jnp.float32)
    mins = w.mins.astype(jnp.float32) + 8.0 * scales if known.asymmetric else None
    data = _turned(q, n, k).astype(jnp.int4 if packed else jnp.int8)
    groups = k // known.group if known.group else 0
    return QTensor(data, *(None if s is None else _turned(s, n, groups) for s in (scales, mins)), w.format, w.shape, LAYOUT)


def _turned(x, n_padding: int, k_padding: int):
    return jnp.swapaxes(jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, n_padding), (0, k_padding)]), -1, -2)


def matmul(x, w: QTensor, layer=None, *, interpret: bool = False):
    """x [..., K] · w, in x's dtype; `layer` picks one of a stack of weights without copying it."""
    if w.layout == "canonical":
        w = prepare(w)
    K, N = w.shape
    rows = x.reshape(-1, K)
    M = rows.shape[0]
    if M == 0:
        return jnp.zeros((*x.shape[:-1], N), x.dtype)
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
        out_shape=jax.ShapeDtypeStruct((rows.shape[0], n_padded), x.dtype),
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
