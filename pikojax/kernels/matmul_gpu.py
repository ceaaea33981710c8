"""Matmul with quantized weights on any GPU: y = x · dequantize(w), for the cards before Hopper and for every format.

    y[m, n] = Σ_k  x[m, k] · (q[n, k] · scale[n, k / group] + min[n, k / group])

- Up to 16 rows and our own int8 and int4 formats, on Ampere and later: a Pallas kernel through Triton. It reads the canonical layout
  as it lies. A nibble's neighbour in the same byte is sixteen weights away, so x is laid out likewise, once: first what meets
  the low halves, then what meets the high ones. Parts of K are summed up separately, so that all multiprocessors have work.
- Up to 16 rows otherwise (GGUF, nf4, Turing): XLA's own fusion. A matrix product would have the whole weight widened first; a product
  and a sum, row by row, is one loop that reads packed weights and writes N sums.
- More rows: the weight is widened a slice of outputs at a time, so that no more than `SLICE_BYTES` are spent on it.

Leaves out: gradients (`dispatch`); a layout made for the card.
"""

import functools

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.triton as plt
import jax.numpy as jnp
from jax import lax

from pikojax.kernels import dispatch, signed
from pikojax.kernels.matmul import why_not_prepared
from pikojax.qtensor import FORMATS, QTensor, dequantize

FEW_ROWS = 16  # the smallest side that Triton multiplies
TILE_N, TILE_K = 64, 128  # outputs and inputs that a program has in registers at once
SLICE_BYTES = 64 * 1024 * 1024


def run(x, w: QTensor, layer, out_dtype):
    here = dispatch.card()
    return matmul(x, w, layer, out_dtype=out_dtype, capability=here.capability, sm_count=here.cores)


def why_not_run(x, w: QTensor, layer) -> str | None:
    return why_not_here(w) or why_not_prepared(w, "canonical") or dispatch.why_not_on_mesh(x, w)


def why_not_here(w: QTensor | None = None) -> str | None:
    here = dispatch.card()
    return why_not(here.platform, here.capability, (1, *(w.shape if w else (1, 1))), w.format if w else "int8")


def why_not(platform: str, capability: tuple[int, int] | None, shape: tuple[int, int, int], format: str) -> str | None:
    """Why this file cannot multiply x [M, K] by w [K, N] of this format there; None if it can."""
    if platform not in ("gpu", "cuda", "rocm"):
        return f"these kernels need a GPU, not {platform!r}"
    return None if format in FORMATS else f"format {format!r} is unknown"


def why_not_triton(platform: str, capability: tuple[int, int] | None, shape: tuple[int, int, int], format: str) -> str | None:
    """Why XLA's fusion multiplies, and not the Pallas kernel."""
    if platform not in ("gpu", "cuda"):
        return f"the Triton kernel is for NVIDIA GPUs, not {platform!r}"
    if capability is None or capability[0] < 8:
        return "the Triton kernel multiplies in bfloat16, which cards have from compute capability 8.0 on"
    if shape[0] > FEW_ROWS:
        return f"the Triton kernel takes up to {FEW_ROWS} rows"
    if not signed.packs(format):
        return f"the Triton kernel reads our own int8 and int4 formats, not {format!r}"
    if shape[1] % TILE_K or shape[2] < TILE_N:
        return (
            f"the Triton kernel wants a multiple of {TILE_K} inputs and at least {TILE_N} outputs, not {shape[1]} and {shape[2]}"
        )
    return None


def addressable(leaf) -> bool:
    """Triton's offsets are 32-bit, and signed, in arrays of up to 2³² bytes: of bytes, 2³¹ to 2³² would be out of reach."""
    return not leaf.size > 2**31 or leaf.size * leaf.dtype.itemsize > 2**32


def matmul(
    x, w: QTensor, layer=None, *, out_dtype=None, capability: tuple[int, int] | None = (8, 0), sm_count: int = 32, interpret: bool = False
):
    """x [..., K] · w, in `out_dtype` (x's by default); `layer` picks one of a stack of weights."""
    K, N = w.shape
    out_dtype = jnp.dtype(out_dtype or x.dtype)
    rows = x.reshape(-1, K)
    M = rows.shape[0]
    if M == 0 or N == 0:
        return jnp.zeros((*x.shape[:-1], N), out_dtype)
    if why_not_triton("cuda", capability, (M, K, N), w.format) is None and addressable(w.data):
        y = _by_triton(rows, w, layer, sm_count, interpret)
    else:
        y = by_fusion(
            rows, w if layer is None else jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, layer, keepdims=False), w)
        )
    return y.astype(out_dtype).reshape(*x.shape[:-1], N)


# ---------------------------------------------------------------- XLA's fusion


