"""Hugging Face model folders: config.json, *.safetensors (perhaps in shards), tokenizer files, chat template → our config and params.

    model.layers.3.self_attn.q_proj.weight [out, in]   →   params["blocks"][3]["q"]["kernel"] [in, out]

Tensors come one at a time from the mapped files, and each is placed before the next are read, so that memory holds the model once. A layer's
experts become one array when that is asked for, one expert after the other. Each tensor of the files is used once and each
of ours is filled, or the folder is refused by the tensor's name. Pickle files are refused.

Each reader is a function from a source of tensors to our tree, and says alone what tensor goes where: `hf_write.py` runs it backwards.

Leaves out: writing (`hf_write.py`), downloads (`hub.py`).
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pikojax.config import UserError, require
from pikojax.formats import hf_config, mapped, safetensors_file
from pikojax.formats.mapped import Stack
from pikojax.text import hf_json
from pikojax.text.what_is import HEAD_BYTES, refuse_mistakes

INDEX, ALONE, CONFIG = "model.safetensors.index.json", "model.safetensors", "config.json"
LARGEST_JSON_BYTES = 64 << 20
PICKLES = ("*.bin", "*.pth", "*.pt", "*.ckpt", "*.pkl")  # what such files are called
PREFIXES = ("model.", "transformer.", "bert.")  # of what stands below a language model's head; folders of the bare model have none
IGNORED = re.compile(r".*(rotary_emb\.inv_freq|\.attn\.bias|\.attn\.masked_bias|embeddings\.position_ids)$")  # made anew from the config


def looks_like(path: Path) -> bool:
    return (path / CONFIG).is_file()


def pickle_in(folder: Path) -> Path | None:
    return next((file for pattern in PICKLES for file in sorted(folder.glob(pattern)) if file.is_file()), None)


def read_json(file: Path) -> dict:
    try:
        size = file.stat().st_size
        content = file.read_bytes() if size < LARGEST_JSON_BYTES else b"{}"
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror}); give a folder with config.json and *.safetensors") from None
    require(size < LARGEST_JSON_BYTES, f"{file} is {size:,} bytes, too large for what it should be; download it again")
    content = content.removeprefix(b"\xef\xbb\xbf")
    if content.lstrip()[:1] != b"{":
        refuse_mistakes(file, content[:HEAD_BYTES])
    found = hf_json.parsed(content, file, "download it again")
    require(isinstance(found, dict), f"{file} is no JSON object; download it again")
    return found


def read(folder: str | Path, dtype=np.float32, place: Callable | None = None):
    """(config, params) with blocks as a tuple of layers. `dtype` None keeps what the files have; Gemma's norms are float32 then.
    `place` is handed each part, a matrix with its bias, or a norm, and what it returns stands in its place: memory then holds the model, and
    one part of it twice (one layer, where it has to be converted)."""
    folder = Path(folder)
    raw = read_json(folder / CONFIG)
    config = hf_config.to_config(raw)
    source = Weights(folder, place or (None if dtype is None else _as_arrays))
    params = READERS[config.name](config, source, lambda array: array if dtype is None else array.astype(dtype, copy=False))
    source.done()
    return config, params


def _as_arrays(tree: dict) -> dict:
    if isinstance(tree, dict):
        return {name: _as_arrays(part) for name, part in tree.items()}
    return np.asarray(tree)


class Weights:
    """All tensors of a folder by name, each to be taken once."""

    def __init__(self, folder: Path, place: Callable | None = None):
        self.folder, self.files, self.place = folder, {}, place
        if (folder / INDEX).is_file():
            names = read_json(folder / INDEX).get("weight_map")
            good = isinstance(names, dict) and all(isinstance(file, str) and re.fullmatch(r"[\w.\-]+\.safetensors", file) for file in names.values())
            require(good, f"{folder / INDEX} has no weight_map of *.safetensors files beside it; download it again")
            shards = sorted(set(names.values()))
        else:
            shards = [ALONE] if (folder / ALONE).is_file() else sorted(file.name for file in folder.glob("*.safetensors"))
        if not shards:
            pickle = pickle_in(folder)
            require(pickle is None, f"{folder} has its weights as {pickle and pickle.name}, a pickle; loading one runs code, so fetch the model as .safetensors")
            raise UserError(f"{folder} has no *.safetensors; give a whole model folder")
        for shard in shards:
            opened = safetensors_file.read(folder / shard)
            for name in opened.tensors:
                require(name not in self.files, f"{folder} has the tensor {name} in two files; download it again")
                self.files[name] = opened
        self.left = {name for name in self.files if not IGNORED.fullmatch(name)}
        self.prefix = next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in self.files)), "")

    def placed(self, tree: dict) -> dict:
        return mapped.placed(self.place, tree, {file.data for file in self.files.values()})

    def has(self, name: str) -> bool:
        return self.prefix + name in self.files or name in self.files

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        full = self.prefix + name if self.prefix + name in self.files else name
        require(full in self.files, f"{self.folder} lacks the tensor {full}; download it again")
        found = self.files[full].tensor(full)
        require(found.shape == shape, f"{self.folder} has {full} of shape {list(found.shape)}, config.json wants {list(shape)}")
        require(np.issubdtype(found.dtype, np.floating) or found.dtype.kind == "V" or "float" in found.dtype.name, f"{full} is {found.dtype}, wanted floating point")
        self.left.discard(full)
        return found

    def take_less_1(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Gemma's norms, which files store less 1; in half precision the sum would be rounded."""
        return self.take(name, shape).astype(np.float32) + 1

    def take_stack(self, names: list[str], shape: tuple[int, ...]) -> Stack:
        """Many tensors of one shape, which become one array when that is asked for."""
        return Stack([self.take(name, shape) for name in names])

    def done(self) -> None:
        if self.left:
            raise UserError(f"{self.folder} has the tensor {sorted(self.left)[0]}, which this architecture does not use; its config.json may be another model's")


