"""Prefill and decode over a cache, each one compiled program.

    prefill:  the prompt in blocks, the last padded to a power of two, then cache.rollback(true lengths)  →  logits of the last token
    decode:   while rounds are left and a row goes on:
                 draft     d₁ … d_k guesses of what comes after `token`, by the drafter (none: k = 0)
                 verify    forward(token, d₁ … d_k)  →  logits of k + 1 positions, for little more than one costs
                 draw      x₀ … x_k, each as plain decoding would draw it at its position
                 keep      x₀ … x_j, j the number of leading guesses with d_i = x_{i−1}; the cache rolls back to them

Why that is exact: x_i is plain decoding's token whenever all before it are, so every token kept is the one that plain decoding draws
from the same key, greedy or not; text does not depend on the drafter, and its distribution is the model's. A guess is kept with the
probability that the model gives it, which for a guess without a distribution is what rejection sampling reaches too. A drafter that
draws its guesses does so by the same random numbers, one for each token (sampling.py), so that the two agree nearly as often as rejection sampling
would keep a guess, for text that no drafter changes.

How many guesses a round verifies is chosen in the loop, of `drafter.widths`: the number with the most tokens a second, by how many
of late were right and by what a round of that width costs (measured by whoever calls).

Weights are arguments, never constants; give them as `ready(params)`, one dict a layer, so that a step reads them where they lie
(slicing a stack would copy every weight for every token). The cache is donated: its buffers are updated in place. Settings,
seeds, lengths and the number of rounds are traced, so the only new programs are those of new powers of two.

A row's token at position p is drawn with fold_in(key, p): where a call ends, and what stands beside a row, changes nothing.

Leaves out: rows that join and leave (engine.py), the drafters (drafters.py).
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.infer.sampling import BROKEN, Seen, Settings, log_probs, sample
from pikojax.infer.uncertainty import Confidence, confidence, head_of
from pikojax.models import layers
from pikojax.models.layers import Model

MIN_BLOCK = 16  # fewer tokens are padded to so many: shorter blocks would save little
BLOCK = 256  # most tokens in one prefill block
CHUNK = 64  # most tokens of a row in one decode call
MEMORY = 0.9  # how much of what was learnt about a drafter a round leaves,
FORGETTING = 0.99  # and one that tested no guess: so a drafter that is off is tried again now and then


@dataclass(frozen=True)
class How:
    """What a decode program is compiled for."""

    forward: Callable
    cfg: Any
    drafter: Any = None  # one of drafters.py
    n_top: int | None = None  # report log-probabilities, of so many likeliest tokens besides the drawn one
    confidence: bool = False  # report how sure the model was


class State(NamedTuple):
    """Between two decode calls. `token_B` is drawn but not yet in the cache."""

    cache: Any
    token_B: jax.Array  # int32
    position_B: jax.Array  # int32: where the token to be drawn next will stand in the text
    done_B: jax.Array  # bool: the row has drawn a stop token
    seen: Seen | None = None  # for penalties
    draft: Any = None  # what the drafter keeps
    right_B: Any = None  # float32: guesses that were right, and guesses that were tested, of late
    tested_B: Any = None


class Told(NamedTuple):
    """Of each token, where it was asked for."""

    logprob: Any = None
    top_ids: Any = None
    top_logprobs: Any = None
    confidence: Any = None  # [..., 5]: uncertainty.Confidence


class Drawn(NamedTuple):
    tokens_BN: jax.Array
    count_B: jax.Array  # true tokens a row, its stop token among them
    told: Told
    rounds_B: jax.Array  # rounds that a row took part in
    rounds_W: jax.Array  # rounds of each width


@jax.jit
def _unstacked_on_device(params):
    return layers.unstack(jax.tree.map(layers.to_device, params))


def ready(params: dict) -> dict:
    """Parameters as decoding wants them: on the device, the blocks a tuple with one dict a layer (a copy, made once)."""
    return _unstacked_on_device(params) if isinstance(params["blocks"], dict) else params


def power_of_two(n: int) -> int:
    """The lowest power of two that is n or more."""
    return 1 << (n - 1).bit_length()


def block_width(rest: int, block: int) -> int:
    """Of the next prefill block: room for `rest` tokens or a whole block of them."""
    return min(max(MIN_BLOCK, power_of_two(rest)), block)


# ---------------------------------------------------------------- prefill


def prefill(model: Model, cfg, params, cache, tokens_BT: np.ndarray, length_B: np.ndarray, block: int = BLOCK):
    """Reads rows of `length_B` tokens (right-padded) behind what the cache holds. → the logits after each row's last token, cache."""
    logits_BV = jnp.zeros((len(length_B), cfg.vocab_size), jnp.float32)
    for start in range(0, int(length_B.max()), block):
        n_B = np.clip(length_B - start, 0, block).astype(np.int32)
        logits_BV, _, _, cache = extend(model.forward, cfg, params, cache, logits_BV, padded(tokens_BT, start, int(n_B.max()), block), n_B)
    return logits_BV, cache


