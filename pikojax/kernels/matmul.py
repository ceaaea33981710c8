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
    out_dtype = jnp.dtype(out_dtype or x.dtype)
    if not isinstance(w, QTensor):
        w = w if layer is None else jax.lax.dynamic_index_in_dim(w, layer, keepdims=False)
        return jnp.dot(x, w, preferred_element_type=jnp.float32).astype(out_dtype)
    K, N = w.shape
    stack = w.data.shape[:-2]
    require(
        x.ndim >= 1 and x.shape[-1] == K,
        f"matmul got x of shape {x.shape} and weights of {K} inputs; the last axis has to be {K}",
    )
    require(
        len(stack) == (layer is not None),
        f"matmul got weights with leading axes {stack} and layer={layer}; give a layer where there is one such axis, and only there",
    )
    if layer is not None:
        layer = jnp.asarray(layer, jnp.int32)
        layer = jnp.clip(jnp.where(layer < 0, layer + stack[0], layer), 0, stack[0] - 1)
    rows_MK = x.reshape(-1, K)
    kernel = dispatch.choose("matmul", rows_MK, w, layer)
    if kernel not in BFLOAT16 or x.dtype != jnp.bfloat16:
        rows_MK = rows_MK.astype(jnp.float32)
    return _product((kernel, rows_MK.dtype, out_dtype), rows_MK, w, layer).reshape(*x.shape[:-1], N)


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
    target = register("matmul", "pikojax_matmul")
    M, (K, N) = x_MK.shape[0], w.shape
    out = jax.ShapeDtypeStruct((M, N), jnp.float32), jax.ShapeDtypeStruct((_scratch_bytes(M, w),), jnp.uint8)
    which = jnp.zeros((), jnp.int32) if layer is None else layer
    return jax.ffi.ffi_call(target, out)(x_MK, w.data, which, format=w.format, k=K, n=N)[0]


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
def _product(how: tuple, x_MK, w, layer):
    """`how`: the kernel, the dtypes of x and of the result."""
    kernel, _, out_dtype = how
    return _batched(kernel, out_dtype)(x_MK, w, layer)


def _forward(how, x_MK, w, layer):
    return _product(how, x_MK, w, layer), (w, layer)


def _backward(how, saved, dy_MN):
    w, layer = saved
    dy_MN, w_NK = dy_MN.astype(jnp.float32), weights_NK(_layer_of(w, layer))
    return jnp.einsum("mn,nk->mk", dy_MN, w_NK, preferred_element_type=jnp.float32).astype(how[1]), None, None


_product.defvjp(_forward, _backward)


@functools.cache
def _batched(kernel: str, out_dtype):
    """The kernel under vmap: a batch of x is more rows; a batch of weights, or of layers, is one product after the other."""

    @jax.custom_batching.custom_vmap
    def product(x_MK, w, layer):
        run = dispatch.function("matmul", kernel)
        return run(x_MK, w, layer, out_dtype) if kernel in BFLOAT16 else run(x_MK, w, layer).astype(out_dtype)

    @product.def_vmap
    def over(size, batched, x, w, layer):
        if not any(jax.tree.leaves(batched[1:])):
            out = product(x.reshape(size * x.shape[1], x.shape[2]), w, layer)
            return out.reshape(size, x.shape[1], out.shape[-1]), True  # written out: −1 has no meaning where another axis is 0
        flags, operands = jax.tree.leaves(batched), jax.tree.leaves((x, w, layer))
        tree = jax.tree.structure((x, w, layer))

        def one(i):
            picked = [
                jax.lax.dynamic_index_in_dim(a, i, keepdims=False) if flag else a for flag, a in zip(flags, operands, strict=True)
            ]
            return product(*jax.tree.unflatten(tree, picked))

        return jax.lax.map(one, jnp.arange(size)), True

    return product
