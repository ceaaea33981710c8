"""The fast encoder: `pikojax/native/text*` behind a Python face. It does what the Python pipeline does, or it is not there.

    encoder, why_not = plan(tree)              None and a reason: no compiler, or a part of the tree that only Python knows
    encoder.encode(text.encode())              one plain stretch (added tokens already cut out) → int32 ids, no template

A text passes the tree's normalizers as steps bytes → bytes; the compiled code then cuts it into pieces and looks up their ids,
without the interpreter's lock. `native_plan.py` reads the tree.

Leaves out: offsets, added tokens, templates (the pipeline's work), texts that are no UTF-8 except for byte-level vocabularies.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pikojax.config import UserError
from pikojax.native.build import library, status

SPLIT_FROM_BYTES = 1 << 17  # a part for each thread pays from about here on
ERROR_SIZE = 200


class Setup(ctypes.Structure):
    """The same fields in the same order as in text.cc."""

    _fields_ = (
        [("tokens", ctypes.c_char_p), ("tokens_size", ctypes.c_int64), ("ids", ctypes.c_void_p), ("n_tokens", ctypes.c_int64)]
        + [("merges", ctypes.c_char_p), ("merges_size", ctypes.c_int64)]
        + [(name, ctypes.c_void_p) for name in ("ranks", "scores", "usable", "flags", "classes")]
        + [("prefix", ctypes.c_char_p), ("suffix", ctypes.c_char_p)]
        + [(name, ctypes.c_int32) for name in "model alphabet scanner unk max_chars whole_first byte_fallback fuse_unk float32".split()]
        + [(name, ctypes.c_int32) for name in "digits contractions slash whole_tail".split()]
    )


class Steps(NamedTuple):
    """What is done to a text before the scanner reads it; added tokens are looked for before, between and behind the two."""

    normalize: list[Callable[[bytes], bytes]]
    prepare: list[Callable[[bytes, bool], bytes]]  # also told whether the stretch begins the text: some put a space there only


def plan(tree: dict, banned: frozenset[int] = frozenset()) -> "tuple[NativeEncoder | None, str | None]":
    """The encoder for a tokenizer.json tree, or (None, why not). No text becomes an id that is `banned`."""
    from pikojax.text import native_plan

    loaded = typed_library()
    if loaded is None:
        return None, status("text")
    try:
        setup, keep, steps = native_plan.read(tree, banned)
        return NativeEncoder(loaded, setup, steps, keep), None
    except native_plan.Unknown as reason:
        return None, str(reason)
    except NativeError as reason:
        return None, f"the native code refuses it: {reason}"


class NativeError(Exception):
    """A line from the native code: a text or vocabulary that the Python version should look at instead."""


class NativeEncoder:
    def __init__(self, loaded: ctypes.CDLL, setup: Setup, steps: Steps, keep: object):
        error = ctypes.create_string_buffer(ERROR_SIZE)
        self._library, self._steps = loaded, steps
        self._handle = loaded.pikojax_text_encoder(ctypes.byref(setup), error)  # copies all it needs of `keep`
        if not self._handle:
            raise NativeError(error.value.decode(errors="replace"))

    def __del__(self):
        if getattr(self, "_handle", None):
            self._library.pikojax_text_encoder_free(self._handle)
            self._handle = None

    def normalize(self, data: bytes) -> bytes:
        """What the tree's normalizer makes of a text."""
        for step in self._steps.normalize:
            data = step(data)
        return data

    def prepare(self, data: bytes, at_start: bool = True) -> bytes:
        """A normalized stretch as the scanner reads it: with the space before it that some want, ▁ written as a space."""
        for step in self._steps.prepare:
            data = step(data, at_start)
        return data

    def encode(self, data: bytes, threads: int = 1, at_start: bool = True) -> np.ndarray:
        """The ids of one text without added tokens."""
        return self.encode_many([self.prepare(self.normalize(data), at_start)], threads)[0]

    def encode_many(self, prepared: Sequence[bytes], threads: int = 1) -> list[np.ndarray]:
        """The ids of each of some prepared stretches. Long ones are cut for the threads where that changes nothing."""
        data = b"".join(prepared) if len(prepared) != 1 else prepared[0]
        ends = np.cumsum(np.fromiter(map(len, prepared), np.int64, len(prepared))).tolist()
        begin, parts_of = [0], []  # parts_of: how many parts each text is cut into
        for text, end in zip(prepared, ends, strict=True):
            cuts = self._cuts(text, 4 * threads) if threads > 1 and len(text) >= SPLIT_FROM_BYTES else []
            begin += [end - len(text) + cut for cut in cuts] + [end]
            parts_of.append(len(cuts) + 1)
        out, counts = self._run(data, np.array(begin, np.int64), threads)
        parts = (out[at : at + n] for at, n in zip(begin, counts.tolist(), strict=False))
        return [next(parts).copy() if n == 1 else np.concatenate([next(parts) for _ in range(n)]) for n in parts_of]

    def _cuts(self, data: bytes, n_parts: int) -> list[int]:
        cuts = (ctypes.c_int64 * n_parts)()
        return cuts[: self._library.pikojax_text_safe_cuts(self._handle, data, len(data), n_parts, cuts)]

    def _run(self, data: bytes, begin: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray]:
        out, counts = np.empty(len(data), np.int32), np.empty(len(begin) - 1, np.int64)
        error = ctypes.create_string_buffer(ERROR_SIZE)
        wrong = self._library.pikojax_text_encode(
            self._handle, data, begin.ctypes.data, len(counts), threads, out.ctypes.data, counts.ctypes.data, error
        )
        if wrong:
            raise NativeError(error.value.decode(errors="replace"))
        return out, counts


