"""Hugging Face's config.json → our config. What is not known is refused by name: a field may change what a model says.

    {"model_type": "qwen2", "hidden_size": 896, …}  →  LlamaConfig(d_model=896, qkv_bias=True, …)
    {"model_type": "gpt2", "n_embd": 768, …}        →  GPTConfig(d_model=768, bias=True, activation="gelu_tanh", …)

Three kinds of fields: those that are translated, those that cannot change the logits (`NEUTRAL`), and all others, which may
stand there only with a value that means nothing (null, false, empty).

Leaves out: weights (`huggingface.py`), the tokenizer.
"""

import math
from collections.abc import Mapping

from pikojax.config import GPTConfig, require
from pikojax.formats.fields import Fields, short
from pikojax.llama_config import LlamaConfig

LLAMAS = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text", "mixtral", "qwen2_moe", "qwen3_moe", "smollm3")
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
    "is_llama_config", "transformers.js_config", "neftune_noise_alpha", "output_router_logits", "router_aux_loss_coef",
    "router_jitter_noise", "attn_pdrop", "gradient_checkpointing",
}  # fmt: skip
# What a family has where the field is absent: sliding_window, num_key_value_heads, head_dim, both softcaps.
WINDOWS = dict.fromkeys(("mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "qwen2_moe", "qwen3_moe"), 4096)
HEADS_KV = {"mistral": 8, "qwen2": 32, "qwen3": 32, "gemma2": 4, "gemma3_text": 4, "mixtral": 8, "qwen2_moe": 16, "qwen3_moe": 4, "smollm3": 4}
WIDTHS = {"qwen3": 128, "gemma2": 256, "gemma3_text": 256}
SOFTCAPS = {"gemma2": (50.0, 30.0)}  # of scores, of logits
GELUS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
ACTIVATIONS = {"silu": "silu", "swish": "silu", **GELUS}


def to_config(raw: Mapping):
    """A LlamaConfig, GPTConfig or BertConfig. Raises UserError for what this file does not know."""
    fields = _fields(raw)
    family, others = fields.text("model_type"), {"gpt2": _gpt2, "bert": _bert}
    known = (*LLAMAS, *others)
    require(family is not None, "config.json has no model_type, so nobody knows what model it is of; give the folder of a model")
    require(family in known, f"config.json is of the architecture {short(family)!r}; there are: {', '.join(known)}")
    config = others[family](fields) if family in others else _llama(fields, family)
    fields.done()
    return config


def _gpt2(fields: Fields) -> GPTConfig:
    """GPT-2: our `classic` preset with biases and the GELU of tanh. What its config says of summaries is of other heads."""
    fields.left -= {name for name in fields.raw if name.startswith("summary_")} | {"n_ctx", "reorder_and_upcast_attn"}
    require(fields.flag("scale_attn_weights", True), "config.json has scale_attn_weights = false, which is not known here")
    return GPTConfig(
        d_model=fields.needed("n_embd"),
        n_layers=fields.needed("n_layer", most=4096),
        n_heads=fields.needed("n_head"),
        d_hidden=fields.whole("n_inner"),
        vocab_size=fields.needed("vocab_size"),
        context=fields.needed("n_positions"),
        norm_eps=fields.number("layer_norm_epsilon") or 1e-5,
        activation=_one_of(GELUS, fields.text("activation_function") or "gelu_new"),
        bias=True,
        tie=fields.flag("tie_word_embeddings", True),
    )


def _bert(fields: Fields):
    from pikojax.models.bert import BertConfig  # which loads JAX

    fields.left -= {"hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "tie_word_embeddings"}
    kind = fields.text("position_embedding_type") or "absolute"
    require(kind == "absolute", f"config.json has position_embedding_type = {short(kind)}, which is not known here; wanted absolute")
    require(not fields.flag("is_decoder", False), "config.json has is_decoder = true: a BERT that sees no later words is not known here")
    return BertConfig(
        d_model=fields.needed("hidden_size"),
        n_layers=fields.needed("num_hidden_layers", most=4096),
        n_heads=fields.needed("num_attention_heads"),
        d_hidden=fields.needed("intermediate_size"),
        vocab_size=fields.needed("vocab_size"),
        context=fields.needed("max_position_embeddings"),
        n_types=fields.whole("type_vocab_size") or 2,
        norm_eps=fields.number("layer_norm_eps") or 1e-12,
        activation=_one_of(GELUS, fields.text("hidden_act") or "gelu"),
    )


def _llama(fields: Fields, family: str) -> LlamaConfig:
    gemma = family.startswith("gemma")
    n_heads, d_model = fields.needed("num_attention_heads"), fields.needed("hidden_size")
    cap_scores, cap_logits = SOFTCAPS.get(family, (None, None))
    biased = family in ("llama", "qwen3", "gemma2", "gemma3_text", "qwen3_moe", "smollm3") and fields.flag("attention_bias", False)
    values = dict(
        d_model=d_model,
        n_layers=fields.needed("num_hidden_layers", most=4096),
        n_heads=n_heads,
        n_kv_heads=fields.whole("num_key_value_heads", HEADS_KV.get(family)) or n_heads,
        d_head=fields.whole("head_dim", WIDTHS.get(family)) or d_model // n_heads,
        d_hidden=fields.needed("intermediate_size"),
        vocab_size=fields.needed("vocab_size"),
        context=fields.needed("max_position_embeddings"),
        norm_eps=fields.number("rms_norm_eps") or (1e-5 if family in ("phi3", "mixtral") else 1e-6),
        tie=fields.flag("tie_word_embeddings", gemma or family == "smollm3"),
        qkv_bias=biased or family == "qwen2" or family == "qwen2_moe" and fields.flag("qkv_bias", True),
        out_bias=biased,
        mlp_bias=family in ("llama", "smollm3") and fields.flag("mlp_bias", False),
        qk_norm=family in ("qwen3", "gemma3_text", "qwen3_moe"),
        post_norms=gemma,
        embed_scale=math.sqrt(d_model) if gemma else 1.0,
        activation=_activation(fields, gemma),
        attention_softcap=fields.number("attn_logit_softcapping", cap_scores),
        softcap=fields.number("final_logit_softcapping", cap_logits),
        rope_fraction=fields.number("partial_rotary_factor") or 1.0,
    )
    if gemma and (scalar := fields.number("query_pre_attn_scalar", 256)) is not None:
        values["attention_scale"] = scalar**-0.5
    if family == "smollm3":
        values["nope_every"] = _without_positions(fields, values["n_layers"])
    if family == "phi3":  # of Phi-4-mini; transformers reads neither
        fields.must_be("full_attn_mod", 1)
        fields.must_be("interpolate_factor", 1)
    values |= _experts(fields, family) | _layers(fields, family, values["n_layers"]) | _rope(fields, family, values["context"])
    return LlamaConfig(**values)


def _experts(fields: Fields, family: str) -> dict:
    most = {"most": 4096}
    if family == "mixtral":
        return dict(n_experts=fields.whole("num_local_experts", **most) or 8, n_experts_used=fields.whole("num_experts_per_tok", **most) or 2)
    if not family.endswith("_moe"):
        return {}
    step = fields.whole("decoder_sparse_step", 1)
    require(step in (None, 1), f"config.json has decoder_sparse_step = {step}: layers without experts among those with them are not known here")
    older, newer = fields.whole("num_experts", **most), fields.whole("num_local_experts", **most)
    n, used, width = (60, 4, 1408) if family == "qwen2_moe" else (128, 8, 768)
    values = dict(n_experts=older or newer or n, n_experts_used=fields.whole("num_experts_per_tok", **most) or used)
    if family == "qwen2_moe":
        values["d_shared"] = fields.whole("shared_expert_intermediate_size", 5632)
    return values | dict(norm_topk=fields.flag("norm_topk_prob", False), d_expert=fields.whole("moe_intermediate_size") or width)


def _fields(raw: Mapping, inside: str = "") -> Fields:
    """Of a config.json, or of an object inside it. An absent field is its default; a null stays None."""
    return Fields(raw, "config.json", f"config.json has {inside}", NEUTRAL)


def _activation(fields: Fields, gemma: bool) -> str:
    """Gemma's is `hidden_activation`; the `hidden_act` that stands beside it in the first files was a mistake."""
    usual = fields.text("hidden_act") or "silu"
    name = (fields.text("hidden_activation") or "gelu_pytorch_tanh") if gemma else usual
    return _one_of(ACTIVATIONS, name)


def _one_of(known: Mapping[str, str], name: str) -> str:
    require(name in known, f"config.json has the activation {short(name)!r}; there are: {', '.join(known)}")
    return known[name]


def _layers(fields: Fields, family: str, n_layers: int) -> dict:
    """Which layers see only a window. Llama ignores what is said of windows, Qwen too unless `use_sliding_window` is true."""
    qwen, gemma = family.startswith("qwen"), family.startswith("gemma")
    seen = family in ("llama", "smollm3") or qwen and not fields.flag("use_sliding_window", False)  # in full, by every layer
    kinds, window = fields.list_of("layer_types"), fields.whole("sliding_window", WINDOWS.get(family), least=0 if seen else 1)
    first_local = fields.whole("max_window_layers", 28, least=0)
    if family == "gemma2":
        same = fields.whole("sliding_window_size", window)
        require(
            same in (None, window),
            f"config.json has sliding_window = {window} and sliding_window_size = {same}; wanted the same twice",
        )
    every = None
    if gemma:
        saved, written = fields.whole("_sliding_window_pattern", most=4096), fields.whole("sliding_window_pattern", most=4096)
        every = written or saved or (2 if family == "gemma2" else 6)
    if seen:
        window = None
    if kinds is not None:
        require(len(kinds) == n_layers, f"config.json lists layer_types for {len(kinds)} layers, it has {n_layers}")
        strange = [short(kind) for kind in kinds if kind not in ("full_attention", "sliding_attention")]
        require(not strange, f"config.json has layers of {', '.join(strange[:1])}; wanted full_attention or sliding_attention")
        local = [kind == "sliding_attention" for kind in kinds]
    elif gemma:
        local = [(layer + 1) % every != 0 for layer in range(n_layers)]
    else:
        first_local = first_local if qwen and first_local is not None else 0
        local = [window is not None and layer >= first_local for layer in range(n_layers)]
    if not any(local):
        return {}
    require(window is not None, "config.json has layers with a window and no sliding_window that holds; wanted a whole number")
    if all(local):
        return {"window": window}
    every = local.index(False) + 1
    regular = local == [(layer + 1) % every != 0 for layer in range(n_layers)]
    require(
        regular,
        "config.json mixes local and global layers in no regular pattern, which is not known here; wanted every n-th global",
    )
    return {"window": window, "global_every": every}


def _without_positions(fields: Fields, n_layers: int) -> int | None:
    """SmolLM3: its list has 1 for layers with positions."""
    listed, every = fields.list_of("no_rope_layers"), fields.whole("no_rope_layer_interval", 4, most=4096)
    if listed is not None and listed == [1] * n_layers:
        return None
    if listed is not None and 0 in listed:
        every = listed.index(0) + 1
    regular = listed in (None, [int((layer + 1) % (every or 4) != 0) for layer in range(n_layers)])
    require(regular, f"config.json has no_rope_layers = {short(listed)}; wanted a 1 for each layer and every n-th a 0")
    return every or 4


def _rope(fields: Fields, family: str, context: int) -> dict:
    """Both ways of saying it: rope_theta with rope_scaling, and the newer rope_parameters."""
    base, scaling, local_base = fields.number("rope_theta"), fields.mapping("rope_scaling"), fields.number("rope_local_base_freq")
    both, original, name = fields.mapping("rope_parameters"), fields.whole("original_max_position_embeddings"), "rope_scaling."
    if both is not None:
        scaling, name = both, "rope_parameters."
    if both is not None and family == "gemma3_text" and "full_attention" in both:
        halves = _fields(both, name)
        scaling, of_local = halves.mapping("full_attention"), halves.mapping("sliding_attention")
        halves.done()
        local = _fields(of_local or {}, name + "sliding_attention.")
        kind = local.text("rope_type")
        require(
            kind in (None, "default"),
            f"config.json scales positions of local layers by {short(kind)!r}, which is not known here",
        )
        local_base = local.number("rope_theta") or local_base
        local.done()
    scaling = _fields(scaling or {}, name)
    base = scaling.number("rope_theta") or base
    found = {"rope_base": float(base or {"gemma3_text": 1e6, "mixtral": 1e6, "smollm3": 2e6}.get(family, 1e4))}
    if family == "gemma3_text":
        found["rope_base_local"] = float(local_base or 1e4)
    kind, older = scaling.text("rope_type"), scaling.text("type")
    found |= _scaled(scaling, kind or older or "default", original, context)
    if (part := scaling.number("partial_rotary_factor")) is not None:
        found["rope_fraction"] = float(part)
    scaling.done()
    return found


def _scaled(scaling: Fields, kind: str, original: int | None, context: int) -> dict:
    known = ("default", "linear", "llama3", "yarn", "longrope")
    require(
        kind in known, f"config.json scales positions by {short(kind)!r}, which is not known here; there are: {', '.join(known)}"
    )
    if kind == "default":
        return {}
    ours = {"factor": "rope_factor"}
    if kind == "llama3":
        ours |= {"low_freq_factor": "rope_low_factor", "high_freq_factor": "rope_high_factor"}
    if kind == "yarn":
        ours |= {"beta_fast": "rope_beta_fast", "beta_slow": "rope_beta_slow", "attention_factor": "rope_attention_factor"}
        require(scaling.flag("truncate", True), "config.json scales positions with truncate = false, which is not known here")
    if kind == "longrope":
        ours |= {"attention_factor": "rope_attention_factor"}
    found = {to: value for name, to in ours.items() if (value := scaling.number(name)) is not None}
    if kind != "linear":
        found["rope_original_context"] = scaling.whole("original_max_position_embeddings") or original or context
    if kind in ("yarn", "longrope"):
        found.setdefault("rope_factor", context / found["rope_original_context"])
    if kind == "longrope":
        found |= {to: scaling.numbers(name) for name, to in (("short_factor", "rope_divisors"), ("long_factor", "rope_long_divisors"))}
    return {"rope_scaling": kind, **found}
