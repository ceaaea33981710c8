"""Arrays that are mapped from a file: the pages that were read of one can be let go, so that reading all of a file takes the memory of a part.

    release(array)      what comes next reads them from the file again
    Stack([a, b, …])    an array of several that are stacked only when all of it is asked for
"""

import math
import mmap
from collections.abc import Iterator, Sequence

import numpy as np


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
    """To be looked at, cast or gone through part by part; NumPy makes an array of it."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts, self.dtype = parts, parts[0].dtype
        self.shape = (len(parts), *parts[0].shape)
        self.ndim, self.size = len(self.shape), math.prod(self.shape)
        self.nbytes = self.size * self.dtype.itemsize

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        made = np.empty(self.shape, self.dtype if dtype is None else dtype)
        for into, part in zip(made, self.parts, strict=True):
            into[...] = part
        return made

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.parts[i]

    def __iter__(self) -> Iterator[np.ndarray]:
        for part in self.parts:
            yield part
            release(part)

    def astype(self, dtype, copy: bool = True) -> np.ndarray:
        return np.asarray(self, dtype)

    def swapaxes(self, one: int, other: int) -> "Stack":
        assert {one, other} == {1, 2}, (one, other)
        return Stack([part.T for part in self.parts])