def padded(tokens_BT: np.ndarray, start: int, n: int, block: int) -> np.ndarray:
    """n tokens a row from `start` on, in one of the few widths that programs are compiled for."""
    block_BT = np.zeros((len(tokens_BT), block_width(n, block)), np.int32)
    block_BT[:, :n] = tokens_BT[:, start : start + n]
    return block_BT


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3, 4))
def extend(forward, cfg, params, cache, logits_BV, tokens_BT, n_B):
    """One block of which row b has n_B[b] true tokens; a row with none keeps its logits. → logits, hidden [B, T, D],
    what the model's own head says of the last token [B] or None, cache"""
    before_B, last_B = cache.length_B, jnp.maximum(n_B - 1, 0)
    with layers.rows_alone():
        out, cache = forward(cfg, params, tokens_BT, cache, **({"pick_B": last_B} if _can_pick(forward) else {}))
    if _can_pick(forward):
        last_BV = out.logits[:, 0]
    else:
        last_BV = jnp.take_along_axis(out.logits, last_B[:, None, None], axis=1)[:, 0]
    own_B = head_of(out)
    if own_B is not None:  # of one position a row, or of each
        own_B = own_B[:, 0] if own_B.shape[1] == 1 else jnp.take_along_axis(own_B, last_B[:, None], axis=1)[:, 0]
    return jnp.where(n_B[:, None] > 0, last_BV, logits_BV), out.hidden, own_B, cache.rollback(before_B + n_B)


@functools.cache
def _can_pick(forward) -> bool:
    """Whether the model makes the logits of one position a row alone; a plug-in need not."""
    return "pick_B" in inspect.signature(forward).parameters


# ---------------------------------------------------------------- decode


def keys_at(key_B, position_B):
    """Of each row at its position. Keys may come as their bits, uint32 [B, 2]."""
    key_B = jax.random.wrap_key_data(key_B) if key_B.dtype == jnp.uint32 else key_B
    return jax.vmap(jax.random.fold_in)(key_B, position_B)


@jax.jit
def draw(logits_BV, key_B, position_B, settings: Settings, seen=None, bias_BV=None, allowed_BV=None):
    """The token of each row at its position; `BROKEN`, which ends the row as a stop token does, where its logits are no numbers."""
    token_B = sample(logits_BV, lambda: keys_at(key_B, position_B), settings, seen, bias_BV, allowed_BV)
    return jnp.where(jnp.isfinite(jnp.max(logits_BV, axis=1)), token_B, BROKEN)


@functools.partial(jax.jit, static_argnums=(0,))
def first(how: How, logits_BV, own_B, key_B, position_B, settings: Settings, seen=None, bias_BV=None, allowed_BV=None):
    """After prefill (`extend` gives `own_B`): the token of each row at its position, and what is told of it."""
    token_B = draw(logits_BV, key_B, position_B, settings, seen, bias_BV, allowed_BV)
    return token_B, _told(how, logits_BV, own_B, token_B, settings)


