"""Fused attention on the CPU: softmax(q·kᵀ·scale + mask)·v that never holds the T×S matrix of scores, forward or backward.

    forward saves o and lse = log₂ Σ 2^s of each query;  backward makes p = 2^(s − lse) again, block by block, from q, k and lse

The arithmetic is native/flash_forward.h and native/flash_backward.h; this file hands it to JAX with its derivative. Queries have
H heads, keys and values G ≤ H. Query i of row b stands at position offset_B[b] + i and sees the keys at positions up to its own,
the last `window` of them, of its own segment. A query's result is the same bits whatever other queries stand beside it.

On a mesh, whose axes all split the batch, each device attends within its own rows: the partitioner could not know that.

Leaves out: dropout of the weights, types other than float32, a batch that the devices of a mesh do not divide.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from pikojax.config import require
from pikojax.kernels import dispatch
from pikojax.native.ffi import register

WHOLE = 2**62  # a window that leaves nothing out


def why_not(q_BTHC, k_BSGC, v_BSGC) -> str | None:
    """Why the fused kernel cannot serve these arrays; None: it can."""
    if {x.dtype for x in (q_BTHC, k_BSGC, v_BSGC)} != {jnp.dtype(jnp.float32)}:
        return "fused attention takes float32"
    mesh, B = dispatch.mesh_of(q_BTHC, k_BSGC, v_BSGC), q_BTHC.shape[0]
    if mesh is not None and B % mesh.size:
        return f"{B} rows do not divide over {mesh.size} devices"
    if mesh is not None and not dispatch.splits_freely(mesh):
        return "some axes of the mesh are manual or explicit"
    return dispatch.why_not_native("flash")


def flash_attention(q_BTHC, k_BSGC, v_BSGC, *, segments_BT=None, offset_B=None, window=None, scale=None, head_major=False):
    """Ask `why_not` first. `segments_BT` wants S = T and no offset; `head_major`: keys and values are [B, G, S, C]."""
    require(window is None or window >= 1, f"got window={window}, wanted at least 1; leave it out to see everything")
    B, C = q_BTHC.shape[0], q_BTHC.shape[-1]
    offset_B = jnp.zeros((B,), jnp.int32) if offset_B is None else offset_B.astype(jnp.int32)
    segments = jnp.zeros((0,), jnp.int32) if segments_BT is None else segments_BT.astype(jnp.int32)
    scale = C**-0.5 if scale is None else float(scale)
    how = (scale, WHOLE if window is None else int(window), head_major)
    attend = lambda *operands: _flash(*operands, how)
    mesh = dispatch.mesh_of(q_BTHC, k_BSGC, v_BSGC)
    if mesh is not None:
        batch = PartitionSpec(mesh.axis_names)
        specs = (batch, batch, batch, batch, PartitionSpec() if segments_BT is None else batch)
        attend = jax.shard_map(attend, mesh=mesh, in_specs=specs, out_specs=batch, check_vma=False)
    return attend(q_BTHC, k_BSGC, v_BSGC, offset_B, segments)


def _flash_plain(q, k, v, offset, segments, how):
    return _forward(q, k, v, offset, segments, how)[0]


_flash = jax.custom_vjp(_flash_plain, nondiff_argnums=(5,))


def _forward(q, k, v, offset, segments, how):
    B, T, H, _ = q.shape
    out = (jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((B, H, T), jnp.float32))
    o, lse = _call("pikojax_flash_forward", out, how)(q, k, v, offset, segments)
    # Named: a checkpoint policy that keeps these need not run the kernel twice.
    o, lse = checkpoint_name(o, "attended"), checkpoint_name(lse, "attended")
    return o, (q, k, v, offset, segments, o, lse)


def _backward(how, saved, d_o):
    out = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in saved[:3])
    dq, dk, dv = _call("pikojax_flash_backward", out, how)(*saved, d_o)
    return dq, dk, dv, None, None


_flash.defvjp(_forward, _backward)


def _call(symbol: str, out, how):
    scale, window, head_major = how
    called = jax.ffi.ffi_call(register("flash", symbol), out, vmap_method="broadcast_all")
    # numpy scalars, for their type is the attribute's
    return lambda *arrays: called(*arrays, scale=np.float32(scale), window=np.int64(window), head_major=np.bool_(head_major))
