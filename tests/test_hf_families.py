"""Models beside the Llama family, from Hugging Face folders: what transformers computes, with a cache and without, stacked and not."""

import hf_folders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf_folders import in_pieces, saved, write_folder

from pikojax.cli.main import main
from pikojax.config import UserError, load_config
from pikojax.formats import huggingface
from pikojax.models import bert, catalog

SAVED, ABOUT = saved("hf_families.npz")
DECODERS = ("gpt2", "gpt2 untied", "mixtral", "qwen2_moe", "qwen3_moe")


FAST = ("gpt2", "qwen2_moe")


@pytest.mark.parametrize("case", [case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in DECODERS])
def test_logits_are_those_of_transformers(case, tmp_path):
    cfg, params = huggingface.read(write_folder(tmp_path / "m", ABOUT[case]))
    tokens_BT, wanted = jnp.asarray(SAVED["tokens"]), SAVED[case]
    whole = jax.jit(lambda params, tokens_BT: catalog[cfg.name].forward(cfg, params, tokens_BT)[0].logits)
    assert np.abs(wanted).max() > 1  # there is something to get wrong
    for n_tokens in (7, 40) if case in FAST else (40,):  # what comes later changes nothing
        assert np.abs(np.asarray(whole(params, tokens_BT[:, :n_tokens])) - wanted[:, :n_tokens]).max() < 1e-4
    if case in FAST:
        stacked = {**params, "blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *params["blocks"])}
        assert np.abs(np.asarray(whole(stacked, tokens_BT)) - wanted).max() < 1e-4
    assert np.abs(in_pieces(cfg, params, tokens_BT, (19, 1, 1, 19)) - wanted).max() < 1e-4  # two programs


# ---------------------------------------------------------------- GPT-2


def test_the_published_folder_of_gpt2_has_no_prefix_and_has_masks(tmp_path):
    def as_published(config, tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors |= {f"h.{layer}.attn.bias": np.ones((1, 1, 64, 64), np.float32) for layer in range(3)}

    found = huggingface.read(write_folder(tmp_path / "published", ABOUT["gpt2"], as_published))
    wanted = huggingface.read(write_folder(tmp_path / "m", ABOUT["gpt2"]))
    assert found[0] == wanted[0] and all(map(np.array_equal, jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1])))


