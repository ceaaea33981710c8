"""What guesses may be: draws of a model small enough that every text of three tokens has a known probability, by every drafter; and when
one that costs more than it brings is let alone."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pikojax.infer import decode, drafters, sampling, speculation
from pikojax.infer.costs import Costs
from pikojax.infer.engine import Engine, EngineConfig

sys.path.append(str(Path(__file__).parents[1] / "experiments" / "exactness"))
from toy import CFG, LLAMA, NAMES, PROMPT, chi_square, drawn_texts, probabilities, weights  # noqa: E402 (the experiment's model)

DRAWS = 3000


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name == "heads" else pytest.mark.slow) for name in NAMES])
def test_texts_come_as_often_as_the_model_says(name):
    assert abs(probabilities().sum() - 1) < 1e-5 and (probabilities() * DRAWS > 5).sum() > 20
    drawn, a_round = drawn_texts(name, DRAWS)
    assert chi_square(drawn, probabilities()) < 4
    assert name in ("off", "lookup") or a_round > 1.05, "some guesses are right"


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("draft", marks=pytest.mark.exhaustive), "heads"])
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

    monkeypatch.setattr(Costs, "learn", learn)
    plain = Engine(LLAMA, CFG, weights(0), None, EngineConfig(slots=1, remember=False)).generate(PROMPT, max_tokens=50, temperature=1.0)
    assert engine.generate(PROMPT, max_tokens=50, temperature=1.0).ids == plain.ids
    guessing = [i for i, width in enumerate(calls) if width == 2]
    assert 2 <= len(guessing) <= 6 and len(calls) > 35 and guessing[-1] > 8, "few calls guess, and not only the first"
    cost[2] = 0.5
    calls.clear()
    assert engine.generate(PROMPT, max_tokens=50, temperature=1.0).ids == plain.ids
    assert calls[-5:] == [2] * 5


@pytest.mark.parametrize("kind", ["off", pytest.param("lookup", marks=pytest.mark.slow), pytest.param("draft", marks=pytest.mark.slow)])
def test_each_program_is_compiled_once(kind, caplog):
    """What has been through a program is another kind of array than what comes from the host, and would be compiled for anew."""
    small = speculation.OfModel(drafters.DraftModel(LLAMA.forward, CFG, (2,)), LLAMA, weights(1))
    small.pays = lambda *_: True
    spec = {"off": None, "lookup": speculation.OfText(drafters.Lookup((0, 3))), "draft": small}[kind]
    engine = Engine(LLAMA, CFG, jax.device_put(weights(0), jax.devices()[0]), None, EngineConfig(slots=1, remember=False), drafter=spec)
    decode.decode.clear_cache()
    decode.extend.clear_cache()
    with jax.log_compiles():
        for first in (1, 2, 3):
            engine.generate([first, *PROMPT[1:]], max_tokens=30)
    compiled = [name for name in ("decode", "extend") for line in caplog.messages if line.startswith(f"Compiling jit({name})")]
    assert sorted(compiled) == (["decode", "extend"] if kind != "draft" else ["decode", "extend", "extend"])
