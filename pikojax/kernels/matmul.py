"""x[..., K] · w[K, N] for quantized weights: the reference and the native CPU kernel, and what all kernels share: layouts, gradient, vmap.

    reference    x · dequantize(w)
    native       per group of 32 along K:  out += (Σ q_x · q_w) · scale_x · scale_w  [+ scale_x · Σ q_x · min_w]

The native one reads weights as they are packed and quantizes x to int8, 32 at a time (error: about 5e-5 of the result's square).
It reads the layout of `prepare`, which is made once, at load. A row's result has the same bits whatever rows stand beside it and
however many threads share the work. Under a mesh it is opaque to the partitioner: call it inside `shard_map`. There a shard of the
outputs is a tensor of its own: `dataclasses.replace(w, shape=(K, N // shards))`.

Leaves out: gradients with respect to quantized weights; two stacked axes (index the first). Accelerators' kernels: matmul_hopper.py,
matmul_gpu.py and matmul_tpu.py, which get bfloat16 as it is.
"""

import functools

import jax
import jax.numpy as jnp

from pikojax.config import require
from pikojax.kernels import dispatch, rows16, signed
from pikojax.native import build
from pikojax.native.ffi import register
from pikojax.qtensor import QTensor, dequantize
from pikojax.qtensor import lookup as canonical_lookup

ROWS_OF_BLOCK, GROUP = 96, 32  # native/matmul_rows16.h's and matmul_activations.h's
LAYOUTS = {"rows16": rows16, "hopper": signed, "tpu": signed}  # beside the canonical one: who reads `rows` and `lookup` of it
PACK = {"native": rows16.pack, "hopper": functools.partial(signed.pack, layout="hopper"), "tpu": functools.partial(signed.pack, layout="tpu")}
BFLOAT16 = ("hopper", "gpu", "tpu")  # kernels that multiply in it, and take (x, w, layer, out_dtype); the others see float32 alone


def matmul(x, w, layer=None, out_dtype=None):
    """[..., N] in `out_dtype` (x's by default), accumulated in float32. `w` is a QTensor or a plain array [K, N]; with `layer`, a stack of
    them, of which that one is read: negative ones count from the end, and a number beyond the stack means the nearest there is."""
    return matmul_each(x, (w,), layer, out_dtype)[0]


def matmul_each(x, ws, layer=None, out_dtype=None) -> tuple:
    """`matmul` of one x by each of several weights. Natively those of one format are one operation, for which x is rounded once."""
    out_dtype, outs, alike = jnp.dtype(out_dtype or x.dtype), [None] * len(ws), {}
    for i, w in enumerate(ws):
        if not isinstance(w, QTensor):
            w = w if layer is None else jax.lax.dynamic_index_in_dim(w, layer, keepdims=False)
            outs[i] = jnp.dot(x, w, preferred_element_type=jnp.float32).astype(out_dtype)
            continue
        K, stack = w.shape[0], w.data.shape[:-2]
        require(
            x.ndim >= 1 and x.shape[-1] == K,
            f"matmul got x of shape {x.shape} and weights of {K} inputs; the last axis has to be {K}",
        )
        require(
            len(stack) == (layer is not None),
            f"matmul got weights with leading axes {stack} and layer={layer}; give a layer where there is one such axis, and only there",
        )
        alike.setdefault((w.format, stack), []).append(i)
    for (_, stack), places in alike.items():
        which, weights, rows_MK = layer, tuple(ws[i] for i in places), x.reshape(-1, x.shape[-1])
        if layer is not None:
            which = jnp.asarray(layer, jnp.int32)
            which = jnp.clip(jnp.where(which < 0, which + stack[0], which), 0, stack[0] - 1)
        kernels = [dispatch.choose("matmul", rows_MK, w, which) for w in weights]
        for kernel in dict.fromkeys(kernels):
            of_kernel = [i for i, name in zip(places, kernels, strict=True) if name == kernel]
            floats_MK = rows_MK if kernel in BFLOAT16 and x.dtype == jnp.bfloat16 else rows_MK.astype(jnp.float32)
            found = _products((kernel, floats_MK.dtype, out_dtype), floats_MK, tuple(ws[i] for i in of_kernel), which)
            for i, out_MN in zip(of_kernel, found, strict=True):
                outs[i] = out_MN.reshape(*x.shape[:-1], out_MN.shape[-1])
    return tuple(outs)


def prepare(w: QTensor) -> QTensor:
    """The layout that this machine's best kernel reads. Costs a copy of the weights, and a pass over them: do it once, at load."""
    pack = PACK.get(dispatch.best_here("matmul", w)) if w.layout == "canonical" else None
    if pack is None:
        return w
    for _ in w.data.shape[:-2] if pack is rows16.pack else ():  # layer by layer: its temporary arrays are several times as large as the weights
        pack = functools.partial(jax.lax.map, pack)
    return jax.jit(pack)(w)


def prepare_tree(params):
    """`prepare` for every quantized leaf."""
    return jax.tree.map(lambda leaf: prepare(leaf) if _is_quantized(leaf) else leaf, params, is_leaf=_is_quantized)


