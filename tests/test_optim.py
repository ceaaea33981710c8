"""The optimizer against AdamW written from its definition, the decay mask, Muon's orthogonal updates, the schedules."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pikojax.config import Config, GPTConfig, OptimConfig, TrainConfig
from pikojax.train import offload
from pikojax.train.optim import clip_factor, is_matrix, make_optimizer, schedule

AXES = {
    "embed": ("vocab", "embed"),
    "norm": ("norm",),
    "blocks": {"up": ("layers", "embed", "mlp"), "down": ("layers", "mlp", "embed"), "scale": ("layers", "norm")},
}
SHAPES = {"embed": (9, 8), "norm": (8,), "blocks": {"up": (3, 8, 16), "down": (3, 16, 8), "scale": (3, 8)}}
is_tuple = lambda node: isinstance(node, tuple)  # noqa: E731


def numbers(seed: int, scale: float = 1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda shape: jnp.asarray(scale * rng.standard_normal(shape), jnp.float32), SHAPES, is_leaf=is_tuple)


def config(steps: int = 20, **optim) -> Config:
    return Config(model=GPTConfig(vocab_size=9), train=TrainConfig(steps=steps), optim=OptimConfig(**{"warmup_steps": 3, **optim}))


def run(cfg: Config, params, gradients):
    optimizer = make_optimizer(cfg, AXES)
    state = jax.jit(optimizer.init)(params)

    @jax.jit
    def step(params, state, grads):
        factor = clip_factor(offload.global_norm(grads, AXES), cfg.optim.grad_clip)
        return offload.update(optimizer, params, state, grads, AXES, factor, jnp.int32(0), cfg.optim.name == "adamw")

    for grads in gradients:
        params, state = step(params, state, grads)
    return params


def test_ten_steps_of_adamw_by_definition():
    cfg, gradients = config(lr=0.01), [numbers(i, 0.02 + 0.1 * (i % 2)) for i in range(1, 11)]
    o = cfg.optim
    flat = lambda tree: [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]  # noqa: E731
    p, clipped = flat(numbers(0)), 0
    m, v = [0 * x for x in p], [0 * x for x in p]
    matrix = [is_matrix(names) for names in jax.tree.leaves(AXES, is_leaf=is_tuple)]
    for t, g in enumerate(map(flat, gradients), 1):
        norm = math.sqrt(sum((x * x).sum() for x in g))
        clipped += norm > o.grad_clip
        g = [x * min(1, o.grad_clip / norm) for x in g]
        m = [o.beta1 * a + (1 - o.beta1) * x for a, x in zip(m, g)]
        v = [o.beta2 * a + (1 - o.beta2) * x * x for a, x in zip(v, g)]
        hats = [(a / (1 - o.beta1**t)) / (np.sqrt(b / (1 - o.beta2**t)) + o.eps) for a, b in zip(m, v)]
        rate = float(schedule(cfg)(t - 1))
        p = [x - rate * (h + o.weight_decay * x * decayed) for x, h, decayed in zip(p, hats, matrix)]
    assert clipped == 5  # every other step
    for ours, expected in zip(jax.tree.leaves(run(cfg, numbers(0), gradients)), p, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_decay_shrinks_matrices_and_spares_the_rest(name):
    cfg, before = config(name=name, schedule="constant", warmup_steps=0, lr=0.1, muon_lr=0.1), numbers(0)
    after = run(cfg, before, [jax.tree.map(jnp.zeros_like, before)])
    for names, x, y in zip(*(jax.tree.leaves(t, is_leaf=is_tuple) for t in (AXES, before, after)), strict=True):
        np.testing.assert_allclose(y, x * (1 - 0.1 * 0.1) if is_matrix(names) else x, rtol=1e-6)


def test_muon_orthogonalizes_each_matrix_of_the_blocks_and_nothing_else():
    cfg = config(name="muon", schedule="constant", warmup_steps=0, lr=1e-3, muon_lr=1.0, weight_decay=0.0, grad_clip=None)
    before, grads = numbers(0), numbers(1)
    change = jax.tree.map(lambda a, b: np.asarray(b - a), before, run(cfg, before, [grads]))
    for name, scale in (("up", math.sqrt(2)), ("down", 1.0)):  # √max(1, N/K)
        for layer in range(3):
            sizes = np.linalg.svd(change["blocks"][name][layer] / scale, compute_uv=False)
            assert 0.4 < sizes.min() and sizes.max() < 1.4
    for leaf in (change["embed"], change["norm"], change["blocks"]["scale"]):
        np.testing.assert_allclose(np.abs(leaf), 1e-3, rtol=1e-2)  # AdamW's first step: the sign, times the rate


def test_muon_of_a_layer_does_not_depend_on_the_others():
    cfg = config(name="muon", grad_clip=None)
    one, other = numbers(1), numbers(2)
    mixed = jax.tree.map(lambda a, b: a.at[1].set(b[1]) if a.ndim == 3 else a, one, other)
    a, b = run(cfg, numbers(0), [one]), run(cfg, numbers(0), [mixed])
    for name in ("up", "down"):
        np.testing.assert_array_equal(a["blocks"][name][::2], b["blocks"][name][::2])
        assert not np.array_equal(a["blocks"][name][1], b["blocks"][name][1])


def test_clipping_leaves_small_gradients_and_bounds_large_ones():
    grads = numbers(0)
    norm = offload.global_norm(grads, AXES)
    assert float(norm) == pytest.approx(math.sqrt(sum(float((np.asarray(g, np.float64) ** 2).sum()) for g in jax.tree.leaves(grads))))
    assert float(clip_factor(norm, 2 * float(norm))) == 1.0 == float(clip_factor(norm, None))
    assert float(norm * clip_factor(norm, 0.5)) == pytest.approx(0.5)
    assert math.isnan(float(clip_factor(jnp.float32(math.nan), 1.0)))  # not hidden


def test_cosine_is_nanogpts():
    cfg = config(steps=200, lr=1e-3, warmup_steps=10, end_lr_ratio=0.1)
    for step in (0, 5, 9, 10, 11, 100, 199, 200, 300):
        if step < 10:
            expected = 1e-3 * (step + 1) / 11
        else:
            expected = 1e-4 + 0.5 * (1 + math.cos(math.pi * min(1, (step - 10) / 190))) * (1e-3 - 1e-4)
        assert float(schedule(cfg)(step)) == pytest.approx(expected, rel=1e-5)


def test_trapezoid_and_constant():
    cfg = config(steps=100, lr=1.0, schedule="trapezoid", warmup_steps=4, decay_fraction=0.25, end_lr_ratio=0.2)
    rates = [float(schedule(cfg)(step)) for step in range(101)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8]) and rates[4:76] == [1.0] * 72
    assert np.diff(rates[75:]) == pytest.approx(np.full(25, -0.8 / 25), rel=1e-4) and rates[100] == pytest.approx(0.2)
    constant = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, schedule="constant"))
    assert [float(schedule(constant)(step)) for step in (3, 4, 99, 1000)] == pytest.approx([0.8, 1.0, 1.0, 1.0])
    assert float(schedule(cfg, 3.0)(50)) == 3.0  # another peak, the same shape
