"""The fast encoder: `pikojax/native/text*` behind a Python face. It does what the Python pipeline does, or it is not there.

    encoder, why_not = plan(tree)              None and a reason: no compiler, or a part of the tree that only Python knows
    encoder.encode(text.encode())              one plain stretch (added tokens already cut out) → int32 ids, no template

A text passes the tree's normalizers as steps bytes → bytes; the compiled code then cuts it into pieces and looks up their ids,
without the interpreter's lock. `native_plan.py` reads the tree.

Leaves out: offsets, added tokens, templates (the pipeline's work), texts that are no UTF-8 except for byte-level vocabularies.
"""

import ctypes
import threading
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


class Step(NamedTuple):
    """One step of preparing a text. `at_start`: the stretch begins the text (some vocabularies put a space there only)."""

    run: Callable[[bytes, bool], bytes]


def plan(tree: dict, normalize: Callable[[dict, str], str] | None = None) -> "tuple[NativeEncoder | None, str | None]":
    """The encoder for a tokenizer.json tree, or (None, why not). `normalize(normalizer's tree, text)` is the pipeline's own."""
    from pikojax.text import native_plan

    loaded = _library()
    if loaded is None:
        return None, status("text")
    try:
        setup, keep, steps = native_plan.read(tree, normalize)
        return NativeEncoder(loaded, setup, steps, keep), None
    except native_plan.Unknown as reason:
        return None, str(reason)
    except NativeError as reason:
        return None, f"the native code refuses it: {reason}"


class NativeError(Exception):
    """A line from the native code: a text or vocabulary that the Python version should look at instead."""


