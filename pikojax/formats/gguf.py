"""GGUF, llama.cpp's file: metadata and tensors in one file, which is mapped into memory and never read as a whole.

    "GGUF" | version | tensor count | key count | key, type, value … | name, dimensions, type, offset … | padding | tensors

    opened = read("model.gguf");   opened.metadata["general.architecture"];   opened.tensor("token_embd.weight")   → bytes, mapped

Every number in the file is a claim. A count is compared with the bytes that so many entries would need before anything is made
for them; every length with the file's end; tensors must lie inside the file, apart from one another, and where alignment wants
them. Strings of a long array are found, and become text only when asked for, so a hostile file costs no more memory than it has bytes.

Leaves out: big-endian files, version 1, writing (`gguf_write.py`), what the tensors mean (`gguf_model.py`).
"""

import mmap
import re
import struct
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pikojax.config import UserError, require
from pikojax.formats.fields import short
from pikojax.text.what_is import HEAD_BYTES, refuse_mistakes

MAGIC, VERSIONS = b"GGUF", (2, 3)
PART, MOST_PARTS = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<count>\d{5})\.gguf", re.DOTALL), 1_000
MOST_KEYS, MOST_TENSORS, MOST_STRINGS, LONGEST_NAME, MOST_DIMENSIONS = 4_096, 16_384, 4_000_000, 65_535, 4
MOST_TEXT_BYTES = 4 << 20  # of all single strings together: chat templates, licences
LEAST_KEY_BYTES, LEAST_TENSOR_BYTES = 8 + 1 + 4 + 1, 8 + 1 + 4 + 8 + 4 + 8
STRING, ARRAY, BOOL = 8, 9, 7
NUMBERS = {  # a value's type → as numpy reads it, as struct does
    0: ("<u1", "<B"), 1: ("<i1", "<b"), 2: ("<u2", "<H"), 3: ("<i2", "<h"), 4: ("<u4", "<I"), 5: ("<i4", "<i"), 6: ("<f4", "<f"),
    BOOL: ("<u1", "<B"), 10: ("<u8", "<Q"), 11: ("<i8", "<q"), 12: ("<f8", "<d"),
}  # fmt: skip
TENSOR_TYPES = {  # a tensor's type → name, weights in a block, bytes of a block
    0: ("f32", 1, 4), 1: ("f16", 1, 2), 30: ("bf16", 1, 2),
    2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22), 7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34),
    12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210),
    24: ("i8", 1, 1), 25: ("i16", 1, 2), 26: ("i32", 1, 4), 27: ("i64", 1, 8), 28: ("f64", 1, 8),
}  # fmt: skip
UNREAD_TYPES = {9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
                22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"}  # fmt: skip
DTYPES = {"f32": "<f4", "f16": "<f2", "f64": "<f8", "i8": "<i1", "i16": "<i2", "i32": "<i4", "i64": "<i8"}


class TensorInfo(NamedTuple):
    name: str
    shape: tuple[int, ...]  # as numpy has it: the file's dimensions the other way round, so that the last one is contiguous
    type: str
    offset: int  # in the file
    n_bytes: int
    part: int = 0  # which file, of a model in several


class Strings(Sequence):
    """A long array of strings as the file has it: `strings[i]` is made when asked for."""

    def __init__(self, data, starts: array):
        self.data, self._starts = data, starts

    def __len__(self) -> int:
        return len(self._starts)

    def bytes_of(self, i: int) -> bytes:
        start = self._starts[i]
        return bytes(self.data[start : start + int.from_bytes(self.data[start - 8 : start], "little")])

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        return self.bytes_of(range(len(self))[i]).decode("utf-8", "replace")


class GGUF:
    def __init__(self, path: Path, metadata: dict[str, Any], tensors: dict[str, TensorInfo], maps: list[mmap.mmap]):
        self.path, self.metadata, self.tensors, self.maps = path, metadata, tensors, maps

    def bytes_of(self, name: str) -> np.ndarray:
        """The tensor's bytes as they lie in the file: uint8, mapped, read when touched."""
        info = self.tensors[name]
        return np.frombuffer(self.maps[info.part], np.uint8, info.n_bytes, info.offset)

    def tensor(self, name: str) -> np.ndarray:
        """The tensor as numbers, mapped. bfloat16 comes as ml_dtypes' type; packed types only as `bytes_of`."""
        info = self.tensors[name]
        if info.type == "bf16":
            import ml_dtypes

            dtype = np.dtype(ml_dtypes.bfloat16)
        elif info.type in DTYPES:
            dtype = np.dtype(DTYPES[info.type])
        else:
            raise TypeError(f"{name} is packed as {info.type}; take bytes_of")
        return self.bytes_of(name).view(dtype).reshape(info.shape)


def looks_like(head: bytes) -> bool:
    return head.startswith(MAGIC)


def read(path: str | Path) -> GGUF:
    """The file with all that it claims checked against its size. Raises UserError, one line, for whatever is wrong with it."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            if not looks_like(head):
                refuse_mistakes(path, head)
                raise UserError(f"{path} is no GGUF file (it begins with {head[:4]!r}); give a model in GGUF")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); check the path") from None
    try:
        return _parse(path, _Reader(data))
    except _Wrong as wrong:
        raise UserError(f"{path}: {wrong}; download it again") from None


def read_whole(path: str | Path) -> GGUF:
    """The same of a model that may lie in several files, NAME-00001-of-00003.gguf …, whichever of them is given."""
    first = read(path)
    count = first.metadata.get("split.count")
    if not isinstance(count, int) or count <= 1:
        return first
    named = PART.fullmatch(first.path.name)
    good = named and int(named["count"]) == count <= MOST_PARTS
    require(good, f"{first.path} is one of {short(count)} parts of a model; give them their names back, NAME-00001-of-{min(count, 99_999):05}.gguf …, or join them, by llama-gguf-split --merge")
    parts = [read(first.path.with_name(f"{named['name']}-{i + 1:05}-of-{count:05}.gguf")) for i in range(count)]
    tensors: dict[str, TensorInfo] = {}
    for i, part in enumerate(parts):
        said = part.metadata.get("split.no"), part.metadata.get("split.count")
        require(all(type(n) is int for n in said) and said == (i, count), f"{part.path} says that it is part {short(said[0])} of {short(said[1])}; it is another model's, download it again")
        again = next((name for name in part.tensors if name in tensors), None)
        require(again is None, f"{part.path} has the tensor {short(again)} of a part before it; download it again")
        tensors |= {name: info._replace(part=i) for name, info in part.tensors.items()}
    wanted = parts[0].metadata.get("split.tensors.count", len(tensors))
    require(type(wanted) is int and wanted == len(tensors), f"{first.path} and its parts have {len(tensors):,} tensors, they say {short(wanted)}; download them again")
    metadata = {key: value for key, value in parts[0].metadata.items() if not key.startswith("split.")}
    return GGUF(parts[0].path, metadata, tensors, [part.maps[0] for part in parts])


class _Wrong(Exception):
    """What the file claims and cannot be."""


class _Reader:
    def __init__(self, data):
        self.data, self.at, self.size, self.text_left = data, 0, len(data), MOST_TEXT_BYTES

    @property
    def left(self) -> int:
        return self.size - self.at

    def need(self, n: int, what: str) -> None:
        if n > self.left:
            raise _Wrong(f"{what} needs {n:,} bytes, the file has {self.left:,} left: it is cut short or damaged")

    def number(self, format: str, what: str):
        n = struct.calcsize(format)
        self.need(n, what)
        (value,) = struct.unpack_from(format, self.data, self.at)
        self.at += n
        return value

    def name(self, what: str) -> str:
        n = self.number("<Q", f"the length of {what}")
        if not 0 < n <= LONGEST_NAME:
            raise _Wrong(f"{what} is {n:,} bytes long, wanted 1 to {LONGEST_NAME:,}")
        return self.text(n, what)

    def text(self, n: int, what: str) -> str:
        self.need(n, what)
        self.at += n
        try:
            return self.data[self.at - n : self.at].decode()
        except UnicodeDecodeError:
            raise _Wrong(f"{what} is not UTF-8") from None


def _parse(path: Path, reader: _Reader) -> GGUF:
    reader.at = len(MAGIC)
    version = reader.number("<I", "the version")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        raise _Wrong("its byte order is big-endian, wanted little-endian" if swapped else f"version {version} of GGUF, wanted 2 or 3")
    n_tensors, n_keys = reader.number("<Q", "the number of tensors"), reader.number("<Q", "the number of keys")
    _plausible(n_keys, LEAST_KEY_BYTES, MOST_KEYS, reader, "keys")
    _plausible(n_tensors, LEAST_TENSOR_BYTES, MOST_TENSORS, reader, "tensors")
    metadata: dict[str, Any] = {}
    for _ in range(n_keys):
        key = reader.name("a key")
        if key in metadata:
            raise _Wrong(f"the key {_short(key)} stands there twice")
        metadata[key] = _value(reader, reader.number("<I", "a value's type"), f"the value of {_short(key)}")
    infos = [_tensor_info(reader) for _ in range(n_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or isinstance(alignment, bool) or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise _Wrong(f"its alignment is {_short(str(alignment))}, wanted a power of two from 8 to {1 << 20:,}")
    return GGUF(path, metadata, _placed(infos, -(-reader.at // alignment) * alignment, alignment, reader.size), [reader.data])


def _plausible(n: int, least_bytes: int, most: int, reader: _Reader, what: str) -> None:
    if n > most or n * least_bytes > reader.left:
        raise _Wrong(f"it claims {n:,} {what}, which {reader.left:,} bytes cannot hold" if n * least_bytes > reader.left else f"it claims {n:,} {what}, at most {most:,} are read")


def _value(reader: _Reader, type: int, what: str):
    if type == STRING:
        n = reader.number("<Q", f"the length of {what}")
        reader.text_left -= n
        if reader.text_left < 0 <= reader.left - n:
            raise _Wrong(f"its strings are longer than {MOST_TEXT_BYTES:,} bytes together")
        return reader.text(n, what)
    if type == ARRAY:
        return _array(reader, what)
    if type not in NUMBERS:
        raise _Wrong(f"{what} is of type {type}, which GGUF does not have")
    value = reader.number(NUMBERS[type][1], what)
    return bool(value) if type == BOOL else value


def _array(reader: _Reader, what: str):
    """A numpy array that lies in the file, or Strings. Arrays of arrays are read by nobody and refused."""
    type, n = reader.number("<I", f"the type of {what}"), reader.number("<Q", f"the length of {what}")
    if type in NUMBERS:
        dtype = np.dtype(NUMBERS[type][0])
        reader.need(n * dtype.itemsize, what)
        found = np.frombuffer(reader.data, dtype, n, reader.at)
        reader.at += found.nbytes
        return found.astype(bool) if type == BOOL else found
    if type != STRING:
        raise _Wrong(f"{what} is an array of arrays, which no model needs" if type == ARRAY else f"{what} is of type {type}, which GGUF does not have")
    _plausible(n, 8, MOST_STRINGS, reader, "strings")
    starts, at, data, size = array("q", bytes(8 * n)), reader.at, reader.data, reader.size
    read_length = struct.Struct("<Q").unpack_from
    for i in range(n):
        if size - at < 8:
            raise _Wrong(f"string {i:,} of {what} lies behind the file's end: it is cut short or damaged")
        (length,) = read_length(data, at)
        if length > size - at - 8:
            raise _Wrong(f"string {i:,} of {what} is {length:,} bytes long, the file has {size - at - 8:,} left: it is cut short or damaged")
        starts[i] = at + 8
        at += 8 + length
    reader.at = at
    return Strings(data, starts)


def _tensor_info(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    name = reader.name("a tensor's name")
    what = f"tensor {_short(name)}"
    n_dims = reader.number("<I", f"the dimensions of {what}")
    if not 0 < n_dims <= MOST_DIMENSIONS:
        raise _Wrong(f"{what} has {n_dims:,} dimensions, wanted 1 to {MOST_DIMENSIONS}")
    dims = [reader.number("<Q", f"the dimensions of {what}") for _ in range(n_dims)]
    return name, tuple(dims[::-1]), reader.number("<I", f"the type of {what}"), reader.number("<Q", f"the offset of {what}")


def _placed(infos: list, base: int, alignment: int, size: int) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for name, shape, type, offset in infos:
        what = f"tensor {_short(name)}"
        if name in tensors:
            raise _Wrong(f"{what} stands there twice")
        if type not in TENSOR_TYPES:
            known = UNREAD_TYPES.get(type)
            raise _Wrong(f"{what} is packed as {known}, which is not read here; choose a file in Q4_0, Q4_K, Q6_K or Q8_0" if known else f"{what} is of type {type}, which GGUF does not have")
        kind, block, block_bytes = TENSOR_TYPES[type]
        if min(shape) == 0 or shape[-1] % block:
            raise _Wrong(f"{what} is {' x '.join(f'{n:,}' for n in shape)}, which blocks of {block} {kind} weights do not make up")
        n_weights = 1
        for n in shape:
            n_weights *= n
        n_bytes = n_weights // block * block_bytes
        if offset % alignment:
            raise _Wrong(f"{what} begins at {offset:,}, wanted a multiple of {alignment}")
        if base + offset + n_bytes > size:
            raise _Wrong(f"{what} ends at byte {base + offset + n_bytes:,}, the file at {size:,}: it is cut short or damaged")
        tensors[name] = TensorInfo(name, shape, kind, base + offset, n_bytes)
    in_order = sorted(tensors.values(), key=lambda info: info.offset)
    for before, after in zip(in_order, in_order[1:]):
        if before.offset + before.n_bytes > after.offset:
            raise _Wrong(f"tensors {_short(before.name)} and {_short(after.name)} overlap")
    return tensors


def _short(name: str) -> str:
    shown = "".join(char if char.isprintable() else "?" for char in name[:60])
    return shown + ("…" if len(name) > 60 else "")
