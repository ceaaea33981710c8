"""The model `gpt`: parity with PyTorch, causality by gradients, and what each switch means."""

import dataclasses
import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pikojax.config import Config, GPTConfig, OptimConfig, TrainConfig
from pikojax.data.batches import Batch
from pikojax.kernels import attention
from pikojax.kernels.activation import gelu
from pikojax.models import catalog, layers
from pikojax.models.sharding import count_parameters
from pikojax.train.loss import mean_cross_entropy
from pikojax.train.optim import make_optimizer
from pikojax.train.step import TrainState, make_step

GPT = catalog["gpt"]
PRESETS = {name: dict(values) for name, values in GPTConfig.PRESETS.items()}
SMALL = dict(d_model=24, n_layers=2, n_heads=4, vocab_size=19, context=12)
init = jax.jit(GPT.init, static_argnums=0)
forward = jax.jit(GPT.forward, static_argnums=0)


def config(**changes) -> GPTConfig:
    return GPTConfig(**{**SMALL, **changes})


def start(cfg, seed=0):
    return init(cfg, jax.random.key(seed))


def random_params(cfg, seed=0, std=0.3):
    """Every leaf random: nothing stays at the zero or one that it starts from. (And much faster than compiling `init`.)"""
    shapes, rng = jax.eval_shape(lambda: GPT.init(cfg, jax.random.key(0))), np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, std, leaf.shape), jnp.float32), shapes)


def random_tokens(cfg, batch=2, n_tokens=10, seed=1):
    return np.random.default_rng(seed).integers(0, cfg.vocab_size, (batch, n_tokens), np.int32)


def logits_of(cfg, params, tokens_BT, **options):
    return forward(cfg, params, tokens_BT, **options)[0].logits


def hidden_of(cfg, params, tokens_BT, **options):
    return np.asarray(forward(cfg, params, tokens_BT, **options)[0].hidden)


def silenced(params):
    """Blocks that add nothing to the stream."""
    for name in ("out", "down"):
        params = with_block(params, name, **jax.tree.map(jnp.zeros_like, params["blocks"][name]))
    return params


def with_block(params, name, **leaves):
    """`params` with the leaves of one block part replaced."""
    return {**params, "blocks": {**params["blocks"], name: {**params["blocks"][name], **leaves}}}


# ---------------------------------------------------------------- parity with PyTorch (golden/make_gpt_golden.py made the file)

VARIANTS = {"plain": {}, "bias": dict(bias=True), "untied": dict(tie=False)}
ROUNDING = 1e-5  # float32 rounds at 6e-8; a logit comes through some 20 sums of 12–48 terms and the norms' divisions


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "gpt.npz") as file:
        return dict(file)


def from_torch(golden, variant, kind):
    """PyTorch's names → ours. A torch linear weight is [out, in], ours [in, out]; ours are stacked over layers."""
    get = lambda name: golden[f"{variant}/{kind}/{name}"]
    has = lambda name: f"{variant}/{kind}/{name}" in golden

    def norm(name):
        return {"scale": get(f"{name}.weight")} | ({"bias": get(f"{name}.bias")} if has(f"{name}.bias") else {})

    def linear(name):
        return {"kernel": get(f"{name}.weight").T} | ({"bias": get(f"{name}.bias")} if has(f"{name}.bias") else {})

    def block(i):
        norms = {ours: norm(f"h.{i}.{theirs}") for ours, theirs in (("norm1", "ln_1"), ("norm2", "ln_2"))}
        return norms | {name: linear(f"h.{i}.{name}") for name in ("qkv", "out", "up", "down")}

    blocks = jax.tree.map(lambda *leaves: np.stack(leaves), *[block(i) for i in range(2)])
    stem = {"embed": get("wte.weight"), "positions": get("wpe.weight"), "norm": norm("ln_f")}
    head = {"head": get("head.weight").T} if has("head.weight") else {}
    return jax.tree.map(jnp.asarray, {**stem, **head, "blocks": blocks})


def golden_config(variant):
    return config(d_model=12, n_heads=3, vocab_size=17, **VARIANTS[variant])


