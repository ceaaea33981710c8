"""The step: accumulation is one large batch, the same inputs give the same bits, weights stay float32, NaN is not hidden."""

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CONTEXT, VOCAB, batch, compiled_step, config, gradient_of, run, start

from pikojax.train.loss import next_token_loss
from pikojax.train.optim import schedule
from pikojax.train.step import abstract_state, init_state, loss_and_gradient, make_step


def digest(state) -> str:
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))).hexdigest()


@pytest.fixture(scope="module")
def params():
    return start(config()).params


@pytest.mark.parametrize("masked", [False, True], ids=["all count", "unevenly masked"])
def test_accumulating_is_one_large_batch(params, masked):
    parts = batch(4, 8, masked=masked)
    whole = jax.tree.map(lambda x: x.reshape(1, -1, CONTEXT), parts)
    gradient = gradient_of(config())
    (loss, grads), (expected_loss, expected) = gradient(params, parts), gradient(params, whole)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-6)
    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * max(1e-3, float(jnp.abs(theirs).max())))


def test_one_micro_batch_pays_for_no_loop(params):
    def loops(n_micro):
        make = jax.make_jaxpr(lambda p, b: loss_and_gradient(config(), next_token_loss, p, b, jax.random.key(0)))
        return str(make(params, batch(n_micro))).count("scan[")

    assert loops(1) == loops(2) - 1 == 2  # the layers, forward and back


def test_learns_a_batch_by_heart_and_reports_what_it_did():
    cfg = config()
    step, state, losses = compiled_step(cfg), start(cfg), []
    for i in range(60):
        state, facts = step(state, batch())
        losses.append(float(facts["loss"]))
        assert float(facts["lr"]) == pytest.approx(float(schedule(cfg)(i)))
    assert losses[0] == pytest.approx(np.log(VOCAB), abs=0.2) and losses[-1] < 0.5
    assert int(state.step) == 60
    _, grads = gradient_of(cfg)(state.params, batch())
    _, facts = step(state, batch())
    norm = np.sqrt(sum(float((np.asarray(g, np.float64) ** 2).sum()) for g in jax.tree.leaves(grads)))
    assert float(facts["grad_norm"]) == pytest.approx(norm, rel=1e-4)  # before clipping


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.exhaustive)])
def test_stopped_and_taken_up_again_is_never_stopped_bit_for_bit(optimizer):
    cfg = config(model=dict(dropout=0.5), optim=dict(name=optimizer), grad_accum=2)
    half, first = run(cfg, 3)
    saved = jax.device_get(half)
    loaded = jax.tree.map(lambda leaf, a: jax.device_put(np.asarray(leaf, a.dtype), a.sharding), saved, abstract_state(cfg, None))
    resumed, second = run(cfg, 3, loaded)
    whole, facts = run(cfg, 6)
    assert digest(resumed) == digest(whole) and first + second == facts


def test_randomness_comes_from_the_seed_and_the_step():
    cfg = config(model=dict(dropout=0.5, n_layers=1), grad_accum=2)

    def loss(cfg, at_step):
        return float(compiled_step(cfg)(start(cfg)._replace(step=jnp.int32(at_step)), batch(2))[1]["loss"])

    assert loss(cfg, 5) == loss(cfg, 5) != loss(cfg, 6)
    assert loss(dataclasses.replace(cfg, seed=1), 5) != loss(cfg, 5)


def test_starts_from_the_seed():
    first, again, other = (init_state(config(seed=seed), None) for seed in (0, 0, 1))
    assert digest(first) == digest(again) != digest(other)
    assert int(first.step) == 0
    for leaf, like in zip(jax.tree.leaves(first), jax.tree.leaves(abstract_state(config(), None)), strict=True):
        assert (leaf.shape, leaf.dtype, leaf.sharding) == (like.shape, like.dtype, like.sharding)


def test_compiles_once_and_reuses_the_memory_of_the_state():
    step, state = compiled_step(config()), start(config())
    for i in range(3):
        before, (state, _) = state, step(state, batch(seed=i))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert step._cache_size() == 1


def test_bfloat16_is_for_the_arithmetic_alone(params):
    low = config(dtype="bfloat16")
    text = str(jax.make_jaxpr(gradient_of(low))(params, batch()))
    assert "bf16[32,16]" in text  # the stream of 4 · 8 positions
    (loss, grads), (expected_loss, expected) = (gradient_of(cfg)(params, batch()) for cfg in (low, config()))
    assert float(loss) == pytest.approx(float(expected_loss), rel=0.01) and float(loss) != float(expected_loss)
    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == jnp.float32
        assert float(jnp.linalg.norm(ours - theirs)) < 0.05 * float(jnp.linalg.norm(theirs)) + 1e-5
    state = jax.eval_shape(compiled_step(low), start(low), batch())[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}


@pytest.mark.slow
def test_remat_gives_the_same_gradient_from_less_memory():
    model, found = dict(n_layers=6, d_model=32), []
    params = start(config(model)).params
    for remat in (False, True):
        done = gradient_of(config(model, remat=remat)).lower(params, batch(rows=32)).compile()
        found.append((done(params, batch(rows=32)), done.memory_analysis().temp_size_in_bytes))
    (plain, plain_bytes), (remat, remat_bytes) = found
    assert remat_bytes < 0.6 * plain_bytes
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(remat), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_nan_shows_and_stays():
    state = start(config())
    state.params["embed"] = state.params["embed"].at[3, 0].set(jnp.nan)
    for _ in range(2):
        state, facts = compiled_step(config())(state, batch())
        assert np.isnan(facts["loss"]) and np.isnan(facts["grad_norm"])


def test_another_objective_needs_no_other_step():
    def squares(cfg, params, data, key, *, remat):
        return jnp.sum(jnp.square(params["embed"])), {"targets": jnp.float32(data[0].size)}

    state = start(config())
    table = np.asarray(state.params["embed"])
    after, facts = make_step(config(), None, squares)(state, batch())
    assert float(facts["loss"]) == pytest.approx((table**2).sum(), rel=1e-5)
    assert (np.abs(after.params["embed"]) <= np.abs(table) + 0.01).all() and not np.array_equal(after.params["embed"], table)


@pytest.mark.slow
def test_two_processes_get_the_same_bits():
    root = Path(__file__).parent.parent
    code = "import sys; sys.path[:0] = ['tests', '.']; from test_step import *; print(digest(run(config(grad_accum=2), 5)))"
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    outs = [subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True) for _ in range(2)]
    assert outs[0].returncode == 0, outs[0].stderr
    assert outs[0].stdout == outs[1].stdout != ""
