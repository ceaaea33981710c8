"""Sampling against plain numpy: which tokens may be drawn, how often they are, and what a row must not depend on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st

from pikojax.config import UserError
from pikojax.infer import sampling
from pikojax.infer.sampling import Seen, Settings, keep_mask, log_probs, make_settings

V = 11
NAN, INF = float("nan"), float("inf")
sample = jax.jit(sampling.sample)
shape = jax.jit(sampling.shape)
draw = jax.jit(sampling.draw)


def make_seen(prompts, vocab_size):
    """Of rows with these prompts, before anything is drawn."""
    prompt_BV = np.asarray([np.isin(np.arange(vocab_size), ids) for ids in prompts])
    return Seen(jnp.asarray(prompt_BV), jnp.zeros(prompt_BV.shape, jnp.int32))


def stack_rows(rows):
    """One `Settings` of several."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *rows)


def numpy_keep(logits_V, temperature, top_k, top_p):
    """By definition, with a sort: the k largest and their equals; of these, every token with less than p above it."""
    edge = np.sort(logits_V)[::-1][top_k - 1]
    keep_V = logits_V >= edge
    prob_V = np.where(keep_V, np.exp((logits_V - logits_V.max()) / temperature), 0.0)
    prob_V = prob_V / prob_V.sum()
    above_V = np.array([prob_V[logits_V > x].sum() for x in logits_V])
    return keep_V & ((above_V < top_p) | (top_p == 1))  # rounding may bring a part of the sum to 1 already


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


@functools.partial(jax.jit, static_argnums=0)
def drawn_often(n, seed, logits_1V, settings, *more):
    """One row, drawn from with n keys."""
    return jax.vmap(lambda key: sampling.sample(logits_1V, key[None], settings, *more)[0])(jax.random.split(jax.random.key(seed), n))


def settings_of(rows):
    """Of rows (temperature, top_k, top_p)."""
    return stack_rows([make_settings(1, V, *row) for row in rows])


def test_the_kept_tokens_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    rows = [(t, k, p) for t in (0.3, 1.0, 2.5) for k in (1, 2, 5, V) for p in (1e-6, 0.1, 0.5, 0.9, 0.999, 1.0)]
    logits_BV = (3 * rng.normal(size=(len(rows), V))).astype(np.float32)
    expected_BV = np.stack([numpy_keep(x.astype(np.float64), *row) for x, row in zip(logits_BV, rows, strict=True)])
    kept_BV = np.asarray(jax.jit(keep_mask)(logits_BV, settings_of(rows)))
    np.testing.assert_array_equal(kept_BV, expected_BV)
    assert len({int(row.sum()) for row in kept_BV}) > 5  # the cases differ


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1.0])
def test_extreme_and_negative_logits_are_ordered_right(scale):
    logits_V = (np.asarray([-3, 2, -1, 0, 1, -2, 3, -7, 5, 4, -5]) * scale).astype(np.float32)
    kept_BV = keep_mask(jnp.asarray(logits_V)[None], settings_of([(1.0, 7, 1.0)]))
    np.testing.assert_array_equal(np.asarray(kept_BV)[0], logits_V >= np.sort(logits_V)[::-1][6])


def test_ties_at_the_edge_are_kept_whole_and_zero_has_no_sign():
    logits_V = np.asarray([0.0, 2.0, -0.0, 2.0, 0.0, -1, -1, -1, -1, -1, -1], np.float32)
    kept_by_k = np.asarray(keep_mask(jnp.asarray(logits_V)[None], settings_of([(1.0, 3, 1.0)])))[0]
    np.testing.assert_array_equal(kept_by_k, logits_V >= 0)
    kept_by_p = np.asarray(keep_mask(jnp.asarray(logits_V)[None], settings_of([(1.0, V, 0.2)])))[0]
    np.testing.assert_array_equal(kept_by_p, logits_V == 2)


def test_masked_logits_are_never_drawn():
    logits_BV = np.full((64, V), -np.inf, np.float32)
    logits_BV[:, [2, 7]] = 0.5
    for options in ({}, {"top_k": 5}, {"top_p": 0.99}):
        assert set(np.asarray(sample(logits_BV, keys(64), make_settings(64, V, **options)))) == {2, 7}


@pytest.mark.parametrize("temperature, top_k, top_p", [(1.0, None, None), (0.7, None, None), (1.3, 4, None), (1.0, None, 0.8), (0.9, 6, 0.9)])
def test_draws_follow_the_distribution(temperature, top_k, top_p):
    n = 20_000
    logits_V = np.random.default_rng(1).normal(size=V)
    keep_V = numpy_keep(logits_V, temperature, top_k or V, top_p or 1.0)
    prob_V = np.where(keep_V, np.exp(logits_V / temperature), 0.0)
    prob_V = prob_V / prob_V.sum()
    drawn_B = drawn_often(n, 2, np.asarray(logits_V[None], np.float32), make_settings(1, V, temperature, top_k, top_p))
    count_V = np.bincount(drawn_B, minlength=V)
    assert count_V[~keep_V].sum() == 0
    chi2 = np.sum((count_V - n * prob_V)[keep_V] ** 2 / (n * prob_V[keep_V]))
    assert chi2 < 31.3  # 10 degrees of freedom: exceeded once in 2,000; with fewer, more rarely


