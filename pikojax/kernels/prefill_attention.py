"""Attention of a prompt, or of a chunk of one, over a cache: what stands in memory grows with T, never with T × S.

    for each block of keys:  m' = max(m, max s)   p = e^(s − m')   l ← l·e^(m − m') + Σ p   o ← o·e^(m − m') + p·v      at last o / l

Query i of row b stands at position offset_B[b] + i and sees the slots 0 … position, the last `window` of them; so slots beyond
the last query's may hold anything. On the CPU the fused native kernel serves, where chunk by chunk gives the bits of all at once.

Leaves out: quantized caches, gradients of the native path's offset, block tables.
"""

import jax
import jax.numpy as jnp

from pikojax.kernels.flash_attention import flash_attention, why_not

BLOCK_KEYS = 256


def prefill_attention(q_BTHC, k_BSGC, v_BSGC, *, offset_B=None, window=None, scale=None, head_major=False):
    """`head_major`: keys and values are [B, G, S, C]."""
    how = {"offset_B": offset_B, "window": window, "scale": scale, "head_major": head_major}
    native = why_not(q_BTHC, k_BSGC, v_BSGC) is None
    return (flash_attention if native else reference)(q_BTHC, k_BSGC, v_BSGC, **how)


def reference(q_BTHC, k_BSGC, v_BSGC, *, offset_B=None, window=None, scale=None, head_major=False):
    """The same for every type and platform; scores and sums in float32."""
    B, T, H, C = q_BTHC.shape
    S, G = k_BSGC.shape[2 if head_major else 1], k_BSGC.shape[1 if head_major else 2]
    scale = C**-0.5 if scale is None else scale
    q_BTGRC = q_BTHC.reshape(B, T, G, H // G, C) * jnp.asarray(scale, q_BTHC.dtype)
    position_BT = jnp.arange(T)[None, :] + (jnp.zeros((B, 1), jnp.int32) if offset_B is None else offset_B[:, None])
    block = min(BLOCK_KEYS, S)

    def step(carry, first_asked):
        most_BGRT, sum_BGRT, o_BGRTC = carry
        first = jnp.minimum(first_asked, S - block)  # the last block reaches back over the one before it …
        k, v = (jax.lax.dynamic_slice_in_dim(x, first, block, 2 if head_major else 1) for x in (k_BSGC, v_BSGC))
        keys, values = ("BGSC", "BGSC") if head_major else ("BSGC", "BSGC")
        s_BGRTS = jnp.einsum(f"BTGRC,{keys}->BGRTS", q_BTGRC, k.astype(q_BTHC.dtype), preferred_element_type=jnp.float32)
        key_11S = first + jnp.arange(block)[None, None, :]
        seen_BTS = (key_11S <= position_BT[:, :, None]) & (key_11S >= first_asked)  # … and leaves out what that one saw
        if window is not None:
            seen_BTS &= key_11S > position_BT[:, :, None] - window
        s_BGRTS = jnp.where(seen_BTS[:, None, None], s_BGRTS, -jnp.inf)
        now_BGRT = jnp.maximum(most_BGRT, s_BGRTS.max(-1))
        base_BGRT = jnp.where(now_BGRT == -jnp.inf, 0.0, now_BGRT)  # nothing seen yet
        p_BGRTS, kept_BGRT = jnp.exp(s_BGRTS - base_BGRT[..., None]), jnp.exp(most_BGRT - base_BGRT)
        written_BS = key_11S[0] <= position_BT.max(-1, initial=-1)[:, None]  # 0 · v must be zero whatever v is in other slots
        seen_v = jnp.where(
            written_BS[:, None, :, None] if head_major else written_BS[:, :, None, None], v.astype(jnp.float32), 0.0
        )
        o_BGRTC = o_BGRTC * kept_BGRT[..., None] + jnp.einsum(f"BGRTS,{values}->BGRTC", p_BGRTS, seen_v)
        return (now_BGRT, sum_BGRT * kept_BGRT + p_BGRTS.sum(-1), o_BGRTC), None

    rows = (B, G, H // G, T)
    start = (jnp.full(rows, -jnp.inf), jnp.zeros(rows), jnp.zeros((*rows, C)))
    (_, sum_BGRT, o_BGRTC), _ = jax.lax.scan(step, start, jnp.arange(0, S, block)) if S else (start, None)
    o_BGRTC = o_BGRTC / jnp.where(sum_BGRT == 0, 1.0, sum_BGRT)[..., None]  # a query that sees nothing gets zeros
    return o_BGRTC.transpose(0, 3, 1, 2, 4).reshape(B, T, H, C).astype(q_BTHC.dtype)
