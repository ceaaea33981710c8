"""Attention: softmax(q·kᵀ / √C + mask)·v, causal over a sequence or over a cache.

Queries have H heads, keys and values G ≤ H (each serves R = H/G query heads). Heads are folded into one batch axis N = B·G, so
that every product is a plain batched matrix product, the form XLA's CPU back end is fastest with. The backward pass is written
out, from the saved weights p and output o:

    dv = pᵀ·do        ds = p ∘ (do·vᵀ − rowsum(do ∘ o))        dq = ds·k        dk = dsᵀ·q

Scores and softmax are float32 whatever the inputs are. This is the form for GPUs and bfloat16, and the reference of
flash_attention.py, which makes no T×S matrix. What attends to a cache is decode_attention.py's, or, for a prompt, prefill_attention.py's.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pikojax.kernels import dispatch
from pikojax.kernels.decode_attention import MOST_ROWS, decode_attention
from pikojax.kernels.flash_attention import flash_attention, why_not
from pikojax.kernels.kv_formats import one_layer
from pikojax.kernels.prefill_attention import prefill_attention

MASKED = -1e30  # finite: a row with nothing to attend to gives a mean, not NaN
BYTES_IN_CACHE, MOST_PIECES = 1_500_000, 16


def causal_attention(q_BTHC, k_BTGC, v_BTGC, segments_BT=None, window=None):
    """Each position attends to itself and those before it, the last `window` of them; with `segments_BT`, within its own document only.
    A `window` may be traced, where layers of a loop differ in it."""
    if why_not(q_BTHC, k_BTGC, v_BTGC) is None and (window is None or isinstance(window, int)):
        return flash_attention(q_BTHC, k_BTGC, v_BTGC, segments_BT=segments_BT, window=window)
    back_TS = jnp.arange(q_BTHC.shape[1])[:, None] - jnp.arange(q_BTHC.shape[1])[None, :]
    mask_BTS = (back_TS >= 0)[None] if window is None else ((back_TS >= 0) & (back_TS < window))[None]
    if segments_BT is not None:
        mask_BTS = mask_BTS & (segments_BT[:, :, None] == segments_BT[:, None, :])
    return masked_attention(q_BTHC, k_BTGC, v_BTGC, mask_BTS)


def cached_attention(q_BTHC, keys, values, length_B, layer, window: int | None = None, block_table=None, softcap: float | None = None):
    """The T new tokens, which are in the cache already and counted in `length_B`, attend to the slots of their row up to their own, the
    last `window` of them. `keys` and `values` are the cache's whole stacks, [L, B, G, S, C] or quantized; of them `layer` is read.

    With the native kernel a row has the same bits whatever T. Elsewhere more than 16 rows are another kernel's, and agree with fewer only
    up to rounding."""
    T, C = q_BTHC.shape[1], q_BTHC.shape[-1]
    if T <= MOST_ROWS or softcap is not None or dispatch.best_here("decode_attention") == "native":
        return decode_attention(q_BTHC, keys, values, length_B, layer=layer, window=window, block_table=block_table, softcap=softcap)
    k_BGSC, v_BGSC = (one_layer(cache, layer, C, block_table).astype(q_BTHC.dtype) for cache in (keys, values))
    return prefill_attention(q_BTHC, k_BGSC, v_BGSC, offset_B=length_B - T, window=window, head_major=True)


def softcapped_attention(q_BTHC, k_BGSC, v_BGSC, mask_BTS, cap: float):
    """As `masked_attention`, of scores that are held between −cap and cap by cap · tanh(scores / cap). Keys and values are head-major."""
    B, T, H, C = q_BTHC.shape
    G = k_BGSC.shape[1]
    q_BTGRC = q_BTHC.reshape(B, T, G, H // G, C) * jnp.asarray(C**-0.5, q_BTHC.dtype)
    scores_BGRTS = jnp.einsum("BTGRC,BGSC->BGRTS", q_BTGRC, k_BGSC, preferred_element_type=jnp.float32)
    scores_BGRTS = jnp.where(mask_BTS[:, None, None], cap * jnp.tanh(scores_BGRTS / cap), MASKED)
    p_BGRTS = jax.nn.softmax(scores_BGRTS, axis=-1).astype(v_BGSC.dtype)
    o_BTGRC = jnp.einsum("BGRTS,BGSC->BTGRC", p_BGRTS, v_BGSC, preferred_element_type=jnp.float32)
    return o_BTGRC.reshape(B, T, H, C).astype(q_BTHC.dtype)


@jax.custom_vjp
def masked_attention(q_BTHC, k_BSGC, v_BSGC, mask_BTS):
    """`mask_BTS` (True: may attend) has B rows or one for all."""
    return _forward(q_BTHC, k_BSGC, v_BSGC, mask_BTS)[0]


def _forward(q_BTHC, k_BSGC, v_BSGC, mask_BTS):
    B, T, H, _ = q_BTHC.shape
    pieces = _pieces(B, H * T * k_BSGC.shape[1])
    outs, saved = zip(*(_forward_piece(*piece) for piece in _split(pieces, q_BTHC, k_BSGC, v_BSGC, mask_BTS)), strict=True)
    return jnp.concatenate(outs), saved


def _forward_piece(q_BTHC, k_BSGC, v_BSGC, mask_BTS):
    B, T, H, C = q_BTHC.shape
    S, G = k_BSGC.shape[1:3]
    R, rows = H // G, mask_BTS.shape[0]
    q_NMC = _fold_queries(q_BTHC, G) * jnp.asarray(C**-0.5, q_BTHC.dtype)
    k_NSC, v_NSC = _fold(k_BSGC), _fold(v_BSGC)
    mask_NMS = jnp.broadcast_to(mask_BTS[:, None, None], (rows, G if rows > 1 else 1, R, T, S)).reshape(-1, R * T, S)
    scores_NMS = jnp.einsum("NMC,NSC->NMS", q_NMC, k_NSC, preferred_element_type=jnp.float32)
    # Named: a checkpoint policy that keeps no casts keeps these in their own dtype, and not the float32 before it.
    p_NMS = checkpoint_name(jax.nn.softmax(jnp.where(mask_NMS, scores_NMS, MASKED), axis=-1).astype(v_NSC.dtype), "weights")
    o_NMC = jnp.einsum("NMS,NSC->NMC", p_NMS, v_NSC, preferred_element_type=jnp.float32)
    o_NMC = checkpoint_name(o_NMC.astype(q_NMC.dtype), "attended")
    return _unfold_queries(o_NMC, G, H), (q_NMC, k_NSC, v_NSC, p_NMS, o_NMC)


def _backward(saved, do_BTHC):
    pieces = zip(saved, _split(len(saved), do_BTHC), strict=True)
    dq, dk, dv = zip(*(_backward_piece(of_piece, *do) for of_piece, do in pieces), strict=True)
    return jnp.concatenate(dq), jnp.concatenate(dk), jnp.concatenate(dv), None


def _backward_piece(saved, do_BTHC):
    q_NMC, k_NSC, v_NSC, p_NMS, o_NMC = saved
    B, T, H, C = do_BTHC.shape
    G = k_NSC.shape[0] // B
    do_NMC = _fold_queries(do_BTHC, G)
    along_do_NM1 = jnp.sum(do_NMC.astype(jnp.float32) * o_NMC.astype(jnp.float32), axis=-1, keepdims=True)
    dp_NMS = jnp.einsum("NMC,NSC->NMS", do_NMC, v_NSC, preferred_element_type=jnp.float32)
    ds_NMS = (p_NMS.astype(jnp.float32) * (dp_NMS - along_do_NM1)).astype(q_NMC.dtype)
    dq_NMC = jnp.einsum("NMS,NSC->NMC", ds_NMS, k_NSC, preferred_element_type=jnp.float32) * C**-0.5
    dk_NSC = jnp.einsum("NMS,NMC->NSC", ds_NMS, q_NMC, preferred_element_type=jnp.float32)
    dv_NSC = jnp.einsum("NMS,NMC->NSC", p_NMS, do_NMC, preferred_element_type=jnp.float32)
    dk_BSGC, dv_BSGC = (x.reshape(B, G, -1, C).transpose(0, 2, 1, 3).astype(k_NSC.dtype) for x in (dk_NSC, dv_NSC))
    return _unfold_queries(dq_NMC.astype(q_NMC.dtype), G, H), dk_BSGC, dv_BSGC


masked_attention.defvjp(_forward, _backward)


def _fold(x_BSGC):
    return x_BSGC.transpose(0, 2, 1, 3).reshape(-1, x_BSGC.shape[1], x_BSGC.shape[3])


def _fold_queries(x_BTHC, G: int):
    B, T, H, C = x_BTHC.shape
    return x_BTHC.reshape(B, T, G, H // G, C).transpose(0, 2, 3, 1, 4).reshape(B * G, H // G * T, C)


def _unfold_queries(x_NMC, G: int, H: int):
    N, M, C = x_NMC.shape
    B, R = N // G, H // G
    return x_NMC.reshape(B, G, R, M // R, C).transpose(0, 3, 1, 2, 4).reshape(B, M // R, H, C)


def _pieces(rows: int, scores: int) -> int:
    """Into how many pieces a batch goes whose rows have so many scores. On one CPU: so many that a piece's scores stay in the
    cache from product to softmax to product. Elsewhere the batch stays whole."""
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return 1
    wanted = min(MOST_PIECES, 4 * rows * scores // BYTES_IN_CACHE)
    return max(n for n in range(1, MOST_PIECES + 1) if rows % n == 0 and n <= max(1, wanted))


def _split(pieces: int, *arrays):
    """The arrays piece by piece along the batch; what has one row goes to every piece."""
    return zip(*([x] * pieces if x.shape[0] == 1 else jnp.split(x, pieces) for x in arrays), strict=True)
