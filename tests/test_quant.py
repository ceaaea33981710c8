"""Whole models quantized: which parameters, what the report says of them, and that a quantized GPT writes and evaluates as a float one does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from pikojax.config import GPTConfig, UserError
from pikojax.infer.generate import generate
from pikojax.models import catalog, layers
from pikojax.qtensor import FORMATS, QTensor, dequantize, quantize
from pikojax.quant import Rule, compare, quantize_tree, rules_for, table
from pikojax.text import train_char
from pikojax.train.step import compute_params

GPT = catalog["gpt"]
TOKENIZER = train_char(["abcdefghijklmnopqrstuvwxyz .\n"])
SHAPE = dict(d_model=36, n_layers=2, n_heads=2, d_hidden=80, context=24, vocab_size=TOKENIZER.vocab_size)  # no block divides it
CONFIGS = {"tied": GPTConfig(**SHAPE, bias=True), "untied": GPTConfig(**SHAPE, tie=False, positions="rope", norm="rmsnorm")}
forward = jax.jit(GPT.forward, static_argnums=0)
is_qtensor = lambda leaf: isinstance(leaf, QTensor)


@functools.cache
def params_of(name):
    """Every parameter random and loud, so that every matrix matters to the logits."""
    cfg, rng = CONFIGS[name], np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: GPT.init(cfg, jax.random.key(0)))
    return jax.tree.map(lambda shape: jnp.asarray(rng.normal(0, 0.3, shape.shape), jnp.float32), shapes)


def formats_of(params) -> dict:
    return {line.path: line.format for line in compare(params_of("tied"), params)}


def test_the_usual_rules_take_matrices_and_leave_the_rest():
    found = formats_of(quantize_tree(params_of("tied"), "int4_g32", smallest=0))
    matrices = {f"blocks/{name}/kernel": "int4_g32" for name in ("qkv", "out", "up", "down")}
    assert {path: format for path, format in found.items() if format != "float32"} == {"embed": "int8_g32", **matrices}
    assert "positions" in found and "blocks/qkv/bias" in found and "blocks/norm1/scale" in found


def test_the_first_rule_that_fits_decides():
    rules = [Rule("blocks/down/*", "q6_k"), Rule("blocks/up/*", None), Rule("blocks/*", "q4_0"), Rule("embed", "nf4", table=True)]
    found = formats_of(quantize_tree(params_of("tied"), rules, smallest=0))
    kinds = {name: found[f"blocks/{name}/kernel"] for name in ("qkv", "out", "up", "down")}
    assert kinds == {"qkv": "q4_0", "out": "q4_0", "up": "float32", "down": "q6_k"}
    assert (
        found["embed"] == "nf4" and found["blocks/norm1/scale"] == found["blocks/qkv/bias"] == "float32"
    )  # in a stack they have two axes


def test_what_is_small_or_quantized_already_stays():
    params = params_of("untied")
    quantized = quantize_tree(params, "int8")
    assert quantize_tree(quantized, "int4_g32")["blocks"]["up"]["kernel"].format == "int8"
    assert is_qtensor(quantized["head"]) and not is_qtensor(
        quantize_tree(params, "int8", smallest=36 * 36 + 1)["blocks"]["out"]["kernel"]
    )
    floats = quantize_tree(params, rules_for("int8", embeddings=None, head=None))
    assert not is_qtensor(floats["embed"]) and not is_qtensor(floats["head"]) and is_qtensor(floats["blocks"]["up"]["kernel"])


def test_unstacked_blocks_are_quantized_alike():
    params = params_of("tied")
    stacked = layers.unstack(quantize_tree(params, "int4_g32"))["blocks"]
    apart = quantize_tree(layers.unstack(params), "int4_g32")["blocks"]
    for one, other in zip(jax.tree.leaves(stacked), jax.tree.leaves(apart), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "rules, message",
    [
        ("int5", "choose from int8, "),
        ([Rule("embed", "int5")], "choose from int8, "),
        ([Rule("block/*", "int8")], "no parameter is decided by 'block/.'; the paths are blocks/down/bias, "),
        ([Rule("*", "int8"), Rule("embed", "q8_0")], "no parameter is decided by 'embed'"),
    ],
)
def test_rules_that_say_nothing_are_refused(rules, message):
    with pytest.raises(UserError, match=message):
        quantize_tree(params_of("tied"), rules)


def test_the_report_counts_bytes_padding_and_errors():
    params = params_of("tied")
    quantized = quantize_tree(params, "q4_0", smallest=0)
    lines = {line.path: line for line in compare(params, quantized)}
    up = lines["blocks/up/kernel"]
    assert (up.shape, up.format, up.n_padded) == ((2, 36, 80), "q4_0", 28)
    assert (up.bytes_before, up.bytes_after) == (2 * 36 * 80 * 4, 2 * 80 * 2 * 18)
    off = np.asarray(dequantize(quantized["embed"])).T - params["embed"]
    assert lines["embed"].error == pytest.approx(float(np.sqrt((off**2).sum() / (params["embed"] ** 2).sum())), rel=1e-4)
    assert lines["norm/scale"].error == 0 and lines["norm/scale"].bytes_after == 36 * 4
    text = table(list(lines.values()))
    assert "2×36×80 (+28)" in text and text.splitlines()[-1].split()[0] == "all"


def test_a_square_table_is_compared_as_the_table_it_is():
    params = {"embed": jnp.asarray(np.random.default_rng(0).normal(size=(64, 64)), jnp.float32)}
    as_table, as_matrix = [Rule("embed", "int8", table=True)], [Rule("embed", "int8")]
    for given, said in (("int8", "int8"), (as_table, as_table), (as_matrix, as_matrix)):
        assert compare(params, quantize_tree(params, given), said)[0].error < 0.02
    with pytest.raises(UserError, match="give compare the rules"):
        compare({"embed": jnp.ones((64, 32))}, quantize_tree({"embed": jnp.ones((64, 32))}, as_matrix))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("format", ["q4_k", *(pytest.param(format, marks=pytest.mark.slow) for format in ("int8", "int4a_g32"))])
def test_a_quantized_gpt_is_the_gpt_of_its_rounded_weights(format, name):
    """In a scan, unstacked, and through a cache, a piece at a time: the logits of the floats that the QTensors stand for."""
    check_model(format, name)


@pytest.mark.exhaustive
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_runs_a_gpt(format):
    for name in CONFIGS:
        check_model(format, name)


def check_model(format, name):
    cfg, params = CONFIGS[name], params_of(name)
    quantized = quantize_tree(
        params, [Rule("embed", format, True), *([] if cfg.tie else [Rule("head", format)]), Rule("blocks/*kernel", format)], 0
    )
    rounded = jax.tree.map(lambda leaf: dequantize(leaf) if is_qtensor(leaf) else leaf, quantized, is_leaf=is_qtensor)
    rounded["embed"] = rounded["embed"].T
    tokens = np.random.default_rng(1).integers(0, cfg.vocab_size, (2, 12)).astype(np.int32)
    wanted = np.asarray(forward(cfg, rounded, tokens)[0].logits)
    floats = np.asarray(forward(cfg, params, tokens)[0].logits)
    scale = np.abs(floats).max()
    np.testing.assert_allclose(forward(cfg, quantized, tokens)[0].logits, wanted, atol=1e-4 * scale)
    apart = layers.unstack(quantized)
    cache, found = GPT.new_cache(cfg, 2, 16), []
    for piece in (tokens[:, :7], tokens[:, 7:8], tokens[:, 8:]):
        out, cache = forward(cfg, apart, piece, cache)
        found.append(np.asarray(out.logits))
    np.testing.assert_allclose(np.concatenate(found, axis=1), wanted, atol=1e-4 * scale)
    off = np.sqrt(np.mean((wanted - floats) ** 2) / np.mean(floats**2))
    assert 0 < off < (0.1 if FORMATS[format].bits_per_weight > 6 else 0.6), off


def test_a_quantized_gpt_writes():
    cfg, params = CONFIGS["tied"], params_of("tied")
    options = dict(max_tokens=12, temperature=0.0)
    plain = generate(GPT, cfg, params, TOKENIZER, "once", **options).text
    quantized = generate(GPT, cfg, quantize_tree(params, "int8", smallest=0), TOKENIZER, "once", **options).text
    assert len(quantized) == 12 and quantized[:3] == plain[:3]


def test_the_arithmetic_leaves_packed_numbers_alone():
    cfg = tiny.config(model=dict(d_model=32, n_heads=2), dtype="bfloat16")
    params = quantize_tree(jax.jit(catalog["gpt"].init, static_argnums=0)(cfg.model, jax.random.key(0)), "int4_g32", smallest=0)
    converted = compute_params(cfg, params)
    assert converted["embed"].data.dtype == jnp.int8 and converted["embed"].scales.dtype == jnp.float16
    assert converted["norm"]["scale"].dtype == jnp.bfloat16


def test_a_linear_layer_over_a_qtensor_has_a_gradient_to_its_input():
    w = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    q, x = quantize(w, "int4_g32"), jnp.ones((2, 3, 40))
    y, back = jax.vjp(lambda x: layers.linear(x, q), x)
    assert y.shape == (2, 3, 6)
    expected = jnp.broadcast_to(jnp.sum(dequantize(q), axis=1), x.shape)
    np.testing.assert_allclose(back(jnp.ones_like(y))[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt", "llama"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_quantized_embedding_comes_in_the_dtype_of_the_stream(name, dtype):
    cfg = catalog[name].config_class(d_model=32, n_layers=1, n_heads=2, d_hidden=64, vocab_size=40, context=8)

    def hidden():
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), catalog[name].init(cfg, jax.random.key(0)))
        return catalog[name].forward(cfg, quantize_tree(params, "int8", smallest=0), jnp.zeros((1, 3), jnp.int32))[0].hidden

    assert jax.eval_shape(hidden).dtype == dtype
