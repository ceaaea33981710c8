"""GGUF's metadata → our config. A key of the architecture that is not known may change what the model says, and is refused by name.

    general.architecture = "qwen2"    qwen2.embedding_length = 896 …    →    LlamaConfig(d_model=896, qkv_bias=True, …)

What the format does not say in a key is told by the tensors: biases that are there, a head that is not (then it is tied), rope_freqs.weight.
Where a key is absent its value is llama.cpp's.

Leaves out: the weights (`gguf_model.py`), mixtures whose layers are not all alike.
"""

import math
from collections.abc import Mapping

import numpy as np

from pikojax.config import require
from pikojax.formats.fields import ABSENT, Fields, short
from pikojax.llama_config import LlamaConfig

ARCHITECTURES = ("llama", "qwen2", "qwen3", "phi3", "gemma2", "gemma3", "smollm3", "qwen2moe", "qwen3moe")
MIXTURES = {"llama": True, "qwen2moe": False, "qwen3moe": True}  # that may have experts → whether the weights of a token's experts are made to sum to 1
WITHOUT_POSITIONS = {"smollm3": 4}  # every so manieth layer
WIDE_SCALE = {"gemma2": 46, "gemma3": 62}  # so many layers have the 27B models, whose scores are divided by √(d_model / heads)
GLOBAL_EVERY = {"gemma2": 2, "gemma3": 6}
SOFTCAPS = {"gemma2": (50.0, 30.0)}  # of scores, of logits
NEUTRAL = {"tensor_data_layout", "rope.scaling.finetuned"}


def to_config(metadata: Mapping, tensors: Mapping, file: str, divisors: np.ndarray | None = None, long_divisors: np.ndarray | None = None) -> LlamaConfig:
    """`divisors`: what rope_freqs.weight says; with `long_divisors`, what the two rope_factors of Phi-3 say."""
    architecture = _is_a_model(metadata, tensors, file)
    keys, gemma = _keys(metadata, architecture, file), architecture.startswith("gemma")
    d_model, n_layers = keys.needed("embedding_length"), keys.needed("block_count", most=4096)
    n_heads = keys.needed("attention.head_count")
    d_head = keys.whole("attention.key_length") or d_model // n_heads
    cap_scores, cap_logits = SOFTCAPS.get(architecture, (None, None))
    has = lambda name: f"blk.0.{name}.bias" in tensors
    vocab_size = tensors["token_embd.weight"].shape[0]
    values = dict(
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=keys.whole("attention.head_count_kv") or n_heads,
        d_head=d_head,
        d_hidden=keys.needed("feed_forward_length"),
        vocab_size=vocab_size,
        context=keys.needed("context_length"),
        norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
        tie="output.weight" not in tensors,
        qkv_bias=has("attn_q") or has("attn_qkv"),
        out_bias=has("attn_output"),
        mlp_bias=has("ffn_down"),
        qk_norm=architecture in ("qwen3", "gemma3", "qwen3moe"),
        post_norms=gemma,
        embed_scale=math.sqrt(d_model) if gemma else 1.0,
        activation="gelu_tanh" if gemma else "silu",
        attention_softcap=keys.number("attn_logit_softcapping", cap_scores),
        softcap=keys.number("final_logit_softcapping", cap_logits),
        attention_scale=keys.number("attention.scale"),
        nope_every=WITHOUT_POSITIONS.get(architecture),
    )
    require(values["norm_eps"] is not None, f"{file} lacks {architecture}.attention.layer_norm_rms_epsilon; download it again")
    if values["attention_scale"] is None and WIDE_SCALE.get(architecture) == n_layers:
        values["attention_scale"] = (d_model / n_heads) ** -0.5
    keys.must_be("vocab_size", vocab_size)
    keys.must_be("attention.value_length", d_head)
    keys.must_be("attention.causal", True)
    window = keys.whole("attention.sliding_window")
    every = keys.whole("attention.sliding_window_pattern", GLOBAL_EVERY.get(architecture))
    values |= {"window": window, "global_every": every if window else None}
    values |= _rope(keys, architecture, d_head, values["context"], divisors, long_divisors)
    values |= _experts(keys, architecture, values["d_hidden"]) if architecture in MIXTURES else {}
    keys.done()
    return LlamaConfig(**values)


