"""Attention: softmax(q·kᵀ / √C + mask)·v, causal over a sequence or over a cache.

Queries have H heads, keys and values G ≤ H (each serves R = H/G query heads). Heads are folded into one batch axis N = B·G, so
that every product is a plain batched matrix product, the form XLA's CPU back end is fastest with. The backward pass is written
out, from the saved weights p and output o:

    dv = pᵀ·do        ds = p ∘ (do·vᵀ − rowsum(do ∘ o))        dq = ds·k        dk = dsᵀ·q

Scores and softmax are float32 whatever the inputs are. Leaves out: anything that avoids the T×S matrix (long contexts),
quantized caches.
"""

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite: a row with nothing to attend to gives a mean, not NaN


def causal_attention(q_BTHC, k_BTGC, v_BTGC, segments_BT=None):
    """Each position attends to itself and those before it; with `segments_BT`, within its own document only."""
    T = q_BTHC.shape[1]
    mask_BTS = (jnp.arange(T)[:, None] >= jnp.arange(T)[None, :])[None]
    if segments_BT is not None:
        mask_BTS = mask_BTS & (segments_BT[:, :, None] == segments_BT[:, None, :])
    return masked_attention(q_BTHC, k_BTGC, v_BTGC, mask_BTS)


def cached_attention(q_BTHC, k_BSGC, v_BSGC, positions_BT):
    """The query at position p attends to the slots 0 … p of its row."""
    mask_BTS = jnp.arange(k_BSGC.shape[1])[None, None, :] <= positions_BT[:, :, None]
    return masked_attention(q_BTHC, k_BSGC.astype(q_BTHC.dtype), v_BSGC.astype(q_BTHC.dtype), mask_BTS)


def masked_attention(q_BTHC, k_BSGC, v_BSGC, mask_BTS):
    """`mask_BTS` (True: may attend) has B rows or one for all."""
    B, T, H, C = q_BTHC.shape
    S, G = k_BSGC.shape[1:3]
    R = H // G
    q_BGRTC = q_BTHC.reshape(B, T, G, R, C).transpose(0, 2, 3, 1, 4)
    q_NMC = q_BGRTC.reshape(B * G, R * T, C) * jnp.asarray(C**-0.5, q_BTHC.dtype)
    k_NSC, v_NSC = (x.transpose(0, 2, 1, 3).reshape(B * G, S, C) for x in (k_BSGC, v_BSGC))
    rows = mask_BTS.shape[0]
    mask_NMS = jnp.broadcast_to(mask_BTS[:, None, None], (rows, G if rows > 1 else 1, R, T, S)).reshape(-1, R * T, S)
    o_NMC = _attend(q_NMC, k_NSC, v_NSC, mask_NMS)
    return o_NMC.reshape(B, G, R, T, C).transpose(0, 3, 1, 2, 4).reshape(B, T, H, C)


@jax.custom_vjp
def _attend(q_NMC, k_NSC, v_NSC, mask_NMS):
    return _attend_forward(q_NMC, k_NSC, v_NSC, mask_NMS)[0]


def _attend_forward(q_NMC, k_NSC, v_NSC, mask_NMS):
    scores_NMS = jnp.einsum("NMC,NSC->NMS", q_NMC, k_NSC, preferred_element_type=jnp.float32)
    p_NMS = jax.nn.softmax(jnp.where(mask_NMS, scores_NMS, MASKED), axis=-1).astype(v_NSC.dtype)
    o_NMC = jnp.einsum("NMS,NSC->NMC", p_NMS, v_NSC, preferred_element_type=jnp.float32).astype(q_NMC.dtype)
    return o_NMC, (q_NMC, k_NSC, v_NSC, p_NMS, o_NMC)


def _attend_backward(saved, do_NMC):
    q_NMC, k_NSC, v_NSC, p_NMS, o_NMC = saved
    along_do_NM1 = jnp.sum((do_NMC * o_NMC).astype(jnp.float32), axis=-1, keepdims=True)
    dp_NMS = jnp.einsum("NMC,NSC->NMS", do_NMC, v_NSC, preferred_element_type=jnp.float32)
    ds_NMS = (p_NMS.astype(jnp.float32) * (dp_NMS - along_do_NM1)).astype(q_NMC.dtype)
    dq_NMC = jnp.einsum("NMS,NSC->NMC", ds_NMS, k_NSC, preferred_element_type=jnp.float32)
    dk_NSC = jnp.einsum("NMS,NMC->NSC", ds_NMS, q_NMC, preferred_element_type=jnp.float32)
    dv_NSC = jnp.einsum("NMS,NMC->NSC", p_NMS, do_NMC, preferred_element_type=jnp.float32)
    return dq_NMC.astype(q_NMC.dtype), dk_NSC.astype(k_NSC.dtype), dv_NSC.astype(v_NSC.dtype), None


_attend.defvjp(_attend_forward, _attend_backward)