def _gpt(cfg, source: Weights, cast: Callable) -> dict:
    """GPT-2, whose matrices lie [in, out] already."""
    D, F = cfg.d_model, cfg.d_hidden

    def matrix(name: str, rows: int, columns: int) -> dict:
        return {"kernel": cast(source.take(f"{name}.weight", (rows, columns))), "bias": cast(source.take(f"{name}.bias", (columns,)))}

    def norm(name: str) -> dict:
        return {"scale": cast(source.take(f"{name}.weight", (D,))), "bias": cast(source.take(f"{name}.bias", (D,)))}

    def block(layer: int) -> dict:
        at = f"h.{layer}."
        matrices = {"qkv": ("attn.c_attn", D, 3 * D), "out": ("attn.c_proj", D, D), "up": ("mlp.c_fc", D, F), "down": ("mlp.c_proj", F, D)}
        made = {ours: matrix(at + name, rows, columns) for ours, (name, rows, columns) in matrices.items()}
        return made | {"norm1": norm(at + "ln_1"), "norm2": norm(at + "ln_2")}

    made = {"embed": cast(source.take("wte.weight", (cfg.vocab_size, D))), "positions": cast(source.take("wpe.weight", (cfg.context, D)))}
    made |= {"norm": norm("ln_f")} | _head(cfg, source, cast)
    return source.placed(made) | {"blocks": tuple(source.placed(block(layer)) for layer in range(cfg.n_layers))}


def _head(cfg, source: Weights, cast: Callable) -> dict:
    if cfg.tie:
        source.left.discard("lm_head.weight")
        return {}
    return {"head": cast(source.take("lm_head.weight", (cfg.vocab_size, cfg.d_model))).T}


def _llama(cfg, source: Weights, cast: Callable) -> dict:
    D, F, C = cfg.d_model, cfg.d_hidden, cfg.d_head
    HC, GC = cfg.n_heads * C, cfg.n_kv_heads * C
    fused = source.has("layers.0.self_attn.qkv_proj.weight")
    gemma = cfg.post_norms

    def norm(name: str, width: int) -> dict:
        return {"scale": cast((source.take_less_1 if gemma else source.take)(name + ".weight", (width,)))}

    def matrix(name: str, rows: int, columns: int, bias: bool) -> dict:
        made = {"kernel": cast(source.take(f"{name}.weight", (rows, columns))).T}
        return made | ({"bias": cast(source.take(f"{name}.bias", (rows,)))} if bias else {})

    def block(layer: int) -> dict:
        at, mlp = f"layers.{layer}.self_attn.", f"layers.{layer}.mlp."
        made = {"out": matrix(at + "o_proj", D, HC, cfg.out_bias)}
        if cfg.n_experts is not None:
            made["experts"] = _experts(cfg, source, cast, f"layers.{layer}.")
        else:
            made["down"] = matrix(mlp + "down_proj", D, F, cfg.mlp_bias)
        if fused:
            qkv = cast(source.take(at + "qkv_proj.weight", (HC + 2 * GC, D)))
            both = cast(source.take(mlp + "gate_up_proj.weight", (2 * F, D)))
            parts = {"q": qkv[:HC], "k": qkv[HC : HC + GC], "v": qkv[HC + GC :], "gate": both[:F], "up": both[F:]}
            made |= {name: {"kernel": part.T} for name, part in parts.items()}
        else:
            made |= {name: matrix(f"{at}{name}_proj", n, D, cfg.qkv_bias) for name, n in (("q", HC), ("k", GC), ("v", GC))}
            if cfg.n_experts is None:
                made |= {name: matrix(f"{mlp}{name}_proj", F, D, cfg.mlp_bias) for name in ("gate", "up")}
        if cfg.qk_norm:
            made |= {name: norm(f"{at}{name}", C) for name in ("q_norm", "k_norm")}
        before_mlp = "pre_feedforward_layernorm" if gemma else "post_attention_layernorm"
        made |= {"norm1": norm(f"layers.{layer}.input_layernorm", D), "norm2": norm(f"layers.{layer}.{before_mlp}", D)}
        if gemma:
            made |= {"post1": norm(f"layers.{layer}.post_attention_layernorm", D), "post2": norm(f"layers.{layer}.post_feedforward_layernorm", D)}
        return made

    made = {"embed": cast(source.take("embed_tokens.weight", (cfg.vocab_size, D))), "norm": norm("norm", D)} | _head(cfg, source, cast)
    return source.placed(made) | {"blocks": tuple(source.placed(block(layer)) for layer in range(cfg.n_layers))}


