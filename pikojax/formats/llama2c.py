"""llama2.c's models: seven numbers, then all weights as float32 in a fixed order; the tokenizer in a .bin beside it.

    dim, hidden, layers, heads, kv heads, vocabulary, context | embedding | norms | q | k | v | out | norms | gate | down | up | norm | two old tables | head

A vocabulary below zero says that the head is a matrix of its own. Rotated pairs are neighbours there, (0, 1), (2, 3), …, and (i, i + half)
here: the rows of q and k are put in our order when they are read.

Leaves out: the later versions (which begin with "ak42"), int8 files.
"""

import mmap
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pikojax.config import UserError, require
from pikojax.formats import mapped
from pikojax.llama_config import LlamaConfig
from pikojax.text import hf_json, sentencepiece
from pikojax.text.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN
from pikojax.text.what_is import HEAD_BYTES, refuse_mistakes

HEADER = struct.Struct("<7i")
MOST_TOKENIZER_BYTES = 256 << 20
LATER = b"24ka"  # "ak42" as a little-endian number


def looks_like(head: bytes) -> bool:
    if len(head) < HEADER.size or head[:4] == LATER:
        return False
    d_model, hidden, layers, heads, kv_heads, vocab, context = HEADER.unpack_from(head)
    small = 0 < layers <= 512 and 0 < kv_heads <= heads <= 1024 and 0 < d_model <= 1 << 17 and 0 < hidden <= 1 << 20
    return small and d_model % (2 * heads) == 0 and heads % kv_heads == 0 and 0 < abs(vocab) <= 1 << 24 and 0 < context <= 1 << 24


def read(path: str | Path, place: Callable | None = None):
    """(config, params), blocks as a tuple of layers; matrices are mapped from the file. `place` as `gguf_model.read` has it."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if head else b""
        if not looks_like(head):  # 640 channels begin as a pickle does
            refuse_mistakes(path, head)
        require(head[:4] != LATER, f"{path} is of a later version of llama2.c's format; export it as version 0, its first, or as a Hugging Face folder")
        require(looks_like(head), f"{path} is no llama2.c model; give a .bin that starts with its seven sizes, a .gguf, or a folder")
        require(len(data) % 4 == 0, f"{path} is cut short or damaged; download it again")
        numbers = np.frombuffer(data, "<f4")[HEADER.size // 4 :]
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); check the path") from None
    D, F, L, H, G, V, T = HEADER.unpack_from(head)
    cfg = LlamaConfig(d_model=D, d_hidden=F, n_layers=L, n_heads=H, n_kv_heads=G, vocab_size=abs(V), context=T, tie=V > 0, norm_eps=1e-5)
    C, V = cfg.d_head, abs(V)
    sizes = {
        "embed": (V, D), "norm1": (L, D), "q": (L, H * C, D), "k": (L, G * C, D), "v": (L, G * C, D), "out": (L, D, H * C), "norm2": (L, D),
        "gate": (L, F, D), "down": (L, D, F), "up": (L, F, D), "norm": (D,), "cos": (T, C // 2), "sin": (T, C // 2),
    } | ({} if cfg.tie else {"head": (V, D)})  # fmt: skip
    wanted = sum(map(_count, sizes.values()))
    require(len(numbers) == wanted, f"{path} has {len(numbers):,} weights, its sizes make {wanted:,}; it is cut short or damaged, download it again")
    arrays, at = {}, 0
    for name, shape in sizes.items():
        arrays[name], at = numbers[at : at + _count(shape)].reshape(shape), at + _count(shape)
    pairs = lambda rows, heads: np.ascontiguousarray(rows.reshape(heads, C // 2, 2, D).swapaxes(1, 2)).reshape(heads * C, D)

    def block(layer: int) -> dict:
        w = {name: arrays[name][layer] for name in ("q", "k", "v", "out", "gate", "up", "down")}
        w |= {"q": pairs(w["q"], H), "k": pairs(w["k"], G)}
        return {name: {"kernel": rows.T} for name, rows in w.items()} | {name: {"scale": arrays[name][layer]} for name in ("norm1", "norm2")}

    placed = lambda tree: mapped.placed(place, tree, [data])
    stem = {"embed": arrays["embed"], "norm": {"scale": arrays["norm"]}} | ({} if cfg.tie else {"head": arrays["head"].T})
    return cfg, placed(stem) | {"blocks": tuple(placed(block(layer)) for layer in range(L))}


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def read_tokenizer(path: str | Path, vocab_size: int) -> dict:
    """The tree of a tokenizer.json for llama2.c's own file: a number, then each piece as score, length, text. The first 259 are
    unknown, beginning, end and the bytes; in others a space stands for itself."""
    path = Path(path)
    try:
        data = hf_json.read_up_to(path, MOST_TOKENIZER_BYTES, "a tokenizer of llama2.c")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); check the path") from None
    require(vocab_size > 259, f"{path}: {vocab_size} pieces are too few for llama2.c, whose first 259 are fixed; it is another model's")
    pieces, at = [], 4
    for i in range(vocab_size):
        score, length = struct.unpack_from("<fi", data, at) if at + 8 <= len(data) else (0.0, -1)
        if not 0 <= length <= len(data) - at - 8:
            refuse_mistakes(path, data[:HEAD_BYTES])
            raise UserError(f"{path} is no llama2.c tokenizer of {vocab_size:,} pieces; it is cut short or another model's")
        text = data[at + 8 : at + 8 + length].decode("utf-8", "replace")
        kind = UNKNOWN if i == 0 else CONTROL if i < 3 else BYTE if i < 259 else NORMAL
        pieces.append((text.strip() if i < 3 else text.replace(" ", "▁"), score, kind))
        at += 8 + length
    if not any(data[4:at]):
        refuse_mistakes(path, data[:HEAD_BYTES])
    require(at == len(data), f"{path} has more than {vocab_size:,} pieces; it is another model's")
    spec = dict(pieces=pieces, model_type=2, suffix=False, byte_fallback=True, bos="<s>", eos="</s>", name="", charsmap=b"", remove_extra=False)
    return sentencepiece.to_tree(spec | dict(escape=True, dummy_prefix=True), str(path))


def tokenizer_beside(model: Path) -> Path | None:
    """`tokenizer.bin`, else the only `tok*.bin` in the model's folder."""
    if (model.parent / "tokenizer.bin").is_file():
        return model.parent / "tokenizer.bin"
    found = [file for file in model.parent.glob("tok*.bin") if file != model]
    return found[0] if len(found) == 1 else None
