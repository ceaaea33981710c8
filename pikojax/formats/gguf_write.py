"""Writes GGUF files: metadata and tensors, in the order given, each tensor's bytes made when they are written.

    write("model.gguf", {"general.architecture": "llama", …}, [Tensor("output_norm.weight", (64,), "f32", lambda: array), …])

The file appears whole under its name or not at all.

Leaves out: what the tensors mean (`gguf_save.py`), splitting a model into several files.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pikojax.config import require
from pikojax.formats.gguf import ARRAY, BOOL, MAGIC, NUMBERS, STRING, TENSOR_TYPES, VERSIONS, Strings
from pikojax.formats.mapped import release
from pikojax.formats.whole import whole_file

ALIGNMENT = 32
_TYPE_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
_VALUE_TYPES = {np.dtype(numpy_type): number for number, (numpy_type, _) in NUMBERS.items() if number != BOOL} | {np.dtype(bool): BOOL}
UINT32, FLOAT32, UINT64, INT64 = 4, 6, 10, 11


class Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]  # as numpy has it: the last axis is contiguous
    type: str  # one of gguf.TENSOR_TYPES
    make: Callable[[], np.ndarray]  # its bytes, made when they are written

    @property
    def n_bytes(self) -> int:
        _, block, block_bytes = TENSOR_TYPES[_TYPE_NUMBERS[self.type]]
        return int(np.prod(self.shape, dtype=np.int64)) // block * block_bytes


def write(path: str | Path, metadata: Mapping, tensors: Sequence[Tensor]) -> int:
    """The bytes written."""
    with whole_file(Path(path)) as file:
        for part in _parts(metadata, tensors):
            file.write(part)
        return file.tell()


def _parts(metadata: Mapping, tensors: Sequence[Tensor]) -> Iterable[bytes | memoryview]:
    head = bytearray(MAGIC + struct.pack("<IQQ", VERSIONS[-1], len(tensors), len(metadata)))
    for key, value in metadata.items():
        kind, data = _value(key, value)
        head += _text(key) + struct.pack("<I", kind) + data
    offset = 0
    for tensor in tensors:
        dims = tensor.shape[::-1]
        head += _text(tensor.name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims) + struct.pack("<IQ", _TYPE_NUMBERS[tensor.type], offset)
        offset += -(-tensor.n_bytes // ALIGNMENT) * ALIGNMENT
    yield bytes(head) + bytes(-len(head) % ALIGNMENT)
    for tensor in tensors:
        data = np.ascontiguousarray(tensor.make()).view(np.uint8).reshape(-1)
        assert data.size == tensor.n_bytes, f"{tensor.name} has {data.size} bytes, wanted {tensor.n_bytes}"
        yield data.data
        release(data)
        yield bytes(-data.size % ALIGNMENT)


def _text(text: str) -> bytes:
    return _bytes(text.encode(errors="replace"))  # half a surrogate, which file names may have, is no Unicode


def _bytes(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def _value(key: str, value) -> tuple[int, bytes]:
    if isinstance(value, bool):
        return BOOL, struct.pack("<?", value)
    if isinstance(value, int):
        kind = UINT32 if 0 <= value < 1 << 32 else INT64 if value < 0 else UINT64
        return kind, struct.pack(NUMBERS[kind][1], value)
    if isinstance(value, float):
        return FLOAT32, struct.pack("<f", value)
    if isinstance(value, str):
        return STRING, _text(value)
    if isinstance(value, np.ndarray):
        require(value.ndim == 1 and value.dtype in _VALUE_TYPES, f"GGUF has no value like {key}, an array of {value.dtype}")
        return ARRAY, struct.pack("<IQ", _VALUE_TYPES[value.dtype], len(value)) + value.tobytes()
    if isinstance(value, Strings):  # as another file has them, whether they are UTF-8 or not
        return ARRAY, struct.pack("<IQ", STRING, len(value)) + b"".join(map(_bytes, map(value.bytes_of, range(len(value)))))
    require(isinstance(value, Sequence) and all(isinstance(item, str) for item in value), f"GGUF has no value like {key}, {type(value).__name__}")
    return ARRAY, struct.pack("<IQ", STRING, len(value)) + b"".join(map(_text, value))
