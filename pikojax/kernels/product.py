"""Matrix product of activations with a float32 weight, with its two derivatives, by our own native product where that is faster.

    y = x · W        dx = dy · Wᵀ        dW = xᵀ · dy

`transposed`: W lies as [N, K] (a table that serves as the output projection), and y = x · Wᵀ. No case copies an operand.

On a CPU, in float32, and when large enough, the three products are `native/gemm.h`'s, which reads transposed operands as they lie. Smaller
ones, as a decode step calls them, are `native/rows.cc`'s, which adds in the same order: a row's bits depend neither on the rows beside it nor on how
many there are, nor any bit on the number of threads. Where a derivative is wanted, small products are XLA's, which fuses them. On a mesh, whose axes
all split the batch, each device multiplies its own rows of a large product by the whole weight. Everything else is `reference`, XLA's product. A
product that XLA alone computes can be differentiated forward too, the native ones only backward; under vmap the native ones are called one by one.

Leaves out: bfloat16, quantized weights.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from pikojax.kernels import dispatch
from pikojax.native.ffi import register

LEAST_ROWS, LEAST_PRODUCTS = 64, 1 << 22  # below either, packing the operands, or the call, would cost most


def product(x_MK, weight, transposed: bool = False, out_dtype=None):
    """x · W, or x · Wᵀ where W is `transposed`, in `out_dtype` (that of x by default)."""
    out_dtype = jnp.dtype(out_dtype or x_MK.dtype)
    (M, K), N = x_MK.shape, weight.shape[0 if transposed else 1]
    dtypes = {jnp.dtype(x_MK.dtype), jnp.dtype(weight.dtype), out_dtype}
    mesh = dispatch.mesh_of(x_MK, weight)
    devices = 1 if mesh is None else mesh.size
    large = (mesh is None or dispatch.splits_freely(mesh)) and M % devices == 0 and M // devices >= LEAST_ROWS and M // devices * N * K >= LEAST_PRODUCTS
    if dtypes != {jnp.dtype(jnp.float32)} or not (large or mesh is None) or native_target() is None:
        return reference(x_MK, weight, transposed).astype(out_dtype)
    if mesh is None:
        return (_native if large else _few)(x_MK, weight, transposed)
    rows, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    multiply = functools.partial(_native, transposed=transposed)
    return jax.shard_map(multiply, mesh=mesh, in_specs=(rows, whole), out_specs=rows, check_vma=False)(x_MK, weight)


def reference(x_MK, weight, transposed: bool = False):
    """In float32, whatever the operands are."""
    return jnp.dot(x_MK, weight.T if transposed else weight, preferred_element_type=jnp.float32)


def native_target() -> str | None:
    """What to call, or None where XLA computes: by wish, for want of a compiler, or because the device is no CPU."""
    return None if dispatch.why_not_native("gemm") else register("gemm", "pikojax_gemm")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _native(x_MK, weight, transposed):
    return gemm(x_MK, weight, right_transposed=transposed)


def _forward(x_MK, weight, transposed):
    return _native(x_MK, weight, transposed), (x_MK, weight)


def _backward(transposed, saved, dy_MN):
    x_MK, weight = saved
    dx_MK = gemm(dy_MN, weight, right_transposed=not transposed)
    if transposed:
        return dx_MK, gemm(dy_MN, x_MK, left_transposed=True)
    return dx_MK, gemm(x_MK, dy_MN, left_transposed=True)


_native.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _few(x_MK, weight, transposed):
    return few_rows(x_MK, weight, transposed)


def _few_forward(x_MK, weight, transposed):
    return jax.vjp(lambda x_MK, weight: reference(x_MK, weight, transposed), x_MK, weight)


_few.defvjp(_few_forward, lambda transposed, derivative, dy_MN: derivative(dy_MN))


def few_rows(x_MK, weight, transposed: bool = False):
    """x · W by the native product for few rows, however many there are."""
    shape = jax.ShapeDtypeStruct((x_MK.shape[0], weight.shape[0 if transposed else 1]), jnp.float32)
    return jax.ffi.ffi_call(register("gemm", "pikojax_rows"), shape, vmap_method="sequential")(x_MK, weight, transposed=transposed)


def gemm(left, right, *, left_transposed: bool = False, right_transposed: bool = False):
    """left · right by the native product, whatever the size: float32 matrices, either of which may lie transposed."""
    rows, columns = left.shape[1 if left_transposed else 0], right.shape[0 if right_transposed else 1]
    call = jax.ffi.ffi_call(native_target(), jax.ShapeDtypeStruct((rows, columns), jnp.float32), vmap_method="sequential")
    return call(left, right, left_transposed=left_transposed, right_transposed=right_transposed)
