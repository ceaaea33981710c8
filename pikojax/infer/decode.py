"""Prefill and decode over a cache, two compiled programs.

    prefill:  the prompt in blocks, the last padded to a power of two, then cache.rollback(true lengths)  →  logits of the last token
    decode:   while steps are left and a row goes on:  token → forward → logits → draw                →  up to CHUNK tokens a call

Weights are arguments, never constants; give them as `ready(params)`, one dict a layer, so that a step reads them where they lie
(slicing a stack would copy every weight for every token). The cache is donated: its buffers are updated in place. Settings,
seeds, lengths and the number of steps are traced, so the only new programs are those of new powers of two.

A row's token at position p is drawn with fold_in(key, p): where a chunk ends changes nothing.

Leaves out: drafting, paging, rows that join and leave (one cache serves the rows it began with).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.infer.sampling import Settings, sample
from pikojax.models import layers
from pikojax.models.layers import Model

MIN_BLOCK = 16  # fewer tokens are padded to so many: shorter blocks would save little
BLOCK = 256  # most tokens in one prefill block; bounds the logits [B, BLOCK, V] that it makes
CHUNK = 64  # most tokens in one decode call
MIN_SLOTS = 256  # a smaller cache would save little


class State(NamedTuple):
    """Between two decode calls. `token_B` is drawn but not yet in the cache."""

    cache: Any
    token_B: jax.Array  # int32
    position_B: jax.Array  # int32: where the token to be drawn next will stand in the text
    done_B: jax.Array  # bool: the row has drawn a stop token


@jax.jit
def _unstacked_on_device(params):
    return layers.unstack(jax.tree.map(layers.to_device, params))


def ready(params: dict) -> dict:
    """Parameters as decoding wants them: on the device, the blocks a tuple with one dict a layer (a copy, made once)."""
    return _unstacked_on_device(params) if isinstance(params["blocks"], dict) else params


def power_of_two(n: int) -> int:
    """The lowest power of two that is n or more."""
    return 1 << (n - 1).bit_length()


def block_width(rest: int, block: int, free_slots: int) -> int:
    """Of the next prefill block: room for `rest` tokens or a whole block of them, and no write beyond the slots."""
    return min(max(MIN_BLOCK, power_of_two(rest)), block, free_slots)


def cache_slots(context: int, n_tokens: int) -> int:
    """Slots for n_tokens in all, rounded so that few sizes exist, and never above the context."""
    return min(context, max(MIN_SLOTS, power_of_two(n_tokens)))


def prefill(model: Model, cfg, params, cache, tokens_BT: np.ndarray, length_B: np.ndarray, block: int = BLOCK):
    """Reads rows of `length_B` tokens (right-padded) into an empty cache. → the logits after each row's last token, cache."""
    slots, longest = cache.slots, int(length_B.max())
    logits_BV = jnp.zeros((len(length_B), cfg.vocab_size), jnp.float32)
    for start in range(0, longest, block):
        width = block_width(longest - start, block, slots - start)
        padded_BT = np.zeros((len(length_B), width), np.int32)
        part_BT = tokens_BT[:, start : min(start + width, longest)]
        padded_BT[:, : part_BT.shape[1]] = part_BT
        n_B = np.clip(length_B - start, 0, width).astype(np.int32)
        logits_BV, cache = _extend(model.forward, cfg, params, cache, logits_BV, padded_BT, n_B)
    return logits_BV, cache


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3, 4))
def _extend(forward, cfg, params, cache, logits_BV, tokens_BT, n_B):
    """One block of which row b has n_B[b] true tokens; a row with none keeps its logits."""
    before_B = cache.length_B
    out, cache = forward(cfg, params, tokens_BT, cache)
    last_B = jnp.maximum(n_B - 1, 0)
    last_BV = jnp.take_along_axis(out.logits, last_B[:, None, None], axis=1)[:, 0]
    return jnp.where(n_B[:, None] > 0, last_BV, logits_BV), cache.rollback(before_B + n_B)


@jax.jit
def draw(logits_BV, key_B, position_B, settings: Settings):
    """The token of each row at its position."""
    return sample(logits_BV, jax.vmap(jax.random.fold_in)(key_B, position_B), settings)


@jax.jit
def begin(cache, logits_BV, key_B, position_B, settings: Settings, stops_E) -> State:
    """The state after prefill: the first token is drawn, for `position_B`."""
    token_B = draw(logits_BV, key_B, position_B, settings)
    return State(cache, token_B, position_B + 1, _is_stop(token_B, stops_E))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3,))
def decode(forward, cfg, params, state: State, settings: Settings, key_B, stops_E, n_steps):
    """Up to n_steps ≤ CHUNK tokens more a row. → tokens_BN, count_B (true tokens a row, its stop token among them), state.

    The caller sees to it that the rows have n_steps free slots. Ends early when every row has drawn one of `stops_E`;
    a row that has ended neither grows nor counts. With n_steps = 0 it only compiles.
    """
    batch = state.token_B.shape[0]

    def go_on(carry):
        step, state, _, _ = carry
        return (step < n_steps) & ~jnp.all(state.done_B)

    def one(carry):
        step, state, tokens_BN, count_B = carry
        out, cache = forward(cfg, params, state.token_B[:, None], state.cache)
        grows_B = (~state.done_B).astype(jnp.int32)
        cache = cache.rollback(state.cache.length_B + grows_B)
        token_B = draw(out.logits[:, 0], key_B, state.position_B, settings)
        done_B = state.done_B | _is_stop(token_B, stops_E)
        tokens_BN = jax.lax.dynamic_update_slice(tokens_BN, token_B[:, None], (jnp.int32(0), step))
        return step + 1, State(cache, token_B, state.position_B + grows_B, done_B), tokens_BN, count_B + grows_B

    nothing = jnp.zeros((batch, CHUNK), jnp.int32), jnp.zeros((batch,), jnp.int32)
    _, state, tokens_BN, count_B = jax.lax.while_loop(go_on, one, (jnp.int32(0), state, *nothing))
    return tokens_BN, count_B, state


def _is_stop(token_B, stops_E):
    return jnp.any(token_B[:, None] == stops_E[None, :], axis=1)
