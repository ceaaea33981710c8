"""The tensors of a GGUF file → our params. What is packed stays packed: a QTensor whose bytes are the file's own.

    blk.3.attn_q.weight [out, in], q4_k   →   params["blocks"][3]["q"]["kernel"], a QTensor of shape (in, out)

llama.cpp rotates neighbouring pairs (0, 1), (2, 3), … of heads of the architectures `INTERLEAVED`, and (i, i + half) of all others; here it is
always the latter, so the rows of q and k are put in our order, packed as they are: a row's blocks lie together. Each tensor
of the file is used once and each of ours is filled, or the file is refused by the tensor's name. A layer's experts are one tensor, [experts, out, in].

Leaves out: the vocabulary (`pikojax/text/gguf_vocab.py`), writing (`gguf_write.py`).
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pikojax.config import UserError, require
from pikojax.formats import gguf, gguf_config, mapped
from pikojax.formats.fields import short
from pikojax.llama_config import LlamaConfig
from pikojax.qtensor import FORMATS, QTensor

INTERLEAVED = ("llama", "smollm3")  # architectures whose rotated pairs are neighbours
DIVISORS, FACTORS = "rope_freqs.weight", ("rope_factors_short.weight", "rope_factors_long.weight")


def read(path: str | Path, dtype=np.float32, place: Callable | None = None):
    """(config, params) with blocks as a tuple of layers. `dtype` is that of the weights that are not packed; None keeps the file's.
    `place` is handed each part, a matrix with its bias, or a norm, and what it returns stands in its place: what was read of the file for one
    is then forgotten before the next is."""
    return of_file(gguf.read_whole(path), dtype, place)


def of_file(opened: gguf.GGUF, dtype=np.float32, place: Callable | None = None):
    tensors, file = opened.tensors, str(opened.path)
    source = _Source(opened, dtype, place)
    divisors, of_short, of_long = (source.vector(name, None) if name in tensors else None for name in (DIVISORS, *FACTORS))
    config = gguf_config.to_config(opened.metadata, tensors, file, of_short if divisors is None else divisors, of_long)
    params = _params(config, source, opened.metadata["general.architecture"])
    source.done()
    return config, params


def in_halves(cfg: LlamaConfig, n_heads: int) -> np.ndarray:
    """Which row of interleaved heads stands at each place of ours: 0, 2, 4, … 1, 3, 5, … of the rotated part of each head."""
    order_C = np.arange(cfg.d_head)
    order_C[: cfg.d_rope] = order_C[: cfg.d_rope].reshape(-1, 2).T.reshape(-1)
    return (np.arange(n_heads)[:, None] * cfg.d_head + order_C).reshape(-1)


class _Source:
    """The tensors by name, each to be taken once."""

    def __init__(self, opened: gguf.GGUF, dtype, place: Callable | None):
        self.opened, self.file, self.dtype, self.place, self.left = opened, opened.path, dtype, place, set(opened.tensors)

    def placed(self, tree: dict) -> dict:
        return mapped.placed(self.place, tree, self.opened.maps)

    def has(self, name: str) -> bool:
        return name in self.opened.tensors

    def _take(self, name: str, shape: tuple[int, ...] | None, packed: bool) -> gguf.TensorInfo:
        require(self.has(name), f"{self.file} lacks the tensor {name}; download it again")
        info = self.opened.tensors[name]
        good = shape in (None, info.shape)
        require(good, f"{self.file} has {name} of shape {list(info.shape)}, its metadata want {list(shape or ())}; download it again")
        kinds = ("f32", "f16", "bf16", *(tuple(FORMATS) if packed else ()))
        require(info.type in kinds, f"{self.file} has {name} as {info.type}, wanted one of: {', '.join(kinds[:3])}{', or packed' if packed else ''}")
        self.left.discard(name)
        return info

    def _floats(self, name: str) -> np.ndarray:
        array = self.opened.tensor(name)
        return array if self.dtype is None else array.astype(self.dtype, copy=False)

    def floats(self, name: str, shape: tuple[int, ...] | None) -> np.ndarray:
        self._take(name, shape, packed=False)
        return self._floats(name)

    def vector(self, name: str, n: int | None, order=slice(None)) -> np.ndarray:
        return self.floats(name, None if n is None else (n,))[order]

    def rows(self, name: str, n_rows: int, n_columns: int, stack: tuple[int, ...] = ()):
        """[rows, columns] of floats, or a QTensor of shape (columns, rows); with `stack`, so many of them."""
        info = self._take(name, (*stack, n_rows, n_columns), packed=True)
        if info.type in FORMATS:
            return QTensor(self.opened.bytes_of(name).reshape(*stack, n_rows, -1), None, None, info.type, (n_columns, n_rows))
        return self._floats(name)

    def done(self) -> None:
        if self.left:
            raise UserError(f"{self.file} has the tensor {short(sorted(self.left)[0])}, which this architecture does not use; it may be another model's")


def picked(rows, which):
    """Some rows of a matrix, packed or not, in the order of `which` (a slice or indices)."""
    if isinstance(rows, QTensor):
        data = rows.data[which]
        return dataclasses.replace(rows, data=data, shape=(rows.shape[0], len(data)))
    return rows[which]


def as_kernel(rows):
    """Rows by outputs → a matmul weight [K, N], or a stack of them. A QTensor of them is one already."""
    return rows if isinstance(rows, QTensor) else rows.swapaxes(-1, -2)


def _params(cfg: LlamaConfig, source: _Source, architecture: str) -> dict:
    D, F, C = cfg.d_model, cfg.d_hidden, cfg.d_head
    HC, GC = cfg.n_heads * C, cfg.n_kv_heads * C
    interleaved = {"q": cfg.n_heads, "k": cfg.n_kv_heads} if architecture in INTERLEAVED else {}

    def linear(name: str, n_out: int, n_in: int, bias: bool, n_heads: int | None = None) -> dict:
        rows = source.rows(name + ".weight", n_out, n_in)  # first: a size that it has is one that may be made
        order = in_halves(cfg, n_heads) if n_heads else slice(None)
        made = {"kernel": as_kernel(picked(rows, order))}
        return made | ({"bias": source.vector(name + ".bias", n_out, order)} if bias else {})

    def split(name: str, widths: dict[str, int], bias: bool) -> dict:
        """One matrix of several parts' rows, one after the other."""
        total, made, at = sum(widths.values()), {}, 0
        rows = source.rows(name + ".weight", total, D)
        bias_N = source.vector(name + ".bias", total) if bias else None
        for part, width in widths.items():
            here, at = slice(at, at + width), at + width
            made[part] = {"kernel": as_kernel(picked(rows, here))} | ({"bias": bias_N[here]} if bias else {})
        return made

    def block(layer: int) -> dict:
        at = f"blk.{layer}."
        norm = lambda name, width: {"scale": source.vector(f"{at}{name}.weight", width)}
        made = {"out": linear(at + "attn_output", D, HC, cfg.out_bias)}
        made |= {"down": linear(at + "ffn_down", D, F, cfg.mlp_bias)} if cfg.n_experts is None else {"experts": _experts(cfg, source, at)}
        if source.has(at + "attn_qkv.weight"):
            made |= split(at + "attn_qkv", {"q": HC, "k": GC, "v": GC}, cfg.qkv_bias)
        else:
            widths = {"q": HC, "k": GC, "v": GC}
            made |= {part: linear(f"{at}attn_{part}", n, D, cfg.qkv_bias, interleaved.get(part)) for part, n in widths.items()}
        if cfg.n_experts is not None:
            pass
        elif source.has(at + "ffn_gate.weight"):
            made |= {part: linear(f"{at}ffn_{part}", F, D, cfg.mlp_bias) for part in ("gate", "up")}
        else:
            made |= split(at + "ffn_up", {"gate": F, "up": F}, cfg.mlp_bias)
        made |= {"norm1": norm("attn_norm", D), "norm2": norm("ffn_norm", D)}
        if cfg.qk_norm:
            made |= {"q_norm": norm("attn_q_norm", C), "k_norm": norm("attn_k_norm", C)}
        if cfg.post_norms:
            made |= {"post1": norm("post_attention_norm", D), "post2": norm("post_ffw_norm", D)}
        return made

    made = {"embed": source.rows("token_embd.weight", cfg.vocab_size, D), "norm": {"scale": source.vector("output_norm.weight", D)}}
    if not cfg.tie:
        made["head"] = as_kernel(source.rows("output.weight", cfg.vocab_size, D))
    return source.placed(made) | {"blocks": tuple(source.placed(block(layer)) for layer in range(cfg.n_layers))}


def _experts(cfg: LlamaConfig, source: _Source, at: str) -> dict:
    D, E = cfg.d_model, cfg.n_experts
    matrices = lambda end, F, stack: {part: {"kernel": as_kernel(source.rows(f"{at}ffn_{part}_{end}.weight", *((D, F) if part == "down" else (F, D)), stack))} for part in ("gate", "up", "down")}
    made = matrices("exps", cfg.d_expert, (E,)) | {"router": source.floats(at + "ffn_gate_inp.weight", (E, D)).T}
    if cfg.d_shared is not None:
        made["shared"] = matrices("shexp", cfg.d_shared, ()) | {"weight": source.floats(at + "ffn_gate_inp_shexp.weight", (D,))[:, None]}
    return made
