"""A model that trains in a blink, its batches, and its compiled steps, each made once for all tests that ask for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import Config, config_from_dict
from pikojax.data.batches import Batch
from pikojax.train.loss import next_token_loss
from pikojax.train.step import abstract_state, init_state, loss_and_gradient, make_step

VOCAB, CONTEXT, ROWS = 13, 8, 4


def config(model=None, optim=None, seed=0, **train) -> Config:
    return config_from_dict(
        dict(
            seed=seed,
            model=dict(d_model=16, n_layers=3, n_heads=2, vocab_size=VOCAB, context=CONTEXT, bias=True) | (model or {}),
            optim=dict(lr=0.01, warmup_steps=2, weight_decay=0.0, schedule="constant") | (optim or {}),
            train=dict(steps=50, batch_size=ROWS, dtype="float32") | train,
        )
    )


def batch(n_micro=1, rows=ROWS, seed=0, masked=False) -> Batch:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, VOCAB, (n_micro, rows, CONTEXT + 1)).astype(np.int32)
    mask = rng.random((n_micro, rows, CONTEXT)) < np.linspace(0.2, 1, n_micro)[:, None, None] if masked else None
    return Batch(ids[..., :-1], ids[..., 1:], None, mask)


@functools.cache
def compiled_step(cfg: Config):
    return make_step(cfg, None)


@functools.cache
def gradient_of(cfg: Config):
    return jax.jit(lambda params, data: loss_and_gradient(cfg, next_token_loss, params, data, jax.random.key(0)))


@functools.cache
def _start(model, optim):
    return jax.device_get(init_state(Config(model=model, optim=optim), None))


def start(cfg: Config):
    """A state that may be given away, with the weights of seed 0 whatever the seed of `cfg`."""
    place = lambda leaf, like: jax.device_put(jnp.asarray(leaf), like.sharding)  # noqa: E731
    return jax.tree.map(place, _start(cfg.model, cfg.optim), abstract_state(cfg, None))


def run(cfg: Config, n_steps: int, state=None):
    """(state, what each step reported) after n steps from `state`, on batches that follow from the step's number."""
    state, facts = start(cfg) if state is None else state, []
    for _ in range(n_steps):
        state, fact = compiled_step(cfg)(state, batch(cfg.train.grad_accum, seed=int(state.step)))
        facts.append({name: float(value) for name, value in fact.items()})
    return state, facts
