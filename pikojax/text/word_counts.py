"""How often each word comes: what every trainer starts from. Streams, on a few threads, in memory bounded by the distinct words.

    "the cat the dog" → {"the": 1, " cat": 1, " the": 1, " dog": 1}      split by GPT-2's pattern

A word is what the normalizer and the pre-tokenizer make of a text; a `Splitter` (word_splitters.py) says how. The native counter
hashes stretches of the text as they lie; without it a `Counter` does the same. Counts are sums, so neither the number of
threads nor the order of the texts changes them. A file is read as Hugging Face's trainers read it: each line, with its end, is a
text of its own. `by_line=False` reads on over line ends, and cuts only where a letter or digit stands before one (no known
pattern joins those two), so that runs such as a line break with its indentation are learned as they will be encoded.

Leaves out: words longer than 4 GB, more than 4 billion distinct words.
"""

import ctypes
import functools
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pikojax.config import UserError, require
from pikojax.text.word_splitters import NativeSplitter, Splitter

BLOCK_BYTES = 4 << 20
LONGEST_BLOCK_BYTES = 64 << 20  # a text without a place to cut is cut anyway, rather than held whole
Progress = Callable[[str, int, int | None], None]  # stage, done, total (None: not known)


class Block(NamedTuple):
    data: bytes  # UTF-8
    ends: list[int]  # of each text


class WordCounts:
    """Words (UTF-8 bytes) with their counts: in the native counter, or in a dict."""

    def __init__(self, words: dict[bytes, int] | None = None, native: bool | None = None):
        self.lib = native_library() if native is not False else None
        require(
            self.lib is not None or not native, "there is no native code to count with; install a C++ compiler, or leave out native=True"
        )
        self.counts: Counter[bytes] = Counter()
        self.handle = self.lib.pikojax_counter_new() if self.lib else None
        if words:
            self.add(words)

    def __del__(self):
        if getattr(self, "handle", None):
            self.lib.pikojax_counter_free(self.handle)

    def __len__(self) -> int:
        return self._size(False)[0] if self.lib else len(self.counts)

    def items(self) -> list[tuple[bytes, int]]:
        return self._read(False) if self.lib else list(self.counts.items())

    def add(self, words: dict[bytes, int]) -> None:
        if not self.lib:
            self.counts.update(words)
            return
        offsets = _offsets(map(len, words))
        counts = np.fromiter(words.values(), np.uint64, len(words))
        self.lib.pikojax_counter_add(self.handle, b"".join(words), _pointer(offsets), _pointer(counts), len(words))

    def symbol_counts(self, by_bytes: bool) -> np.ndarray:
        """uint64[symbols, 4]: how often each byte (or code point) comes at place (not first) + 2 · (last) of a word."""
        counts = np.zeros((256 if by_bytes else 0x110000, 4), np.uint64)
        if self.lib:
            self.lib.pikojax_symbol_counts(self.handle, by_bytes, _pointer(counts))
            return counts
        for word, count in self.counts.items():
            symbols = word if by_bytes else word.decode("utf-8", "replace")
            for i, symbol in enumerate(symbols):
                counts[symbol if by_bytes else ord(symbol), (i > 0) + 2 * (i + 1 == len(symbols))] += np.uint64(count)
        return counts

    def _size(self, by_caller: bool) -> tuple[int, int]:
        words, n_bytes = ctypes.c_uint64(), ctypes.c_uint64()
        self.lib.pikojax_counter_size(self.handle, by_caller, ctypes.byref(words), ctypes.byref(n_bytes))
        return words.value, n_bytes.value

    def _read(self, by_caller: bool) -> list[tuple[bytes, int]]:
        n, n_bytes = self._size(by_caller)
        data, offsets, counts = np.empty(n_bytes, np.uint8), np.empty(n + 1, np.uint64), np.empty(n, np.uint64)
        self.lib.pikojax_counter_read(self.handle, by_caller, _pointer(data), _pointer(offsets), _pointer(counts))
        data, ends = data.tobytes(), offsets.tolist()
        return [(data[ends[i] : ends[i + 1]], count) for i, count in enumerate(counts.tolist())]


