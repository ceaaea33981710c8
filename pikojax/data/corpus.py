"""Documents as byte ranges of one UTF-8 file, read in chunks: a corpus may be larger than memory.

A `Part` is a run of documents: document i is the bytes `bounds[i]` to `bounds[i + 1]`. `gather` writes documents into such a
file; a text file already is one. `chunks` reads a part back as text, cut only where the tokenizer says that it may be.
"""

import codecs
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pikojax.config import require
from pikojax.data.sources import not_utf8

CHUNK_BYTES = 2**22


class Part(NamedTuple):
    file: Path
    bounds: np.ndarray  # int64, one more than documents

    @property
    def n_documents(self) -> int:
        return len(self.bounds) - 1

    @property
    def n_bytes(self) -> int:
        return int(self.bounds[-1] - self.bounds[0])

    def first_bytes(self, n: int) -> "Part":
        """Its beginning, about `n` bytes: whole documents, or the start of the only one."""
        end = self.bounds[0] + n
        n_whole = max(1, int(np.searchsorted(self.bounds, end, side="right")) - 1)
        part = Part(self.file, self.bounds[: n_whole + 1])
        if part.n_bytes <= n:
            return part
        return Part(self.file, np.array([part.bounds[0], _character_start(self.file, int(end))]))


def gather(documents: Iterable[str], file: Path) -> Part:
    """Write the documents one after another into `file`; empty ones are left out."""
    ends = [0]
    with open(file, "wb") as out:
        for document in documents:
            if document:
                ends.append(ends[-1] + out.write(document.encode()))
    return Part(file, np.array(ends, np.int64))


def split_parts(whole: Part, val_fraction: float) -> tuple[Part, Part]:
    """Training and validation: by documents where there are several, else by the characters of the only one."""
    n = whole.n_documents
    if n > 1:
        n_train = min(max(int(n * (1 - val_fraction)), 1), n - 1)
        return Part(whole.file, whole.bounds[: n_train + 1]), Part(whole.file, whole.bounds[n_train:])
    n_chars = sum(len(text) for text, _ in chunks(whole, len))
    require(n_chars > 1, f"{whole.file} holds one character; give a text to train on and to measure with")
    n_train = min(max(int(n_chars * (1 - val_fraction)), 1), n_chars - 1)
    start, end = map(int, whole.bounds)
    middle = _byte_of_character(whole.file, start, n_train)
    return Part(whole.file, np.array([start, middle])), Part(whole.file, np.array([middle, end]))


def chunks(part: Part, safe_cut: Callable[[str], int]) -> Iterator[tuple[str, bool]]:
    """(text, whether it ends its document) for all of `part`; a long document comes in several chunks."""
    with open(part.file, "rb") as file:
        file.seek(int(part.bounds[0]))
        for start, end in zip(part.bounds[:-1].tolist(), part.bounds[1:].tolist()):
            decoder, kept, enough = codecs.getincrementaldecoder("utf-8")(), "", 0
            for at in range(start, end, CHUNK_BYTES):
                raw, last = file.read(min(CHUNK_BYTES, end - at)), end - at <= CHUNK_BYTES
                begun = len(decoder.getstate()[0])  # bytes of a character that the chunk before began
                try:
                    kept += decoder.decode(raw, last)
                except UnicodeDecodeError as error:
                    raise not_utf8(part.file, at - begun + error.start) from None
                if not last and len(kept) < enough:
                    continue
                cut = len(kept) if last else safe_cut(kept)
                enough = 0 if cut else 2 * len(kept)  # where there was no place, looking again and again would take for ever
                if cut or last:
                    yield kept[:cut], last
                    kept = kept[cut:]


def _byte_of_character(file: Path, start: int, n: int) -> int:
    """The byte at which character number `n` after `start` begins: UTF-8 continuation bytes are 10xxxxxx."""
    with open(file, "rb") as raw:
        raw.seek(start)
        while True:
            block = np.frombuffer(raw.read(CHUNK_BYTES), np.uint8)
            begins = np.flatnonzero((block & 0xC0) != 0x80)
            if n < len(begins) or not len(block):
                return start + (int(begins[n]) if len(block) else 0)
            n, start = n - len(begins), start + len(block)


def _character_start(file: Path, at: int) -> int:
    with open(file, "rb") as raw:
        while at and (raw.seek(at), raw.read(1)[0] & 0xC0)[1] == 0x80:
            at -= 1
    return at
