"""Token files, memory-mapped: one long stream of ids that lies in one file or in thousands.

    stream = piece 0 | piece 1 | …        read(start, count) → int32 ids, over piece borders where need be

Two layouts are read as others write them:

  shard_*.npy   2-D rows of ids, any integer type (LEPTON's published shards). Rows follow one another as one stream, in
                the order of the file names, so a window may span rows and no token is lost whatever the context is.
                The last 2% of the shards are for validation (one shard: the last 2% of its rows), never none.
  *.bin         flat little-endian ids (nanoGPT's): uint16, or uint32 where the name ends in .u32.bin or .uint32.bin.
                A folder holds train.bin and val.bin; of a single file the last 2% are for validation.
                nanoGPT's meta.pkl is not read: unpickling runs whatever code is in the file.

XLA clamps an id beyond the vocabulary without a word. So every read is checked before it is handed out, and opening looks
at all of the data up to 256 MB, at evenly spread blocks of it beyond that.
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pikojax.config import UserError, require

VAL_FRACTION = 0.02  # of ready-made tokens
OPEN_FILES = 128  # memory maps kept at a time; each holds a file descriptor
CHECK_BYTES = 256 * 2**20
BLOCK_TOKENS = 2**20


class Piece(NamedTuple):
    """`count` ids of type `dtype` from `offset_bytes` on in the file `path`, or `array` itself; `width`: of a row, if any."""

    path: str
    dtype: str
    offset_bytes: int
    count: int
    width: int | None = None
    array: np.ndarray | None = None


class TokenStream:
    """One split. `n_bytes`: UTF-8 bytes of its text, without special tokens; None: unknown. Safe to read from threads."""

    def __init__(self, pieces: list[Piece], vocab_size: int, *, eos_id=None, n_bytes=None, n_documents=None, name="the data"):
        self.pieces = [piece for piece in pieces if piece.count]
        self.ends = np.cumsum([piece.count for piece in self.pieces], dtype=np.int64)
        self.vocab_size, self.eos_id, self.n_bytes, self.n_documents, self.name = vocab_size, eos_id, n_bytes, n_documents, name
        self._map = lru_cache(OPEN_FILES)(_map)

    @classmethod
    def of(cls, tokens, vocab_size: int | None = None, **facts) -> "TokenStream":
        """A stream over ids in memory."""
        tokens = np.asarray(tokens)
        piece = Piece("tokens in memory", tokens.dtype.str, 0, len(tokens), None, tokens)
        return cls([piece], int(tokens.max()) + 1 if vocab_size is None else vocab_size, **facts)

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.pieces else 0

    @property
    def tokens(self) -> np.ndarray:
        """All ids in memory: for small streams."""
        return self.read(0, len(self))

    def read(self, start: int, count: int) -> np.ndarray:
        """`count` ids from `start` on as int32, each checked against the vocabulary."""
        out = np.empty(count, np.int32)
        i, done = int(np.searchsorted(self.ends, start, side="right")), 0
        while done < count:
            piece = self.pieces[i]
            first = start + done - (int(self.ends[i]) - piece.count)
            n = min(count - done, piece.count - first)
            block = (self._map(piece.path, piece.dtype, piece.offset_bytes, piece.count) if piece.array is None else piece.array)[
                first : first + n
            ]
            self._check(piece, first, block)
            out[done : done + n] = block
            i, done = i + 1, done + n
        return out

    def check(self) -> None:
        """Look at every id, or at evenly spread blocks where that would take long."""
        n = len(self)
        blocks = range(0, n, BLOCK_TOKENS)
        affordable = max(1, CHECK_BYTES // (BLOCK_TOKENS * 2))
        for start in blocks[:: -(-len(blocks) // affordable)] if n else ():
            self.read(start, min(BLOCK_TOKENS, n - start))

    def _check(self, piece: Piece, first: int, block: np.ndarray) -> None:
        if block.size and (int(block.max()) >= self.vocab_size or int(block.min()) < 0):
            at = int(np.flatnonzero((block >= self.vocab_size) | (block < 0))[0])
            row, column = divmod(first + at, piece.width or piece.count)
            where = f"row {row}, column {column}" if piece.width else f"position {column}"
            raise UserError(
                f"{piece.path}: {where} holds the id {int(block[at])}, the vocabulary has {self.vocab_size};"
                " raise model.vocab_size or give the tokenizer that made these tokens (tokenizer.path)"
            )


def _map(path: str, dtype: str, offset_bytes: int, count: int) -> np.ndarray:
    try:
        return np.memmap(path, dtype, "r", offset_bytes, (count,)).view(np.ndarray)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is shorter than when it was opened"
        raise UserError(f"cannot read {path} ({reason}); put it back or start again") from None


# ---------------------------------------------------------------- layouts


def npy_splits(files: list[Path], val_fraction: float | None) -> tuple[list[Piece], list[Piece]]:
    """Training and validation pieces of `shard_*.npy`, neither empty."""
    pieces = [npy_piece(file) for file in files]
    require(sum(piece.count for piece in pieces) > 0, f"the shards in {files[0].parent} are empty; give shards with tokens")
    fraction = VAL_FRACTION if val_fraction is None else val_fraction
    pieces = [piece for piece in pieces if piece.count]
    if len(pieces) > 1:
        n_train = _train_part(len(pieces), fraction)
        return pieces[:n_train], pieces[n_train:]
    (piece,) = pieces
    rows = piece.count // piece.width
    require(rows > 1, f"{piece.path} is the only shard and has one row; two rows or more are needed for training and validation")
    return _cut(piece, _train_part(rows, fraction) * piece.width)


def npy_piece(file: Path) -> Piece:
    try:
        array = np.lib.format.open_memmap(file, mode="r")  # unlike numpy.load it knows neither archives nor pickles
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no .npy array of ids ({_first_line(error)}); make it with numpy.save") from None
    good = array.ndim == 2 and array.dtype.kind in "iu" and array.flags.c_contiguous
    require(good, f"{file} holds {array.ndim}-D {array.dtype}, wanted 2-D rows of whole numbers in C order; save it again so")
    return Piece(str(file), array.dtype.str, array.offset, array.size, array.shape[1] or None)


def bin_splits(files: list[Path], val_fraction: float | None) -> tuple[list[Piece], list[Piece]]:
    """Of `train.bin` and `val.bin`, or of one file whose end is for validation."""
    pieces = [bin_piece(file) for file in files]
    if len(pieces) == 2:
        return pieces[:1], pieces[1:]
    (piece,) = pieces
    require(piece.count > 1, f"{piece.path} holds {piece.count} tokens; at least 2 are needed, one for validation")
    return _cut(piece, _train_part(piece.count, VAL_FRACTION if val_fraction is None else val_fraction))


def bin_piece(file: Path) -> Piece:
    dtype = np.dtype("<u4" if file.name.endswith((".u32.bin", ".uint32.bin")) else "<u2")
    size = file.stat().st_size
    require(size > 0, f"{file} is empty; give a file with tokens")
    require(size % dtype.itemsize == 0, f"{file} has {size} bytes, no whole number of {dtype.name} ids; it was cut short or is of another type")
    piece = Piece(str(file), dtype.str, 0, size // dtype.itemsize)
    if dtype.itemsize == 2 and piece.count >= 64:
        head = _map(str(file), dtype.str, 0, min(piece.count, 4096))
        wide = head[1::2].max() <= 15 < head[::2].max()  # the upper halves of ids below a million
        require(not wide, f"{file} looks like uint32 ids, but its name says uint16; rename it to {file.stem}.u32.bin")
    return piece


def _train_part(n: int, val_fraction: float) -> int:
    return min(max(int(n * (1 - val_fraction)), 1), n - 1)


def _cut(piece: Piece, n: int) -> tuple[list[Piece], list[Piece]]:
    rest = piece.offset_bytes + n * np.dtype(piece.dtype).itemsize
    return [piece._replace(count=n)], [piece._replace(offset_bytes=rest, count=piece.count - n)]


def _first_line(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0][:120]
