"""Models in GGUF: what transformers computes of the same weights, packed weights packed, every mistake by name."""

import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf_folders import draw
from test_llama import ABOUT, SAVED

from pikojax.config import UserError
from pikojax.formats import gguf, gguf_model
from pikojax.formats.gguf_write import Tensor, write
from pikojax.models import llama
from pikojax.qtensor import FORMATS, QTensor, dequantize, quantize

# As llama.cpp's converter spells it, written down anew here.
ARCHITECTURES = {"mistral": "llama", "gemma3_text": "gemma3"}
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
TOPS = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}


def permuted(weights: np.ndarray, n_heads: int) -> np.ndarray:
    return weights.reshape(n_heads, 2, len(weights) // n_heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def converted(case: str) -> tuple[dict, dict[str, np.ndarray]]:
    """(metadata, tensors) as llama.cpp's converter makes them of a Hugging Face model."""
    config, shapes = ABOUT[case]["config"], ABOUT[case]["tensors"]
    family = config["model_type"]
    arch, gemma = ARCHITECTURES.get(family, family), family.startswith("gemma")
    tensors = {}
    for name, shape in shapes.items():
        array = draw(name, tuple(shape))
        array = array + 1 if gemma and name.endswith("norm.weight") else array
        _, _, rest = name.partition("layers.")
        if not rest:
            tensors[TOPS[name]] = array
            continue
        layer, part = rest.split(".", 1)
        part, kind = part.rsplit(".", 1)
        if arch == "llama" and part.endswith(("q_proj", "k_proj")):
            array = permuted(array, config["num_attention_heads" if part.endswith("q_proj") else "num_key_value_heads"])
        ours = "post_attention_norm" if gemma and part == "post_attention_layernorm" else NAMES[part]
        tensors[f"blk.{layer}.{ours}.{kind}"] = array
    return metadata_of(config, arch), tensors | rope_of(config)


def metadata_of(config: dict, arch: str) -> dict:
    rope = config.get("rope_parameters") or {}
    whole = rope.get("full_attention", rope)
    d_head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    found = {
        "block_count": config["num_hidden_layers"], "context_length": config["max_position_embeddings"], "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"], "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"], "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": float(whole["rope_theta"]), "vocab_size": config["vocab_size"], "rope.scaling.finetuned": True,
    }  # fmt: skip
    if config.get("head_dim"):
        found |= {"attention.key_length": d_head, "attention.value_length": d_head}
    if "partial_rotary_factor" in whole:
        found["rope.dimension_count"] = int(d_head * whole["partial_rotary_factor"])
    if config.get("use_sliding_window", True) and config.get("sliding_window"):
        found["attention.sliding_window"] = config["sliding_window"]
    if arch.startswith("gemma"):
        found["attention.scale"] = config["query_pre_attn_scalar"] ** -0.5
        found |= {name: float(config[field]) for name, field in (("attn_logit_softcapping", "attn_logit_softcapping"), ("final_logit_softcapping", "final_logit_softcapping")) if config.get(field)}
    if whole["rope_type"] in ("linear", "yarn"):
        found |= {"rope.scaling.type": whole["rope_type"], "rope.scaling.factor": whole["factor"]}
        found |= {"rope.scaling.original_context_length": whole["original_max_position_embeddings"]} if whole["rope_type"] == "yarn" else {}
    return {"general.architecture": arch, "general.type": "model"} | {f"{arch}.{key}": value for key, value in found.items()}


