"""safetensors, Hugging Face's file: a JSON header that says where each tensor lies, then the tensors, mapped into memory.

    8 bytes: length of the header | {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …} | the tensors' bytes

The format's own rules are checked: a header of at most 100 MB, no key twice, no hole and no overlap, nothing behind the last tensor.

`write` makes such a file one tensor after the other, each when its turn comes.

Leaves out: types that no weight has.
"""

import json
import math
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pikojax.config import UserError
from pikojax.formats.fields import short
from pikojax.formats.mapped import release
from pikojax.text.what_is import HEAD_BYTES, refuse_mistakes

LONGEST_HEADER_BYTES, SHORT_HEADER_BYTES = 100 << 20, 1 << 20  # a short one may be of anything
MOST_TENSORS, MOST_DIMENSIONS = 200_000, 8
DTYPES = {  # of the file → of numpy; BF16 and F8 by ml_dtypes
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "?",
}  # fmt: skip


class TensorInfo(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int  # in the file
    n_bytes: int


class SafeTensors:
    def __init__(self, path: Path, tensors: dict[str, TensorInfo], metadata: dict[str, str], data):
        self.path, self.tensors, self.metadata, self.data = path, tensors, metadata, data

    def tensor(self, name: str) -> np.ndarray:
        """As it lies in the file, read when touched."""
        info = self.tensors[name]
        return np.frombuffer(self.data, np.uint8, info.n_bytes, info.offset).view(info.dtype).reshape(info.shape)


class Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: str  # of DTYPES
    make: Callable[[], np.ndarray]  # called when it is written


def write(path: str | Path, tensors: Sequence[Tensor], metadata: dict[str, str]) -> int:
    """The bytes written; in the order given, so that a reader of the whole file reads it from end to end."""
    header, at = {"__metadata__": metadata}, 0
    for tensor in tensors:
        n_bytes = math.prod(tensor.shape) * _dtype(tensor.dtype).itemsize
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, at + n_bytes]}
        at += n_bytes
    head = json.dumps(header, ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for tensor in tensors:
            made = np.ascontiguousarray(tensor.make())
            assert made.shape == tensor.shape and made.dtype == _dtype(tensor.dtype), f"{tensor.name} is {made.dtype} of {made.shape}"
            file.write(made.reshape(-1).view(np.uint8).data)
            release(made)
        return file.tell()


def read(path: str | Path) -> SafeTensors:
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            if head[8:9] != b"{":  # a header of 640 bytes begins as a pickle does
                refuse_mistakes(path, head)
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); check the path") from None
    try:
        tensors, metadata = _parse(data)
    except _Wrong as wrong:
        raise UserError(f"{path}: {wrong}; download it again") from None
    return SafeTensors(path, tensors, metadata, data)


class _Wrong(Exception):
    """What the file claims and cannot be."""


def _parse(data) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    size = len(data)
    length = int.from_bytes(data[:8], "little") if size >= 8 else size
    if size < 8 or not 2 <= length <= min(LONGEST_HEADER_BYTES, size - 8):
        raise _Wrong(f"it claims a header of {length:,} bytes in a file of {size:,}: it is cut short, or no safetensors file")
    text = data[8 : 8 + length]
    parts = {"lists and objects": (text.count(b"[") + text.count(b"{"), 15), "commas": (text.count(b","), 5)}
    for what, (n, least_bytes) in parts.items():  # parsed, each costs many times its bytes; a tensor's line has at least 53
        if n * least_bytes > length > SHORT_HEADER_BYTES:
            raise _Wrong(f"its header has {n:,} {what} in {length:,} bytes, which is no list of tensors")
    try:
        header = json.loads(text.decode(), object_pairs_hook=_once)
    except RecursionError:
        raise _Wrong("its header is nested too deep") from None
    except ValueError as error:
        raise _Wrong(f"its header is no JSON ({str(error)[:60]})") from None
    if not isinstance(header, dict):
        raise _Wrong("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or len(header) > MOST_TENSORS:
        raise _Wrong("its header has metadata that is no object" if not isinstance(metadata, dict) else f"it claims {len(header):,} tensors")
    tensors = {name: _info(name, entry, 8 + length) for name, entry in header.items()}
    at = 8 + length
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].n_bytes)):
        if info.offset != at:
            raise _Wrong(f"tensor {name[:60]} begins at byte {info.offset:,}, wanted {at:,}: tensors overlap or leave a hole")
        at += info.n_bytes
    if at != size:
        raise _Wrong(f"its tensors end at byte {at:,}, the file at {size:,}: it is cut short or damaged")
    return tensors, {str(key): str(value) for key, value in metadata.items()}


def _once(pairs: list) -> dict:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        raise _Wrong(f"the key {short(next(name for name, _ in pairs if name in seen or seen.add(name)))} stands there twice")
    return made


def _info(name: str, entry, base: int) -> TensorInfo:
    if not name.isprintable():  # names stand in messages, which are one line
        raise _Wrong(f"the tensor {name[:60]!r} has a name that cannot be printed")
    what = f"tensor {name[:60]}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise _Wrong(f"{what} lacks dtype, shape or data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise _Wrong(f"{what} is of type {str(kind)[:20]!r}, wanted one of: {', '.join(DTYPES)}")
    whole = lambda values: isinstance(values, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in values)
    if not whole(shape) or not whole(offsets) or len(offsets) != 2 or len(shape) > MOST_DIMENSIONS:
        raise _Wrong(f"{what} has a shape or offsets that are no lists of whole numbers")
    dtype = _dtype(kind)
    n_bytes = dtype.itemsize
    sides = 1  # numpy multiplies them without the zeros
    for n in shape:
        n_bytes, sides = n_bytes * n, sides * max(n, 1)
    if sides > 1 << 48:
        raise _Wrong(f"{what} has sides that multiply to {sides:,}, nothing so large is read")
    if offsets[1] - offsets[0] != n_bytes:
        raise _Wrong(f"{what} has {offsets[1] - offsets[0]:,} bytes, its shape {n_bytes:,}")
    return TensorInfo(dtype, tuple(shape), base + offsets[0], n_bytes)


def _dtype(kind: str) -> np.dtype:
    name = DTYPES[kind]
    if "float" in name:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)
