"""Attention over a cache: softmax(q·kᵀ · scale)·v of new tokens, few or a whole prompt, of which only the filled slots are read.

    query row t of batch row b stands at position  p = length_B[b] − T + t  and sees the slots  max(0, p − window + 1) … p

`length_B` counts the T new tokens, which are in the cache already. A row that sees nothing (its length is 0) gets zeros.
Keys and values are head-major, [L, B, G, S, C] with `layer` or [B, G, S, C] without; floats, or `QuantizedKV` (kv_formats.py).
With `block_table` [B, n_blocks] they are pools [L, P, G, block, C], and slot s of row b is slot s mod block of pool block
block_table[b, s ÷ block].

The native kernel reads each slot once for 16 rows and all query heads of its kv head, straight from the stack. A row's result is the
same to the bit whatever T, the batch and the number of threads are: a prompt read at once, in chunks or token by token leaves the same
cache behind. (But a value in floats that is no finite number spoils the rows of its call that do not see it, too: 0 · ∞.) Over int8 and int4
slots AVX-512 and AVX2 multiply bytes: queries and weights are quantized to 8 bits on the way (NMSE about 1e-4 against the reference). With
AVX2 a query has as many scales as a key: one channel 30 times the others costs int8 up to 1e-2, int8_g32, with a scale for 32 values, 1e-3.

Leaves out: gradients, other devices' kernels (decode_attention_gpu.py).
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import require
from pikojax.kernels import dispatch
from pikojax.kernels.kv_formats import QuantizedKV, one_layer, rotate
from pikojax.native import build
from pikojax.native.ffi import register

MOST_ROWS = 16  # at once, by kernels of other devices
MASKED = -1e30


def decode_attention(q_BTHC, cache_k, cache_v, length_B, *, layer=None, window=None, block_table=None, scale=None, softcap=None):
    """`softcap`: scores are held below it by softcap · tanh(scores · scale / softcap), which Gemma 2 does.

    A negative layer counts from the end. Lengths, layers and pool blocks beyond what there is mean the nearest there is."""
    shape = jax.tree.leaves(cache_k)[0].shape
    H, G = q_BTHC.shape[2], shape[-3]
    require(G > 0 and H % G == 0, f"got {H} query heads over {G} kv heads, wanted a multiple; repeat or drop heads")
    require(window is None or window >= 1, f"got window={window}, wanted at least 1; leave it out to see everything")
    require(
        not (isinstance(cache_v, QuantizedKV) and cache_v.format == "int4_rotated"),
        "got values in int4_rotated, wanted int4; only keys are rotated: new_cache(dtype='int4') does both",
    )
    require(softcap is None or softcap > 0, f"got softcap={softcap}, wanted a value above 0; leave it out to cap nothing")
    slots = shape[-2] * (1 if block_table is None else block_table.shape[1])
    length_B = jnp.clip(length_B, 0, slots + q_BTHC.shape[1] - 1)  # the last new tokens may stand beyond the end: they have no slot
    if layer is not None:
        layer = jnp.asarray(layer, jnp.int32)
        layer = jnp.clip(jnp.where(layer < 0, layer + shape[0], layer), 0, shape[0] - 1)
    if block_table is not None:
        block_table = jnp.clip(block_table, 0, shape[-4] - 1)
    chosen = dispatch.choose("decode_attention", q_BTHC, cache_k, cache_v, block_table, softcap)
    attend = dispatch.function("decode_attention", chosen)
    capped = {} if softcap is None else {"softcap": softcap}  # a kernel that knows of none need not take it
    require(
        softcap is None or _takes_softcap(attend),
        f"the kernel {chosen} takes no softcap, by which this model caps its scores; give its decode_attention that argument, or set PIKOJAX_KERNELS=auto",
    )
    return attend(q_BTHC, cache_k, cache_v, length_B, layer=layer, window=window, block_table=block_table, scale=scale, **capped)


def _takes_softcap(attend) -> bool:
    try:
        taken = inspect.signature(attend).parameters
    except ValueError:  # a callable that does not tell
        return True
    return "softcap" in taken or any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())


def why_not(q_BTHC, cache_k, cache_v, block_table=None, softcap=None) -> str | None:
    """Why the native kernel cannot serve this call, or None."""
    if jax.default_backend() != "cpu":
        return f"the native kernel runs on the CPU, not on {jax.default_backend()}"
    for cache in (cache_k, cache_v):
        if not isinstance(cache, QuantizedKV) and cache.dtype not in (jnp.float32, jnp.bfloat16):
            return f"a cache in {cache.dtype}; the native kernel reads float32, bfloat16 and QuantizedKV"
    return why_not_here() or dispatch.why_not_on_mesh(q_BTHC, cache_k, cache_v)


def why_not_here() -> str | None:
    """Why no call at all can be native on this machine, or None."""
    status = build.status("attention")
    return status.removeprefix("none: ") if status.startswith("none: ") else None


# ---------------------------------------------------------------- reference


def reference(q_BTHC, cache_k, cache_v, length_B, *, layer=None, window=None, block_table=None, scale=None, softcap=None):
    """All slots are read, and dequantized first. Softmax in float32."""
    B, T, H, C = q_BTHC.shape
    if isinstance(cache_k, QuantizedKV) and cache_k.format == "int4_rotated":
        q_BTHC = rotate(q_BTHC.astype(jnp.float32)).astype(q_BTHC.dtype)
    k_BGSC, v_BGSC = (
        one_layer(cache, layer, C, block_table, keep_rotation=True).astype(q_BTHC.dtype) for cache in (cache_k, cache_v)
    )
    G, S = k_BGSC.shape[1:3]
    R = H // G
    # Heads are folded into one batch axis N = B·G: plain batched products are what XLA's CPU back end is fastest with.
    q_NMC = q_BTHC.reshape(B, T, G, R, C).transpose(0, 2, 3, 1, 4).reshape(B * G, R * T, C)
    scores_NMS = jnp.einsum("nmc,nsc->nms", q_NMC, k_BGSC.reshape(B * G, S, C), preferred_element_type=jnp.float32)
    scores_NMS = scores_NMS * jnp.float32(C**-0.5 if scale is None else scale)
    if softcap is not None:
        scores_NMS = softcap * jnp.tanh(scores_NMS / softcap)
    position_BT = length_B[:, None] - T + jnp.arange(T)[None, :]
    slot_S = jnp.arange(S)[None, None, :]
    seen_BTS = slot_S <= position_BT[:, :, None]
    if window is not None:
        seen_BTS &= slot_S > position_BT[:, :, None] - window
    seen_NMS = jnp.broadcast_to(seen_BTS[:, None, None], (B, G, R, T, S)).reshape(B * G, R * T, S)
    p_NMS = jnp.where(seen_NMS, jax.nn.softmax(jnp.where(seen_NMS, scores_NMS, MASKED), axis=-1), 0.0)
    v_NSC = jnp.where(jnp.any(seen_NMS, axis=1)[:, :, None], v_BGSC.reshape(B * G, S, C), 0)  # what nobody sees may be no number: 0 · NaN
    o_NMC = jnp.einsum("nms,nsc->nmc", p_NMS.astype(v_NSC.dtype), v_NSC, preferred_element_type=jnp.float32)
    return o_NMC.reshape(B, G, R, T, C).transpose(0, 3, 1, 2, 4).reshape(B, T, H, C).astype(q_BTHC.dtype)


# ---------------------------------------------------------------- native


def native(q_BTHC, cache_k, cache_v, length_B, *, layer=None, window=None, block_table=None, scale=None, softcap=None):
    B, C = q_BTHC.shape[0], q_BTHC.shape[-1]
    (k, k_scales), (v, v_scales) = (leaves(cache, layer) for cache in (cache_k, cache_v))
    table = jnp.zeros((B, 0), jnp.int32) if block_table is None else jnp.asarray(block_table, jnp.int32)
    out_BTHC = _call(
        q_BTHC.astype(jnp.float32),
        *(k, k_scales, v, v_scales, length_B.astype(jnp.int32), jnp.asarray(0 if layer is None else layer, jnp.int32), table),
        window=window or 0,
        scale=float(C**-0.5 if scale is None else scale),
        softcap=float(softcap or 0),
        rotated=isinstance(cache_k, QuantizedKV) and cache_k.format == "int4_rotated",
    )
    return out_BTHC.astype(q_BTHC.dtype)


def leaves(cache, layer):
    data, scales = (cache.data, cache.scales) if isinstance(cache, QuantizedKV) else (cache, jnp.zeros((0,), jnp.float32))
    if layer is None:
        data, scales = data[None], scales[None]
    return data, scales


def _call(q_BTHC, *operands, window: int, scale: float, softcap: float, rotated: bool):
    target = register("attention", "pikojax_decode_attention")
    call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(q_BTHC.shape, jnp.float32), vmap_method="sequential")
    return call(q_BTHC, *operands, window=np.int64(window), scale=np.float32(scale), softcap=np.float32(softcap), rotated=rotated)
