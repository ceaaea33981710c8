"""Hugging Face's config.json → our config. What is not known is refused by name: a field may change what a model says.

    {"model_type": "qwen2", "hidden_size": 896, …}  →  LlamaConfig(d_model=896, qkv_bias=True, …)

Three kinds of fields: those that are translated, those that cannot change the logits (`NEUTRAL`), and all others, which may
stand there only with a value that means nothing (null, false, empty).

Leaves out: weights (`huggingface.py`), the tokenizer.
"""

import math
from collections.abc import Mapping

from pikojax.config import UserError, require
from pikojax.llama_config import LlamaConfig

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text", "smollm3")
NEUTRAL = {
    "_name_or_path", "architectures", "auto_map", "torch_dtype", "dtype", "transformers_version", "use_cache", "model_type", "initializer_range",
    "attention_dropout", "hidden_dropout", "embd_pdrop", "resid_pdrop", "residual_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id",
    "sep_token_id", "decoder_start_token_id", "pretraining_tp", "output_attentions", "output_hidden_states", "return_dict", "torchscript",
    "use_bfloat16", "chunk_size_feed_forward", "is_decoder", "cross_attention_hidden_size", "add_cross_attention", "tie_encoder_decoder", "pruned_heads",
    "finetuning_task", "id2label", "label2id", "num_labels", "problem_type", "tokenizer_class", "prefix", "task_specific_params", "min_length", "max_length",
    "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty",
    "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty",
    "suppress_tokens", "begin_suppress_tokens", "tf_legacy_loss", "cache_implementation", "use_mrope", "_attn_implementation",
    "attn_implementation", "_attn_implementation_autoset", "mlp_layer_types", "base_model_tp_plan", "kv_cache_dtype", "is_encoder_decoder",
}  # fmt: skip
WITHOUT_MEANING = (None, False, [], {}, "", 0)


def to_config(raw: Mapping) -> LlamaConfig:
    """Raises UserError for what this file does not know."""
    family = raw.get("model_type")
    require(family in FAMILIES, f"config.json is of the architecture {family!r}; there are: {', '.join(FAMILIES)}")
    fields = _Fields(raw)
    gemma = family.startswith("gemma")
    n_heads, d_model = fields.whole("num_attention_heads"), fields.whole("hidden_size")
    n_layers, window = fields.whole("num_hidden_layers"), fields.take("sliding_window")
    values = dict(
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=fields.take("num_key_value_heads", n_heads),
        d_head=fields.take("head_dim") or d_model // n_heads,
        d_hidden=fields.whole("intermediate_size"),
        vocab_size=fields.whole("vocab_size"),
        context=fields.whole("max_position_embeddings"),
        norm_eps=fields.take("rms_norm_eps", 1e-6),
        tie=bool(fields.take("tie_word_embeddings", gemma)),
        qkv_bias=bool(fields.take("attention_bias", False)) or family == "qwen2",
        out_bias=bool(raw.get("attention_bias", False)) and family != "qwen2",
        mlp_bias=bool(fields.take("mlp_bias", False)),
        qk_norm=family in ("qwen3", "gemma3_text"),
        post_norms=gemma,
        embed_scale=math.sqrt(d_model) if gemma else 1.0,
        activation=_activation(fields.take("hidden_activation") or fields.take("hidden_act", "gelu_pytorch_tanh" if gemma else "silu")),
        attention_softcap=fields.take("attn_logit_softcapping"),
        softcap=fields.take("final_logit_softcapping"),
        rope_fraction=fields.take("partial_rotary_factor", 1.0),
    )
    fields.take("hidden_act")
    if gemma:
        values["attention_scale"] = fields.take("query_pre_attn_scalar", values["d_head"]) ** -0.5
    values |= _layers(fields, family, n_layers, window) | _rope(fields, family, values["context"])
    fields.done()
    return LlamaConfig(**values)


class _Fields:
    """Fields of a config.json, each to be taken once; what is left must mean nothing."""

    def __init__(self, raw: Mapping):
        self.raw, self.left = raw, set(raw) - NEUTRAL

    def take(self, name: str, default=None):
        self.left.discard(name)
        value = self.raw.get(name)
        return default if value is None else value

    def whole(self, name: str) -> int:
        value = self.take(name)
        require(type(value) is int and value > 0, f"config.json has {name} = {value!r}; wanted a whole number above 0")
        return value

    def done(self) -> None:
        unknown = sorted(name for name in self.left if self.raw[name] not in WITHOUT_MEANING and not name.startswith("_"))
        if unknown:
            raise UserError(f"config.json has {unknown[0]} = {str(self.raw[unknown[0]])[:60]}, which is not known here and may change what the model says")


