"""What memory a model's files leave behind while it is read: pages that were mapped, and what the C library keeps of what was freed.

    placed(place, tree, maps)    →    {name: place(part) …}, and neither of the two any more

Pages of a mapped file count as this process's memory from when they are first read until they are given back; a reader that copies
tensor after tensor would else hold the model twice. The temporary arrays of another layout are several times as large as a
matrix, and the C library keeps what it once had: for a model of 600 MB 110 MB of it.

Leaves out: reading ahead (the system does).
"""

import ctypes
import functools
import mmap
from collections.abc import Callable, Iterable


def placed(place: Callable | None, tree: dict, maps: Iterable[mmap.mmap]) -> dict:
    """Each part of the tree as `place` makes it, one after the other; the tree is used up. With None, the tree as it is."""
    if place is None:
        return tree
    made = {}
    for name in list(tree):
        made[name] = place(tree.pop(name))
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
