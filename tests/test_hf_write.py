"""Our models as Hugging Face folders: our reader gives them back, and transformers computes the same logits.

Live: with torch and transformers in this Python, or in the one that PIKOJAX_PEERS names.
"""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf_folders import draw, saved, write_folder

from pikojax.config import GPTConfig, LlamaConfig, UserError
from pikojax.formats import gguf_save, hf_write, huggingface, whole
from pikojax.models import catalog
from pikojax.models.bert import BertConfig
from pikojax.quant.tree import quantize_tree
from pikojax.text.char import train_char

FAMILIES, LLAMAS = saved("hf_families.npz")[1], saved("llama_family.npz")[1]
READ = [*LLAMAS, *(case for case in FAMILIES if not case.startswith("bert"))]


def small(**more) -> LlamaConfig:
    return LlamaConfig(**{**dict(d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_hidden=40, vocab_size=48, context=64, tie=False), **more})


OURS = {
    "classic": GPTConfig(d_model=32, n_layers=2, n_heads=4, vocab_size=48, context=64),
    "classic with biases": GPTConfig(d_model=32, n_layers=2, n_heads=4, vocab_size=48, context=64, bias=True, tie=False, activation="gelu_tanh", norm_eps=1e-4),
    "small llama": small(),
    "yarn": small(rope_scaling="yarn", rope_factor=4.0, rope_original_context=16, tie=True),
    "qwen with a window": small(qkv_bias=True, window=8, global_every=2, tie=True),
    "experts": small(n_experts=4, n_experts_used=2, d_expert=24),
}


def model(case: str, tmp_path):
    if case in OURS:
        cfg = OURS[case]
        shapes = jax.eval_shape(lambda: catalog[cfg.name].init(cfg, jax.random.key(0)))
        return cfg, jax.tree_util.tree_map_with_path(lambda path, leaf: draw(str(path), leaf.shape), shapes)
    return huggingface.read(write_folder(tmp_path / "given", (LLAMAS | FAMILIES)[case]))


CASES = [*OURS, *(case for case in READ if case != "phi3")]


@pytest.mark.parametrize("case", CASES)
def test_our_reader_gives_back_what_was_written(case, tmp_path):
    cfg, params = model(case, tmp_path)
    found, theirs = huggingface.read(hf_write.write(tmp_path / "made", cfg, params))
    if cfg.name == "gpt" and not cfg.bias:
        assert found.bias and not any(np.any(block["qkv"]["bias"]) for block in theirs["blocks"])
    else:
        assert hf_write._differences(cfg, found) == []
    blocks = params["blocks"] if isinstance(params["blocks"], tuple) else [jax.tree.map(lambda leaf: leaf[i], params["blocks"]) for i in range(cfg.n_layers)]
    for path, leaf in jax.tree_util.tree_leaves_with_path({**params, "blocks": tuple(blocks)}):
        at = theirs
        for step in path:
            at = at[getattr(step, "key", getattr(step, "idx", None))]
        assert np.abs(np.asarray(leaf) - at).max() <= (1e-6 if case.startswith("gemma") else 0), path


LIVE = """
import json, sys
import numpy as np, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokens, out = np.load(sys.argv[1]), {}
for folder in sys.argv[2:]:
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    with torch.no_grad():
        out[folder] = model.eval()(torch.from_numpy(tokens).long()).logits.numpy()
np.savez(sys.argv[1] + ".logits.npz", **out)
print(json.dumps(AutoTokenizer.from_pretrained(sys.argv[2])("the cat sat", add_special_tokens=False)["input_ids"]))
"""


def peers() -> str:
    python = os.environ.get("PIKOJAX_PEERS")
    if not python and all(map(importlib.util.find_spec, ("torch", "transformers", "safetensors"))):
        python = sys.executable
    return python or pytest.skip("no torch and transformers here; PIKOJAX_PEERS names a Python that has them")


@pytest.mark.slow
def test_transformers_computes_the_same(tmp_path):
    python, tok, wanted = peers(), train_char(["the cat sat on the mat"], ("<|endoftext|>",)), {}
    tokens_BT = np.random.default_rng(0).integers(0, 48, (2, 33)).astype(np.int32)
    np.save(tmp_path / "tokens.npy", tokens_BT)
    for i, case in enumerate(CASES):
        (tmp_path / str(i)).mkdir()
        cfg, params = model(case, tmp_path / str(i))
        folder = hf_write.write(tmp_path / str(i) / "made", cfg, params, tok)
        wanted[str(folder)] = case, np.asarray(catalog[cfg.name].forward(cfg, jax.tree.map(jnp.asarray, params), jnp.asarray(tokens_BT))[0].logits)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, "-c", LIVE, str(tmp_path / "tokens.npy"), *wanted], capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "tokens.npy.logits.npz")
    apart = {case: float(np.abs(found[folder] - logits).max()) for folder, (case, logits) in wanted.items()}
    assert max(apart.values()) < 1e-4 and min(np.abs(logits).max() for _, logits in wanted.values()) > 0.5, apart
    assert json.loads(done.stdout.splitlines()[-1]) == tok.encode("the cat sat", add_special_tokens=False).tolist()
    print(apart)


