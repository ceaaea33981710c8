"""Norms whose bits hang on the row alone, and what rests on them: a text read in pieces leaves the cache of the text read whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pikojax.config import GPTConfig
from pikojax.infer import decode
from pikojax.kernels import norm, prepare_tree
from pikojax.llama_config import LlamaConfig
from pikojax.models import catalog, layers
from pikojax.native import build
from pikojax.quant import quantize_tree

needs_native = pytest.mark.skipif(build.find_compiler()[0] is None or jax.default_backend() != "cpu", reason="no native norm here")
MODELS = {
    "gpt": GPTConfig(**GPTConfig.PRESETS["modern"], d_model=128, n_layers=4, n_heads=4, vocab_size=60, context=128),
    "llama": LlamaConfig(d_model=96, n_layers=3, n_heads=3, n_kv_heads=1, d_hidden=96, vocab_size=60, context=128, qk_norm=True),
    "mixture": LlamaConfig(d_model=64, n_layers=2, n_heads=2, n_kv_heads=1, d_hidden=96, vocab_size=60, context=128, n_experts=64, n_experts_used=4, d_expert=32),
}


@needs_native
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("width", [1, 7, 128, 172, 2048])
def test_it_is_the_definition_and_a_row_has_the_same_bits_in_any_company(path, width, centered):
    x = (3 * np.random.default_rng(0).normal(size=(200, width)) + 1).astype(np.float32)
    run = jax.jit(lambda x: norm.normalized(x, 1e-5, centered))
    assert "pikojax_norm" in jax.jit(lambda x: norm.normalized(x, 1e-5, centered)).lower(x).as_text()
    away = x - x.mean(axis=1, keepdims=True, dtype=np.float64) if centered else x.astype(np.float64)
    whole = np.asarray(run(x))
    np.testing.assert_allclose(whole, away / np.sqrt((away**2).mean(axis=1, keepdims=True) + 1e-5), rtol=1e-5, atol=1e-5 if width > 1 else 1e-3)
    for n in (1, 5, 16, 128):
        assert np.array_equal(np.asarray(run(x[:n])), whole[:n])
    assert norm.normalized(jnp.zeros((0, width)), 1e-5, centered).shape == (0, width)
    np.testing.assert_allclose(norm.reference(jnp.asarray(x), 1e-5, centered), whole, rtol=1e-4, atol=1e-4 if width > 1 else 1e-3)


@needs_native
def test_softmax_of_a_row_has_the_same_bits_in_any_company(path):
    x = (5 * np.random.default_rng(0).normal(size=(200, 60))).astype(np.float32)
    run = jax.jit(norm.softmax)
    whole = np.asarray(run(x))
    wanted = np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(1, keepdims=True)
    np.testing.assert_allclose(whole, wanted, rtol=1e-5)
    for n in (1, 5, 16, 128):
        assert np.array_equal(np.asarray(run(x[:n])), whole[:n])
    np.testing.assert_array_equal(run(np.asarray([[-np.inf, 0, 0], [np.nan, 0, 0]], np.float32))[0], [0, 0.5, 0.5])


@needs_native
def test_it_is_for_decoding_alone():
    x = jnp.ones((2, 8))
    text = lambda f: jax.jit(f).lower(x).as_text()  # noqa: E731
    assert "pikojax_norm" not in text(layers.rms_norm)
    with layers.rows_alone():
        assert "pikojax_norm" in text(lambda x: layers.rms_norm(x))
        assert "pikojax_norm" in text(lambda x: layers.layer_norm(x))
    assert "pikojax_norm" not in text(lambda x: layers.rms_norm(x))


@needs_native
@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name == "llama" else pytest.mark.slow) for name in MODELS])
def test_packed_weights_and_an_int8_cache_see_no_difference_between_whole_and_in_pieces(name):
    """Rounding to eight bits makes a difference of one last bit a difference of one in 127, here and there."""
    cfg, model = MODELS[name], catalog["gpt" if name == "gpt" else "llama"]
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(cfg, jax.random.key(0)))
    drawn = jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.2, leaf.shape), jnp.float32), shapes)
    params = decode.ready(prepare_tree(quantize_tree(drawn, "q4_0")))
    for _ in range(8):
        tokens_BT, found = random.integers(0, 60, (1, 100)).astype(np.int32), []
        for block in (256, 16, 32):
            cache = model.new_cache(cfg, 1, 128, "int8")
            logits_BV, cache = decode.prefill(model, cfg, params, cache, tokens_BT, np.full(1, 100), block)
            found.append([np.asarray(logits_BV), *(np.asarray(leaf)[:, :, :, :100] for leaf in jax.tree.leaves((cache.k_LBGSC, cache.v_LBGSC)))])
        for other in found[1:]:
            for a, b in zip(found[0], other, strict=True):
                np.testing.assert_array_equal(a, b)