def loss_of(params, cfg, tokens_BT):
    logits_BTV = logits_of(cfg, params, tokens_BT[:, :-1])
    return mean_cross_entropy(logits_BTV, tokens_BT[:, 1:])[0]


def assert_close(ours, theirs, relative):
    """Within `relative` of each tensor's largest magnitude: a sum's rounding goes with its terms, not with its result."""
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(theirs)]
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for path, a, b in zip(paths, jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=relative * np.abs(b).max(), err_msg=path)


@pytest.mark.parametrize("variant", ["plain", pytest.param("bias", marks=pytest.mark.slow), "untied"])
def test_logits_loss_and_every_gradient_are_those_of_pytorch(golden, variant):
    cfg, params, tokens_BT = golden_config(variant), from_torch(golden, variant, "weights"), golden["tokens"][0]
    assert_close(logits_of(cfg, params, tokens_BT[:, :-1]), golden[f"{variant}/logits"], ROUNDING)
    loss, grads = jax.jit(jax.value_and_grad(loss_of), static_argnums=1)(params, cfg, tokens_BT)
    np.testing.assert_allclose(loss, golden[f"{variant}/loss"], rtol=ROUNDING)
    expected = from_torch(golden, variant, "grads")
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    assert_close(grads, expected, ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_ten_adamw_steps_are_those_of_pytorch(golden, variant):
    cfg, params = golden_config(variant), from_torch(golden, variant, "weights")
    assert golden[f"{variant}/grad_norms"].max() > 1  # clipping has something to do
    optim = OptimConfig(lr=1e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, grad_clip=1.0, schedule="constant", warmup_steps=0)
    run = Config(model=cfg, optim=optim, train=TrainConfig(dtype="float32"))
    step, state = make_step(run, None), TrainState(jnp.int32(0), params, make_optimizer(run, GPT.axes(cfg)).init(params))
    facts = []
    for tokens_BT in golden["tokens"]:
        state, fact = step(state, Batch(tokens_BT[None, :, :-1], tokens_BT[None, :, 1:]))
        facts.append(fact)
    params = state.params
    np.testing.assert_allclose([fact["loss"] for fact in facts], golden[f"{variant}/losses"], rtol=1e-5)
    np.testing.assert_allclose([fact["grad_norm"] for fact in facts], golden[f"{variant}/grad_norms"], rtol=1e-4)
    # Adam divides a gradient by its own size: where it is small, its rounding error is no longer small beside it. A key's
    # bias is the extreme: it moves all scores of a query alike, so its true gradient is 0, and what Adam makes of the
    # rounding is noise (without effect on any logit). It is left out.
    expected, before = from_torch(golden, variant, "after"), from_torch(golden, variant, "weights")
    if cfg.bias:
        for tree in (params, expected):
            bias_LN = tree["blocks"]["qkv"]["bias"]
            tree["blocks"]["qkv"]["bias"] = bias_LN.at[:, cfg.d_model : 2 * cfg.d_model].set(0.0)
    assert_close(params, expected, 1e-4)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max() / jnp.abs(b).max(), expected, before)
    assert min(jax.tree.leaves(moved)) > 1e-3  # each tensor went ten times further than the tolerance, at the least


# ---------------------------------------------------------------- causality, by gradients


def influence(cfg, segments_T=None):
    """[t, s]: the largest |d (a mix of logits[t]) / d (the embedding that stands at s)|. Each position has a token of its own."""
    params, T = random_params(cfg), cfg.context
    tokens_BT = jnp.arange(T, dtype=jnp.int32)[None]
    segments_BT = None if segments_T is None else jnp.asarray(segments_T, jnp.int32)[None]
    mix_V = jnp.asarray(np.random.default_rng(7).normal(size=cfg.vocab_size), jnp.float32)

    def mixed_T(embed):
        return logits_of(cfg, {**params, "embed": embed}, tokens_BT, segments_BT=segments_BT)[0] @ mix_V

    return np.abs(np.asarray(jax.jit(jax.jacrev(mixed_T))(params["embed"]))).max(axis=-1)[:, :T]