def by_fusion(x, w: QTensor):
    """x [M, K] · w → float32 [M, N]."""
    if x.shape[0] <= FEW_ROWS:
        weights = jnp.swapaxes(dequantize(w), -1, -2)
        M = x.shape[0]
        x = jnp.pad(x, [(0, max(0, 2 - M)), (0, 0)])  # one row alone would be made a matrix product again
        products = [weights * row[None, :].astype(jnp.float32) for row in x]
        zeros = [jnp.zeros((), jnp.float32)] * len(products)
        # One reduction with all rows in it: several ones would share the widened weight, and it would be kept for them.
        sums = lax.reduce(products, zeros, lambda a, b: [i + j for i, j in zip(a, b, strict=True)], (1,))
        return jnp.stack(lax.optimization_barrier(sums)[:M])
    K, N = w.shape
    size = min(N, max(1, SLICE_BYTES // (K * x.dtype.itemsize)))

    def make_slice(i, y):
        at = jnp.minimum(i * size, N - size)  # the last slice reaches back into the one before it
        part = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, at, size, axis=-2), w)
        weights = dequantize(QTensor(part.data, part.scales, part.mins, w.format, (K, size)), x.dtype)
        return lax.dynamic_update_slice_in_dim(y, jnp.dot(x, weights, preferred_element_type=jnp.float32), at, axis=1)

    return lax.fori_loop(0, -(-N // size), make_slice, jnp.zeros((x.shape[0], N), jnp.float32))


# ---------------------------------------------------------------- Triton


def _by_triton(x, w: QTensor, layer, sm_count: int, interpret: bool):
    """x [M, K], M up to 16 → float32 [M, N]."""
    M, K = x.shape
    N, known = w.shape[1], FORMATS[w.format]
    packed = w.data.dtype == jnp.uint8
    leaves = [leaf for leaf in (w.data, w.scales, w.mins) if leaf is not None]
    if w.data.ndim == 2:
        leaves, layer = [leaf[None] for leaf in leaves], 0
    x = jnp.pad(x, [(0, FEW_ROWS - M), (0, 0)])
    if packed:
        x = x.reshape(FEW_ROWS, K // 32, 2, 16).swapaxes(1, 2).reshape(FEW_ROWS, K)
    tiles = K // TILE_K
    splits = max(1, min(tiles, 4 * sm_count // -(-N // TILE_N)))
    steps = -(-tiles // splits)
    splits = -(-tiles // steps)
    body = functools.partial(_triton_body, group=known.group, steps=steps, asymmetric=known.asymmetric)
    partial_sums = pl.pallas_call(
        body,
        out_shape=jax.ShapeDtypeStruct((splits, FEW_ROWS, N), jnp.float32),
        grid=(-(-N // TILE_N), splits),
        compiler_params=plt.CompilerParams(num_warps=4, num_stages=3),
        interpret=interpret,
    )(jnp.asarray(layer, jnp.int32).reshape(1), x, *leaves)
    y = partial_sums.sum(axis=0)[:M]
    if known.group is None:
        scales = w.scales if w.scales.ndim == 2 else lax.dynamic_index_in_dim(w.scales, layer, keepdims=False)
        y = y * scales[:, 0][None, :]
    return y


def _triton_body(layer_ref, x_ref, data_ref, *rest, group: int | None, steps: int, asymmetric: bool):
    *scaling, out_ref = rest
    halves = 2 if data_ref.dtype == jnp.uint8 else 1  # weights in a byte
    width, inputs = TILE_K // halves, x_ref.shape[1]
    layer = layer_ref[0]
    # The last tile reaches back into the one before it, so that no access needs a mask; both write the same there.
    outputs = pl.ds(jnp.minimum(pl.program_id(0) * TILE_N, data_ref.shape[1] - TILE_N), TILE_N)

    def spread(ref, tile):
        """A tile's scales or minimums, one for each byte: group / halves bytes share one."""
        groups = TILE_K // group
        values = plt.load(ref.at[layer, outputs, pl.ds(tile * groups, groups)]).astype(jnp.float32)
        return lax.broadcast_in_dim(values, (TILE_N, groups, width // groups), (0, 1)).reshape(TILE_N, width)

    def step(tile, sums):
        data = plt.load(data_ref.at[layer, outputs, pl.ds(tile * width, width)]).astype(jnp.int32)
        for half in range(halves):
            q = data if halves == 1 else ((data >> 4 * half) & 15) - (0 if asymmetric else 8)
            weights = q.astype(jnp.float32)
            if group is not None:
                weights = weights * spread(scaling[0], tile)
            if asymmetric:
                weights = weights + spread(scaling[1], tile)
            x = plt.load(x_ref.at[:, pl.ds(half * (inputs // 2) + tile * width, width)])
            sums = sums + plt.dot(
                x, weights.astype(x.dtype).T, precision=None if x.dtype == jnp.bfloat16 else lax.Precision.HIGHEST
            )
        return sums

    first = pl.program_id(1) * steps
    last = jnp.minimum(first + steps, inputs // TILE_K)
    sums = lax.fori_loop(first, last, step, jnp.zeros((FEW_ROWS, TILE_N), jnp.float32))
    plt.store(out_ref.at[pl.program_id(1), :, outputs], sums)
