"""Uncertainty: the measures by definition, a temperature that mends calibration, the text of `generate`, and a view that cannot act."""

import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pikojax.config import GPTConfig, UserError
from pikojax.infer.generate import generate
from pikojax.infer.uncertainty import Confidence, Token, calibration_error, fit_temperature, generate_with_uncertainty, in_colours, measure
from pikojax.infer.uncertainty import sureness, view
from pikojax.models import catalog
from pikojax.models import cache as kv
from pikojax.models.layers import Model, Output
from pikojax.text.char import CharTokenizer

TOKENIZER = CharTokenizer(["<|endoftext|>", *"abcdefghij"], ["<|endoftext|>"])
ENDLESS = CharTokenizer("abcdefghijkl")
CFG = GPTConfig(d_model=16, n_layers=1, n_heads=2, vocab_size=13, context=24)
GPT = catalog["gpt"]


def forward(cfg, params, tokens_BT, cache=None):
    """A model that is a table, and compiles in a blink; its head doubts by the token that it has just read."""
    logits_BTV = params["table"][tokens_BT]
    aux = {"uncertainty": tokens_BT.astype(jnp.float32) / 16} if params["blocks"] else {}
    return Output(logits_BTV, logits_BTV, aux), None if cache is None else kv.advance(cache, tokens_BT.shape[1])


TABLE = Model(GPTConfig, None, forward, lambda cfg, batch, slots, dtype=jnp.float32: kv.new_cache(1, batch, slots, 1, 1, dtype), None)
PARAMS = {"table": 2 * jax.random.normal(jax.random.key(0), (13, 13)), "blocks": ()}
WITH_HEAD = {**PARAMS, "blocks": (jnp.zeros(1),)}


def test_the_measures_are_their_definitions():
    logits_BV = 2 * np.random.default_rng(0).normal(size=(5, 9))
    for temperature in (1.0, 0.5, 3.0):
        p_BV = np.exp(logits_BV / temperature)
        p_BV /= p_BV.sum(axis=1, keepdims=True)
        ordered_BV = -np.sort(-p_BV, axis=1)
        found = measure(jnp.asarray(logits_BV, jnp.float32), temperature)
        np.testing.assert_allclose(found.max_prob_B, ordered_BV[:, 0], atol=1e-5)
        np.testing.assert_allclose(found.margin_B, ordered_BV[:, 0] - ordered_BV[:, 1], atol=1e-5)
        np.testing.assert_allclose(found.entropy_nats_B, -(p_BV * np.log(p_BV)).sum(axis=1), atol=1e-5)


def test_impossible_and_certain_tokens_are_measured_too():
    logits_BV = jnp.asarray([[0.0, -jnp.inf, -jnp.inf, 0.0], [9999.0, 0.0, -jnp.inf, -9999.0]])
    found = measure(logits_BV)
    np.testing.assert_allclose(found.entropy_nats_B, [math.log(2), 0], atol=1e-6)
    np.testing.assert_allclose(found.max_prob_B, [0.5, 1], atol=1e-6)


def test_a_fitted_temperature_mends_calibration_on_text_that_it_was_not_fitted_on():
    rng = np.random.default_rng(1)
    true_NV = 1.5 * rng.normal(size=(4000, 20))
    p_NV = np.exp(true_NV) / np.exp(true_NV).sum(axis=1, keepdims=True)
    target_N = np.array([rng.choice(20, p=p) for p in p_NV])
    for spoiled in (0.4, 2.5):  # a model too sure of itself, and one too timid
        logits_NV = (true_NV / spoiled).astype(np.float32)
        temperature = fit_temperature(logits_NV[:2000], target_N[:2000])
        assert temperature == pytest.approx(1 / spoiled, rel=0.1)
        error = {}
        for t in (1.0, temperature):
            told = measure(jnp.asarray(logits_NV[2000:]), t)
            error[t] = calibration_error(told.max_prob_B, logits_NV[2000:].argmax(axis=1) == target_N[2000:])
        assert error[temperature] < 0.04 < 0.15 < error[1.0]


def test_a_fit_stays_within_bounds_and_finite():
    logits_NV = np.asarray([[3.0, 0, -np.inf], [0, 3.0, -np.inf]], np.float32)
    assert fit_temperature(logits_NV, [0, 1]) == pytest.approx(0.05, rel=1e-3)  # always right: as sure as may be
    assert fit_temperature(logits_NV, [1, 0]) == pytest.approx(20, rel=1e-3)
    with pytest.raises(UserError, match=r"give \[N, V\] and \[N\]"):
        fit_temperature(logits_NV, [0, 1, 2])