@pytest.mark.parametrize("preset", PRESETS)
def test_no_logit_depends_on_a_later_token(preset):
    influence_TS = influence(config(**PRESETS[preset], tie=False))
    sees_TS = np.tri(SMALL["context"], dtype=bool)
    assert (influence_TS[~sees_TS] == 0).all()
    assert (influence_TS[sees_TS] > 1e-6).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_packed_documents_do_not_see_each_other(preset):
    segments_T = np.asarray([4, 4, 4, 4, 1, 1, 1, 9, 9, 9, 9, 2])
    influence_TS = influence(config(**PRESETS[preset], tie=False), segments_T)
    sees_TS = np.tri(SMALL["context"], dtype=bool) & (segments_T[:, None] == segments_T[None, :])
    assert (influence_TS[~sees_TS] == 0).all()
    assert (influence_TS[sees_TS] > 1e-6).all()


# ---------------------------------------------------------------- what the switches mean


def test_grouped_heads_are_full_heads_with_repeated_keys_and_values():
    grouped, full = config(**PRESETS["modern"], n_kv_heads=2), config(**PRESETS["modern"])
    params, C = random_params(grouped), 24 // 4
    q, k, v = np.split(params["blocks"]["qkv"]["kernel"], [4 * C, 6 * C], axis=-1)
    twice = lambda x_LDN: np.repeat(x_LDN.reshape(2, 24, 2, C), 2, axis=2).reshape(2, 24, 4 * C)
    repeated = with_block(params, "qkv", kernel=np.concatenate([q, twice(k), twice(v)], axis=-1))
    tokens_BT = random_tokens(grouped)
    expected = logits_of(full, repeated, tokens_BT)
    np.testing.assert_allclose(logits_of(grouped, params, tokens_BT), expected, atol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rope", "none"])
def test_only_without_positions_is_order_lost(positions):
    cfg = config(n_layers=1, positions=positions)
    params, tokens_BT = random_params(cfg), random_tokens(cfg)
    shuffled_BT = np.concatenate([tokens_BT[:, -2::-1], tokens_BT[:, -1:]], axis=1)
    gap = jnp.abs(logits_of(cfg, params, tokens_BT) - logits_of(cfg, params, shuffled_BT))[:, -1].max()
    assert gap < 1e-5 if positions == "none" else gap > 1e-3


def test_rotary_scores_depend_on_the_distance_alone():
    q_BTHC, k_BTHC = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    at = lambda x_BTHC, position: layers.rope(x_BTHC, jnp.full((1, 1), position, jnp.int32), 100.0)
    score = lambda p, s: float(jnp.sum(at(q_BTHC, p) * at(k_BTHC, s)))
    assert score(5, 2) == pytest.approx(score(103, 100), abs=1e-4)
    assert abs(score(5, 2) - score(5, 3)) > 1e-3


@pytest.mark.parametrize("norm, mean_is_0, square_is_1", [("layernorm", True, True), ("rmsnorm", False, True), ("none", False, False)])
def test_the_norm_decides_mean_and_scale(norm, mean_is_0, square_is_1):
    cfg = config(norm=norm)
    params = random_params(cfg)
    params |= {"norm": {"scale": jnp.ones(cfg.d_model)}} if norm == "layernorm" else {}
    hidden_BTD = hidden_of(cfg, params, random_tokens(cfg))
    assert (np.abs(hidden_BTD.mean(axis=-1)).max() < 1e-5) == mean_is_0
    assert (np.abs(np.square(hidden_BTD).mean(axis=-1) - 1).max() < 1e-3) == square_is_1


def test_without_residuals_nothing_passes_silent_blocks():
    for residual in (True, False):
        cfg = config(residual=residual, norm="none")
        assert (hidden_of(cfg, silenced(random_params(cfg)), random_tokens(cfg)) == 0).all() == (not residual)


def test_softcap_bends_the_logits():
    plain, capped = config(), config(softcap=2.0)
    params, tokens_BT = random_params(plain, std=1.0), random_tokens(plain)
    logits_BTV = logits_of(plain, params, tokens_BT)
    assert jnp.abs(logits_BTV).max() > 4
    np.testing.assert_allclose(logits_of(capped, params, tokens_BT), 2 * jnp.tanh(logits_BTV / 2), atol=1e-5)


def test_normalized_queries_and_keys_forget_their_scale():
    tokens_BT = random_tokens(config())
    for qk_norm in (True, False):
        cfg = config(qk_norm=qk_norm, norm_eps=1e-12)
        params = random_params(cfg)
        louder = params["blocks"]["qkv"]["kernel"].at[..., : 2 * cfg.d_model].multiply(3.0)
        scaled = with_block(params, "qkv", kernel=louder)
        gap = jnp.abs(logits_of(cfg, params, tokens_BT) - logits_of(cfg, scaled, tokens_BT)).max()
        assert gap < 1e-3 if qk_norm else gap > 1e-2


def test_activations_are_three_different_functions():
    params, tokens_BT = random_params(config()), random_tokens(config())
    exact, tanh, relu2 = (logits_of(config(activation=a), params, tokens_BT) for a in ("gelu", "gelu_tanh", "relu2"))
    assert 1e-6 < jnp.abs(exact - tanh).max() < 1e-2 < jnp.abs(exact - relu2).max()


def assert_dropped(dropped, kept, rate):
    assert abs((dropped == 0).mean() - rate) < 0.02
    np.testing.assert_allclose(dropped[dropped != 0], kept[dropped != 0] / (1 - rate), rtol=1e-5)


def test_dropout_only_with_a_key_and_at_its_rate():
    cfg = config(dropout=0.25, norm="none")
    params, tokens_BT = silenced(random_params(cfg)), random_tokens(cfg, batch=64)
    kept = hidden_of(cfg, params, tokens_BT)
    np.testing.assert_array_equal(kept, hidden_of(dataclasses.replace(cfg, dropout=0.0), params, tokens_BT))
    dropped, again, other = (hidden_of(cfg, params, tokens_BT, train_key=jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(dropped, again)
    assert (dropped != other).any()
    assert_dropped(dropped, kept, 0.25)


@pytest.mark.parametrize("silent", ["out", "down"])
def test_dropout_acts_on_what_each_half_of_a_block_adds(silent):
    cfg = config(dropout=0.25, norm="none", n_layers=1, bias=True)
    params = random_params(cfg)
    params = with_block(params, silent, **jax.tree.map(jnp.zeros_like, params["blocks"][silent]))
    params |= {name: jnp.zeros_like(params[name]) for name in ("embed", "positions")}  # only the biases speak
    tokens_BT = random_tokens(cfg, batch=64)
    dropped = hidden_of(cfg, params, tokens_BT, train_key=jax.random.key(1))
    assert_dropped(dropped, hidden_of(cfg, params, tokens_BT), 0.25)


# ---------------------------------------------------------------- the start, the tree, the compiler


def test_the_start_is_nanogpts():
    cfg = config(d_model=96, n_layers=8, vocab_size=300, context=200, bias=True, tie=False)
    params = start(cfg)
    onto_stream = 0.02 / math.sqrt(2 * 8)
    blocks = params["blocks"]
    wanted = [(params[name], 0.02) for name in ("embed", "positions", "head")]
    wanted += [(blocks[name]["kernel"], 0.02) for name in ("qkv", "up")] + [(blocks[name]["kernel"], onto_stream) for name in ("out", "down")]
    for leaf, std in wanted:
        assert abs(float(leaf.mean())) < 5 * std / math.sqrt(leaf.size)
        assert float(leaf.std()) == pytest.approx(std, rel=0.03)
    for norm in (params["norm"], blocks["norm1"], blocks["norm2"]):
        assert (norm["scale"] == 1).all() and (norm["bias"] == 0).all()
    assert all((blocks[name]["bias"] == 0).all() for name in ("qkv", "out", "up", "down"))
    assert not jnp.array_equal(blocks["up"]["kernel"][0], blocks["up"]["kernel"][1])  # no two layers start alike


def test_zero_init_makes_the_blocks_silent_at_the_start():
    blocks = start(config(**PRESETS["modern"]))["blocks"]
    assert all((blocks[name]["kernel"] == 0).all() for name in ("out", "down"))
    assert all((blocks[name]["kernel"] != 0).any() for name in ("qkv", "up"))


def test_lightllm_has_its_10_745_088_parameters():
    shapes = jax.eval_shape(lambda: GPT.init(GPTConfig(vocab_size=65), jax.random.key(0)))
    assert count_parameters(shapes) == 65 * 384 + 256 * 384 + 6 * (12 * 384**2 + 2 * 384) + 384 == 10_745_088


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_are_a_plain_dict_with_axes_for_every_dimension(preset):
    cfg = config(**PRESETS[preset])
    params = jax.eval_shape(lambda: GPT.init(cfg, jax.random.key(0)))

    def check(node, names):
        if type(node) is dict:
            assert type(names) is dict and node.keys() == names.keys()
            return all(check(node[key], names[key]) for key in node)
        assert type(node) is jax.ShapeDtypeStruct and node.dtype == jnp.float32 and len(names) == node.ndim
        return True

    assert check(params, GPT.axes(cfg))
    assert all(leaf.shape[0] == cfg.n_layers for leaf in jax.tree.leaves(params["blocks"]))


def test_forward_compiles_once():
    cfg, traces = config(), []

    def counted(params, tokens_BT):
        traces.append(1)
        return GPT.forward(cfg, params, tokens_BT)[0].logits

    forward_once = jax.jit(counted)
    for seed in range(3):
        forward_once(random_params(cfg, seed), random_tokens(cfg, seed=seed))
    assert len(traces) == 1


def test_blocks_stacked_or_one_by_one_are_the_same_model():
    cfg = config(**PRESETS["modern"])
    params, tokens_BT = random_params(cfg), random_tokens(cfg)
    one_by_one = logits_of(cfg, layers.unstack(params), tokens_BT)
    np.testing.assert_allclose(logits_of(cfg, params, tokens_BT), one_by_one, atol=1e-5)


def test_bfloat16_weights_give_float32_logits_near_the_exact_ones():
    cfg = config()
    params, tokens_BT = random_params(cfg), random_tokens(cfg)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    out = forward(cfg, rounded, tokens_BT)[0]
    assert out.logits.dtype == jnp.float32 and out.hidden.dtype == jnp.bfloat16
    exact = logits_of(cfg, params, tokens_BT)
    assert 1e-4 < jnp.abs(out.logits - exact).max() < 0.05 * jnp.abs(exact).max()


def test_gelu_in_bfloat16_keeps_its_left_tail():
    x = jnp.asarray([-4.0, -3.5, -3.0, -1.0, 0.0, 2.0], jnp.bfloat16)
    exact = jax.nn.gelu(x.astype(jnp.float32), approximate=False)
    y, pull = jax.vjp(gelu, x)
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=0.01)
    slope = jax.vmap(jax.grad(partial(jax.nn.gelu, approximate=False)))(x.astype(jnp.float32))
    np.testing.assert_allclose(pull(jnp.ones_like(x))[0].astype(jnp.float32), slope, rtol=0.01, atol=1e-4)


@pytest.mark.parametrize("rows, segmented", [(6, True), pytest.param(6, False, marks=pytest.mark.exhaustive), pytest.param(5, False, marks=pytest.mark.slow)])
def test_attention_in_pieces_is_attention(rows, segmented, monkeypatch):
    monkeypatch.setenv("PIKOJAX_KERNELS", "reference")  # the fused kernel has tests of its own
    keys = jax.random.split(jax.random.key(0), 4)
    q, do = (jax.random.normal(key, (rows, 9, 4, 8)) for key in keys[:2])
    k, v = (jax.random.normal(key, (rows, 9, 2, 8)) for key in keys[2:])
    segments = jnp.cumsum(jnp.arange(9) % 4 == 3)[None, :].repeat(rows, 0) if segmented else None

    def forward_and_back():
        out, pull = jax.vjp(lambda q, k, v: attention.causal_attention(q, k, v, segments), q, k, v)
        return out, *pull(do)

    whole = forward_and_back()
    monkeypatch.setattr(attention, "BYTES_IN_CACHE", 4 * 4 * 9 * 9)  # a row at a time
    assert attention._pieces(rows, 4 * 9 * 9) == rows
    for a, b in zip(whole, forward_and_back(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
