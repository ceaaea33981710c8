"""Our config and params → a GGUF file in llama.cpp's conventions: `gguf_config.py` and `gguf_model.py` the other way round.

    save("model.gguf", cfg, params, "q8_0", vocabulary)

The metadata are read back before anything is written: what GGUF cannot say of a config, or would say otherwise, is refused by
the field's name. With a packed type the blocks' matrices have it and embedding and head eight bits, as `quant.rules_for` has it; norms and
biases are float32. A row that does not divide into blocks of 256 is packed as q8_0, one that does not divide into 32 is float16.
Without a type every weight stays as it is.

Leaves out: architectures beside the Llama family, Phi-3's joined matrices.
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
from pikojax.formats.gguf_model import DIVISORS, INTERLEAVED, in_halves, picked
from pikojax.formats.gguf_write import Tensor, write
from pikojax.formats.halves import narrowed
from pikojax.formats.mapped import release
from pikojax.llama_config import LlamaConfig
from pikojax.models.llama import base_frequencies, scaled_frequencies
from pikojax.qtensor import FORMATS, QTensor, dequantize
from pikojax.quant.pack import in_parts
from pikojax.quant.tree import rule_of, rules_for

TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9, "q4_k": 14, "q5_k": 16, "q6_k": 18}  # → general.file_type
LINEAR = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "out": "attn_output", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
NORMS = {"norm1": "attn_norm", "norm2": "ffn_norm", "q_norm": "attn_q_norm", "k_norm": "attn_k_norm", "post1": "post_attention_norm", "post2": "post_ffw_norm"}
_FLOATS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def save(path: str | Path, cfg: LlamaConfig, params: dict, type: str | None = None, vocabulary: Mapping | None = None, name: str = "",
         types: Mapping[str, str | None] | None = None, pack: Callable[[str], QTensor] | None = None) -> int:  # fmt: skip
    """The bytes written. `vocabulary`: metadata of a tokenizer (`text.gguf_vocab_save`, or another GGUF file's). `types`: of each matrix by its path,
    in place of the rules; `pack`: what packs the matrix at a path when its turn comes (`quant.pack.Packer`)."""
    require(type is None or type in TYPES, f"type {type!r} is unknown; choose from {', '.join(TYPES)}")
    require(isinstance(cfg, LlamaConfig), f"only models of the Llama family are written as GGUF, this is {cfg.name!r}; write a folder, by a name without .gguf")
    require(cfg.n_experts is None, "mixtures of experts are not written as GGUF yet; write a folder, by a name without .gguf")
    cfg = _with_divisors(cfg)
    architecture = _architecture(cfg)
    if types is None:
        types = {path: rule_of(path, rules_for(type)).format if type in FORMATS else type for path in _matrices(cfg)}
    tensors = _tensors(cfg, params, types, pack, architecture in INTERLEAVED)
    metadata = {"general.architecture": architecture, "general.type": "model", "general.name": name or Path(path).stem}
    metadata |= {f"{architecture}.{key}": value for key, value in _keys(cfg, architecture).items()}
    metadata |= {"general.quantization_version": 2} if any(tensor.type in FORMATS for tensor in tensors) else {}
    metadata |= {"general.file_type": TYPES[type]} if type else {}
    _prove(cfg, metadata, {tensor.name: tensor for tensor in tensors}, architecture)
    return write(path, metadata | dict(vocabulary or {}), tensors)


# ---------------------------------------------------------------- metadata


def _with_divisors(cfg: LlamaConfig) -> LlamaConfig:
    """Llama 3's scaling as GGUF has it: a divisor for each frequency."""
    if cfg.rope_scaling != "llama3":
        return cfg
    divisors = base_frequencies(cfg.rope_base, cfg.d_rope).astype(np.float64) / scaled_frequencies(cfg)[0]
    usual = {name: LlamaConfig.__dataclass_fields__[name].default for name in ("rope_scaling", "rope_factor", "rope_original_context", "rope_low_factor", "rope_high_factor")}
    return dataclasses.replace(cfg, **usual, rope_divisors=tuple(divisors.astype(np.float32).tolist()))


def _architecture(cfg: LlamaConfig) -> str:
    if cfg.post_norms:
        return "gemma3" if cfg.qk_norm else "gemma2"
    return "qwen3" if cfg.qk_norm else "qwen2" if cfg.qkv_bias and not cfg.out_bias else "llama"


def _keys(cfg: LlamaConfig, architecture: str) -> dict:
    made = {
        "context_length": cfg.context, "embedding_length": cfg.d_model, "block_count": cfg.n_layers, "feed_forward_length": cfg.d_hidden,
        "attention.head_count": cfg.n_heads, "attention.head_count_kv": cfg.n_kv_heads, "attention.key_length": cfg.d_head,
        "attention.value_length": cfg.d_head, "attention.layer_norm_rms_epsilon": cfg.norm_eps, "rope.dimension_count": cfg.d_head,
        "rope.freq_base": cfg.rope_base, "vocab_size": cfg.vocab_size,
    }  # fmt: skip
    if architecture.startswith("gemma"):
        made |= {"attention.sliding_window": cfg.window, "attn_logit_softcapping": cfg.attention_softcap, "final_logit_softcapping": cfg.softcap}
    if architecture == "gemma3":
        made["rope.freq_base_swa"] = cfg.rope_base_local
    if cfg.rope_scaling in ("linear", "yarn"):
        made |= {"rope.scaling.type": cfg.rope_scaling, "rope.scaling.factor": cfg.rope_factor}
    if cfg.rope_scaling == "yarn":
        made["rope.scaling.original_context_length"] = cfg.rope_original_context
    return {key: value for key, value in made.items() if value is not None}


def _prove(cfg: LlamaConfig, metadata: Mapping, tensors: Mapping[str, Tensor], architecture: str) -> None:
    divisors = None if cfg.rope_divisors is None else np.array(cfg.rope_divisors, np.float32)
    again = dataclasses.asdict(gguf_config.to_config(metadata, tensors, "the file to be written", divisors))
    scores = lambda scale: scale or 1 / math.sqrt(cfg.d_head)
    for name, value in dataclasses.asdict(cfg).items():
        found = again[name]
        if name == "attention_scale":
            value, found = scores(value), scores(found)
        close = isinstance(value, float) and isinstance(found, float) and math.isclose(value, found, rel_tol=1e-6)  # float32 in the file
        require(value == found or close, f"GGUF's architecture {architecture} cannot say {name} = {str(value)[:40]} (it would be {str(found)[:40]}); this model stays in its own format")


# ---------------------------------------------------------------- tensors


def _matrices(cfg: LlamaConfig) -> list[str]:
    return ["embed", "head", *(f"blocks/{layer}/{name}/kernel" for layer in range(cfg.n_layers) for name in LINEAR)]


def _tensors(cfg: LlamaConfig, params: dict, types: Mapping[str, str | None], pack, interleaved: bool) -> list[Tensor]:
    """In the file's order. Nothing is put into another order or packed before it is written."""
    matrix = lambda theirs, path, leaf, **options: _matrix(theirs, leaf, types[path], pack and functools.partial(pack, path), **options)
    made = [matrix("token_embd.weight", "embed", params["embed"], table=True)]
    if cfg.rope_divisors is not None:
        made.append(_vector(DIVISORS, np.array(cfg.rope_divisors, np.float32)))
    interleave = {name: np.argsort(in_halves(cfg, n)) for name, n in (("q", cfg.n_heads), ("k", cfg.n_kv_heads))} if interleaved else {}
    for layer in range(cfg.n_layers):
        block = _layer(params["blocks"], layer)
        for name, parts in block.items():
            if name in NORMS:
                made.append(_vector(f"blk.{layer}.{NORMS[name]}.weight", parts["scale"]))
                continue
            order, theirs = interleave.get(name, slice(None)), f"blk.{layer}.{LINEAR[name]}"
            made.append(matrix(f"{theirs}.weight", f"blocks/{layer}/{name}/kernel", parts["kernel"], order=order))
            if "bias" in parts:
                made.append(_vector(f"{theirs}.bias", np.asarray(parts["bias"])[order]))
    made.append(_vector("output_norm.weight", params["norm"]["scale"]))
    return made if cfg.tie else [*made, matrix("output.weight", "head", params["head"])]


def _layer(blocks, layer: int) -> dict:
    return jax.tree.map(lambda leaf: leaf[layer], blocks) if isinstance(blocks, dict) else blocks[layer]


def _vector(name: str, values) -> Tensor:
    values = np.asarray(values, np.float32)
    return Tensor(name, values.shape, "f32", lambda: values)


def _matrix(name: str, leaf, type: str | None, pack=None, table: bool = False, order=slice(None)) -> Tensor:
    packed = isinstance(leaf, QTensor)
    require(not packed or leaf.layout == "canonical", "weights that were prepared for a kernel cannot be written; load the model with ready=False")
    leaf = leaf if packed else np.asarray(leaf)
    shape = leaf.shape if table and not packed else leaf.shape[::-1]  # by outputs, as GGUF has it
    stored = leaf.format if packed else _FLOATS.get(str(leaf.dtype), "")
    require(type or stored, f"{name} is of a type that GGUF does not have here; give a --type")
    type = type or stored
    if type in FORMATS and shape[1] % FORMATS[type].block_weights:
        type = "q8_0" if shape[1] % 32 == 0 else "f16"
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
        values = np.asarray(dequantize(jax.tree.map(jnp.asarray, leaf))) if packed else leaf
        rows = (values if table and not packed else values.T)[order]
        return np.ascontiguousarray(rows if type == "bf16" else narrowed(rows, {"f32": np.float32, "f16": np.float16}[type], name))

    return Tensor(name, shape, type, floats)