@functools.partial(jax.jit, static_argnums=(0,), donate_argnums=(3,))
def decode(how: How, params, draft_params, state: State, settings: Settings, key_B, stops_E, budget_B, n_rounds, costs_W=None,
           bias_BV=None, allowed_BV=None):  # fmt: skip
    """Up to n_rounds rounds, and up to budget_B ≤ CHUNK tokens more a row. → Drawn, state.

    The caller sees to it that rows have free slots for their budget and, beyond it, the widest draft. Ends early when every row has drawn
    one of its stop tokens (`stops_E` for all or `stops_BE`; −1 stands for none) or has its budget; a row that has ended neither grows nor
    counts. With n_rounds = 0 it only compiles. `costs_W`: seconds, or any unit, of a round of each of the drafter's widths.
    `allowed_BV` (tokens that may be drawn) holds for one round.
    """
    widths = (0,) if how.drafter is None else how.drafter.widths
    # A row that has all it may draw still writes a round's width behind it, where it does not count, while others go on.
    B, room = state.token_B.shape[0], CHUNK + max(widths) + 1
    if how.drafter is not None:
        state = state._replace(draft=how.drafter.enter(state.draft))
    branches = [functools.partial(_round, how, k, params, draft_params, settings, key_B, stops_E, budget_B, bias_BV, allowed_BV) for k in widths]
    goes_on = lambda state, count_B: ~state.done_B & (count_B < budget_B)

    def go_on(carry):
        round, _, state, drawn = carry
        return (round < n_rounds) & jnp.any(goes_on(state, drawn.count_B))

    def choose(state, drawn):
        return best_width(how.drafter, state, goes_on(state, drawn.count_B), costs_W) if len(widths) > 1 else jnp.int32(0)

    def of_width(which):  # a loop a width, as what goes through a branch (lax.switch) is copied, the whole cache with it
        def one(carry):
            round, _, state, drawn = carry
            state, drawn = branches[which](state, drawn, goes_on(state, drawn.count_B))
            return round + 1, choose(state, drawn), state, drawn._replace(rounds_W=drawn.rounds_W.at[which].add(1))

        return lambda carry: jax.lax.while_loop(lambda carry: go_on(carry) & (carry[1] == which), one, carry)

    def all_widths(carry):
        for which in range(len(widths)):
            carry = of_width(which)(carry)
        return carry

    told = _room_for(how, jnp.zeros((B, room)))
    none_B = jnp.zeros((B,), jnp.int32)
    drawn = Drawn(jnp.zeros((B, room), jnp.int32), none_B, told, none_B, jnp.zeros((len(widths),), jnp.int32))
    carry = jnp.int32(0), choose(state, drawn), state, drawn
    _, _, state, drawn = jax.lax.while_loop(go_on, all_widths, carry) if len(widths) > 1 else of_width(0)(carry)
    if how.drafter is not None and isinstance(state.draft, tuple):
        state = state._replace(draft=state.draft[:2])
    return drawn._replace(tokens_BN=drawn.tokens_BN[:, :CHUNK], told=jax.tree.map(lambda x: x[:, :CHUNK], drawn.told)), state


def _round(how: How, k: int, params, draft_params, settings, key_B, stops_E, budget_B, bias_BV, allowed_BV, state: State, drawn: Drawn, active_B):
    """Draft k, verify, keep."""
    drafter, before_B = how.drafter, state.cache.length_B
    draft_BK, n_B = jnp.zeros((len(before_B), 0), jnp.int32), jnp.zeros_like(before_B)
    if k:
        draft_BK, n_B, state = drafter.propose(how, k, params, draft_params, state, settings, key_B)
    with layers.rows_alone():
        out, cache = how.forward(how.cfg, params, jnp.concatenate([state.token_B[:, None], draft_BK], axis=1), state.cache)
    drawn_BT, told = _draw_each(how, out.logits, head_of(out), state, draft_BK, settings, key_B, bias_BV, allowed_BV)
    right_BK = (draft_BK == drawn_BT[:, :-1]) & (jnp.arange(k)[None, :] < n_B[:, None])
    kept_B = jnp.sum(jnp.cumprod(right_BK.astype(jnp.int32), axis=1), axis=1)
    stop_BT = is_stop(drawn_BT, stops_E)
    first_stop_B = jnp.where(jnp.any(stop_BT, axis=1), jnp.argmax(stop_BT, axis=1), k + 1).astype(jnp.int32)
    new_B = jnp.minimum(jnp.minimum(kept_B, first_stop_B) + 1, budget_B - drawn.count_B) * active_B.astype(jnp.int32)
    last_B = jnp.take_along_axis(drawn_BT, jnp.maximum(new_B - 1, 0)[:, None], axis=1)[:, 0]
    seen = state.seen
    for i in range(k + 1) if seen is not None else ():
        seen = seen.add(drawn_BT[:, i], i < new_B)
    right_B, tested_B = state.right_B, state.tested_B
    if drafter is not None:
        guessed_B, tried_B = drafter.judged(k, state, drawn_BT, kept_B, n_B)
        memory_B = jnp.where(tried_B > 0, MEMORY, FORGETTING)
        fade = lambda old_B, new_B: jnp.where(active_B, memory_B * old_B + new_B.astype(jnp.float32), old_B)
        right_B, tested_B = fade(right_B, guessed_B), fade(tested_B, tried_B)
    after = State(
        cache.rollback(before_B + new_B), jnp.where(active_B, last_B, state.token_B), state.position_B + new_B,
        state.done_B | (active_B & (first_stop_B < new_B)), seen, state.draft, right_B, tested_B,
    )  # fmt: skip
    if drafter is not None:
        after = after._replace(draft=drafter.learn(state, after, drawn_BT, new_B, out.hidden))
    put = jax.vmap(lambda all_N, new_T, at: jax.lax.dynamic_update_slice(all_N, new_T, (at,) + (jnp.int32(0),) * (all_N.ndim - 1)))
    into = lambda all_BN, new_BT: put(all_BN, new_BT.astype(all_BN.dtype), drawn.count_B)
    tokens_BN = into(drawn.tokens_BN, drawn_BT)
    counts = {"count_B": drawn.count_B + new_B, "rounds_B": drawn.rounds_B + active_B.astype(jnp.int32)}
    return after, drawn._replace(tokens_BN=tokens_BN, told=jax.tree.map(into, drawn.told, told), **counts)


