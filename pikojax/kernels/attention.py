"""Attention: softmax(q·kᵀ / √C + mask)·v, causal over a sequence or over a cache.

Queries have H heads, keys and values G ≤ H (each serves H/G query heads). Products run as plain batched matrix products over
(B·H), the form that XLA's CPU back end is fastest with; scores and softmax are float32 whatever the inputs are.

Leaves out: anything that avoids the T×S matrix (long contexts), quantized caches.
"""

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite: a row with nothing to attend to gives a mean, not NaN


def causal_attention(q_BTHC, k_BTGC, v_BTGC, segments_BT=None):
    """Each position attends to itself and those before it; with `segments_BT`, within its own document only."""
    T = q_BTHC.shape[1]
    mask_1TS = (jnp.arange(T)[:, None] >= jnp.arange(T)[None, :])[None]
    if segments_BT is None:
        return masked_attention(q_BTHC, k_BTGC, v_BTGC, mask_1TS)
    return masked_attention(q_BTHC, k_BTGC, v_BTGC, mask_1TS & (segments_BT[:, :, None] == segments_BT[:, None, :]))


def cached_attention(q_BTHC, k_BSGC, v_BSGC, positions_BT):
    """The query at position p attends to the slots 0 … p of its row."""
    mask_BTS = jnp.arange(k_BSGC.shape[1])[None, None, :] <= positions_BT[:, :, None]
    return masked_attention(q_BTHC, k_BSGC.astype(q_BTHC.dtype), v_BSGC.astype(q_BTHC.dtype), mask_BTS)


def masked_attention(q_BTHC, k_BSGC, v_BSGC, mask_BTS):
    B, T, H, C = q_BTHC.shape
    S, G = k_BSGC.shape[1:3]
    q_BGRC = q_BTHC.reshape(B, T, G, H // G, C).transpose(0, 2, 3, 1, 4).reshape(B, G, H // G * T, C)
    k_BGSC, v_BGSC = k_BSGC.transpose(0, 2, 1, 3), v_BSGC.transpose(0, 2, 1, 3)
    scores = jnp.einsum("BGRC,BGSC->BGRS", q_BGRC, k_BGSC, preferred_element_type=jnp.float32)
    scores = scores.reshape(B, G, H // G, T, S) * (C**-0.5)
    weights = jax.nn.softmax(jnp.where(mask_BTS[:, None, None], scores, MASKED), axis=-1)
    weights_BGRS = weights.astype(v_BSGC.dtype).reshape(B, G, H // G * T, S)
    out = jnp.einsum("BGRS,BGSC->BGRC", weights_BGRS, v_BGSC, preferred_element_type=jnp.float32).astype(q_BTHC.dtype)
    return out.reshape(B, G, H // G, T, C).transpose(0, 3, 1, 2, 4).reshape(B, T, H, C)
