"""Drafters: what guesses the tokens that one round of decode.py verifies.

    Lookup       the text itself: what came after the last three (two) tokens when they last stood there. Costs nothing
    EarlyExit    the model's own first layers, read out by its head. They write what the whole model then writes again
    DraftModel   a smaller model with the same vocabulary, over a cache of its own
    Heads        small blocks trained on the model's hidden states, with the model's embedding and head (models/heads.py, train/heads.py)

A drafter is a frozen dataclass, so that a program can be compiled for it, with these methods:

    enter(draft)                             what `state.draft` is inside the loop, from what the caller has
    widths                                   how many guesses a round may have; with 0 among them it is off where it does not pay
    available(state) → [B]                   how many guesses it has
    propose(how, k, params, draft_params, state, settings, key_B) → draft_BK, how many of them count, state
    judged(k, state, drawn_BT, kept_B, n_B)  → (right, tested) guesses of a round, also of those that were not verified
    learn(state, after, drawn_BT, new_B, hidden_BTD) → what it keeps, after `new_B` tokens of `drawn_BT` were kept

A drafter that draws does so with the keys of the positions it guesses for, as the model will.

Leaves out: trees of guesses; who fills `state.draft` at the start (engine.py).
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from pikojax.infer.sampling import sample
from pikojax.models import heads

ALWAYS = 1 << 20  # guesses available


@dataclass(frozen=True)
class Lookup:
    """`state.draft`: (text_BS, length_B): all tokens, the one that is drawn but not in the cache with them; inside the loop also
    (guess_BK, n_B), what followed their ending when it last occurred."""

    widths: tuple[int, ...] = (0, 3, 7)
    longest: int = 3  # tokens of an ending
    shortest: int = 2

    def enter(self, draft):
        text_BS, length_B = draft[:2]
        return text_BS, length_B, *self._guess(text_BS, length_B)

    def available(self, state):
        return state.draft[3]

    def propose(self, how, k, params, draft_params, state, settings, key_B):
        _, _, guess_BK, n_B = state.draft
        return guess_BK[:, :k], jnp.minimum(n_B, k), state

    def judged(self, k, state, drawn_BT, kept_B, n_B):
        if k:
            return kept_B, jnp.minimum(kept_B + 1, n_B)
        return (state.draft[2][:, 0] == drawn_BT[:, 0]).astype(jnp.int32), jnp.minimum(state.draft[3], 1)

    def learn(self, state, after, drawn_BT, new_B, hidden_BTD):
        text_BS, length_B, _, _ = state.draft
        at_BT = length_B[:, None] + jnp.arange(drawn_BT.shape[1], dtype=jnp.int32)[None, :]
        at_BT = jnp.where(jnp.arange(drawn_BT.shape[1])[None, :] < new_B[:, None], at_BT, text_BS.shape[1])  # others: dropped
        text_BS = text_BS.at[jnp.arange(len(length_B))[:, None], at_BT].set(drawn_BT, mode="drop")
        return self.enter((text_BS, length_B + new_B))

    def _guess(self, text_BS, length_B):
        B, S = text_BS.shape
        slot_S, most = jnp.arange(S, dtype=jnp.int32), max(self.widths)
        found_B, at_B = jnp.zeros((B,), bool), jnp.zeros((B,), jnp.int32)
        for n in range(self.longest, self.shortest - 1, -1):
            same_BS = jnp.ones((B, S), bool)
            for back in range(1, n + 1):  # text[s − back] is the ending's token of that place
                ending_B = jnp.take_along_axis(text_BS, jnp.maximum(length_B - back, 0)[:, None], axis=1)
                same_BS &= jnp.roll(text_BS, back, axis=1) == ending_B
            same_BS &= (slot_S[None, :] >= n) & (slot_S[None, :] < length_B[:, None])
            last_B = jnp.max(jnp.where(same_BS, slot_S[None, :], 0), axis=1)
            at_B, found_B = jnp.where(found_B, at_B, last_B), found_B | (last_B > 0)
        place_BK = at_B[:, None] + jnp.arange(most, dtype=jnp.int32)[None, :]
        # A match near the end goes round in the stretch between the two.
        period_B1 = jnp.maximum(length_B - at_B, 1)[:, None]
        place_BK = at_B[:, None] + (place_BK - at_B[:, None]) % period_B1
        guess_BK = jnp.take_along_axis(text_BS, jnp.clip(place_BK, 0, S - 1), axis=1)
        return guess_BK, jnp.where(found_B, most, 0).astype(jnp.int32)


@dataclass(frozen=True)
class EarlyExit:
    n_layers: int
    widths: tuple[int, ...] = (0, 1, 2, 3)

    def enter(self, draft):
        return draft

    def available(self, state):
        return jnp.full(state.token_B.shape, ALWAYS, jnp.int32)

    def propose(self, how, k, params, draft_params, state, settings, key_B):
        cfg = replace(how.cfg, n_layers=self.n_layers)
        params = {**params, "blocks": params["blocks"][: self.n_layers]}
        step = lambda token_B, cache: how.forward(cfg, params, token_B[:, None], cache)
        draft_BK, cache = _one_after_another(step, k, state, settings, key_B, state.cache)
        cache = cache.rollback(state.cache.length_B)
        return draft_BK, jnp.full(state.token_B.shape, k, jnp.int32), state._replace(cache=cache)

    def judged(self, k, state, drawn_BT, kept_B, n_B):
        return kept_B, jnp.minimum(kept_B + 1, n_B)

    def learn(self, state, after, drawn_BT, new_B, hidden_BTD):
        return state.draft


@dataclass(frozen=True)
class DraftModel:
    """`state.draft`: (its cache, the token before `token_B`). The cache holds one token fewer than the model's, so that a round, which
    begins with the last two, catches up with whatever was kept."""

    forward: Any
    cfg: Any
    widths: tuple[int, ...] = (2, 4)

    def enter(self, draft):
        return draft

    def available(self, state):
        return jnp.full(state.token_B.shape, ALWAYS, jnp.int32)

    def propose(self, how, k, params, draft_params, state, settings, key_B):
        cache, before_B = state.draft
        first = lambda token_B, cache: self.forward(self.cfg, draft_params, jnp.stack([before_B, token_B], axis=1), cache)
        later = lambda token_B, cache: self.forward(self.cfg, draft_params, token_B[:, None], cache)
        start = cache.length_B
        draft_BK, cache = _one_after_another(later, k, state, settings, key_B, cache, first)
        return draft_BK, jnp.full(state.token_B.shape, k, jnp.int32), state._replace(draft=(cache.rollback(start), before_B))

    def judged(self, k, state, drawn_BT, kept_B, n_B):
        return kept_B, jnp.minimum(kept_B + 1, n_B)

    def learn(self, state, after, drawn_BT, new_B, hidden_BTD):
        cache, before_B = state.draft
        text_BT = jnp.concatenate([before_B[:, None], state.token_B[:, None], drawn_BT], axis=1)
        before_B = jnp.take_along_axis(text_BT, new_B[:, None], axis=1)[:, 0]
        return cache.rollback(after.cache.length_B - 1), before_B


@dataclass(frozen=True)
class Heads:
    """`state.draft`: hidden_BD, from which `token_B` was drawn. `draft_params`: those of models/heads.py, which guess all at once, and perhaps
    `read_out`, parameters for the model's unembed in place of its own."""

    unembed: Any  # the model's
    widths: tuple[int, ...]

    def enter(self, draft):
        return draft

    def available(self, state):
        return jnp.full(state.token_B.shape, ALWAYS, jnp.int32)

    def propose(self, how, k, params, draft_params, state, settings, key_B):
        from pikojax.infer.decode import keys_at

        B, hidden_B1D = len(state.token_B), state.draft[:, None]
        z_B1KD = heads.states(draft_params, params["embed"], hidden_B1D, state.token_B[:, None], k)
        logits_BKV = self.unembed(how.cfg, {**params, **draft_params.get("read_out", {})}, z_B1KD[:, 0])
        each = lambda tree: jax.tree.map(lambda x_B: jnp.repeat(x_B, k, axis=0), tree)
        position_N = (state.position_B[:, None] + jnp.arange(k, dtype=jnp.int32)[None, :]).reshape(-1)
        draft_N = sample(logits_BKV.reshape(B * k, -1), lambda: keys_at(each(key_B), position_N), each(settings))
        return draft_N.reshape(B, k), jnp.full((B,), k, jnp.int32), state

    def judged(self, k, state, drawn_BT, kept_B, n_B):
        return kept_B, jnp.minimum(kept_B + 1, n_B)

    def learn(self, state, after, drawn_BT, new_B, hidden_BTD):
        last_BD = jnp.take_along_axis(hidden_BTD, jnp.maximum(new_B - 1, 0)[:, None, None], axis=1)[:, 0]
        return jnp.where(new_B[:, None] > 0, last_BD.astype(state.draft.dtype), state.draft)


def _one_after_another(step, k: int, state, settings, key_B, carried, first=None):
    """k guesses, each from the one before. → draft_BK, what the steps carry"""
    from pikojax.infer.decode import keys_at

    token_B, guesses = state.token_B, []
    for i in range(k):
        out, carried = (first if first and i == 0 else step)(token_B, carried)
        token_B = sample(out.logits[:, -1], functools.partial(keys_at, key_B, state.position_B + i), settings)
        guesses.append(token_B)
    return jnp.stack(guesses, axis=1), carried
