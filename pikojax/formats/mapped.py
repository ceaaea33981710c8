"""What memory a model's files leave behind while it is read: pages that were mapped, and what the C library keeps of what was freed.

    placed(place, tree, maps)    →    {name: place(part) …}, and neither of the two any more
    release(array)               what comes next reads its pages from the file again
    Stack([a, b, …])             an array of several that are stacked only when all of it is asked for

Pages of a mapped file count as this process's memory from when they are first read until they are given back; a reader that copies
tensor after tensor would else hold the model twice. The temporary arrays of another layout are several times as large as a
matrix, and the C library keeps what it once had: for a model of 600 MB 110 MB of it.

Leaves out: reading ahead (the system does).
"""

import ctypes
import functools
import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

ALIGNMENT = 64  # bytes


def placed(place: Callable | None, tree: dict, maps: Iterable[mmap.mmap]) -> dict:
    """Each part of the tree as `place` makes it, one after the other, and of a part that has parts, as experts have, each of those; the tree is
    used up. With None, the tree as it is."""
    if place is None:
        return tree
    made = {}
    for name in list(tree):
        part = tree.pop(name)
        if isinstance(part, dict) and any(isinstance(inner, dict) for inner in part.values()):
            made[name] = placed(place, part, maps)
            continue
        made[name] = place(part)
        del part
        if hasattr(mmap, "MADV_DONTNEED"):
            for data in maps:
                data.madvise(mmap.MADV_DONTNEED)  # changes no content: they are mapped to be read only
        _trim()(0)
    return made


@functools.cache
def _trim() -> Callable[[int], int]:
    """glibc's; other C libraries have none, or need none."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda _: 0


def release(array) -> None:
    """Nothing happens to an array that is no view of a mapped file."""
    if isinstance(array, Stack):
        for part in array.parts:
            release(part)
        return
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    file = base.obj if isinstance(base, memoryview) else base
    if not isinstance(file, mmap.mmap) or array.size == 0:
        return
    start = np.frombuffer(file, np.uint8, 1).ctypes.data
    low, high = np.lib.array_utils.byte_bounds(array)
    first, last = -(-(low - start) // mmap.PAGESIZE) * mmap.PAGESIZE, (high - start) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first and hasattr(file, "madvise"):
        file.madvise(mmap.MADV_DONTNEED, first, last - first)


class Stack:
    """To be looked at, cast or gone through part by part; NumPy and JAX make an array of it, part by part too: none is in memory twice."""

    def __init__(self, parts: Sequence[np.ndarray], dtype=None):
        self.parts, self.dtype = parts, np.dtype(dtype or parts[0].dtype)
        self.shape = (len(parts), *parts[0].shape)
        self.ndim, self.size = len(self.shape), math.prod(self.shape)
        self.nbytes = self.size * self.dtype.itemsize

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        made = _aligned(self.shape, self.dtype if dtype is None else np.dtype(dtype))
        for into, part in zip(made, self.parts, strict=True):
            into[...] = part
            release(part)
        return made

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.parts[i].astype(self.dtype, copy=False)

    def __iter__(self) -> Iterator[np.ndarray]:
        for i, part in enumerate(self.parts):
            yield self[i]
            release(part)

    def astype(self, dtype, copy: bool = True) -> "Stack":
        return Stack(self.parts, dtype)

    def swapaxes(self, one: int, other: int) -> "Stack":
        assert {one, other} == {1, 2}, (one, other)
        return Stack([part.T for part in self.parts], self.dtype)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Empty, where JAX takes an array as it lies and copies nothing."""
    n_bytes = math.prod(shape) * dtype.itemsize
    room = np.empty(n_bytes + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + n_bytes].view(dtype).reshape(shape)