def _is_a_model(metadata: Mapping, tensors: Mapping, file: str) -> str:
    """The architecture, if this is a whole model of one that is known."""
    architecture, kind = metadata.get("general.architecture"), metadata.get("general.type")
    require(kind is None or isinstance(kind, str) and kind == "model", f"{file} holds {short(kind)!r}, not a model; give the model that it belongs to")
    known = isinstance(architecture, str) and architecture in ARCHITECTURES
    require(known, f"{file} is of the architecture {short(architecture)!r}; there are: {', '.join(ARCHITECTURES)}")
    require(bool(tensors), f"{file} has no weights, only {'a vocabulary' if 'tokenizer.ggml.tokens' in metadata else 'metadata'}; give a whole model")
    good = "token_embd.weight" in tensors and len(tensors["token_embd.weight"].shape) == 2
    require(good, f"{file} lacks the matrix token_embd.weight; download it again")
    return architecture


def _keys(metadata: Mapping, architecture: str, file: str) -> Fields:
    """The keys of one architecture."""
    begin = architecture + "."
    raw = {key.removeprefix(begin): value for key, value in metadata.items() if key.startswith(begin)}
    return Fields(raw, file, f"{file} has {begin}", NEUTRAL, _plain, _is_nothing)


def _plain(value):
    """One number for each layer, all alike, is that number; 0 stands for nothing, as llama.cpp has it."""
    if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
        value = value[0].item()
    return ABSENT if value is None or _is_nothing(value) else value


def _is_nothing(value) -> bool:
    return not isinstance(value, np.ndarray) and value in (0, False, "") and not isinstance(value, bytes)


def _experts(keys: Fields, architecture: str, d_hidden: int) -> dict:
    """Of Llama's mixtures, Mixtral, `d_hidden` is an expert's width; of Qwen's that has a key of its own."""
    n = keys.whole("expert_count", most=4096) if architecture == "llama" else keys.needed("expert_count", most=4096)
    if n is None:
        return {}
    used, width, shared = keys.needed("expert_used_count", most=4096), d_hidden, None
    if architecture != "llama":
        width = keys.whole("expert_feed_forward_length") or max(1, d_hidden // used)
    if architecture == "qwen2moe":
        shared = keys.whole("expert_shared_feed_forward_length") or d_hidden
    return dict(n_experts=n, n_experts_used=used, d_expert=width, d_shared=shared, norm_topk=MIXTURES[architecture])


def _rope(keys: Fields, architecture: str, d_head: int, context: int, divisors: np.ndarray | None, long_divisors: np.ndarray | None) -> dict:
    found = {"rope_base": keys.number("rope.freq_base", 1e4), "rope_fraction": (keys.whole("rope.dimension_count") or d_head) / d_head}
    if architecture == "gemma3":
        found["rope_base_local"] = keys.number("rope.freq_base_swa", 1e4)
    for name, numbers in (("rope_divisors", divisors), ("rope_long_divisors", long_divisors)):
        if numbers is not None:
            require(numbers.size <= 1 << 16, f"{keys.file} has {numbers.size:,} divisors of positions, more than any head is wide")
            found[name] = tuple(numbers.reshape(-1).tolist())
    older = keys.number("rope.scale_linear")
    kind, factor = keys.text("rope.scaling.type") or "linear", keys.number("rope.scaling.factor", older)
    known = ("none", "linear", "yarn", "longrope")
    require(kind in known, f"{keys.file} scales positions by {short(kind)!r}, which is not known here; there are: {', '.join(known)}")
    original, attention = keys.whole("rope.scaling.original_context_length"), keys.number("rope.scaling.attn_factor", 1.0)
    fast, slow = (keys.number(f"rope.scaling.yarn_beta_{name}", usual) for name, usual in (("fast", 32.0), ("slow", 1.0)))
    for name in ("yarn_ext_factor", "yarn_attn_factor"):
        keys.must_be(f"rope.scaling.{name}", 1.0)
    if kind == "longrope" or long_divisors is not None:  # which older files say by their tensors alone
        both = divisors is not None and long_divisors is not None
        require(both, f"{keys.file} scales positions by longrope, which needs rope_factors_short.weight and rope_factors_long.weight; download it again")
        require(factor is None, f"{keys.file} scales positions by {kind} and by rope_factors, which is not known here together")
        return found | {"rope_scaling": "longrope", "rope_original_context": original or context, "rope_attention_factor": attention}
    if kind == "yarn" and factor is not None:
        found |= {"rope_scaling": "yarn", "rope_factor": factor, "rope_original_context": original or context}
        found |= {"rope_beta_fast": fast, "rope_beta_slow": slow}
        if attention != 1.0:  # which stands before yarn's own factor there, and in its place here
            found["rope_attention_factor"] = attention * (0.1 * math.log(factor) + 1 if factor > 1 else 1.0)
        return found
    require(attention == 1.0, f"{keys.file} has {architecture}.rope.scaling.attn_factor = {attention:g} without yarn, which is not known here")
    if kind == "linear" and factor is not None and factor != 1.0:
        found |= {"rope_scaling": "linear", "rope_factor": factor}
    return found