def count_texts(
    texts: Iterable[str], splitter: Splitter, *, threads: int = 2, on_progress: Progress | None = None, native: bool | None = None
) -> WordCounts:
    """The words of `texts`, each of which is split by itself."""
    require(not isinstance(texts, str | bytes), "got one text, wanted several; put it into a list")
    return _count(_blocks_of_texts(texts), splitter, False, threads, on_progress, None, native)


def count_files(
    paths: Iterable[str | os.PathLike],
    splitter: Splitter,
    *,
    by_line: bool = True,
    threads: int = 2,
    on_progress: Progress | None = None,
    native: bool | None = None,
) -> WordCounts:
    """The words of text files, which may be larger than memory."""
    paths = [Path(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    try:
        total = sum(path.stat().st_size for path in paths)
    except OSError as error:
        raise UserError(f"cannot read {error.filename} ({error.strerror}); give text files that exist") from None
    return _count(_blocks_of_files(paths, by_line), splitter, by_line, threads, on_progress, total, native)


def _count(
    blocks: Iterator[Block],
    splitter: Splitter,
    by_line: bool,
    threads: int,
    on_progress: Progress | None,
    total: int | None,
    native: bool | None,
) -> WordCounts:
    require(threads >= 1, f"got threads={threads}, wanted at least 1")
    use_native = native is not False and splitter.make_native is not None and native_library() is not None
    require(use_native or not native, "there is no native counter for this split; leave out native=True")
    machine = splitter.make_native(native_library()) if use_native else None
    lock, done, stopped = threading.Lock(), [0], threading.Event()

    def claimed() -> Iterator[Block]:
        while True:
            with lock:
                block = None if stopped.is_set() else next(blocks, None)
                if block is None:
                    return
                done[0] += len(block.data)
                if on_progress:
                    on_progress("count", done[0], total)
            yield block

    def work(counts: WordCounts) -> WordCounts:
        try:
            for block in claimed():
                _count_natively(counts, machine, block, by_line) if use_native else _count_in_python(counts, splitter, block, by_line)
        except BaseException:
            stopped.set()  # the other threads read no further
            raise
        return counts

    if not use_native:
        counted = work(WordCounts(native=False))
        return counted if native is False else WordCounts(counted.counts)  # where there is native code, it can train on them
    if threads == 1:
        return _finished(work(WordCounts(native=True)), splitter)
    with ThreadPoolExecutor(threads) as pool:  # a native call lets go of the interpreter lock
        try:
            first, *others = pool.map(work, [WordCounts(native=True) for _ in range(threads)])
        except BaseException:
            stopped.set()
            raise
    for other in others:
        first.lib.pikojax_counter_merge(first.handle, other.handle)
    return _finished(first, splitter)


def _finished(counts: WordCounts, splitter: Splitter) -> WordCounts:
    """Splits what the native counter left to Python: each distinct stretch once."""
    words: Counter[bytes] = Counter()
    for stretch, count in counts._read(True):
        for word in splitter.words(stretch.decode("utf-8", "replace")):
            words[word.encode()] += count
    if words:
        counts.add(words)
    return counts


def _count_natively(counts: WordCounts, machine: NativeSplitter, block: Block, by_line: bool) -> None:
    offsets = np.array([0, *block.ends], np.uint64)
    counts.lib.pikojax_count(counts.handle, ctypes.byref(machine), block.data, _pointer(offsets), len(block.ends), by_line)


def _count_in_python(counts: WordCounts, splitter: Splitter, block: Block, by_line: bool) -> None:
    begin = 0
    for end in block.ends:
        text = block.data[begin:end].decode("utf-8", "replace")
        for part in re.findall(r"[^\n]*\n|[^\n]+", text) if by_line else [text]:
            counts.counts.update(word.encode() for word in splitter.words(part))
        begin = end


def _blocks_of_texts(texts: Iterable[str]) -> Iterator[Block]:
    parts, ends, size = [], [], 0
    for text in texts:
        try:
            part = text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"the text holds half a surrogate pair, U+{ord(text[error.start]):04X}; it is no Unicode text") from None
        size += len(part)
        parts.append(part)
        ends.append(size)
        if size >= BLOCK_BYTES:
            yield Block(b"".join(parts), ends)
            parts, ends, size = [], [], 0
    if parts:
        yield Block(b"".join(parts), ends)


def _blocks_of_files(paths: list[Path], by_line: bool) -> Iterator[Block]:
    for path in paths:
        try:
            with path.open("rb") as file:
                rest = b""
                while read := file.read(BLOCK_BYTES):
                    rest += read
                    cut = _place_to_cut(rest, by_line)
                    if cut:
                        yield _whole(rest[:cut])
                        rest = rest[cut:]
                if rest:
                    yield _whole(rest)
        except OSError as error:
            raise UserError(f"cannot read {path} ({error.strerror}); give text files that exist") from None


_last_safe = re.compile(rb".*[0-9A-Za-z](?=\n)", re.DOTALL)


def _place_to_cut(data: bytes, by_line: bool) -> int:
    """0: nowhere yet."""
    found = None if by_line else _last_safe.match(data)
    cut = data.rfind(b"\n") + 1 if by_line else found.end() if found else 0
    if cut == 0 and len(data) >= LONGEST_BLOCK_BYTES:
        cut = len(data)
        while cut > len(data) - 4 and data[cut - 1] & 0xC0 == 0x80:  # not inside a character
            cut -= 1
        cut -= 1
    return cut


def _whole(data: bytes) -> Block:
    """Bytes that are no UTF-8 become U+FFFD, as everywhere a text is read."""
    try:
        data.decode()
    except UnicodeDecodeError:
        data = data.decode("utf-8", "replace").encode()
    return Block(data, [len(data)])


def _offsets(lengths: Iterable[int]) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.uint64), np.cumsum(np.fromiter(lengths, np.uint64), dtype=np.uint64)])


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