def _draw_each(how: How, logits_BTV, own_BT, state: State, draft_BK, settings: Settings, key_B, bias_BV, allowed_BV):
    """The token after each position, as plain decoding would draw it, and what is told of it."""
    B, T, V = logits_BTV.shape
    each = lambda tree: jax.tree.map(lambda x_B: jnp.repeat(x_B, T, axis=0), tree)
    seen = state.seen
    if seen is not None and T > 1:  # the guesses before a position have been drawn, if it counts
        earlier_BTV = jnp.cumsum(jax.nn.one_hot(draft_BK, V, dtype=jnp.int32), axis=1)
        earlier_BTV = jnp.concatenate([jnp.zeros((B, 1, V), jnp.int32), earlier_BTV], axis=1)
        seen = Seen(each(seen.prompt_BV), each(seen.drawn_BV) + earlier_BTV.reshape(B * T, V))
    position_N = (state.position_B[:, None] + jnp.arange(T, dtype=jnp.int32)[None, :]).reshape(-1)
    logits_NV, settings_N = logits_BTV.reshape(B * T, V), each(settings)
    drawn_N = draw(logits_NV, each(key_B), position_N, settings_N, seen, each(bias_BV), each(allowed_BV))
    told = _told(how, logits_NV, None if own_BT is None else own_BT.reshape(B * T), drawn_N, settings_N)
    return drawn_N.reshape(B, T), jax.tree.map(lambda x_N: x_N.reshape(B, T, *x_N.shape[1:]), told)


def _told(how: How, logits_NV, own_N, token_N, settings_N: Settings) -> Told:
    probs = log_probs(logits_NV, token_N, how.n_top, settings_N.n_tokens_B) if how.n_top is not None else (None,) * 3
    sure_N5 = confidence(logits_NV, token_N, settings_N.n_tokens_B, settings_N.calibration_B, own_N) if how.confidence else None
    return Told(*probs, sure_N5)


def _room_for(how: How, like_BN) -> Told:
    told = Told()
    if how.n_top is not None:
        n_top = (*like_BN.shape, how.n_top)
        told = told._replace(logprob=like_BN, top_ids=jnp.zeros(n_top, jnp.int32), top_logprobs=jnp.zeros(n_top))
    return told._replace(confidence=jnp.zeros((*like_BN.shape, len(Confidence._fields)))) if how.confidence else told


def best_width(drafter, state: State, active_B, costs_W):
    """Which of the drafter's widths gives most tokens for its cost: a round of k guesses, each right with probability a, gives
    (1 − a^{k+1}) / (1 − a) tokens."""
    a_B = jnp.clip((state.right_B + 0.5) / (state.tested_B + 1.0), 0.01, 0.99)
    guesses_BW = jnp.minimum(jnp.asarray(drafter.widths)[None, :], drafter.available(state)[:, None]).astype(jnp.float32)
    tokens_BW = (1 - a_B[:, None] ** (guesses_BW + 1)) / (1 - a_B[:, None])
    return jnp.argmax(jnp.sum(jnp.where(active_B[:, None], tokens_BW, 0.0), axis=0) / costs_W).astype(jnp.int32)


def is_stop(token, stops_E):
    """`token` [B] or [B, T]; `stops_E` for all rows, or [B, E]. `BROKEN` always is."""
    stops = stops_E if stops_E.ndim == 1 else stops_E.reshape(stops_E.shape[0], *[1] * (token.ndim - 1), -1)
    return jnp.any(token[..., None] == (stops.reshape(*[1] * token.ndim, -1) if stops.ndim == 1 else stops), axis=-1) | (token == BROKEN)
