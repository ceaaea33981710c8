"""Our config and params → a GGUF file in llama.cpp's conventions: `gguf_config.py` and `gguf_model.py` the other way round.

    save("model.gguf", cfg, params, "q8_0", vocabulary)

The metadata are read back before anything is written: what GGUF cannot say of a config, or would say otherwise, is refused by
the field's name. With a packed type the blocks' matrices have it and embedding and head eight bits, as `quant.rules_for` has it; norms and
biases are float32. A row that does not divide into blocks of 256 is packed as q8_0, one that does not divide into 32 is float16.
Without a type every weight stays as it is.

Leaves out: architectures beside the Llama family.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import require
from pikojax.formats import gguf_config
from pikojax.formats.gguf_model import DIVISORS, FACTORS, INTERLEAVED, in_halves, picked
from pikojax.formats.gguf_write import Tensor, write
from pikojax.formats.halves import narrowed
from pikojax.formats.mapped import Stack, release
from pikojax.llama_config import LlamaConfig
from pikojax.models.llama import base_frequencies, scaled_frequencies
from pikojax.qtensor import FORMATS, QTensor, dequantize
from pikojax.quant.pack import in_parts
from pikojax.quant.tree import rule_of, rules_for

TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9, "q4_k": 14, "q5_k": 16, "q6_k": 18}  # → general.file_type
LINEAR = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "out": "attn_output", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
EXPERTS = {part: LINEAR[part] for part in ("gate", "up", "down")}
JOINED = {"phi3": {"attn_qkv": ("q", "k", "v"), "ffn_up": ("gate", "up")}}  # several of ours in one matrix, one after the other
SQUARE = ("qwen2", "qwen2moe", "phi3")  # llama.cpp has no heads there that are together wider, or narrower, than the model
BIASED = {"llama": (False, True), "qwen2": (True,), "qwen2moe": (True,)}  # whether q, k and v have biases; the others' have none
NORMS = {"norm1": "attn_norm", "norm2": "ffn_norm", "q_norm": "attn_q_norm", "k_norm": "attn_k_norm", "post1": "post_attention_norm", "post2": "post_ffw_norm"}
_FLOATS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def save(path: str | Path, cfg: LlamaConfig, params: dict, type: str | None = None, vocabulary: Mapping | None = None, name: str = "",
         types: Mapping[str, str | None] | None = None, pack: Callable[[str], QTensor] | None = None) -> int:  # fmt: skip
    """The bytes written. `vocabulary`: metadata of a tokenizer (`text.gguf_vocab_save`, or another GGUF file's). `types`: of each matrix by its path,
    in place of the rules; `pack`: what packs the matrix at a path when its turn comes (`quant.pack.Packer`)."""
    require(type is None or type in TYPES, f"type {type!r} is unknown; choose from {', '.join(TYPES)}")
    require(isinstance(cfg, LlamaConfig), f"only models of the Llama family are written as GGUF, this is {cfg.name!r}; write a folder, by a name without .gguf")
    cfg = _as_gguf_says_it(cfg)
    architecture = _architecture(cfg)
    if types is None:
        types = {path: rule_of(path, rules_for(type)).format if type in FORMATS else type for path in _matrices(cfg)}
    tensors = _tensors(cfg, params, types, pack, architecture)
    metadata = {"general.architecture": architecture, "general.type": "model", "general.name": name or Path(path).stem}
    metadata |= {f"{architecture}.{key}": value for key, value in _keys(cfg, architecture).items()}
    metadata |= {"general.quantization_version": 2} if any(tensor.type in FORMATS for tensor in tensors) else {}
    metadata |= {"general.file_type": TYPES[type]} if type else {}
    _prove(cfg, metadata, {tensor.name: tensor for tensor in tensors}, architecture)
    return write(path, metadata | dict(vocabulary or {}), tensors)


# ---------------------------------------------------------------- metadata


def _as_gguf_says_it(cfg: LlamaConfig) -> LlamaConfig:
    """Llama 3's scaling as a divisor for each frequency; longrope's factor as what it makes of the rotated vectors; no window where it hides nothing."""
    if cfg.window is not None and cfg.window >= cfg.context and not cfg.post_norms:  # Gemma's local layers differ in more than that
        cfg = dataclasses.replace(cfg, window=None, global_every=None)
    if cfg.rope_scaling == "longrope":
        return dataclasses.replace(cfg, rope_factor=1.0, rope_attention_factor=scaled_frequencies(cfg)[1])
    if cfg.rope_scaling != "llama3":
        return cfg
    divisors = base_frequencies(cfg.rope_base, cfg.d_rope).astype(np.float64) / scaled_frequencies(cfg)[0]
    usual = {name: LlamaConfig.__dataclass_fields__[name].default for name in ("rope_scaling", "rope_factor", "rope_original_context", "rope_low_factor", "rope_high_factor")}
    return dataclasses.replace(cfg, **usual, rope_divisors=tuple(divisors.astype(np.float32).tolist()))


def _architecture(cfg: LlamaConfig) -> str:
    if cfg.post_norms:
        return "gemma3" if cfg.qk_norm else "gemma2"
    if cfg.nope_every is not None:
        return "smollm3"
    if cfg.n_experts is not None:
        return "qwen3moe" if cfg.qk_norm else "qwen2moe" if cfg.d_shared is not None else "llama"
    if (cfg.rope_scaling == "longrope" or cfg.rope_fraction < 1) and not cfg.qkv_bias:
        return "phi3"
    return "qwen3" if cfg.qk_norm else "qwen2" if cfg.qkv_bias and not cfg.out_bias else "llama"


def _keys(cfg: LlamaConfig, architecture: str) -> dict:
    made = {
        "context_length": cfg.context, "embedding_length": cfg.d_model, "block_count": cfg.n_layers, "feed_forward_length": cfg.d_hidden,
        "attention.head_count": cfg.n_heads, "attention.head_count_kv": cfg.n_kv_heads, "attention.key_length": cfg.d_head,
        "attention.value_length": cfg.d_head, "attention.layer_norm_rms_epsilon": cfg.norm_eps, "rope.dimension_count": cfg.d_rope if architecture == "phi3" else cfg.d_head,
        "rope.freq_base": cfg.rope_base, "vocab_size": cfg.vocab_size,
    }  # fmt: skip
    if architecture.startswith("gemma"):
        made |= {"attention.sliding_window": cfg.window, "attn_logit_softcapping": cfg.attention_softcap, "final_logit_softcapping": cfg.softcap}
    if architecture == "phi3":
        made["attention.sliding_window"] = 0  # where it is absent some llama.cpp guess one
    if architecture == "gemma3":
        made["rope.freq_base_swa"] = cfg.rope_base_local
    if cfg.rope_scaling != "none":
        made["rope.scaling.type"] = cfg.rope_scaling
    if cfg.rope_scaling in ("linear", "yarn"):
        made["rope.scaling.factor"] = cfg.rope_factor
    if cfg.rope_scaling in ("yarn", "longrope"):
        made["rope.scaling.original_context_length"] = cfg.rope_original_context
    if cfg.rope_scaling == "longrope":
        made["rope.scaling.attn_factor"] = cfg.rope_attention_factor
    if cfg.n_experts is not None:
        made |= {"expert_count": cfg.n_experts, "expert_used_count": cfg.n_experts_used}
        width = {"feed_forward_length": cfg.d_expert} if architecture == "llama" else {"expert_feed_forward_length": cfg.d_expert}
        made |= width | {"expert_shared_feed_forward_length": cfg.d_shared}
    return {key: value for key, value in made.items() if value is not None}


def _prove(cfg: LlamaConfig, metadata: Mapping, tensors: Mapping[str, Tensor], architecture: str) -> None:
    cannot, own = f"GGUF's architecture {architecture} cannot say", "this model stays in its own format"
    seen = cfg.window is None or architecture.startswith("gemma")
    require(seen, f"llama.cpp would apply no window here, and this model has a window of {cfg.window} tokens in a context of {cfg.context}; {own}")
    require(cfg.n_experts is None or architecture in gguf_config.MIXTURES, f"{cannot} n_experts = {cfg.n_experts}; {own}")
    require(cfg.rope_scaling != "longrope" or architecture == "phi3", f"{cannot} rope_scaling = longrope; {own}")
    as_array = lambda divisors: None if divisors is None else np.array(divisors, np.float32)
    read = gguf_config.to_config(metadata, tensors, "the file to be written", as_array(cfg.rope_divisors), as_array(cfg.rope_long_divisors))
    again = dataclasses.asdict(read)
    scores = lambda scale: scale or 1 / math.sqrt(cfg.d_head)
    for name, value in dataclasses.asdict(cfg).items():
        found = again[name]
        if name == "attention_scale":
            value, found = scores(value), scores(found)
        idle = name == "d_hidden" and cfg.n_experts is not None  # beside experts nothing has that width
        require(idle or _close(value, found), f"{cannot} {name} = {str(value)[:40]} (it would be {str(found)[:40]}); {own}")
    wide = cfg.n_heads * cfg.d_head
    require(architecture not in SQUARE or wide == cfg.d_model, f"{cannot} heads that are together {wide} wide in a model of {cfg.d_model}; {own}")
    require(architecture == "llama" or not (cfg.out_bias or cfg.mlp_bias), f"{cannot} biases of what leaves attention, or of the MLP; {own}")
    require(cfg.qkv_bias in BIASED.get(architecture, (False,)), f"{cannot} qkv_bias = {cfg.qkv_bias}; {own}")
    require(architecture != "qwen2moe" or not cfg.tie, f"{cannot} tie = True; {own}")


def _close(a, b) -> bool:
    """Numbers are float32 in the file."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_close, a, b))
    return a == b or isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=1e-6)


