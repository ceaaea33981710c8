"""Our models as Hugging Face folders, which transformers loads with the same logits: config.json, model.safetensors, tokenizer.json.

Nothing is said twice: a config.json is right when our reader makes this very config of it (`_config_of` tries the families one by one),
and the readers of huggingface.py, run over empty tensors, return a tree whose leaves are views of them, into which our weights are poured.

A folder appears whole or not at all. A model that no architecture there computes is refused by what sets it apart.

Leaves out: encoders, Phi-3's partly rotated heads, quantized weights, shards.
"""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from pikojax.config import UserError, require, user_path
from pikojax.formats import hf_config
from pikojax.formats.halves import narrowed
from pikojax.formats.huggingface import ALONE, CONFIG, READERS
from pikojax.formats.whole import made_whole
from pikojax.qtensor import QTensor

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
PREFIX = {"gpt": "transformer.", "llama": "model."}
CLASSES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
           "gemma2": "Gemma2ForCausalLM", "gemma3_text": "Gemma3ForCausalLM", "mixtral": "MixtralForCausalLM", "qwen2_moe": "Qwen2MoeForCausalLM",
           "qwen3_moe": "Qwen3MoeForCausalLM", "smollm3": "SmolLM3ForCausalLM"}  # fmt: skip
ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}


def write(folder: str | Path, cfg, params, tokenizer=None, dtype=np.float32, force: bool = False, template: str | None = None,
          eos_ids: Sequence[int] = ()) -> Path:  # fmt: skip
    """`force` replaces a folder that is there already, if it holds a model or nothing. `eos_ids`: what ends a text, where it is more than the tokenizer's own."""
    folder = user_path(folder, "folder")
    require(getattr(cfg, "name", None) in PREFIX, f"a model {getattr(cfg, 'name', cfg)!r} is not written as a Hugging Face folder; there are: {', '.join(PREFIX)}")
    require(cfg.vocab_size is not None, "model.vocab_size is not set; give as many as the model's embedding has rows")
    raw = _config_of(cfg)
    blank = _Blank(PREFIX[cfg.name], raw["model_type"], dtype)
    _pour(READERS[cfg.name](cfg, blank, lambda array: array), params, "params")
    for name in blank.less_1:  # in float32: near 1 a half has no digits left for what is subtracted from
        blank.tensors[name] = (blank.tensors[name] - np.float32(1)).astype(dtype)
    with made_whole(folder, force, CONFIG) as beside:
        ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_id", None) for role in ("bos", "eos", "pad")}
        ends = {"eos_token_id": eos_ids[0] if len(eos_ids) == 1 else list(eos_ids) or ids["eos_token_id"]}
        _fill(beside, raw | ids | ends | {"dtype": np.dtype(dtype).name}, blank.tensors, tokenizer, template)
    return folder


# ---------------------------------------------------------------- config.json


def _config_of(cfg) -> dict:
    """The config.json of the first family whose function this is: our reader understands it as `cfg` itself."""
    families = ("gpt2",) if cfg.name == "gpt" else [family for family in CLASSES if family != "gpt2"]
    fewest = None
    for family in families:
        raw = _gpt2(cfg) if family == "gpt2" else _llama(cfg, family)
        try:
            apart = _differences(cfg, hf_config.to_config(raw))
        except UserError as error:
            apart = [str(error)]
        if not apart:
            return raw | {"architectures": [CLASSES[family]]}
        fewest = apart if fewest is None or len(apart) < len(fewest) else fewest
    raise UserError(f"Hugging Face has no architecture for this {cfg.name}: {', '.join(fewest)}; keep it in a format of ours")


