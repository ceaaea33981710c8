"""The loss is −log softmax(logits)[target], its gradient softmax − one-hot, over the counted targets alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pikojax.config import GPTConfig
from pikojax.models.catalog import catalog
from pikojax.train.loss import cross_entropy, mean_cross_entropy, next_token_loss


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    logits = (5 * rng.standard_normal((3, 7, 11))).astype(np.float32)
    return logits, rng.integers(0, 11, (3, 7)).astype(np.int32), rng.random((3, 7)) < 0.6


def by_hand(logits, targets, mask):
    """(mean, gradient) in float64, from the definition."""
    logits = logits.astype(np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    one_hot = np.eye(logits.shape[-1])[targets]
    nats = -np.log((p * one_hot).sum(-1))
    return (nats * mask).sum() / mask.sum(), (p - one_hot) * mask[..., None] / mask.sum()


@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradient_by_definition(case, masked):
    logits, targets, mask = case
    (value, facts), gradient = jax.value_and_grad(
        lambda x: mean_cross_entropy(x, jnp.asarray(targets), jnp.asarray(mask) if masked else None), has_aux=True
    )(jnp.asarray(logits))
    mask = mask if masked else np.ones_like(mask)
    expected, expected_gradient = by_hand(logits, targets, mask)
    assert float(value) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-7)
    assert float(facts["targets"]) == mask.sum()


def test_large_logits_do_not_overflow():
    nats = cross_entropy(jnp.asarray([[[1e4, 1e4, 0.0]]]), jnp.asarray([[1]]))
    assert float(nats[0, 0]) == pytest.approx(np.log(2), rel=1e-3)


def test_what_is_masked_has_no_say(case):
    logits, targets, mask = map(jnp.asarray, case)
    value, _ = mean_cross_entropy(logits, targets, mask)
    other, _ = mean_cross_entropy(jnp.where(mask[..., None], logits, -logits), jnp.where(mask, targets, 0), mask)
    assert float(value) == float(other)
    nothing, facts = mean_cross_entropy(logits, targets, jnp.zeros_like(mask))
    assert float(nothing) == 0 and float(facts["targets"]) == 0


def test_of_a_model_that_knows_nothing_is_log_vocabulary():
    cfg = GPTConfig(d_model=16, n_layers=1, n_heads=2, vocab_size=11, context=8)
    params = jax.jit(lambda: catalog["gpt"].init(cfg, jax.random.key(0)))()
    loss = jax.jit(lambda *batch: next_token_loss(cfg, params, batch))
    tokens = jnp.arange(16, dtype=jnp.int32).reshape(2, 8) % 11
    targets = (tokens + 3) % 11  # not the tokens themselves: one table reads in and out, and knows those
    value, facts = loss(tokens, targets, None, None)
    assert float(value) == pytest.approx(np.log(11), abs=0.05) and float(facts["targets"]) == 16
    segments = jnp.asarray([[0] * 4 + [1] * 4] * 2, jnp.int32)
    apart, _ = loss(tokens, targets, segments, None)
    assert float(apart) != float(value)  # the segments reach attention
