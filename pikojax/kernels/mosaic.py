"""What differs between the versions of Pallas' Mosaic GPU, and between the chip and its interpreter, in a few functions.

The kernels for Hopper are written once. On the chip a product runs on the tensor cores and its left side comes from registers,
in a layout that the conversion to bfloat16 wants; the interpreter knows neither, so there the same lines multiply plain arrays.

Leaves out: everything else of Mosaic GPU, which the kernels use directly.
"""

import inspect

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp

from pikojax.config import require

SHARED_BYTES = 227 * 1024  # what one block may have of a Hopper multiprocessor's shared memory
WARPGROUP = plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup)
_LOAD_TAKES_INDEX = "idx" in inspect.signature(plgpu.load).parameters  # until jax 0.10


def load(ref, layout, interpret: bool, optimized: bool = True):
    """A part of shared memory in registers laid out so; of global memory with `optimized` false."""
    if interpret:
        return ref[...]
    return plgpu.load(ref, *([()] if _LOAD_TAKES_INDEX else []), layout=layout, optimized=optimized)


def cast(x, layout, interpret: bool):
    return x if interpret else plgpu.layout_cast(x, layout)


def product(a, b_ref, interpret: bool):
    """a [m, k], in registers or shared memory, times b [n, k] in shared memory, transposed: [m, n] in float32, or int32 from int8."""
    dtype = jnp.int32 if b_ref.dtype == jnp.int8 else jnp.float32
    if interpret:
        return jax.lax.dot_general(a[...], b_ref[...], (((1,), (1,)), ((), ())), preferred_element_type=dtype)

    def on_tensor_cores(sum_ref):
        plgpu.wgmma(sum_ref, a, b_ref.T)
        return sum_ref[...]  # waits

    return pl.run_scoped(on_tensor_cores, plgpu.ACC((a.shape[0], b_ref.shape[0]), dtype))


def store_turned(ref, x, interpret: bool):
    """Writes x transposed. On the chip x is of 16 bits: each thread then holds pairs that stand below each other."""
    if interpret:
        ref[...] = x.T
    else:
        ref.T[...] = plgpu.layout_cast(x, plgpu.Layout.WGMMA_TRANSPOSED)


def kernel(body, interpret: bool, **options):
    """`plgpu.kernel` with warpgroup semantics; interpreted on request."""
    return plgpu.kernel(body, compiler_params=WARPGROUP, interpret=_interpreter() if interpret else None, **options)


def _interpreter():
    try:
        return plgpu.InterpretGPUParams()
    except AttributeError:  # not yet public in jax 0.10
        from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

        return InterpretGPUParams()


def swizzled(row_bytes: int, bits: int):
    """The transforms of a tile in shared memory whose rows are cut into pieces of so many bytes, as the tensor cores want it."""
    require(row_bytes in (32, 64, 128), f"got a swizzle of {row_bytes} bytes; a swizzle is 32, 64 or 128 wide")
    return (plgpu.TilingTransform((8, row_bytes * 8 // bits)), plgpu.SwizzleTransform(row_bytes))