def test_what_no_tokenizer_knows_is_never_drawn():
    logits_BV = jnp.zeros((64, V)).at[:, 7].set(9.0)
    for options in ({"temperature": 1.0}, {"temperature": 0.0}, {"temperature": 1.0, "top_k": 3}, {"temperature": 1.0, "top_p": 0.5}):
        assert int(sample(logits_BV, keys(64), make_settings(64, V, **options, n_tokens=7)).max()) < 7
    assert int(sample(logits_BV, keys(64), make_settings(64, V, 0.0)).max()) == 7


def test_the_smallest_top_p_still_keeps_the_likeliest():
    logits_BV = jnp.asarray([[0.0, 1, 2, 9, 3, 4, 0, 0, 0, 0, 0]])
    assert int(sample(logits_BV, keys(1), make_settings(1, V, 1.0, top_p=1e-50))[0]) == 3


def test_greedy_takes_the_likeliest_whatever_else_is_set():
    logits_BV = np.random.default_rng(3).normal(size=(8, V)).astype(np.float32)
    settings = settings_of([(0.0, 1 + b, 0.1 + 0.1 * b) for b in range(8)])
    np.testing.assert_array_equal(sample(logits_BV, keys(8), settings), logits_BV.argmax(axis=1))
    tiny = make_settings(8, V, temperature=1e-30)
    np.testing.assert_array_equal(sample(logits_BV, keys(8), tiny), logits_BV.argmax(axis=1))


def test_a_row_draws_the_same_beside_others():
    rows = [(0.0, V, 1.0), (1.0, V, 1.0), (0.8, 3, 1.0), (1.2, V, 0.6), (3.0, 9, 0.95)] * 12
    logits_BV, key_B = np.random.default_rng(4).normal(size=(60, V)).astype(np.float32), keys(60)
    together = np.asarray(sample(logits_BV, key_B, settings_of(rows)))
    alone = [int(sample(logits_BV[b : b + 1], key_B[b : b + 1], settings_of([rows[b]]))[0]) for b in range(60)]
    np.testing.assert_array_equal(together, alone)


def test_a_greedy_row_beside_drawn_ones_sees_the_smallest_lead():
    logits_BV = np.ones((60, V), np.float32)
    logits_BV[:, 4] = np.nextafter(np.float32(1), np.float32(2))
    drawn_B = np.asarray(sample(logits_BV, keys(60), settings_of([(0.0, V, 1.0), (1.0, V, 1.0)] * 30)))
    assert set(drawn_B[::2]) == {4} and len(set(drawn_B[1::2])) > 3


