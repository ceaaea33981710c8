"""Mixtures of experts beside the plain sum over all experts, and which weights are read for what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pikojax.config import LlamaConfig, UserError
from pikojax.models import layers, llama, moe
from pikojax.quant.tree import quantize_tree


def config(**more) -> LlamaConfig:
    sizes = dict(d_model=32, n_layers=2, n_heads=4, vocab_size=16, context=64, d_hidden=32, n_experts=5, n_experts_used=2)
    return LlamaConfig(**{**sizes, **more})


def a_block(cfg: LlamaConfig) -> dict:
    """Weights large enough for the router to have opinions and the activation to bend."""
    return jax.tree.map(lambda leaf: leaf * 10, layers.init(llama.Block, cfg, jax.random.key(0)))


def routed(cfg: LlamaConfig, block: dict, x_BTD):
    return jax.jit(lambda block, x_BTD: layers.bind(llama.Block, cfg, block).experts(cfg, x_BTD))(block, x_BTD)


def plainly(cfg: LlamaConfig, block: dict, x_BTD) -> np.ndarray:
    """Every expert for every token, in float64."""
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), block["experts"])
    x_ND = np.asarray(x_BTD, np.float64).reshape(-1, cfg.d_model)
    silu = lambda x: x / (1 + np.exp(-x))
    mlp = lambda part, e: (silu(x_ND @ part["gate"]["kernel"][e]) * (x_ND @ part["up"]["kernel"][e])) @ part["down"]["kernel"][e]
    p_NE = np.exp(x_ND @ weights["router"])
    p_NE /= p_NE.sum(axis=1, keepdims=True)
    kept_NE = np.where(p_NE >= np.sort(p_NE, axis=1)[:, -cfg.n_experts_used, None], p_NE, 0)
    kept_NE /= kept_NE.sum(axis=1, keepdims=True) if cfg.norm_topk else 1
    y_ND = sum(kept_NE[:, e, None] * mlp(weights, e) for e in range(cfg.n_experts))
    if cfg.d_shared is not None:
        shared = weights["shared"]
        y_ND += mlp(shared, ...) / (1 + np.exp(-x_ND @ shared["weight"]))
    return y_ND.reshape(x_BTD.shape)


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (4, 33)])
@pytest.mark.parametrize("more", [{}, dict(n_experts=3, n_experts_used=1, norm_topk=False), dict(n_experts=4, n_experts_used=4), dict(d_shared=24, d_expert=16)])
def test_the_k_best_of_all_experts_are_summed(shape, more):
    cfg = config(**more)
    block, x_BTD = a_block(cfg), jax.random.normal(jax.random.key(1), (*shape, cfg.d_model))
    assert np.abs(np.asarray(routed(cfg, block, x_BTD)) - (wanted := plainly(cfg, block, x_BTD))).max() < 1e-5 * max(1, np.abs(wanted).max())


def test_no_token_is_dropped_when_all_want_the_same_experts():
    cfg = config(n_experts=8)
    block = a_block(cfg)
    x_BTD = jnp.abs(jax.random.normal(jax.random.key(1), (2, 50, cfg.d_model)))
    block["experts"]["router"] = jnp.zeros((cfg.d_model, 8)).at[:, 6].set(1.0).at[:, 2].set(0.9)
    assert np.abs(np.asarray(routed(cfg, block, x_BTD)) - (wanted := plainly(cfg, block, x_BTD))).max() < 1e-5 * np.abs(wanted).max()


def test_one_token_reads_its_own_experts_alone():
    cfg = config(n_experts=7)
    block, x_BTD = a_block(cfg), jax.random.normal(jax.random.key(1), (1, 1, cfg.d_model))
    weights_NK, experts_NK = moe.route(cfg, x_BTD[0] @ block["experts"]["router"])
    used_J, token_JR, _ = moe.by_expert(weights_NK, experts_NK, cfg.n_experts)
    assert sorted(used_J.tolist()) == sorted(experts_NK[0].tolist()) and token_JR.shape == (cfg.n_experts_used, 1)
    others = np.array([e for e in range(7) if e not in used_J.tolist()])
    spoiled = {**block, "experts": {**block["experts"], "down": {"kernel": block["experts"]["down"]["kernel"].at[others].set(jnp.nan)}}}
    assert np.array_equal(np.asarray(routed(cfg, spoiled, x_BTD)), np.asarray(routed(cfg, block, x_BTD)))


init = jax.jit(llama.init, static_argnums=0)  # one program in place of one for each operation


@pytest.mark.slow
def test_training_reaches_every_weight():
    cfg = config(n_experts=3, d_shared=24)
    params = init(cfg, jax.random.key(0))
    assert jax.tree.structure(llama.axes(cfg), is_leaf=lambda x: isinstance(x, tuple)) == jax.tree.structure(params)
    tokens_BT = jax.random.randint(jax.random.key(1), (4, 24), 0, 16)

    def loss(params):
        logits_BTV = llama.forward(cfg, params, tokens_BT)[0].logits
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits_BTV[:, :-1]), tokens_BT[:, 1:, None], axis=-1))

    loss, gradients = jax.jit(loss), jax.jit(jax.grad(loss))(params)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradients))
    step = jax.tree.map(lambda leaf, gradient: leaf - 0.1 * gradient, params, gradients)
    falls = float(loss(params) - loss(step))
    steepness = 0.1 * sum(float(jnp.sum(jnp.square(leaf))) for leaf in jax.tree.leaves(gradients))
    assert 0.8 * steepness < falls < 1.1 * steepness  # a short step falls by as much as the gradient says


@pytest.mark.parametrize("form", [pytest.param("stacked", marks=pytest.mark.slow), "unstacked"])
def test_quantized_experts_are_the_product_with_their_values(form):
    cfg = config(n_experts=3)
    params = jax.tree.map(lambda leaf: leaf * 3, init(cfg, jax.random.key(0)))
    quantized = quantize_tree(layers.unstack(params) if form == "unstacked" else params, "int8_g32")
    one = quantized["blocks"][0] if form == "unstacked" else quantized["blocks"]
    assert not isinstance(one["experts"]["down"]["kernel"], jax.Array) and isinstance(one["experts"]["router"], jax.Array)
    logits = jax.jit(lambda params, tokens_BT: llama.forward(cfg, params, tokens_BT)[0].logits)
    tokens_BT = jax.random.randint(jax.random.key(1), (2, 9), 0, 16)
    assert np.mean(np.square(logits(quantized, tokens_BT) - (wanted := logits(params, tokens_BT)))) < 1e-3 * np.mean(np.square(wanted))


@pytest.mark.parametrize("more, part", [(dict(n_experts_used=6), "n_experts_used = 6 of n_experts = 5"), (dict(n_experts=0), "n_experts = 0; give 1 or more"), (dict(mlp_bias=True), "mlp_bias"),
                                        (dict(d_expert=0), "d_expert = 0"), (dict(d_shared=-1), "d_shared = -1")])  # fmt: skip
def test_what_cannot_be_is_refused(more, part):
    with pytest.raises(UserError, match=part):
        config(**more)
