"""Who has which blocks of a pooled cache, and which of them hold the beginning of a text that may come again.

    text  = [64 tokens][64 tokens][20 tokens]        a node for each whole block, found by (node before it, its tokens)
    match → the nodes of the longest known beginning; their blocks are shared, read by many rows and written by none

A block that no row uses any more stays known until its room is needed; of those the one that was not asked for longest goes first, ends
before beginnings. Block 0 is nobody's: rows write there what must not land anywhere.

Leaves out: the arrays themselves (models/cache.py).
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

BLOCK = 64  # slots
NOWHERE = 0
ROOT = 0  # the name of what stands before the first block


@dataclass
class _Node:
    name: int  # never given twice: what hung on a node that is gone is found no more
    key: tuple[int, tuple]  # (the name of the node before it, its tokens)
    block: int
    users: int = 0


class Pool:
    def __init__(self, n_blocks: int, remember: bool = True):
        self.n_blocks, self.remember = n_blocks, remember
        self._free = list(range(n_blocks - 1, NOWHERE, -1))
        self._named = ROOT
        self._nodes: dict[tuple, _Node] = {}
        self._of_block: dict[int, _Node] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # known blocks that nobody uses, the next to go first

    @property
    def n_free(self) -> int:
        """Blocks that can be had."""
        return len(self._free) + len(self._idle)

    def match(self, ids: Sequence[int]) -> list[int]:
        """The blocks that hold the longest known beginning of `ids`, now in use by one row more."""
        blocks, before = [], ROOT
        for start in range(0, len(ids) - BLOCK + 1, BLOCK):
            node = self._nodes.get((before, tuple(ids[start : start + BLOCK])))
            if node is None:
                break
            blocks.append(node.block)
            before = node.name
        for block in reversed(blocks):  # ends are older than beginnings
            self._of_block[block].users += 1
            self._idle.pop(block, None)
        return blocks

    def take(self, n: int) -> list[int] | None:
        """n blocks of one's own; None if there are not so many."""
        if n > self.n_free:
            return None
        while len(self._free) < n:
            block, _ = self._idle.popitem(last=False)
            self._forget(block)
        return [self._free.pop() for _ in range(n)]

    def publish(self, ids: Sequence[int], blocks: Sequence[int]) -> None:
        """Whole blocks of a text become known. Where the same tokens are known in another block, that one stays so."""
        if not self.remember:
            return
        before = ROOT
        for i, start in enumerate(range(0, len(ids) - BLOCK + 1, BLOCK)):
            key = before, tuple(ids[start : start + BLOCK])
            if key not in self._nodes:
                if blocks[i] in self._of_block:  # known already, behind a beginning that has been forgotten
                    return
                self._named += 1
                self._nodes[key] = self._of_block[blocks[i]] = _Node(self._named, key, blocks[i], users=1)
            before = self._nodes[key].name

    def release(self, blocks: Sequence[int]) -> None:
        """A row is done with its blocks."""
        for block in reversed(blocks):
            node = self._of_block.get(block)
            if node is None:
                self._free.append(block)
                continue
            assert node.users > 0, f"block {block} was given back more often than taken"
            node.users -= 1
            if node.users == 0:
                self._idle[block] = None

    def _forget(self, block: int) -> None:
        del self._nodes[self._of_block.pop(block).key]
        self._free.append(block)