REFUSED = {
    "modern": (GPTConfig(d_model=32, n_layers=1, n_heads=4, vocab_size=48, **GPTConfig.PRESETS["modern"]), "no architecture for this gpt: positions = rope"),
    "relu2": (GPTConfig(d_model=32, n_layers=1, n_heads=4, vocab_size=48, activation="relu2"), "activation = relu2"),
    "fewer kv heads": (GPTConfig(d_model=32, n_layers=1, n_heads=4, n_kv_heads=2, vocab_size=48), "n_kv_heads = 2"),
    "post norms": (small(post_norms=True), "no architecture for this llama"),
    "softcap": (small(softcap=30.0), "softcap = 30"),
    "part of a head": (small(rope_fraction=0.5), "rope_fraction = 0.5"),
    "encoder": (BertConfig(), "'bert' is not written"),
    "vocabulary": (small(vocab_size=None), "vocab_size is not set"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_hugging_face_has_not_is_refused_by_name(case, tmp_path):
    cfg, part = REFUSED[case]
    with pytest.raises(UserError) as caught:
        hf_write.write(tmp_path / "made", cfg, {})
    assert part in str(caught.value) and "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_weights_that_are_not_the_config_s_are_refused(tmp_path):
    cfg, params = model("small llama", tmp_path)
    lacks = {name: value for name, value in params.items() if name != "head"}
    for wrong, part in ((quantize_tree(params, "int8_g32", smallest=1), "is quantized"), (lacks, "head"), ({**params, "norm": {"scale": np.ones(31)}}, "norm/scale"),
                        ({**params, "blocks": jax.tree.map(lambda leaf: leaf[:1], params["blocks"])}, "has 1 layers, its config 2")):  # fmt: skip
        with pytest.raises(UserError, match=part):
            hf_write.write(tmp_path / "made", cfg, wrong)
    assert not list(tmp_path.iterdir())


def test_a_folder_appears_whole_and_is_replaced_only_when_asked(tmp_path, monkeypatch):
    cfg, params = model("classic", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear")
    with pytest.raises(UserError, match="something else than a model"):
        hf_write.write(tmp_path / "mine", cfg, params, force=True)
    folder = hf_write.write(tmp_path / "a" / "made", cfg, params)
    for name in ("src", "thesis.tex"):  # a model folder that somebody keeps more in
        (folder / name).mkdir()
        with pytest.raises(UserError, match="something else than a model"):
            hf_write.write(folder, cfg, params, force=True)
        (folder / name).rmdir()
    with pytest.raises(UserError, match="exists; force replaces it"):
        hf_write.write(folder, cfg, params)
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    hf_write.write(folder, cfg, other, force=True)
    assert np.array_equal(huggingface.read(folder)[1]["embed"], np.asarray(other["embed"])) and os.listdir(tmp_path / "a") == ["made"]

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole, "_sync", full)
    with pytest.raises(UserError, match="No space left"):
        hf_write.write(folder, cfg, params, force=True)
    assert np.array_equal(huggingface.read(folder)[1]["embed"], np.asarray(other["embed"])) and os.listdir(tmp_path / "a") == ["made"]


def test_a_half_that_cannot_hold_a_weight_is_one_line(tmp_path):
    cfg, params = model("small llama", tmp_path)
    params = {**params, "embed": jnp.asarray(params["embed"]).at[0, 0].set(1e6)}
    with pytest.raises(UserError, match="params/embed has weights up to 1e[+]06, beyond float16"):
        hf_write.write(tmp_path / "made", cfg, params, dtype=np.float16)
    assert not (tmp_path / "made").exists()
    with pytest.raises(UserError, match="token_embd.weight has weights up to 1e[+]06, beyond float16"):
        gguf_save.save(tmp_path / "m.gguf", cfg, params, "f16")
    assert not list(tmp_path.glob("*.gguf"))


def test_bfloat16_is_written_as_such(tmp_path):
    cfg, params = model("small llama", tmp_path)
    folder = hf_write.write(tmp_path / "made", cfg, params, dtype=jnp.bfloat16)
    found = huggingface.read(folder, dtype=None)[1]
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert np.array_equal(found["embed"], params["embed"].astype(jnp.bfloat16))