def _differences(cfg, read) -> list[str]:
    """Biases that are not there are written as zeros; beside experts nothing has the width `d_hidden`."""
    idle = {"bias"} if cfg.name == "gpt" and not cfg.bias else {"d_hidden"} if getattr(cfg, "n_experts", None) is not None else set()

    def same(a, b) -> bool:
        return math.isclose(a, b, rel_tol=1e-9) if isinstance(a, float) and isinstance(b, (float, int)) else a == b

    fields = [field.name for field in dataclasses.fields(cfg) if field.name not in idle | {"zero_init", "dropout"}]  # of training alone
    return [f"{name} = {getattr(cfg, name)}" for name in fields if not same(getattr(cfg, name), getattr(read, name))]


def _gpt2(cfg) -> dict:
    return dict(
        model_type="gpt2", vocab_size=cfg.vocab_size, n_positions=cfg.context, n_embd=cfg.d_model, n_layer=cfg.n_layers, n_head=cfg.n_heads,
        n_inner=cfg.d_hidden, activation_function="gelu" if cfg.activation == "gelu" else "gelu_new", layer_norm_epsilon=cfg.norm_eps,
        resid_pdrop=cfg.dropout, embd_pdrop=cfg.dropout, attn_pdrop=0.0, tie_word_embeddings=cfg.tie,
    )  # fmt: skip


def _llama(cfg, family: str) -> dict:
    gemma = family.startswith("gemma")
    raw = dict(
        model_type=family, vocab_size=cfg.vocab_size, hidden_size=cfg.d_model, intermediate_size=cfg.d_hidden, num_hidden_layers=cfg.n_layers,
        num_attention_heads=cfg.n_heads, num_key_value_heads=cfg.n_kv_heads, head_dim=cfg.d_head, max_position_embeddings=cfg.context,
        rms_norm_eps=cfg.norm_eps, hidden_act=ACTIVATIONS[cfg.activation], tie_word_embeddings=cfg.tie, rope_theta=cfg.rope_base,
    )  # fmt: skip
    kinds = ["sliding_attention" if cfg.is_local(layer) else "full_attention" for layer in range(cfg.n_layers)]
    if family in ("llama", "qwen3", "qwen3_moe", "smollm3"):
        raw["attention_bias"] = cfg.qkv_bias
    if family in ("llama", "smollm3"):
        raw["mlp_bias"] = cfg.mlp_bias
    if family == "smollm3":
        raw["no_rope_layers"] = [int(cfg.is_turned(layer)) for layer in range(cfg.n_layers)]
    if family in ("mistral", "mixtral"):
        raw["sliding_window"] = cfg.window
    if family.startswith("qwen") and cfg.window is not None:
        raw |= dict(use_sliding_window=True, sliding_window=cfg.window, max_window_layers=0, layer_types=kinds)
    if gemma:
        scale = cfg.attention_scale or cfg.d_head**-0.5
        raw |= dict(hidden_activation=ACTIVATIONS[cfg.activation], query_pre_attn_scalar=_whole(scale**-2), attn_logit_softcapping=cfg.attention_softcap,
                    final_logit_softcapping=cfg.softcap, sliding_window=cfg.window, layer_types=kinds)  # fmt: skip
    if family == "gemma3_text":
        raw["rope_local_base_freq"] = cfg.rope_base_local
    return raw | _rope(cfg) | _experts(cfg, family)


def _whole(value: float) -> float | int:
    return round(value) if abs(value - round(value)) < 1e-9 * value else value


def _rope(cfg) -> dict:
    if cfg.rope_scaling == "none":
        return {}
    scaling = {"rope_type": cfg.rope_scaling, "factor": cfg.rope_factor}
    if cfg.rope_scaling != "linear":
        scaling["original_max_position_embeddings"] = cfg.rope_original_context
    if cfg.rope_scaling == "llama3":
        scaling |= {"low_freq_factor": cfg.rope_low_factor, "high_freq_factor": cfg.rope_high_factor}
    if cfg.rope_scaling == "yarn":
        scaling |= {"beta_fast": cfg.rope_beta_fast, "beta_slow": cfg.rope_beta_slow}
    if cfg.rope_scaling == "longrope":
        scaling |= {"short_factor": list(cfg.rope_divisors), "long_factor": list(cfg.rope_long_divisors)}
    if cfg.rope_attention_factor is not None:
        scaling["attention_factor"] = cfg.rope_attention_factor
    return {"rope_scaling": scaling}