def lookup(w: QTensor, ids, dtype=jnp.float32):
    """Rows of an embedding table of shape (D, V), prepared or not: one prepared table serves as embedding and as tied head."""
    return (LAYOUTS[w.layout].lookup if w.layout in LAYOUTS else canonical_lookup)(w, ids, dtype)


def weights_NK(w: QTensor):
    """float32 [..., N, K] from any layout."""
    return LAYOUTS[w.layout].rows(w) if w.layout in LAYOUTS else jnp.swapaxes(dequantize(w), -1, -2)


def _is_quantized(leaf) -> bool:
    return isinstance(leaf, QTensor)


# ---------------------------------------------------------------- two of the kernels: x [M, K] float32 → [M, N] float32


def reference(x_MK, w: QTensor, layer=None):
    return jnp.einsum("mk,nk->mn", x_MK, weights_NK(_layer_of(w, layer)), preferred_element_type=jnp.float32)


def native(x_MK, w: QTensor, layer=None):
    return native_each(x_MK, (w,), layer)[0]


def native_each(x_MK, ws: tuple[QTensor, ...], layer=None) -> list:
    """By weights of one format."""
    target, M = register("matmul", "pikojax_matmul"), x_MK.shape[0]
    outs = [jax.ShapeDtypeStruct((M, w.shape[1]), jnp.float32) for w in ws]
    scratch = jax.ShapeDtypeStruct((_scratch_bytes(M, ws[0]),), jnp.uint8)
    which = jnp.zeros((), jnp.int32) if layer is None else layer
    return jax.ffi.ffi_call(target, [scratch, *outs])(x_MK, which, *(w.data for w in ws), format=ws[0].format, k=ws[0].shape[0])[1:]


def why_not(x_MK, w: QTensor, layer=None) -> str | None:
    """Why the native kernel cannot run."""
    return why_not_here() or why_not_prepared(w, "rows16")


def why_not_prepared(w: QTensor, layout: str) -> str | None:
    """Why a kernel that reads this layout cannot take the weights."""
    if w.layout == layout:
        return None
    return f"the weights lie as {w.layout!r}, not as {layout!r}; prepare them once, by pikojax.kernels.prepare"


def why_not_here(w: QTensor | None = None) -> str | None:
    found = build.status("matmul")
    return found.removeprefix("none: ") if found.startswith("none: ") else None


def _scratch_bytes(M: int, w: QTensor) -> int:
    """For x as int8 with its scales and sums; native/matmul_rows16.h's scratch_bytes."""
    size = rows16.block_weights(w)
    groups = -(-w.shape[0] // size) * size // GROUP
    a_block = -(-min(M, ROWS_OF_BLOCK) * groups * (GROUP + 12) // 64) * 64 + 128
    return -(-M // ROWS_OF_BLOCK) * a_block


def _layer_of(w: QTensor, layer):
    if layer is None:
        return w
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False), w)


# ---------------------------------------------------------------- under grad and vmap


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _products(how: tuple, x_MK, ws: tuple, layer) -> tuple:
    """`how`: the kernel, the dtypes of x and of the results."""
    kernel, _, out_dtype = how
    return _batched(kernel, out_dtype)(x_MK, ws, layer)


def _forward(how, x_MK, ws, layer):
    return _products(how, x_MK, ws, layer), (ws, layer)


def _backward(how, saved, dy_each):
    ws, layer = saved
    back = lambda dy_MN, w: jnp.einsum("mn,nk->mk", dy_MN.astype(jnp.float32), weights_NK(_layer_of(w, layer)), preferred_element_type=jnp.float32)
    return sum(map(back, dy_each, ws)).astype(how[1]), None, None


_products.defvjp(_forward, _backward)


@functools.cache
def _batched(kernel: str, out_dtype):
    """The kernel under vmap: a batch of x is more rows; a batch of weights, or of layers, is one product after the other."""

    @jax.custom_batching.custom_vmap
    def products(x_MK, ws, layer):
        if kernel == "native":
            return tuple(out_MN.astype(out_dtype) for out_MN in native_each(x_MK, ws, layer))
        run = dispatch.function("matmul", kernel)
        return tuple(run(x_MK, w, layer, out_dtype) if kernel in BFLOAT16 else run(x_MK, w, layer).astype(out_dtype) for w in ws)

    @products.def_vmap
    def over(size, batched, x, ws, layer):
        if not any(jax.tree.leaves(batched[1:])):
            outs = products(x.reshape(size * x.shape[1], x.shape[2]), ws, layer)
            outs = tuple(out.reshape(size, x.shape[1], out.shape[-1]) for out in outs)  # written out: −1 has no meaning where another axis is 0
            return outs, (True,) * len(ws)
        flags, operands = jax.tree.leaves(batched), jax.tree.leaves((x, ws, layer))
        tree = jax.tree.structure((x, ws, layer))

        def one(i):
            picked = [
                jax.lax.dynamic_index_in_dim(a, i, keepdims=False) if flag else a for flag, a in zip(flags, operands, strict=True)
            ]
            return products(*jax.tree.unflatten(tree, picked))

        return jax.lax.map(one, jnp.arange(size)), (True,) * len(ws)

    return products