def test_calibration_error_is_zero_where_confidence_is_the_rate():
    probability_N = np.repeat([0.2, 0.8], 10)
    assert calibration_error(probability_N, [1, 1] + [0] * 8 + [1] * 8 + [0] * 2) < 1e-9
    assert calibration_error(probability_N, [0] * 10 + [1] * 10) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "prompt, options", [("abc", dict(temperature=0.0)), ("", dict(temperature=1.3, seed=4, top_k=9)), ("abcde", dict(seed=1))]
)
@pytest.mark.parametrize("model", ["table", pytest.param("gpt", marks=pytest.mark.slow)])
def test_the_text_is_that_of_generate(model, prompt, options):
    model, params = (TABLE, PARAMS) if model == "table" else (GPT, jax.tree.map(lambda leaf: 3 * leaf, GPT.init(CFG, jax.random.key(0))))
    plain = generate(model, CFG, params, TOKENIZER, prompt, max_tokens=10, **options)
    told = generate_with_uncertainty(model, CFG, params, TOKENIZER, prompt, max_tokens=10, **options)
    assert (told.text, [token.id for token in told.tokens], told.stopped) == (plain.text, plain.ids, plain.stopped)
    assert told.text == "".join(token.text for token in told.tokens) and told.prompt_tokens == plain.prompt_tokens


def test_each_token_has_the_numbers_of_its_own_place():
    told = generate_with_uncertainty(TABLE, CFG, PARAMS, ENDLESS, "abc", max_tokens=6, temperature=1.0, calibration=2.0, seed=3)
    ids = [*ENDLESS.encode("abc").tolist(), *(token.id for token in told.tokens)]
    logits_NV = PARAMS["table"][np.asarray(ids[2:-1])][:, : ENDLESS.vocab_size]
    wanted = measure(logits_NV, 2.0)
    np.testing.assert_allclose([token.sure.max_prob for token in told.tokens], wanted.max_prob_B, atol=1e-5)
    np.testing.assert_allclose([token.sure.entropy_nats for token in told.tokens], wanted.entropy_nats_B, atol=1e-5)
    np.testing.assert_allclose([token.sure.margin for token in told.tokens], wanted.margin_B, atol=1e-5)
    own = np.asarray(jax.nn.softmax(logits_NV / 2, axis=-1))[np.arange(6), ids[3:]]
    np.testing.assert_allclose([token.sure.probability for token in told.tokens], own, atol=1e-5)
    assert told.tokens[0].sure.own is None and sureness(told.tokens[0]) == told.tokens[0].sure.max_prob and min(own) < max(own)


def test_a_full_context_ends_the_text():
    told = generate_with_uncertainty(TABLE, CFG, PARAMS, ENDLESS, "ab" * 10, max_tokens=50, temperature=0.0)
    assert told.stopped == "context" and len(told.tokens) == CFG.context - 20 + 1  # the last one need not be read again


def test_a_models_own_head_is_told_place_by_place():
    told = generate_with_uncertainty(TABLE, CFG, WITH_HEAD, ENDLESS, "abc", max_tokens=4, temperature=1.0)
    before = [ENDLESS.token_to_id("c"), *(token.id for token in told.tokens)][:-1]
    assert [token.sure.own for token in told.tokens] == [id / 16 for id in before]
    assert [sureness(token) for token in told.tokens] == [1 - id / 16 for id in before]


HOSTILE = [
    Token(1, "sure", Confidence(0.95, 0.1, 0.9, 0.95, None)),
    Token(2, " \x1b[31mred\u202e\nnext", Confidence(0.1, 3.0, 0.0, 0.1, None)),
    Token(3, "[bold]x", Confidence(0.5, 1.0, 0.2, 0.5, None)),
]


def test_without_colours_the_unsure_are_marked_and_nothing_acts():
    text = view(HOSTILE, False)
    assert text.startswith("sure‹ \\x1b[31mred\\u202e\nnext 10%›[bold]x\n") and "less than 40%" in text
    assert "\x1b" not in text and "\u202e" not in text


def test_with_colours_each_level_has_its_own_and_there_is_a_legend():
    console = pytest.importorskip("rich.console")
    out = io.StringIO()
    console.Console(file=out, force_terminal=True, color_system="truecolor", width=200, highlight=False).print(view(HOSTILE, True))
    shown = out.getvalue()
    assert "\x1b[31m" not in shown and "\\x1b[31mred" in shown and "[bold]x" in shown
    colours = {part.split("m")[0] for part in shown.split("48;2;")[1:]}
    assert len(colours) == 5 and "≥ 90%" in shown and "less" in shown


def test_colours_are_for_terminals_that_want_them(monkeypatch):
    class Terminal(io.StringIO):
        isatty = lambda self: True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert in_colours(Terminal()) and not in_colours(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not in_colours(Terminal())