def _checked(lib: ctypes.CDLL, result, function, arguments):
    """After each native call: what it says went wrong, as an error."""
    error = ctypes.create_string_buffer(200)  # kErrorSize in text_guard.h
    lib.pikojax_train_error(error)
    if error.value:
        message = error.value.decode(errors="replace")
        raise MemoryError(f"{message} to train a tokenizer; give less text") if "memory" in message else UserError(f"{message}; give less text")
    return result


def native_library() -> ctypes.CDLL | None:
    from pikojax.native.build import library

    lib = library("text_train")
    if lib is not None and not hasattr(lib, "declared"):
        p, u64, c_int = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int
        for name, result, arguments in (
            ("code_table_new", p, (p,)),
            ("counter_new", p, ()),
            ("counter_free", None, (p,)),
            ("count", None, (p, p, ctypes.c_char_p, p, u64, c_int)),
            ("counter_merge", None, (p, p)),
            ("counter_add", None, (p, ctypes.c_char_p, p, p, u64)),
            ("counter_size", None, (p, c_int, p, p)),
            ("counter_read", None, (p, c_int, p, p, p)),
            ("symbol_counts", None, (p, c_int, p)),
            ("bpe_train", p, (p, c_int, p, ctypes.c_char_p, p, u64, ctypes.c_char_p, u64, u64, u64, p)),
            ("bpe_free", None, (p,)),
            ("bpe_size", None, (p, p, p, p)),
            ("bpe_read", None, (p, p, p, p)),
            ("unigram_new", p, (p, p, p, ctypes.c_uint32, u64, c_int)),
            ("unigram_free", None, (p,)),
            ("unigram_step", None, (p,)),
            ("unigram_prune", None, (p, u64)),
            ("unigram_size", u64, (p, p)),
            ("unigram_read", None, (p, p, p, p)),
        ):
            function = getattr(lib, f"pikojax_{name}")
            function.restype, function.argtypes = result, arguments
            function.errcheck = functools.partial(_checked, lib)
        lib.declared = True
    return lib