class NativeEncoder:
    def __init__(self, loaded: ctypes.CDLL, setup: Setup, steps: Sequence[Step], keep: object):
        error = ctypes.create_string_buffer(ERROR_SIZE)
        self._library, self._steps = loaded, steps
        self._handle = loaded.pikojax_text_encoder(ctypes.byref(setup), error)  # copies all it needs of `keep`
        if not self._handle:
            raise NativeError(error.value.decode(errors="replace"))

    def __del__(self):
        if getattr(self, "_handle", None):
            self._library.pikojax_text_encoder_free(self._handle)
            self._handle = None

    def prepare(self, data: bytes, at_start: bool = True) -> bytes:
        """The text as the native scanner reads it: normalized, ▁ written as a space."""
        for step in self._steps:
            data = step.run(data, at_start)
        return data

    def encode(self, data: bytes, threads: int = 1, at_start: bool = True) -> np.ndarray:
        data = self.prepare(data, at_start)
        begin = [0, len(data)]
        if threads > 1 and len(data) >= SPLIT_FROM_BYTES:
            begin = self._cut(data, 4 * threads)
        out, counts = self._run(data, np.array(begin, np.int64), threads)
        parts = [out[at : at + n] for at, n in zip(begin, counts.tolist(), strict=False)]
        return parts[0].copy() if len(parts) == 1 else np.concatenate(parts)

    def encode_pieces(self, data: bytes, ends: np.ndarray) -> np.ndarray:
        """ids of a text whose pieces someone else found: piece i ends before byte ends[i]. For encoders planned so."""
        data_ends = np.ascontiguousarray(ends, np.int64)
        out, counts = self._run(data, np.array([0, len(data)], np.int64), 1, data_ends)
        return out[: counts[0]].copy()

    def encode_many(self, texts: Sequence[bytes], threads: int = 1, at_start: bool = True) -> list[np.ndarray]:
        texts = [self.prepare(text, at_start) for text in texts] if self._steps else texts
        begin = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), out=begin[1:])
        out, counts = self._run(b"".join(texts), begin, threads)
        return [out[at : at + n].copy() for at, n in zip(begin.tolist(), counts.tolist(), strict=False)]

    def _cut(self, data: bytes, n_parts: int) -> list[int]:
        cuts = (ctypes.c_int64 * n_parts)()
        found = self._library.pikojax_text_safe_cuts(self._handle, data, len(data), n_parts, cuts)
        return [0, *cuts[:found], len(data)]

    def _run(self, data: bytes, begin: np.ndarray, threads: int, ends: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        out, counts = np.empty(len(data), np.int32), np.empty(len(begin) - 1, np.int64)
        error = ctypes.create_string_buffer(ERROR_SIZE)
        cuts = (None, 0) if ends is None else (ends.ctypes.data, len(ends))
        wrong = self._library.pikojax_text_encode(
            self._handle, data, begin.ctypes.data, len(counts), threads, *cuts, out.ctypes.data, counts.ctypes.data, error
        )
        if wrong:
            raise NativeError(error.value.decode(errors="replace"))
        return out, counts


class NativeDecoder:
    """ids → bytes, each token's own one after another. `first`: how tokens read at the beginning, where that differs."""

    def __init__(self, tokens: bytes, ids: np.ndarray, alphabet: int = 0, byte_fallback: bool = False, first: bytes = b""):
        self._handle, self._library = None, _library()
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

    def decode(self, ids: np.ndarray) -> bytes:
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
        return out[:n].tobytes()


class CharMap:
    """A normalizer that looks at single characters, as a step; `oracle` says what a text becomes, `is_complex` where neighbours matter."""

    def __init__(self, oracle: Callable[[str], str], is_complex: Callable[[str, str], bool]):
        self._handle, self._library = None, _library()
        self.oracle, self.is_complex = oracle, is_complex
        self._known: dict[str, bytes] = {}  # complex stretches repeat: they are words
        self._lock = threading.Lock()
        error = ctypes.create_string_buffer(ERROR_SIZE)
        self._handle = self._library.pikojax_text_map(error)
        self._ascii_stays = oracle(ASCII) == ASCII and not any(is_complex(char, char) for char in ASCII)

    def __del__(self):
        if self._handle:
            self._library.pikojax_text_map_free(self._handle)
            self._handle = None

    def __call__(self, data: bytes, at_start: bool = True) -> bytes:
        if self._ascii_stays and data.isascii():
            return data
        size, spans = self._look(data)
        texts = self._complex(data, spans)
        ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
        joined = b"".join(texts)
        out = np.empty(size + len(joined), np.uint8)
        n = self._library.pikojax_text_map_apply(
            self._handle, data, len(data), spans.ctypes.data, ends.ctypes.data, len(texts), joined, out.ctypes.data
        )
        return out[:n].tobytes()

    def _look(self, data: bytes) -> tuple[int, np.ndarray]:
        """The size of all that is not complex, and the complex spans (begin, end, begin, end, …)."""
        found, numbers = (ctypes.c_int64 * 2)(), np.empty(0x1100, np.int64)
        error = ctypes.create_string_buffer(ERROR_SIZE)
        while True:
            size = self._library.pikojax_text_map_look(
                self._handle, data, len(data), found, numbers.ctypes.data, len(numbers), error
            )
            if size < 0:
                raise NativeError(error.value.decode(errors="replace"))
            if found[0]:
                with self._lock:
                    for page in numbers[: found[0]].tolist():
                        self._fill(page)
            elif found[1] > len(numbers):
                numbers = np.empty(found[1], np.int64)
            else:
                return size, numbers[: found[1]]

    def _fill(self, page: int) -> None:
        chars = [chr(code) if not 0xD800 <= code < 0xE000 else "" for code in range(page << 8, (page + 1) << 8)]
        mapped = self.oracle("|".join(chars)).split("|") if self.oracle("|") == "|" and page else []  # one call, where | stays what it is
        if len(mapped) != 256:
            mapped = [self.oracle(char) for char in chars]
        texts = [new.encode() for new in mapped]
        sizes = [
            -1 if old == new else -2 if self.is_complex(old, new) or len(text) > 127 else len(text)
            for old, new, text in zip(chars, mapped, texts, strict=True)
        ]
        sizes = [-2 if old and size == -1 and self.is_complex(old, old) else size for old, size in zip(chars, sizes, strict=True)]
        joined = b"".join(text for text, size in zip(texts, sizes, strict=True) if size >= 0)
        error = ctypes.create_string_buffer(ERROR_SIZE)
        if self._library.pikojax_text_map_page(self._handle, page, np.array(sizes, np.int8).ctypes.data, joined, error):
            raise NativeError(error.value.decode(errors="replace"))

    def _complex(self, data: bytes, spans: np.ndarray) -> list[bytes]:
        texts = []
        if len(self._known) > 1 << 16:
            self._known = {}
        known = self._known
        places = iter(spans.tolist())
        for begin, end in zip(places, places, strict=True):
            old = data[begin:end]
            new = known.get(old)
            if new is None:
                new = known[old] = self.oracle(old.decode()).encode()
            texts.append(new)
        return texts


ASCII = "".join(map(chr, range(128)))


def _library() -> ctypes.CDLL | None:
    """The compiled code with the types of its functions told."""
    loaded = library("text")
    if loaded is None or getattr(loaded, "pikojax_typed", False):
        return loaded
    pointer, size, number, text = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_char_p
    for name, result, arguments in [
        ("encoder", pointer, (pointer, text)),
        ("encoder_free", None, (pointer,)),
        ("encode", number, (pointer, text, pointer, size, number, pointer, size, pointer, pointer, text)),
        ("safe_cuts", size, (pointer, text, size, size, pointer)),
        ("decoder", pointer, (number, number, text, size, pointer, size, text, size, text)),
        ("decoder_free", None, (pointer,)),
        ("decode_size", size, (pointer, pointer, size)),
        ("decode", size, (pointer, pointer, size, pointer)),
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