def test_other_settings_need_no_other_program():
    traces = []

    def counted(*args):
        traces.append(1)
        return sampling.sample(*args)

    counting, logits_BV = jax.jit(counted), jnp.zeros((1, V))
    for options in ({"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.5}, {"temperature": 2.0, "top_k": 1, "top_p": 0.1}):
        counting(logits_BV, keys(1), make_settings(1, V, **options))
    assert len(traces) == 1


BAD = [("temperature", (-0.1, NAN)), ("top_k", (0,)), ("top_p", (0.0, 1.5)), ("min_p", (-0.1, 1.1, NAN))]
BAD += [("repetition_penalty", (0.0, -1.0, NAN)), ("presence_penalty", (INF, NAN)), ("frequency_penalty", (-INF,))]


@pytest.mark.parametrize("bad", [{name: value} for name, values in BAD for value in values])
def test_impossible_settings_are_refused_by_name(bad):
    with pytest.raises(UserError, match=f"^{next(iter(bad))} = .*; give [^\n]*$"):
        make_settings(1, V, **bad)


# ---------------------------------------------------------------- what shape does, by a definition in numpy


def numpy_weights(logits_V, temperature, top_k, top_p, min_p, repetition, presence, frequency, prompt, drawn, bias_V, allowed_V):
    """The probabilities of one row, in float64, step by step."""
    x_V = logits_V.astype(np.float64) + bias_V
    for v in set(prompt) | set(drawn):
        x_V[v] = x_V[v] / repetition if x_V[v] > 0 else x_V[v] * repetition
    for v in set(drawn):
        x_V[v] -= presence + frequency * drawn.count(v)
    x_V = np.where(allowed_V, x_V, -np.inf)
    if temperature == 0:
        return np.eye(V)[np.argmax(x_V)]
    keep_V = numpy_keep(x_V, temperature, top_k, top_p)
    weight_V = np.exp((x_V - x_V.max()) / temperature)
    weight_V = np.where(keep_V & (weight_V >= min_p), weight_V, 0)
    return weight_V / weight_V.sum()


one_row = st.tuples(
    st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    st.sampled_from([1, 3, 7, V]),
    st.sampled_from([0.13, 0.5, 0.87, 1.0]),
    st.sampled_from([0.0, 0.021, 0.37, 1.0]),
    st.sampled_from([1.0, 1.3, 0.7]),
    st.sampled_from([0.0, 0.9, -0.4]),
    st.sampled_from([0.0, 0.7, -0.3]),
    st.lists(st.integers(0, V - 1), max_size=4),
    st.lists(st.integers(0, V - 1), max_size=6),
    st.integers(0, 2**20),
)


def all_of(rows):
    """What `shape` takes for rows of the strategy."""
    columns = list(zip(*rows, strict=True))
    t, k, p, *rest = (np.asarray(column, np.float32) for column in columns[:7])
    settings = Settings(t, k.astype(np.int32), p, np.full(len(rows), V, np.int32), *rest, np.ones(len(rows), np.float32))
    drawn_BV = np.stack([np.bincount(drawn, minlength=V) for drawn in columns[8]]).astype(np.int32)
    prompt_BV = np.stack([np.isin(np.arange(V), prompt) for prompt in columns[7]])
    rng = np.random.default_rng(columns[9])
    allowed_BV = rng.random((len(rows), V)) < 0.8
    allowed_BV[:, rng.integers(V)] = True
    logits_BV, bias_BV = (scale * rng.normal(size=(len(rows), V)).astype(np.float32) for scale in (np.float32(3), np.float32(1)))
    return logits_BV, settings, Seen(prompt_BV, drawn_BV), bias_BV, allowed_BV


@trying(max_examples=40, deadline=None)
@given(st.lists(one_row, min_size=4, max_size=4))
def test_shape_is_its_definition(rows):
    logits_BV, settings, seen, bias_BV, allowed_BV = all_of(rows)
    shaped_BV = np.asarray(shape(logits_BV, settings, seen, bias_BV, allowed_BV))
    prob_BV = np.exp(shaped_BV - shaped_BV.max(axis=1, keepdims=True))
    prob_BV /= prob_BV.sum(axis=1, keepdims=True)
    for b, row in enumerate(rows):
        expected_V = numpy_weights(logits_BV[b], *row[:9], bias_BV[b], allowed_BV[b])
        np.testing.assert_allclose(prob_BV[b], expected_V, atol=2e-6)
        np.testing.assert_array_equal(np.isfinite(shaped_BV[b]), expected_V > 0)


@trying(max_examples=15, deadline=None)
@given(st.lists(one_row, min_size=4, max_size=4), st.integers(0, 2**20))
def test_sample_draws_what_shape_says_and_a_row_the_same_alone(rows, seed):
    logits_BV, settings, seen, bias_BV, allowed_BV = all_of(rows)
    key_B = keys(4, seed)
    shaped_BV = shape(logits_BV, settings, seen, bias_BV, allowed_BV)
    together = np.asarray(sample(logits_BV, key_B, settings, seen, bias_BV, allowed_BV))
    np.testing.assert_array_equal(together, draw(shaped_BV, key_B))
    for b in range(4):
        logits_1V, *rest = jax.tree.map(lambda leaf, b=b: leaf[b : b + 1], (logits_BV, settings, seen, bias_BV, allowed_BV))
        np.testing.assert_array_equal(shape(logits_1V, *rest)[0], shaped_BV[b])
        assert int(sample(logits_1V, key_B[b : b + 1], *rest)[0]) == together[b]


@pytest.mark.parametrize("batch, vocab_size", [(17, 300), (3, 32_000)])  # sizes at which XLA sums a batch otherwise than its rows
def test_a_row_has_the_same_bits_beside_others(batch, vocab_size):
    logits_BV = (3 * np.random.default_rng(0).normal(size=(batch, vocab_size))).astype(np.float32)
    rows = [(1.0, None, 0.9), (0.7, 40, 0.95), (1.0, None, None), (1.3, None, 0.5), (0.0, None, None), (2.0, 200, 0.99)]
    settings = [make_settings(1, vocab_size, *rows[b % 6], None, 0.001 if b % 2 else None) for b in range(batch)]
    together_BV = np.asarray(shape(logits_BV, stack_rows(settings)))
    top = jax.jit(lambda x_BV, token_B: log_probs(x_BV, token_B, 3))
    token_B = np.arange(batch, dtype=np.int32)
    tops = top(logits_BV, token_B)
    for b in range(batch):
        np.testing.assert_array_equal(together_BV[b], shape(logits_BV[b : b + 1], settings[b])[0])
        for all_rows, alone in zip(tops, top(logits_BV[b : b + 1], token_B[b : b + 1]), strict=True):
            np.testing.assert_array_equal(all_rows[b], alone[0])


def test_draws_follow_shape_with_all_of_it_at_work():
    n = 20_000
    rng = np.random.default_rng(6)
    logits_V, bias_V, allowed_V = rng.normal(size=V), rng.normal(size=V), np.arange(V) != 4
    own = (1.2, 9, 0.97, 0.02, 1.4, 0.3, 0.2)
    prob_V = numpy_weights(logits_V, *own, [1, 2, 2], [2, 3, 3], bias_V, allowed_V)
    t, k, p, *rest = own
    seen = make_seen([[1, 2, 2]], V)
    for token in (2, 3, 3):
        seen = seen.add(jnp.asarray([token]), jnp.asarray([True]))
    logits_1V, bias_1V = (np.asarray(x_V[None], np.float32) for x_V in (logits_V, bias_V))
    row = (logits_1V, make_settings(1, V, t, k, p, None, *rest), seen, bias_1V, allowed_V[None])
    count_V = np.bincount(np.asarray(drawn_often(n, 7, *row)), minlength=V)
    there_V = prob_V > 0
    assert count_V[~there_V].sum() == 0 and 4 < there_V.sum() < 10
    assert np.sum((count_V - n * prob_V)[there_V] ** 2 / (n * prob_V[there_V])) < 31.3


def test_settings_that_are_off_change_no_bit():
    logits_BV = np.random.default_rng(8).normal(size=(4, V)).astype(np.float32)
    settings = make_settings(4, V, 0.8, 5, 0.9)
    seen = make_seen([[0, 1, 2], [3], [], [4, 4]], V).add(jnp.asarray([1, 2, 3, 4]), jnp.ones(4, bool))
    plain_BV = np.asarray(shape(logits_BV, settings))
    np.testing.assert_array_equal(shape(logits_BV, settings, seen), plain_BV)
    np.testing.assert_array_equal(shape(logits_BV, settings, None, np.zeros((4, V), np.float32), np.ones((4, V), bool)), plain_BV)


def test_penalties_count_the_prompt_where_they_should():
    logits_BV = jnp.zeros((1, V)).at[0, 3].set(2.0).at[0, 5].set(-2.0)
    prompt_only = make_seen([[3, 5]], V)
    log_weights = lambda seen, **options: np.asarray(shape(logits_BV, make_settings(1, V, **options), seen))[0] + np.float32(0)
    base_V = log_weights(prompt_only)
    np.testing.assert_array_equal(log_weights(prompt_only, presence_penalty=1.0, frequency_penalty=1.0), base_V)
    repeated_V = log_weights(prompt_only, repetition_penalty=2.0)  # 2 → 1 and −2 → −4
    assert repeated_V[3] - repeated_V[0] == 1.0 and repeated_V[5] - repeated_V[0] == -4.0
    drawn = prompt_only
    for active in (True, True, False):
        drawn = drawn.add(jnp.asarray([5]), jnp.asarray([active]))
    assert log_weights(drawn, presence_penalty=1.0)[5] == base_V[5] - 1.0
    assert log_weights(drawn, frequency_penalty=1.0)[5] == base_V[5] - 2.0


def test_log_probabilities_are_the_models_own():
    logits_BV = (2 * np.random.default_rng(9).normal(size=(5, V))).astype(np.float32)
    token_B = np.asarray([0, 3, 10, 7, 7], np.int32)
    own_B, ids_BN, top_BN = log_probs(jnp.asarray(logits_BV), jnp.asarray(token_B), 4)
    expected_BV = logits_BV - np.log(np.exp(logits_BV.astype(np.float64)).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(own_B, expected_BV[np.arange(5), token_B], atol=1e-5)
    np.testing.assert_array_equal(ids_BN, np.argsort(-logits_BV, axis=1)[:, :4])
    np.testing.assert_allclose(top_BN, -np.sort(-expected_BV, axis=1)[:, :4], atol=1e-5)
    _, known_BN, few_BN = log_probs(jnp.asarray(logits_BV), jnp.asarray(token_B), 4, jnp.full(5, 4, jnp.int32))
    assert int(known_BN.max()) < 4 and np.allclose(np.exp(few_BN).sum(axis=1), 1, atol=1e-5)


def test_where_nothing_is_allowed_there_is_no_nan():
    shaped_BV = shape(jnp.zeros((1, V)), make_settings(1, V, 1.0, 3, 0.5), None, None, jnp.zeros((1, V), bool))
    assert not np.isnan(shaped_BV).any() and int(draw(shaped_BV, keys(1))[0]) < V
