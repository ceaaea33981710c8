"""The whole split is measured, every target once, whatever the batches."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pikojax.config import config_from_dict
from pikojax.data.shards import TokenStream
from pikojax.models.catalog import catalog
from pikojax.train.evaluate import make_evaluate
from pikojax.train.loss import next_token_loss
from pikojax.train.step import init_state

CONFIG = config_from_dict(
    dict(
        model=dict(d_model=16, n_layers=1, n_heads=2, vocab_size=13, context=8),
        train=dict(batch_size=4, dtype="float32"),
    )
)


@pytest.fixture(scope="module")
def params():
    return init_state(CONFIG, None).params


def stream(n_tokens: int, n_bytes=None) -> TokenStream:
    ids = np.random.default_rng(0).integers(0, 13, n_tokens).astype(np.int32)
    return TokenStream.of(ids, 13, n_bytes=n_bytes)


def by_hand(params, ids) -> float:
    """The sum over windows of 8, one at a time, from the logits."""
    forward = jax.jit(lambda tokens: catalog["gpt"].forward(CONFIG.model, params, tokens)[0].logits)
    total = 0.0
    for start in range(0, len(ids) - 1, 8):
        targets = ids[start + 1 : start + 9]
        window = np.zeros(8, np.int32)
        window[: len(targets)] = ids[start : start + len(targets)]
        logits = np.asarray(forward(window[None])[0], np.float64)[: len(targets)]
        total -= (logits[np.arange(len(targets)), targets] - np.log(np.exp(logits).sum(-1))).sum()
    return total


@pytest.mark.parametrize("n_tokens", [2, 9, 10, 75, 129])  # one target; one whole window; one more; ragged; whole batches
def test_every_target_counts_once(params, n_tokens):
    split = stream(n_tokens, n_bytes=3 * n_tokens)
    found = make_evaluate(CONFIG, None)(params, split)
    nats = by_hand(params, np.asarray(split.read(0, n_tokens)))
    assert found["val_tokens"] == n_tokens - 1
    assert found["val_loss"] == pytest.approx(nats / (n_tokens - 1), rel=1e-5)
    assert found["val_bits_per_byte"] == pytest.approx(nats / math.log(2) / (3 * n_tokens), rel=1e-5)


def test_the_batch_size_does_not_matter_and_bytes_may_be_unknown(params):
    larger = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, batch_size=7))
    a, b = (make_evaluate(cfg, None)(params, stream(200)) for cfg in (CONFIG, larger))
    assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-6) and a["val_bits_per_byte"] is None


def test_dropout_is_off(params):
    noisy = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, dropout=0.5))
    assert make_evaluate(noisy, None)(params, stream(50)) == make_evaluate(CONFIG, None)(params, stream(50))


@pytest.mark.parametrize("at_once, rows", [(1, 4), (100, 12)])
def test_small_training_batches_are_joined(params, monkeypatch, at_once, rows):
    monkeypatch.setattr("pikojax.train.evaluate.TOKENS_AT_ONCE", at_once)
    seen = []

    def loss_fn(cfg, params, batch, key):
        seen.append(batch[0].shape[0])
        return next_token_loss(cfg, params, batch, key)

    found = make_evaluate(CONFIG, None, loss_fn)(params, stream(500))  # more batches than may be under way
    nats = by_hand(params, np.asarray(stream(500).read(0, 500)))
    assert seen == [rows] and found["val_tokens"] == 499 and found["val_loss"] == pytest.approx(nats / 499, rel=1e-5)


def test_compiles_once_for_every_split_and_every_call(params):
    traced = []

    def loss_fn(cfg, params, batch, key):
        traced.append(batch[0].shape)
        return jnp.float32(0.0) + 0.0 * jnp.sum(params["embed"]), {"targets": jnp.sum(batch[3], dtype=jnp.float32)}

    evaluate = make_evaluate(CONFIG, None, loss_fn)
    for n_tokens in (50, 200, 50):
        assert evaluate(params, stream(n_tokens))["val_tokens"] == n_tokens - 1
    assert len(traced) == 1