def _experts(cfg, family: str) -> dict:
    if cfg.n_experts is None or not family.endswith("_moe"):
        return {} if cfg.n_experts is None or family != "mixtral" else dict(num_local_experts=cfg.n_experts, num_experts_per_tok=cfg.n_experts_used,
                                                                            intermediate_size=cfg.d_expert)  # fmt: skip
    raw = dict(num_experts=cfg.n_experts, num_experts_per_tok=cfg.n_experts_used, moe_intermediate_size=cfg.d_expert, norm_topk_prob=cfg.norm_topk)
    return raw | ({} if family == "qwen3_moe" else dict(shared_expert_intermediate_size=cfg.d_shared, qkv_bias=cfg.qkv_bias))


# ---------------------------------------------------------------- weights


class _Blank:
    """A folder's tensors before there are any: what a reader takes is made, zeros, under the name that it has in the file."""

    def __init__(self, prefix: str, family: str, dtype):
        self.prefix, self.family, self.dtype, self.tensors, self.less_1, self.left = prefix, family, dtype, {}, [], set()

    def placed(self, tree: dict) -> dict:
        return tree

    def has(self, name: str) -> bool:
        return "block_sparse_moe" in name and self.family == "mixtral"

    def _full(self, name: str) -> str:
        return name if name == "lm_head.weight" else self.prefix + name

    def _add(self, name: str, array: np.ndarray) -> np.ndarray:
        self.tensors[self._full(name)] = array
        return array

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        return self._add(name, np.zeros(shape, self.dtype))

    def take_less_1(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        self.less_1.append(self._full(name))
        return self._add(name, np.zeros(shape, np.float32))

    def take_stack(self, names: list[str], shape: tuple[int, ...]) -> np.ndarray:
        made = np.zeros((len(names), *shape), self.dtype)
        for name, part in zip(names, made, strict=True):
            self._add(name, part)
        return made


def _pour(into, params, path: str) -> None:
    """`params` into the arrays of `into`; of it, biases alone may be absent."""
    if isinstance(into, np.ndarray):
        require(not isinstance(params, QTensor), f"{path} is quantized, which a Hugging Face folder cannot hold; write the model it was made from")
        require(params.shape == into.shape, f"{path} is of shape {list(params.shape)}, its config wants {list(into.shape)}")
        into[...] = narrowed(params, into.dtype, path)
        return
    if isinstance(into, tuple):
        n = len(params) if isinstance(params, (tuple, list)) else len(jax.tree.leaves(params)[0])
        require(n == len(into), f"{path} has {n} layers, its config {len(into)}")
        for layer, part in enumerate(into):
            here = params[layer] if isinstance(params, (tuple, list)) else jax.tree.map(lambda leaf: leaf[layer], params)
            _pour(part, here, f"{path}/{layer}")
        return
    wrong = sorted((params.keys() - into.keys()) | (into.keys() - params.keys() - {"bias"}))
    require(not wrong, f"{path} and its config do not agree on {', '.join(wrong)}; give the config that the parameters were made with")
    for name in params:
        _pour(into[name], params[name], f"{path}/{name}")


# ---------------------------------------------------------------- files


def _fill(folder: Path, raw: dict, tensors: dict, tokenizer, template: str | None) -> None:
    from safetensors.numpy import save_file

    (folder / CONFIG).write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / ALONE, metadata={"format": "pt"})  # without which transformers refuses it
    os.chmod(folder / ALONE, 0o644)
    if tokenizer is not None:
        tokenizer.save(folder / TOKENIZER)
        own = {role: getattr(tokenizer, f"{role}_id") for role in ("bos", "eos", "pad")}
        named = {f"{role}_token": tokenizer.id_to_token(id) for role, id in own.items() if id is not None}
        (folder / TOKENIZER_CONFIG).write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **named}) + "\n", encoding="utf-8")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
