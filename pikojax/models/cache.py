"""The KV cache: what attention has seen, as one pytree with a length a row.

    forward(cache) writes T new tokens a row into slots length_B … length_B + T, and reads only slots below each token's own.

Rolling back is setting lengths: slots beyond a row's length are never read, so nothing is erased or copied. Reserve as many
spare slots as a speculative round may write past the end: an update that does not fit would be clamped onto older slots.

Leaves out: quantized slots, paging, sliding windows.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    k_LBSGC: jax.Array
    v_LBSGC: jax.Array
    length_B: jax.Array  # int32: slots filled, a row

    @property
    def slots(self) -> int:
        return self.k_LBSGC.shape[2]

    def rollback(self, length_B: jax.Array) -> "KVCache":
        """The same buffers with other (shorter) lengths."""
        return KVCache(self.k_LBSGC, self.v_LBSGC, length_B.astype(jnp.int32))


def new_cache(n_layers: int, batch: int, slots: int, n_kv_heads: int, head_width: int, dtype) -> KVCache:
    shape = (n_layers, batch, slots, n_kv_heads, head_width)
    return KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros((batch,), jnp.int32))


def write(cache: KVCache, layer: int, k_BTGC: jax.Array, v_BTGC: jax.Array) -> KVCache:
    """`layer`'s new keys and values, each row at its own length. Lengths grow once, after the last layer (`advance`)."""

    def put(all_LBSGC, new_BTGC):
        new_BTGC = new_BTGC.astype(all_LBSGC.dtype)
        for row in range(new_BTGC.shape[0]):  # one in-place slice update a row; a batched one would be a scatter
            start = (layer, row, cache.length_B[row], 0, 0)
            all_LBSGC = jax.lax.dynamic_update_slice(all_LBSGC, new_BTGC[None, row : row + 1], start)
        return all_LBSGC

    return KVCache(put(cache.k_LBSGC, k_BTGC), put(cache.v_LBSGC, v_BTGC), cache.length_B)


def layer(cache: KVCache, layer: int) -> tuple[jax.Array, jax.Array]:
    """The keys and values of one layer, [B, S, G, C]."""
    return cache.k_LBSGC[layer], cache.v_LBSGC[layer]


def advance(cache: KVCache, n_tokens: int) -> KVCache:
    return KVCache(cache.k_LBSGC, cache.v_LBSGC, cache.length_B + n_tokens)