@pytest.mark.parametrize("values, part", [
    (dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx = True"), (dict(scale_attn_weights=False), "scale_attn_weights"),
    (dict(activation_function="relu"), "'relu'"), (dict(add_cross_attention=True, wobble=1), "wobble = 1"), (dict(n_embd=None), "n_embd"),
    (dict(n_layer=4), "lacks the tensor h.3."), (dict(n_inner=7), "wants"), (dict(n_head=5), "n_heads = 5"),
])  # fmt: skip
def test_what_gpt2_is_not_is_refused_by_name(values, part, tmp_path):
    with pytest.raises(UserError) as caught:
        huggingface.read(write_folder(tmp_path / "m", ABOUT["gpt2"], lambda config, tensors: config.update(values)))
    assert part in str(caught.value) and "\n" not in str(caught.value)


# ---------------------------------------------------------------- BERT


def encoded(cfg, params, tokens_BT, mask_BT=None):
    run = jax.jit(lambda params: bert.forward(cfg, params, tokens_BT, segments_BT=mask_BT, types_BT=jnp.asarray(SAVED["types"])[:, : tokens_BT.shape[1]]))
    return run(params)[0]


@pytest.mark.parametrize("case", ["bert", pytest.param("bert of masked words", marks=pytest.mark.slow)])
def test_hidden_states_are_those_of_transformers(case, tmp_path):
    cfg, params = huggingface.read(write_folder(tmp_path / "m", ABOUT[case]))
    tokens_BT, mask_BT, wanted = (jnp.asarray(SAVED[name]) for name in ("tokens", "mask", case))
    out = encoded(cfg, params, tokens_BT, mask_BT)
    assert catalog["bert"].config_class is type(cfg) and out.logits is None and jnp.abs(wanted).max() > 1
    kept_BT = np.asarray(mask_BT) > 0
    assert np.abs(np.asarray(out.hidden - wanted))[kept_BT].max() < 1e-4
    stacked = {**params, "blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *params["blocks"])}
    assert np.abs(np.asarray(encoded(cfg, stacked, tokens_BT, mask_BT).hidden - wanted))[kept_BT].max() < 1e-4
    sentences_BD = np.stack([np.asarray(wanted)[row, : int(mask_BT[row].sum())].mean(axis=0) for row in range(2)])
    assert np.abs(np.asarray(bert.mean_pooled(out.hidden, mask_BT)) - sentences_BD).max() < 1e-4
    alone = encoded(cfg, params, tokens_BT[:, :23])  # without the padding
    assert np.abs(np.asarray(alone.hidden)[1] - np.asarray(wanted)[1, :23]).max() < 1e-4
    assert np.abs(np.asarray(bert.mean_pooled(alone.hidden))[1] - sentences_BD[1]).max() < 1e-4


def test_an_encoder_foretells_nothing_and_says_so(tmp_path, capsys):
    folder = write_folder(tmp_path / "m", ABOUT["bert"])
    (tmp_path / "text.txt").write_text("a text")
    for command in (["generate", str(folder), "a"], ["eval", str(folder), "--text", str(tmp_path / "text.txt")]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "is an encoder" in error and error.count("\n") == 1


def test_an_encoder_sees_later_words_and_no_padding(tmp_path):
    cfg, params = huggingface.read(write_folder(tmp_path / "m", ABOUT["bert"]))
    tokens_BT, mask_BT = jnp.asarray(SAVED["tokens"]), jnp.asarray(SAVED["mask"])
    other = lambda at: tokens_BT.at[1, at].set((tokens_BT[1, at] + 1) % 48)
    before = encoded(cfg, params, tokens_BT, mask_BT).hidden
    moved = lambda at: np.abs(np.asarray(encoded(cfg, params, other(at), mask_BT).hidden - before)).max(axis=2) > 0
    assert moved(22)[1, 0] and not moved(23)[1, :23].any() and not moved(22)[0].any()


def test_names_of_the_oldest_files_of_bert(tmp_path):
    def older(config, tensors):
        for name in [name for name in tensors if "LayerNorm" in name]:
            tensors[name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = tensors.pop(name)

    found = huggingface.read(write_folder(tmp_path / "old", ABOUT["bert"], older))[1]
    wanted = huggingface.read(write_folder(tmp_path / "m", ABOUT["bert"]))[1]
    assert all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(wanted)))


@pytest.mark.parametrize("values, part", [
    (dict(position_embedding_type="relative_key"), "relative_key"), (dict(is_decoder=True), "is_decoder"), (dict(hidden_act="silu"), "'silu'"),
    (dict(num_hidden_layers=2), "encoder.layer.2"), (dict(num_attention_heads=5), "n_heads = 5"), (dict(wobble=1), "wobble = 1"),
])  # fmt: skip
def test_what_bert_is_not_is_refused_by_name(values, part, tmp_path):
    with pytest.raises(UserError) as caught:
        huggingface.read(write_folder(tmp_path / "m", ABOUT["bert"], lambda config, tensors: config.update(values)))
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_an_encoder_is_not_trained_and_has_no_cache():
    cfg = bert.BertConfig(d_model=8, n_layers=1, n_heads=2, d_hidden=8, vocab_size=9, context=4)
    params, tokens_BT = jax.jit(bert.init, static_argnums=0)(cfg, jax.random.key(0)), jnp.zeros((1, 5), jnp.int32)
    assert jax.tree.structure(bert.axes(cfg), is_leaf=lambda x: isinstance(x, tuple)) == jax.tree.structure(params)
    with pytest.raises(UserError, match="5 tokens, the context holds 4"):
        bert.forward(cfg, params, tokens_BT)
    with pytest.raises(UserError, match="has no cache"):
        bert.forward(cfg, params, tokens_BT, cache=1)
    with pytest.raises(UserError, match="model.name = 'bert' is no model"):
        load_config(None, ["model.name=bert"])


# ---------------------------------------------------------------- all


ODD = (5, "x", [], {}, [1], 0, -1, 1e400, True, None, "\n", 10**30, 0.5)


@pytest.mark.parametrize("case", ABOUT)
def test_odd_values_make_a_config_or_one_line(case):
    config = ABOUT[case]["config"]
    hf_folders.each_makes_a_config_or_one_line([config | {name: value} for name in config for value in ODD])
