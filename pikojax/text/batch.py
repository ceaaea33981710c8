"""Several texts at once: as a list of arrays, or as one padded array with its mask.

    ["a b c", "a"] → ids [[5, 6, 7], [5, 0, 0]], mask [[1, 1, 1], [1, 0, 0]]

A pair that is too long loses tokens of its longer text first, until both are of equal length, and then of both; special tokens
stay. That is Hugging Face's "longest_first".

Leaves out: overlapping windows (stride).
"""

import contextlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from pikojax.config import require
from pikojax.text import patterns
from pikojax.text.postprocess import Part


class Padded(NamedTuple):
    ids_BT: np.ndarray  # int32
    mask_BT: np.ndarray  # bool: False where there is only padding
    type_ids_BT: np.ndarray  # int32


def encode_batch(tokenizer, texts: Sequence[str], threads: int | None, add_special_tokens: bool, allowed_special) -> list[np.ndarray]:
    require(not isinstance(texts, str), "encode_batch wants a list of texts; put the text into a list, or use encode")
    require(threads is None or threads >= 1, f"threads = {threads}; give 1 or more")
    plain, found = tokenizer._read_as_plain(allowed_special), [None] * len(texts)
    if tokenizer._native is not None and all(isinstance(text, str) for text in texts):
        with contextlib.suppress(UnicodeEncodeError):  # half a surrogate pair: `encode` says which text has it
            found = tokenizer._native.encode(texts, plain, threads or 1)
    return [
        tokenizer.encode(text, add_special_tokens, allowed_special) if ids is None else tokenizer.framed(ids) if add_special_tokens else ids
        for text, ids in zip(texts, found)
    ]


def encode_padded(
    tokenizer,
    texts: Sequence[str | tuple[str, str]],
    length: int | None = None,  # tokens of each row; None: those of the longest
    truncate: bool = False,
    side: Literal["right", "left"] = "right",  # where padding goes
    pad_id: int | None = None,  # None: the tokenizer's
    add_special_tokens: bool = True,
    allowed_special="all",
) -> Padded:
    require(not isinstance(texts, str), "encode_padded wants a list of texts or pairs; put the text into a list")
    require(side in ("right", "left"), f"side = {side!r}; give 'right' or 'left'")
    require(length is None or length >= 1, f"length = {length}; give 1 or more")
    require(length is not None or not truncate, "truncate = True needs a length; give length=…")
    plain, rows = tokenizer._read_as_plain(allowed_special), []
    for each in texts:
        both = [each] if isinstance(each, str) else list(each)
        require(len(both) in (1, 2), f"a row has {len(both)} texts; give one, or a pair")
        with patterns.time_limit(sum(map(len, both))):
            parts = [tokenizer._part(tokenizer._readable(text), plain, i) for i, text in enumerate(both)]
        if truncate:
            parts = shortened(parts, length - (_n_added(tokenizer, len(parts)) if add_special_tokens else 0))
        rows.append(tokenizer._process(parts, add_special_tokens))
    lengths = [sum(len(part.ids) for part in row) for row in rows]
    width = length or max(lengths, default=0)
    over = max(lengths, default=0)
    require(over <= width, f"a text has {over} tokens, length is {width}; raise it or set truncate=True")
    return _stack(rows, width, side, _pad_id(tokenizer, pad_id, lengths, width))


def _pad_id(tokenizer, pad_id: int | None, lengths: list[int], width: int) -> int:
    """What the caller says, else the file's padding, else the pad token, else the token that ends a text (the mask hides it)."""
    asked = (tokenizer.tree.get("padding") or {}).get("pad_id")
    found = next((i for i in (pad_id, asked, tokenizer.pad_id, tokenizer.eos_id) if i is not None), None)
    require(found is not None or all(n == width for n in lengths), "this tokenizer has no padding token; give pad_id=…")
    return found or 0


def _stack(rows: list[list[Part]], width: int, side: str, pad_id: int) -> Padded:
    shape = len(rows), width
    padded = Padded(np.full(shape, pad_id, np.int32), np.zeros(shape, bool), np.zeros(shape, np.int32))
    for i, row in enumerate(rows):
        ids, types = ([x for part in row for x in getattr(part, name)] for name in ("ids", "type_ids"))
        place = slice(0, len(ids)) if side == "right" else slice(width - len(ids), width)
        padded.ids_BT[i, place], padded.mask_BT[i, place], padded.type_ids_BT[i, place] = ids, True, types
    return padded


def _n_added(tokenizer, n_texts: int) -> int:
    made = tokenizer._process([Part([0], [""], [(0, 0)], [i], i) for i in range(n_texts)], True)
    return sum(len(part.ids) for part in made) - n_texts


def shortened(parts: list[Part], limit: int) -> list[Part]:
    """The parts with at most `limit` tokens together."""
    require(limit >= 0, "length leaves no room beside the special tokens; raise it")
    lengths = [len(part.ids) for part in parts]
    if sum(lengths) > limit:
        if len(parts) == 1:
            lengths = [limit]
        else:
            short = min(lengths)
            rest = max(short, limit - short)
            kept = [short, rest] if short + rest <= limit else [limit // 2, limit // 2 + limit % 2]
            lengths = kept if lengths[0] <= lengths[1] else kept[::-1]
    return [
        part._replace(ids=part.ids[:n], tokens=part.tokens[:n], spans=part.spans[:n], type_ids=part.type_ids[:n])
        for part, n in zip(parts, lengths)
    ]


def join(parts: list[Part], texts: list[str]):
    """One Encoding of the parts; spans are counted in bytes too."""
    from pikojax.text.tokenizer import Encoding

    starts = [_byte_starts(text) for text in texts]
    chars, of_bytes = [], []
    for part in parts:
        spans = np.array(part.spans, np.int64).reshape(-1, 2)
        chars.append(spans)
        of_bytes.append(spans if part.text is None else starts[part.text][spans])
    empty = np.zeros((0, 2), np.int64)
    return Encoding(
        np.array([i for part in parts for i in part.ids], np.int32),
        [token for part in parts for token in part.tokens],
        np.concatenate([empty, *chars]),
        np.concatenate([empty, *of_bytes]),
        np.array([i for part in parts for i in part.type_ids], np.int32),
        np.array([part.text is None for part in parts for _ in part.ids], bool),
    )


def _byte_starts(text: str) -> np.ndarray:
    """Where each character begins in UTF-8, and the end."""
    if text.isascii():
        return np.arange(len(text) + 1)
    sizes = [1 if char < "\x80" else len(char.encode("utf-8", "surrogateescape")) for char in text]
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
