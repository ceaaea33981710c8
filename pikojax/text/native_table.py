"""SentencePiece's table of replacements (see charsmap.py) as a map of characters, for the native code.

    entries "ﬁ", "が" (か and a mark)   →   followers {the mark}: what becomes of か may depend on what comes next

A table out of a hostile file may point at itself everywhere; the walk through it ends at a number that no real table has.

Leaves out: tables whose longer entries hold ASCII; those raise, and Python's own code serves.
"""

import base64
import functools
from collections.abc import Callable

import numpy as np

from pikojax.text.char_map import CharMap
from pikojax.text.native import NativeError
from pikojax.text.native_model import Unknown

_MOST_PAIRS = 1 << 18  # of a node and a way to it; nmt_nfkc's table has some 50,000


def char_map(encoded: str, oracle: Callable[[str], str]) -> CharMap:
    """SentencePiece's table of replacements. What follows the first character of a longer entry depends on its neighbours."""
    blob = base64.b64decode(encoded)
    if _followers(blob, ascii_only=True):
        raise Unknown("a table of replacements with longer ASCII entries")

    @functools.cache  # a walk of some 0.2 s, which a text of ASCII does not need
    def walk() -> set[str] | str:
        try:
            found = _followers(blob)
        except NativeError as error:
            return str(error)
        return "a table of replacements with ASCII within longer entries" if any(char < "\x80" for char in found) else found

    def followers() -> set[str]:
        found = walk()
        if isinstance(found, str):
            raise NativeError(found)
        return found

    return CharMap(oracle, lambda old, new: old >= "\x80" and old in followers())


def _followers(blob: bytes, ascii_only: bool = False) -> set[str]:
    """The characters that stand second or later in an entry: a walk through the double array (see charsmap.py),
    a character a step. With `ascii_only` those of entries of ASCII alone."""
    units = np.frombuffer(blob, "<u4", int.from_bytes(blob[:4], "little") // 4, 4).astype(np.int64)
    offset, n_pairs = (units >> 10) << ((units & 0x200) >> 6), 0
    labels = np.arange(1, 128 if ascii_only else 256)

    def one_byte(nodes: np.ndarray, paths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal n_pairs
        n_pairs += len(nodes)
        if n_pairs > _MOST_PAIRS:  # more than any real table has: its units point at each other
            raise NativeError("a table of replacements with too many entries")
        parts = [children(nodes[at : at + 4096], paths[at : at + 4096]) for at in range(0, max(1, len(nodes)), 4096)]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def children(nodes: np.ndarray, paths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        child = (nodes ^ offset[nodes])[:, None] ^ labels
        inside = child < len(units)
        inside &= (units[np.where(inside, child, 0)] & 0x800000FF) == labels
        parent, label = np.nonzero(inside)
        return child[parent, label], paths[parent] << 8 | labels[label]

    def one_char(nodes: np.ndarray) -> tuple[set[int], np.ndarray]:
        paths, chars, ends = np.zeros(len(nodes), np.int64), set(), []
        for length in range(1, 5):
            nodes, paths = one_byte(nodes, paths)
            first = paths >> 8 * (length - 1)
            size = 1 + (first >= 0xC0) + (first >= 0xE0) + (first >= 0xF0)
            chars |= set(paths[size == length].tolist())
            ends.append(nodes[size == length])
            nodes, paths = nodes[size > length], paths[size > length]
        return chars, np.unique(np.concatenate(ends))

    followers, seen, nodes = set(), np.zeros(0, np.int64), one_char(np.zeros(1, np.int64))[1]
    for _ in range(64):  # charsmap.py looks at no more bytes than these
        if not len(nodes):
            break
        seen = np.union1d(seen, nodes)
        chars, ends = one_char(nodes)
        followers |= chars
        nodes = np.setdiff1d(ends, seen)
    return {char.to_bytes(4, "big").lstrip(b"\0").decode("utf-8", "replace") for char in followers}