def _experts(cfg, source: Weights, cast: Callable, at: str) -> dict:
    """A layer's experts, one file tensor each, as stacks. Mixtral and Qwen name them differently."""
    D, F, mixtral = cfg.d_model, cfg.d_expert, source.has(at + "block_sparse_moe.gate.weight")
    at, names = (at + "block_sparse_moe.", ("w1", "w3", "w2")) if mixtral else (at + "mlp.", ("gate_proj", "up_proj", "down_proj"))

    def stack(name: str, shape: tuple[int, int]) -> np.ndarray:
        return cast(source.take_stack([f"{at}experts.{expert}.{name}.weight" for expert in range(cfg.n_experts)], shape)).swapaxes(1, 2)

    sizes = {"gate": (F, D), "up": (F, D), "down": (D, F)}
    made = {ours: {"kernel": stack(name, sizes[ours])} for ours, name in zip(sizes, names, strict=True)}
    if cfg.d_shared is not None:
        S = cfg.d_shared
        wide = {"gate": (S, D), "up": (S, D), "down": (D, S)}
        made["shared"] = {name: {"kernel": cast(source.take(f"{at}shared_expert.{name}_proj.weight", wide[name])).T} for name in wide}
        made["shared"]["weight"] = cast(source.take(at + "shared_expert_gate.weight", (1, D))).T
    return made | {"router": cast(source.take(at + "gate.weight", (cfg.n_experts, D))).T}


def _bert(cfg, source: Weights, cast: Callable) -> dict:
    """The encoder alone: the pooler and the head of masked words, which stand in many folders, are not used."""
    D, F = cfg.d_model, cfg.d_hidden
    source.left -= {name for name in source.left if name.removeprefix("bert.").startswith(("pooler.", "cls."))}

    def matrix(name: str, rows: int, columns: int) -> dict:
        return {"kernel": cast(source.take(f"{name}.weight", (rows, columns))).T, "bias": cast(source.take(f"{name}.bias", (rows,)))}

    def norm(name: str) -> dict:
        scale, bias = ("gamma", "beta") if source.has(f"{name}.gamma") else ("weight", "bias")  # the oldest files' names
        return {"scale": cast(source.take(f"{name}.{scale}", (D,))), "bias": cast(source.take(f"{name}.{bias}", (D,)))}

    def block(layer: int) -> dict:
        at = f"encoder.layer.{layer}."
        made = {name[0]: matrix(f"{at}attention.self.{name}", D, D) for name in ("query", "key", "value")}
        made |= {"out": matrix(at + "attention.output.dense", D, D), "norm1": norm(at + "attention.output.LayerNorm")}
        made |= {"up": matrix(at + "intermediate.dense", F, D), "down": matrix(at + "output.dense", D, F)}
        return made | {"norm2": norm(at + "output.LayerNorm")}

    tables = {"embed": ("word", cfg.vocab_size), "positions": ("position", cfg.context), "types": ("token_type", cfg.n_types)}
    made = {ours: cast(source.take(f"embeddings.{name}_embeddings.weight", (n, D))) for ours, (name, n) in tables.items()}
    made |= {"norm": norm("embeddings.LayerNorm")}
    return source.placed(made) | {"blocks": tuple(source.placed(block(layer)) for layer in range(cfg.n_layers))}


READERS = {"gpt": _gpt, "llama": _llama, "bert": _bert}