class Finder:
    """Where added tokens stand in a text: the longest at each place."""

    def __init__(self, ids: dict[str, int]):
        self._handle, self._library = None, typed_library()
        self.is_empty = not ids
        tokens = b"".join(token.encode() + b"\xff" for token in ids)
        array, error = np.fromiter(ids.values(), np.int32, len(ids)), ctypes.create_string_buffer(ERROR_SIZE)
        self._handle = self._library.pikojax_text_finder(tokens, len(tokens), array.ctypes.data, len(ids), error)
        if not self._handle:
            raise NativeError(error.value.decode(errors="replace"))

    def __del__(self):
        if self._handle:
            self._library.pikojax_text_finder_free(self._handle)
            self._handle = None

    def find(self, data: bytes) -> list[list[int]]:
        """[begin, end, id] of each, in bytes."""
        found: list[list[int]] = []
        room = np.empty((0 if self.is_empty else 1024, 3), np.int64)
        while not self.is_empty:
            at = found[-1][1] if found else 0
            n = self._library.pikojax_text_find(self._handle, data, len(data), at, room.ctypes.data, len(room))
            found += room[:n].tolist()
            if n < len(room):
                break
        return found


class NativeDecoder:
    """ids → bytes, each token's own one after another. `first`: how tokens read at the beginning, where that differs."""

    def __init__(self, tokens: bytes, ids: np.ndarray, alphabet: int = 0, byte_fallback: bool = False, first: bytes = b""):
        self._handle, self._library = None, typed_library()
        if self._library is None:
            raise NativeError(status("text"))
        error = ctypes.create_string_buffer(ERROR_SIZE)
        ids = np.ascontiguousarray(ids, np.int32)
        self._handle = self._library.pikojax_text_decoder(
            alphabet, byte_fallback, tokens, len(tokens), ids.ctypes.data, len(ids), first, len(first), error
        )
        if not self._handle:
            raise NativeError(error.value.decode(errors="replace"))

    def __del__(self):
        if self._handle:
            self._library.pikojax_text_decoder_free(self._handle)
            self._handle = None

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """uint8[n], the bytes."""
        ids = np.asarray(ids)
        if ids.dtype != np.int32:
            if ids.size and (ids.min() < 0 or ids.max() >= 1 << 31):
                ids = np.clip(ids, -1, (1 << 31) - 1)
            ids = ids.astype(np.int32)
        ids = np.ascontiguousarray(ids)
        size = self._library.pikojax_text_decode_size(self._handle, ids.ctypes.data, ids.size)
        if size < 0:
            raise UserError(f"id {ids[-1 - size]} is not in this tokenizer's vocabulary; it belongs to another tokenizer")
        out = np.empty(size, np.uint8)
        n = self._library.pikojax_text_decode(self._handle, ids.ctypes.data, ids.size, out.ctypes.data)
        return out[:n]


def typed_library() -> ctypes.CDLL | None:
    """The compiled code with the types of its functions told."""
    loaded = library("text")
    if loaded is None or getattr(loaded, "pikojax_typed", False):
        return loaded
    pointer, size, number, text = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_char_p
    for name, result, arguments in [
        ("encoder", pointer, (pointer, text)),
        ("encoder_free", None, (pointer,)),
        ("encode", number, (pointer, text, pointer, size, number, pointer, pointer, text)),
        ("safe_cuts", size, (pointer, text, size, size, pointer)),
        ("decoder", pointer, (number, number, text, size, pointer, size, text, size, text)),
        ("decoder_free", None, (pointer,)),
        ("decode_size", size, (pointer, pointer, size)),
        ("decode", size, (pointer, pointer, size, pointer)),
        ("finder", pointer, (text, size, pointer, size, text)),
        ("finder_free", None, (pointer,)),
        ("find", size, (pointer, text, size, size, pointer, size)),
        ("map", pointer, (text,)),
        ("map_free", None, (pointer,)),
        ("map_page", number, (pointer, number, pointer, text, text)),
        ("map_look", size, (pointer, text, size, pointer, pointer, size, text)),
        ("map_apply", size, (pointer, text, size, pointer, pointer, size, text, pointer)),
    ]:
        function = getattr(loaded, f"pikojax_text_{name}")
        function.restype, function.argtypes = result, arguments
    loaded.pikojax_typed = True
    return loaded