# ---------------------------------------------------------------- tensors


def _matrices(cfg: LlamaConfig) -> list[str]:
    """Their paths."""
    names = list(LINEAR)
    if cfg.n_experts is not None:
        shared = () if cfg.d_shared is None else (f"experts/shared/{name}" for name in EXPERTS)
        names = ["q", "k", "v", "out", *(f"experts/{name}" for name in EXPERTS), *shared]
    return ["embed", "head", *(f"blocks/{layer}/{name}/kernel" for layer in range(cfg.n_layers) for name in names)]


def _tensors(cfg: LlamaConfig, params: dict, types: Mapping[str, str | None], pack, architecture: str) -> list[Tensor]:
    """In the file's order. Nothing is put into another order or packed before it is written."""
    matrix = lambda theirs, path, leaf, **options: _matrix(theirs, leaf, types[path], pack and functools.partial(pack, path), **options)
    made = [matrix("token_embd.weight", "embed", params["embed"], table=True)]
    divisors = zip(FACTORS, (cfg.rope_divisors, cfg.rope_long_divisors)) if cfg.rope_scaling == "longrope" else [(DIVISORS, cfg.rope_divisors)]
    made += [_vector(name, np.array(values, np.float32)) for name, values in divisors if values is not None]
    interleaved = architecture in INTERLEAVED
    interleave = {name: np.argsort(in_halves(cfg, n)) for name, n in (("q", cfg.n_heads), ("k", cfg.n_kv_heads))} if interleaved else {}
    for layer in range(cfg.n_layers):
        block = _layer(params["blocks"], layer)
        for name, parts in block.items():
            if name in NORMS:
                made.append(_vector(f"blk.{layer}.{NORMS[name]}.weight", parts["scale"]))
                continue
            if name == "experts":
                made += _experts(f"blk.{layer}.", f"blocks/{layer}/experts/", parts, matrix)
                continue
            order, theirs = interleave.get(name, slice(None)), f"blk.{layer}.{LINEAR[name]}"
            made.append(matrix(f"{theirs}.weight", f"blocks/{layer}/{name}/kernel", parts["kernel"], order=order))
            if "bias" in parts:
                made.append(_vector(f"{theirs}.bias", np.asarray(parts["bias"])[order]))
    made.append(_vector("output_norm.weight", params["norm"]["scale"]))
    made += [] if cfg.tie else [matrix("output.weight", "head", params["head"])]
    return _joined(made, cfg.n_layers, JOINED[architecture]) if architecture in JOINED else made