def rope_of(config: dict) -> dict[str, np.ndarray]:
    """Llama 3's scaling as divisors of the frequencies."""
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") != "llama3":
        return {}
    width, old = config["hidden_size"] // config["num_attention_heads"], rope["original_max_position_embeddings"]
    factors = []
    for i in range(0, width, 2):
        wave = 2 * np.pi * rope["rope_theta"] ** (i / width)
        if wave < old / rope["high_freq_factor"]:
            factors.append(1.0)
        elif wave > old / rope["low_freq_factor"]:
            factors.append(rope["factor"])
        else:
            smooth = (old / wave - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return {"rope_freqs.weight": np.array(factors, np.float32)}


def as_tensor(name: str, array: np.ndarray) -> Tensor:
    kind = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[array.dtype.name]
    return Tensor(name, array.shape, kind, lambda: array)


def write_model(file: Path, case: str, change=lambda metadata, tensors: None) -> Path:
    metadata, tensors = converted(case)
    change(metadata, tensors)
    write(file, metadata, [tensor if isinstance(tensor, Tensor) else as_tensor(name, tensor) for name, tensor in tensors.items()])
    return file


def logits(cfg, params, tokens_BT) -> np.ndarray:
    return np.asarray(jax.jit(lambda params: llama.forward(cfg, params, tokens_BT)[0].logits)(params))


@pytest.mark.parametrize("case", [case if case in ("llama3", "phi3", "gemma3") else pytest.param(case, marks=pytest.mark.slow) for case in ABOUT if case not in ("longrope", "smollm3")])
def test_logits_are_those_of_transformers(case, tmp_path):
    cfg, params = gguf_model.read(write_model(tmp_path / "m.gguf", case))
    assert np.abs(logits(cfg, params, jnp.asarray(SAVED["tokens"])) - SAVED[case]).max() < 1e-4


PACKED = [name for name, format in FORMATS.items() if format.gguf]


def test_packed_weights_stay_packed_and_mean_the_same(tmp_path):
    """A matrix of each of GGUF's formats, rows of q and k put in order without being unpacked."""
    shapes = {"attn_q": (256, 256), "attn_k": (128, 256), "attn_v": (128, 256), "attn_output": (256, 256), "ffn_gate": (256, 256), "ffn_up": (256, 256), "ffn_down": (256, 256)}
    tensors = {"output_norm.weight": np.ones(256, np.float32), "token_embd.weight": draw("embed", (48, 256)), "output.weight": draw("head", (48, 256))}
    tensors |= {f"blk.0.{name}.weight": draw(name, shape) for name, shape in shapes.items()}
    tensors |= {f"blk.0.{name}.weight": draw(name, (256,)) for name in ("attn_norm", "ffn_norm")}
    sizes = dict(block_count=1, context_length=64, embedding_length=256, feed_forward_length=256) | {"attention.head_count": 4, "attention.head_count_kv": 2}
    metadata = {"general.architecture": "llama", "llama.attention.layer_norm_rms_epsilon": 1e-5} | {f"llama.{name}": value for name, value in sizes.items()}
    formats = dict(zip([name for name, array in tensors.items() if array.ndim == 2], PACKED + ["q4_k"], strict=True))
    packed = {name: quantize(tensors[name].T, format) for name, format in formats.items()}
    opened = {name: np.asarray(dequantize(w)).T for name, w in packed.items()}
    files = tmp_path / "packed.gguf", tmp_path / "floats.gguf"
    write(files[0], metadata, [Tensor(n, a.shape, formats[n], lambda n=n: np.asarray(packed[n].data)) if n in packed else as_tensor(n, a) for n, a in tensors.items()])
    write(files[1], metadata, [as_tensor(name, opened.get(name, array)) for name, array in tensors.items()])
    (cfg, found), (_, floats) = map(gguf_model.read, files)
    leaves = jax.tree.leaves(found, is_leaf=lambda leaf: isinstance(leaf, QTensor))
    assert sorted(leaf.format for leaf in leaves if isinstance(leaf, QTensor)) == sorted(formats.values())
    assert all(leaf.data.dtype == np.uint8 for leaf in leaves if isinstance(leaf, QTensor))
    q = found["blocks"][0]["q"]["kernel"]
    assert np.array_equal(np.asarray(dequantize(q)), floats["blocks"][0]["q"]["kernel"]) and not np.array_equal(np.asarray(dequantize(q)).T, opened["blk.0.attn_q.weight"])
    tokens_BT = jnp.asarray(SAVED["tokens"])
    assert np.abs(logits(cfg, found, tokens_BT) - logits(cfg, floats, tokens_BT)).max() < 1e-4


def test_half_precision_is_kept_when_asked_for(tmp_path):
    import ml_dtypes

    def halve(metadata, tensors):
        halves = {name: array.astype(ml_dtypes.bfloat16 if "ffn" in name else np.float16) for name, array in tensors.items() if array.ndim == 2}
        tensors.update(halves)

    file = write_model(tmp_path / "m.gguf", "qwen3", halve)
    block = gguf_model.read(file, dtype=None)[1]["blocks"][0]
    assert (block["q"]["kernel"].dtype, block["gate"]["kernel"].dtype, block["norm1"]["scale"].dtype) == (np.float16, ml_dtypes.bfloat16, np.float32)
    full = gguf_model.read(file)[1]["blocks"][0]["gate"]["kernel"]
    assert full.dtype == np.float32 and np.array_equal(full, block["gate"]["kernel"].astype(np.float32))


def set_key(key, value):
    return lambda metadata, tensors: metadata.update({key: value})


def drop(name):
    return lambda metadata, tensors: (tensors if name in tensors else metadata).pop(name)


def put(name, array):
    return lambda metadata, tensors: tensors.update({name: array})


WRONG = {
    "architecture": (set_key("general.architecture", "parrot"), "'parrot'; there are: llama"),
    "an unknown key": (set_key("llama.residual_scale", 0.2), "llama.residual_scale = 0.2"),
    "experts": (lambda metadata, tensors: metadata.update({"llama.expert_count": 8, "llama.expert_used_count": 2}), "lacks the tensor blk.0.ffn_gate_exps.weight"),
    "experts of whom nobody knows how many are used": (set_key("llama.expert_count", 8), "lacks llama.expert_used_count"),
    "adapter": (set_key("general.type", "adapter"), "holds 'adapter'"),
    "a part": (set_key("split.count", 3), "one of 3 parts"),
    "scaling": (set_key("llama.rope.scaling.type", "dynamic"), "'dynamic'"),
    "layers that differ": (set_key("llama.attention.head_count_kv", np.array([2, 2, 1])), "head_count_kv = [2 2 1]"),
    "a negative size": (set_key("llama.embedding_length", -1), "embedding_length = -1"),
    "sees the future": (set_key("llama.attention.causal", False), "causal = False"),
    "values of another width": (set_key("llama.attention.value_length", 16), "value_length = 16"),
    "too few rows": (set_key("llama.vocab_size", 49), "vocab_size = 49; wanted 48"),
    "no width": (drop("llama.embedding_length"), "lacks llama.embedding_length"),
    "no epsilon": (drop("llama.attention.layer_norm_rms_epsilon"), "lacks llama.attention.layer_norm_rms_epsilon"),
    "no matrix": (drop("blk.2.ffn_up.weight"), "lacks the tensor blk.2.ffn_up.weight"),
    "no embedding": (drop("token_embd.weight"), "token_embd.weight"),
    "a tensor more": (put("blk.0.attn_sinks.weight", np.ones(4, np.float32)), "blk.0.attn_sinks.weight, which this architecture does not use"),
    "a tensor whose name is odd": (put("outpu\0\n", np.ones(4, np.float32)), "has the tensor outpu?, which"),
    "a layer less": (set_key("llama.block_count", 2), "blk.2."),
    "a shape": (put("blk.0.attn_k.weight", np.ones((32, 32), np.float32)), "blk.0.attn_k.weight of shape [32, 32], its metadata want [16, 32]"),
    "divisors": (put("rope_freqs.weight", np.ones(3, np.float32)), "rope_divisors has to be 4 numbers"),
    "whole numbers": (put("blk.0.attn_norm.weight", Tensor("blk.0.attn_norm.weight", (32,), "i8", lambda: np.ones(32, np.int8))), "attn_norm.weight as i8"),
    "a packed norm": (put("blk.0.attn_norm.weight", Tensor("blk.0.attn_norm.weight", (32,), "q8_0", lambda: np.ones(34, np.uint8))), "attn_norm.weight as q8_0"),
    "only words": (lambda metadata, tensors: (tensors.clear(), metadata.update({"tokenizer.ggml.tokens": ["a"]})), "no weights, only a vocabulary"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_known_is_refused_by_name(what, tmp_path):
    change, part = WRONG[what]
    file = write_model(tmp_path / "m.gguf", "llama", change)
    with pytest.raises(UserError) as caught:
        gguf_model.read(file)
    assert part in str(caught.value) and "\n" not in str(caught.value)


ODD = (5, "x", np.array([1, 2]), np.zeros(0, np.int32), ["a"], 0, -1, float("inf"), float("nan"), True, False, "\n", 1 << 60, 0.5)


@pytest.mark.parametrize("case", ("llama3", "yarn", "gemma3"))
def test_odd_values_make_a_model_or_one_line(case, tmp_path):
    metadata, _ = converted(case)
    n_read = 0
    tensors = gguf.read(write_model(tmp_path / "m.gguf", case)).tensors
    more = [f"{metadata['general.architecture']}.{name}" for name in ("rope.scaling.type", "rope.scaling.factor", "rope.scaling.attn_factor", "attention.causal", "x")]
    changes = [{key: value} for key in [*metadata, *more, "split.count"] for value in ODD]
    for change in changes:
        try:
            gguf_model.gguf_config.to_config(metadata | change, tensors, "m.gguf")
            n_read += 1
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 300
    assert 0 < n_read < len(changes)


def test_27b_gemmas_divide_scores_by_another_width():
    """Their number of layers tells them, as nothing else in the file does."""
    metadata, _ = converted("gemma3")
    tensors = {"token_embd.weight": gguf.TensorInfo("token_embd.weight", (48, 32), "f32", 0, 0)}
    scale = lambda **more: gguf_model.gguf_config.to_config({k: v for k, v in metadata.items() if k != "gemma3.attention.scale"} | more, tensors, "x").attention_scale
    assert scale() is None and scale(**{"gemma3.block_count": 62}) == pytest.approx((32 / 4) ** -0.5)


def test_mutants_load_whole_or_are_refused(tmp_path):
    """Sizes that agree with nothing cost one line, and no memory."""
    file, rng, n_read = tmp_path / "m.gguf", random.Random(0), 0
    whole = write_model(file, "llama3").read_bytes()
    head = whole.index(b"rope_freqs.weight")
    for _ in range(120):
        mutant = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2))):
            mutant[rng.randrange(head)] = rng.choice((0, 1, 2, 64, 255, rng.randrange(256)))
        file.write_bytes(mutant)
        try:
            gguf_model.read(file)
            n_read += 1
        except UserError as error:
            assert "\n" not in str(error)
    assert 5 < n_read < 115
