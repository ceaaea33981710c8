"""A model of six tokens with random weights, whose every text of three tokens has a known probability; and what the loop draws of it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.heads_config import HeadsConfig
from pikojax.infer import decode, drafters, sampling
from pikojax.llama_config import LlamaConfig
from pikojax.models import catalog, heads

LLAMA, V, N = catalog["llama"], 6, 3
CFG = LlamaConfig(d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, d_hidden=32, vocab_size=V, context=64)
PROMPT, SAMPLING = [1, 2, 3, 1, 2], dict(temperature=0.9, top_p=0.95)
NAMES = ("off", "lookup", "early-exit", "draft", "heads")


@functools.cache
def weights(seed: int):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: LLAMA.init(CFG, jax.random.key(0)))
    return decode.ready(jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.35, leaf.shape), jnp.float32), shapes))


@functools.cache
def some_heads() -> dict:
    cfg = HeadsConfig(n_ahead=2, d_model=CFG.d_model, vocab_size=V, context=16)
    random = jax.tree.map(lambda x: 0.3 * jax.random.normal(jax.random.key(5), x.shape), heads.MODEL.init(cfg, jax.random.key(0)))
    return decode.ready(random)


def guessing(name: str, n: int):
    """(drafter, its weights, what it keeps behind the prompt and the token drawn then) for n rows."""
    rows = lambda ids: jnp.tile(jnp.asarray([ids], jnp.int32), (n, 1))
    if name == "lookup":
        return drafters.Lookup((2,), shortest=1), None, lambda token_B, _: (jnp.concatenate([rows(PROMPT), token_B[:, None], rows([0] * 9)], axis=1), jnp.full((n,), len(PROMPT) + 1))
    if name == "draft":
        *_, cache = read(weights(1), PROMPT[:-1], n)
        return drafters.DraftModel(LLAMA.forward, CFG, (2,)), weights(1), lambda *_: (cache, rows(PROMPT)[:, -1])
    if name == "heads":
        return drafters.Heads(LLAMA.unembed, (2,)), some_heads(), lambda _, hidden_BD: hidden_BD
    return drafters.EarlyExit(1, (2,)) if name == "early-exit" else None, None, lambda *_: None


def read(params, ids, n: int):
    tokens_BT = np.zeros((n, 16), np.int32)
    tokens_BT[:, : len(ids)] = ids
    return decode.extend(LLAMA.forward, CFG, params, LLAMA.new_cache(CFG, n, 32), jnp.zeros((n, V)), tokens_BT, np.full(n, len(ids), np.int32))


def drawn_texts(name: str, n: int) -> tuple[np.ndarray, float]:
    """(the number of each of n texts of N tokens, how many tokens a round)"""
    drafter, draft_params, kept = guessing(name, n)
    params, settings, key_B, P = weights(0), sampling.make_settings(n, V, **SAMPLING), jax.random.split(jax.random.key(7), n), len(PROMPT)
    logits_BV, hidden_BTD, _, cache = read(params, PROMPT, n)
    first_B = np.asarray(decode.draw(logits_BV, key_B, jnp.full((n,), P), settings))
    done_B, draft = jnp.zeros((n,), bool), kept(first_B, hidden_BTD[:, P - 1])
    state = decode.State(cache, jnp.asarray(first_B), jnp.full((n,), P + 1), done_B, None, draft, jnp.zeros((n,)), jnp.zeros((n,)))  # all of it is given away
    how = decode.How(LLAMA.forward, CFG, drafter)
    drawn, _ = decode.decode(how, params, draft_params, state, settings, key_B, np.asarray([-1]), np.full(n, N - 1, np.int32), np.int32(N), np.ones(1, np.float32))
    texts_BN = np.concatenate([first_B[:, None], np.asarray(drawn.tokens_BN)[:, : N - 1]], axis=1)
    return np.ravel_multi_index(texts_BN.T, (V,) * N), float(drawn.count_B.sum() / drawn.rounds_B.sum())


@functools.cache
def probabilities() -> np.ndarray:
    texts = np.asarray(list(itertools.product(range(V), repeat=N)), np.int32)
    whole = np.concatenate([np.tile(PROMPT, (len(texts), 1)).astype(np.int32), texts], axis=1)
    logits_BTV = LLAMA.forward(CFG, weights(0), jnp.asarray(whole))[0].logits[:, len(PROMPT) - 1 : -1]
    settings = sampling.make_settings(logits_BTV.shape[0] * N, V, **SAMPLING)
    p_BTV = jax.nn.softmax(sampling.shape(logits_BTV.reshape(-1, V), settings)).reshape(-1, N, V)
    return np.asarray(jnp.prod(jnp.take_along_axis(p_BTV, jnp.asarray(texts)[..., None], axis=2)[..., 0], axis=1), np.float64)


def chi_square(drawn, p) -> float:
    """Standard deviations of Σ (seen − expected)² / expected above what it should be; rare texts are counted as one."""
    seen, expected = np.bincount(drawn, minlength=len(p)).astype(float), p * len(drawn)
    if seen[p == 0].any():
        return float("inf")  # a text that cannot be
    rare = expected < 5
    seen, expected = np.append(seen[~rare], seen[rare].sum()), np.append(expected[~rare], expected[rare].sum())
    seen, expected = seen[expected > 0], expected[expected > 0]
    return (((seen - expected) ** 2 / expected).sum() - len(seen) + 1) / np.sqrt(2 * (len(seen) - 1))