def _experts(at: str, path: str, experts: Mapping, matrix: Callable) -> list[Tensor]:
    """A layer's experts, one tensor for all of them; the router, and what weighs the shared expert, as floats."""
    made = [_vector(f"{at}ffn_gate_inp.weight", np.asarray(experts["router"]).T)]
    made += [matrix(f"{at}{theirs}_exps.weight", f"{path}{name}/kernel", experts[name]["kernel"]) for name, theirs in EXPERTS.items()]
    if "shared" in experts:
        shared = experts["shared"]
        made += [matrix(f"{at}{theirs}_shexp.weight", f"{path}shared/{name}/kernel", shared[name]["kernel"]) for name, theirs in EXPERTS.items()]
        made.append(_vector(f"{at}ffn_gate_inp_shexp.weight", np.asarray(shared["weight"])[:, 0]))
    return made


def _joined(tensors: list[Tensor], n_layers: int, joined: Mapping[str, tuple[str, ...]]) -> list[Tensor]:
    """Matrices that this architecture has as one: their rows one after the other."""
    by_name = {tensor.name: tensor for tensor in tensors}
    for layer in range(n_layers):
        for name, ours in joined.items():
            parts = [by_name.pop(f"blk.{layer}.{LINEAR[part]}.weight") for part in ours]
            types = sorted({part.type for part in parts})
            require(len(types) == 1, f"{', '.join(ours)} are one matrix in this architecture's files; give them one type, not {' and '.join(types)}")
            shape = sum(part.shape[0] for part in parts), parts[0].shape[1]
            whole = Tensor(f"blk.{layer}.{name}.weight", shape, types[0], functools.partial(_rows_of, parts))
            by_name[whole.name] = whole
    return list(by_name.values())


