"""What guesses may be: draws of a model small enough that every text of three tokens has a known probability, by every drafter; and when
one that costs more than it brings is let alone."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pikojax.heads_config import HeadsConfig
from pikojax.infer import decode, drafters, sampling, speculation
from pikojax.infer.engine import Engine, EngineConfig
from pikojax.llama_config import LlamaConfig
from pikojax.models import catalog, heads

LLAMA, V, N = catalog["llama"], 6, 3
CFG = LlamaConfig(d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, d_hidden=32, vocab_size=V, context=64)
PROMPT, DRAWS, SAMPLING = [1, 2, 3, 1, 2], 3000, dict(temperature=0.9, top_p=0.95)
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
        _, _, cache = read(weights(1), PROMPT[:-1], n)
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
    logits_BV, hidden_BTD, cache = read(params, PROMPT, n)
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


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name == "heads" else pytest.mark.slow) for name in NAMES])
def test_texts_come_as_often_as_the_model_says(name):
    assert abs(probabilities().sum() - 1) < 1e-5 and (probabilities() * DRAWS > 5).sum() > 20
    drawn, a_round = drawn_texts(name, DRAWS)
    assert chi_square(drawn, probabilities()) < 4
    assert name in ("off", "lookup") or a_round > 1.05, "some guesses are right"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["draft", "heads"])
def test_guesses_that_nobody_verifies_are_found_out(name, monkeypatch):
    monkeypatch.setattr(jnp, "cumprod", lambda x, axis: jnp.ones_like(x))
    jax.clear_caches()
    try:
        assert chi_square(drawn_texts(name, DRAWS)[0], probabilities()) > 10
    finally:
        monkeypatch.undo()
        jax.clear_caches()


def test_two_distributions_draw_the_same_token_as_often_as_noise_promises():
    p_V, q_V = np.random.default_rng(0).dirichlet(np.full(40, 0.3), 2)
    q_V = 0.8 * p_V + 0.2 * q_V
    far, n = 0.5 * np.abs(p_V - q_V).sum(), 4000
    keys = jax.random.split(jax.random.key(0), n)
    first, second = (np.asarray(sampling.draw(jnp.tile(jnp.log(jnp.asarray(x_V, jnp.float32)), (n, 1)), keys)) for x_V in (p_V, q_V))
    assert (first == second).mean() > (1 - far) / (1 + far) - 0.02 and far > 0.05


def test_noise_is_exponential_and_differs_by_key_and_token():
    noise_BV = np.asarray(sampling.noise(jax.random.split(jax.random.key(1), 64), 500))
    e = np.sort(np.exp(-noise_BV.astype(np.float64)).reshape(-1))
    assert np.abs((1 - np.exp(-e)) - (np.arange(len(e)) + 0.5) / len(e)).max() < 1.9 / np.sqrt(len(e))  # Kolmogorov and Smirnov: once in 700
    assert len(np.unique(e)) > 0.99 * len(e)
    assert np.abs(np.corrcoef(noise_BV)[np.triu_indices(64, 1)]).max() < 0.25 and np.abs(np.corrcoef(noise_BV.T)[np.triu_indices(500, 1)]).max() < 0.7


def test_a_draft_model_that_does_not_pay_is_let_alone_and_tried_again(monkeypatch):
    spec = speculation.OfModel(drafters.DraftModel(LLAMA.forward, CFG, (2,)), LLAMA, weights(1))
    monkeypatch.setattr(speculation, "FIRST_PAUSE", 8)
    engine = Engine(LLAMA, CFG, weights(0), None, EngineConfig(slots=1, remember=False, step_s=1e-9), drafter=spec)
    spec.pause, calls, cost = 8, [], {0: 1.0, 2: 3.0}  # three times the time, for one and a half tokens

    def learn(costs, rounds_W, seconds):
        calls.append(len(costs.widths) == 1 and costs.widths[0])
        costs.products[:], costs.sums[:], costs.known = np.eye(1), [cost[costs.widths[0]]], True

    monkeypatch.setattr(speculation.Costs, "learn", learn)
    plain = Engine(LLAMA, CFG, weights(0), None, EngineConfig(slots=1, remember=False)).generate(PROMPT, max_tokens=50, temperature=1.0)
    assert engine.generate(PROMPT, max_tokens=50, temperature=1.0).ids == plain.ids
    guessing = [i for i, width in enumerate(calls) if width == 2]
    assert 2 <= len(guessing) <= 6 and len(calls) > 35 and guessing[-1] > 8, "few calls guess, and not only the first"
    cost[2] = 0.5
    calls.clear()
    assert engine.generate(PROMPT, max_tokens=50, temperature=1.0).ids == plain.ids
    assert calls[-5:] == [2] * 5
