"""A normalizer as native code: what becomes of each character, by a table that Python's own normalizer fills as texts need it.

    CharMap(oracle, is_complex)(text as bytes) → what `oracle` would make of it      "ÀB" → "àb": two look-ups

Most of what normalizers do to a character does not depend on its neighbours. Where it may (`is_complex`: combining marks, jamo, …)
the stretch up to the ASCII characters around it is given to `oracle` as a whole; such stretches are words and are remembered.

Leaves out: normalizers that look beyond ASCII characters, such as those that join spaces.
"""

import ctypes
import threading
from collections.abc import Callable

import numpy as np

from pikojax.text.native import ERROR_SIZE, NativeError, typed_library

ASCII = "".join(map(chr, range(128)))


def _ascii_table(mapped: list[str]) -> tuple[bytes | None, bytes] | None:
    """What `bytes.translate` needs for a text of ASCII alone; None if it cannot do it."""
    if any(len(new) > 1 or not new.isascii() for new in mapped):
        return None
    table = bytes(ord(new) if new else i for i, new in enumerate(mapped)) + bytes(range(128, 256))
    return (None if table == bytes(range(256)) else table), bytes(i for i, new in enumerate(mapped) if not new)


class CharMap:
    """A normalizer that looks at single characters, as a step; `oracle` says what a text becomes, `is_complex` where neighbours matter."""

    def __init__(self, oracle: Callable[[str], str], is_complex: Callable[[str, str], bool]):
        self._handle, self._library = None, typed_library()
        self.oracle, self.is_complex = oracle, is_complex
        self._known: dict[str, bytes] = {}  # complex stretches repeat: they are words
        self._filled: set[int] = set()  # pages; another thread may have asked for the same ones
        self._lock = threading.Lock()
        error = ctypes.create_string_buffer(ERROR_SIZE)
        self._handle = self._library.pikojax_text_map(error)
        self._ascii = None if any(is_complex(char, char) for char in ASCII) else _ascii_table([oracle(char) for char in ASCII])

    def __del__(self):
        if self._handle:
            self._library.pikojax_text_map_free(self._handle)
            self._handle = None

    def __call__(self, data: bytes) -> bytes:
        if self._ascii is not None and data.isascii():
            return data.translate(*self._ascii)
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
                    for page in sorted({*numbers[: found[0]].tolist()} - self._filled):
                        self._fill(page)
                        self._filled.add(page)
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
        array, error = np.array(sizes, np.int8), ctypes.create_string_buffer(ERROR_SIZE)  # held by a name: a pointer alone keeps nothing alive
        if self._library.pikojax_text_map_page(self._handle, page, array.ctypes.data, joined, error):
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
                new = self.oracle(old.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
                if end - begin < 100:
                    known[old] = new
            texts.append(new)
        return texts