def _rows_of(parts: list[Tensor]) -> np.ndarray:
    return np.concatenate([part.make() for part in parts])


def _layer(blocks, layer: int) -> dict:
    return jax.tree.map(lambda leaf: leaf[layer], blocks) if isinstance(blocks, dict) else blocks[layer]


def _vector(name: str, values) -> Tensor:
    values = np.asarray(values, np.float32)
    return Tensor(name, values.shape, "f32", lambda: values)


def _matrix(name: str, leaf, type: str | None, pack=None, table: bool = False, order=slice(None)) -> Tensor:
    packed = isinstance(leaf, QTensor)
    require(not packed or leaf.layout == "canonical", "weights that were prepared for a kernel cannot be written; load the model with ready=False")
    leaf = leaf if packed or isinstance(leaf, Stack) else np.asarray(leaf)
    stack = leaf.stack if packed else leaf.shape[:-2]
    shape = leaf.shape if table and not packed else (*stack, *leaf.shape[:-3:-1])  # by outputs, as GGUF has it
    stored = leaf.format if packed else _FLOATS.get(str(leaf.dtype), "")
    require(type or stored, f"{name} is of a type that GGUF does not have here; give a --type")
    type = type or stored
    if type in FORMATS and shape[-1] % FORMATS[type].block_weights:
        type = "q8_0" if shape[-1] % 32 == 0 else "f16"
    if packed and type == leaf.format:
        require(FORMATS[type].gguf, f"{name} is packed as {type}, which GGUF does not have; give a type")
        return Tensor(name, shape, type, lambda: picked(dataclasses.replace(leaf, data=np.asarray(leaf.data)), order).data)
    again = packed and type in FORMATS
    require(not again, f"{name} is packed as {leaf.format if packed else ''}; packing it again as {type} would lose more: give the model before it was packed, or no type")
    if type in FORMATS:

        def packed_rows() -> np.ndarray:
            made = pack() if pack else in_parts(leaf, type, table)[0]
            release(leaf)
            return picked(made, order).data

        return Tensor(name, shape, type, packed_rows)

    def floats() -> np.ndarray:
        values = np.asarray(dequantize(jax.tree.map(jnp.asarray, leaf))) if packed else np.asarray(leaf)
        rows = (values if table and not packed else values.swapaxes(-1, -2))[order]
        return np.ascontiguousarray(rows if type == "bf16" else narrowed(rows, {"f32": np.float32, "f16": np.float16}[type], name))

    return Tensor(name, shape, type, floats)
