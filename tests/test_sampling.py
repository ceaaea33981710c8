"""Sampling against plain numpy: which tokens may be drawn, how often they are, and what a row must not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pikojax.config import UserError
from pikojax.infer import sampling
from pikojax.infer.sampling import Settings, keep_mask, make_settings

V = 11
sample = jax.jit(sampling.sample)


def numpy_keep(logits_V, temperature, top_k, top_p):
    """By definition, with a sort: the k largest and their equals; of these, every token with less than p above it."""
    edge = np.sort(logits_V)[::-1][top_k - 1]
    keep_V = logits_V >= edge
    prob_V = np.where(keep_V, np.exp((logits_V - logits_V.max()) / temperature), 0.0)
    prob_V = prob_V / prob_V.sum()
    above_V = np.array([prob_V[logits_V > x].sum() for x in logits_V])
    return keep_V & (above_V < top_p)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def settings_of(rows):
    temperature, top_k, top_p = zip(*rows, strict=True)
    n_tokens = jnp.full(len(rows), V, jnp.int32)
    return Settings(jnp.asarray(temperature, jnp.float32), jnp.asarray(top_k, jnp.int32), jnp.asarray(top_p, jnp.float32), n_tokens)


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
    logits_BV = jnp.broadcast_to(jnp.asarray(logits_V, jnp.float32), (n, V))
    drawn_B = np.asarray(jax.jit(sample)(logits_BV, keys(n, 2), make_settings(n, V, temperature, top_k, top_p)))
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

    draw, logits_BV = jax.jit(counted), jnp.zeros((1, V))
    for options in ({"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.5}, {"temperature": 2.0, "top_k": 1, "top_p": 0.1}):
        draw(logits_BV, keys(1), make_settings(1, V, **options))
    assert len(traces) == 1


@pytest.mark.parametrize("bad", [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_settings_are_refused_by_name(bad):
    with pytest.raises(UserError, match=f"^{next(iter(bad))} = .*; give [^\n]*$"):
        make_settings(1, V, **bad)
