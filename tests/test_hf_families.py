"""Models beside the Llama family, from Hugging Face folders: what transformers computes, with a cache and without, stacked and not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf_folders import in_pieces, saved, write_folder

from pikojax.config import UserError
from pikojax.formats import hf_config, huggingface
from pikojax.models import catalog

SAVED, ABOUT = saved("hf_families.npz")
DECODERS = ("gpt2", "gpt2 untied", "mixtral", "qwen2_moe", "qwen3_moe")


@pytest.mark.parametrize("case", DECODERS)
def test_logits_are_those_of_transformers(case, tmp_path):
    cfg, params = huggingface.read(write_folder(tmp_path / "m", ABOUT[case]))
    tokens_BT, wanted = jnp.asarray(SAVED["tokens"]), SAVED[case]
    whole = jax.jit(lambda params, tokens_BT: catalog[cfg.name].forward(cfg, params, tokens_BT)[0].logits)
    assert np.abs(wanted).max() > 1  # there is something to get wrong
    for n_tokens in (1, 7, 40):  # what comes later changes nothing
        assert np.abs(np.asarray(whole(params, tokens_BT[:, :n_tokens])) - wanted[:, :n_tokens]).max() < 1e-4
    stacked = {**params, "blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *params["blocks"])}
    assert np.abs(np.asarray(whole(stacked, tokens_BT)) - wanted).max() < 1e-4
    assert np.abs(in_pieces(cfg, params, tokens_BT, (17, 1, 1, 21)) - wanted).max() < 1e-4


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


def test_gpt2_as_published():
    raw = dict(activation_function="gelu_new", architectures=["GPT2LMHeadModel"], attn_pdrop=0.1, bos_token_id=50256, embd_pdrop=0.1, eos_token_id=50256,
               initializer_range=0.02, layer_norm_epsilon=1e-05, model_type="gpt2", n_ctx=1024, n_embd=768, n_head=12, n_layer=12, n_positions=1024,
               resid_pdrop=0.1, summary_activation=None, summary_first_dropout=0.1, summary_proj_to_labels=True, summary_type="cls_index",
               summary_use_proj=True, task_specific_params={"text-generation": {"do_sample": True, "max_length": 50}}, vocab_size=50257)  # fmt: skip
    found = hf_config.to_config(raw)
    assert (found.name, found.d_model, found.n_layers, found.n_heads, found.d_hidden, found.context) == ("gpt", 768, 12, 12, 3072, 1024)
    assert found.bias and found.tie and (found.positions, found.activation, found.norm) == ("learned", "gelu_tanh", "layernorm")