def _activation(name: str) -> str:
    known = {"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
    require(name in known, f"config.json has the activation {name!r}; there are: {', '.join(known)}")
    return known[name]


def _layers(fields: _Fields, family: str, n_layers: int, window: int | None) -> dict:
    """Which layers see only a window."""
    kinds = fields.take("layer_types")
    pattern, use_window = fields.take("sliding_window_pattern"), fields.take("use_sliding_window", family not in ("qwen2", "qwen3", "smollm3"))
    first_global = fields.take("max_window_layers", n_layers)
    if kinds is not None:
        require(isinstance(kinds, list) and len(kinds) == n_layers, f"config.json lists layer_types for {len(kinds)} layers, it has {n_layers}")
        strange = set(map(str, kinds)) - {"full_attention", "sliding_attention"}
        require(not strange, f"config.json has layers of {', '.join(sorted(strange))}; wanted full_attention or sliding_attention")
        local = [kind == "sliding_attention" for kind in kinds]
    elif pattern is not None or family in ("gemma2", "gemma3_text"):
        every = pattern or (2 if family == "gemma2" else 6)
        local = [(layer + 1) % every != 0 for layer in range(n_layers)]
    elif not use_window or window is None:
        local = [False] * n_layers
    else:
        require(first_global in (0, n_layers) or family == "mistral", f"config.json has max_window_layers = {first_global} without layer_types; add them")
        local = [family != "qwen2" or first_global == 0] * n_layers
    if not any(local):
        return {}
    require(type(window) is int and window > 0, f"config.json has layers with a window and sliding_window = {window!r}; wanted a whole number")
    if all(local):
        return {"window": window}
    every = local.index(False) + 1
    require(local == [(layer + 1) % every != 0 for layer in range(n_layers)], "config.json mixes local and global layers in no regular pattern, which is not known here")
    return {"window": window, "global_every": every}


def _rope(fields: _Fields, family: str, context: int) -> dict:
    """Both ways of saying it: rope_theta with rope_scaling, and the newer rope_parameters."""
    base, scaling, local_base = fields.take("rope_theta"), fields.take("rope_scaling"), fields.take("rope_local_base_freq")
    both, original = fields.take("rope_parameters"), fields.take("original_max_position_embeddings")
    if both is not None and "full_attention" in both:
        local_base = (both.get("sliding_attention") or {}).get("rope_theta", local_base)
        both = both["full_attention"]
    if both is not None:
        base, scaling = both.get("rope_theta", base), both
    found = {"rope_base": float(base if base is not None else 1e6 if family == "gemma3_text" else 1e4)}
    if family == "gemma3_text":
        found["rope_base_local"] = float(local_base or 1e4)
    if not scaling:
        return found
    scaling = dict(scaling)
    kind = scaling.pop("rope_type", None) or scaling.pop("type", None) or "default"
    scaling.pop("type", None)
    scaling.pop("rope_theta", None)
    found |= {"rope_fraction": float(scaling.pop("partial_rotary_factor"))} if scaling.get("partial_rotary_factor") is not None else {}
    scaling.pop("partial_rotary_factor", None)
    known = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
             "yarn": ("factor", "beta_fast", "beta_slow", "attention_factor", "original_max_position_embeddings", "mscale", "mscale_all_dim", "truncate")}  # fmt: skip
    if kind == "default":
        return found
    require(kind in known, f"config.json scales positions by {kind!r}, which is not known here; there are: {', '.join(known)}")
    strange = [name for name in scaling if name not in known[kind] and scaling[name] not in WITHOUT_MEANING]
    strange += [name for name in ("mscale", "mscale_all_dim") if scaling.get(name)] + (["truncate"] if scaling.get("truncate") is False else [])
    require(not strange, f"config.json scales positions with {', '.join(strange)}, which is not known here")
    ours = {"factor": "rope_factor", "low_freq_factor": "rope_low_factor", "high_freq_factor": "rope_high_factor", "beta_fast": "rope_beta_fast",
            "beta_slow": "rope_beta_slow", "attention_factor": "rope_attention_factor", "original_max_position_embeddings": "rope_original_context"}  # fmt: skip
    found |= {"rope_scaling": kind} | {ours[name]: value for name, value in scaling.items() if name in ours and value is not None}
    if kind in ("llama3", "yarn"):
        found.setdefault("rope_original_context", original or context)
    return found
