"""Byte-pair encoding: start from single characters and join neighbours, the pair that was learned first before all others.

    merges: "l o", "lo w", "e r"        "lower" → l o w e r → lo w e r → low e r → low er → their ids

Each merge has a rank, its place in the list of merges. While some pair of neighbours is in the list, the one of the lowest
rank (the leftmost of equal ones) is joined. In byte-level BPE the "characters" are bytes (see byte_level.py).

A rank file of tiktoken has no list of merges: there any two neighbours may be joined whose concatenation is a token, and the
lowest id goes first (`rank_order`). The two rules differ where a token can be split in more ways than the list names.

Leaves out: dropout. It makes training noisy on purpose; encoding here is the same each time.
"""

import heapq
from collections.abc import Mapping, Sequence

from pikojax.config import UserError

LONG = 40  # symbols; from here on a heap pays


class BPE:
    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[tuple[str, str]] = (),
        *,
        rank_order: bool = False,
        unk_token: str | None = None,
        fuse_unk: bool = False,
        byte_fallback: bool = False,
        ignore_merges: bool = False,
        continuing_subword_prefix: str | None = None,
        end_of_word_suffix: str | None = None,
        banned: frozenset[int] = frozenset(),  # ids that plain text must not give
    ):
        self.vocab = {token: i for token, i in vocab.items() if i not in banned}
        self.unk_token, self.unk_id = unk_token, None if unk_token is None else vocab.get(unk_token)
        self.fuse_unk, self.ignore_merges = fuse_unk, ignore_merges
        self.prefix, self.suffix = continuing_subword_prefix or "", end_of_word_suffix or ""
        names = [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
        self.byte_ids = {byte: self.vocab[name] for byte, name in enumerate(names) if name in self.vocab}
        self.pairs: dict[tuple[int, int], tuple[int, int]] = {}  # (left id, right id) → (rank, joined id)
        if rank_order:
            self.pairs = _RankOrder(self.vocab)
        else:
            for rank, (left, right) in enumerate(merges):
                joined = vocab[left + right[len(self.prefix) :]]
                if joined not in banned:
                    self.pairs[vocab[left], vocab[right]] = rank, joined

    def encode(self, piece: str) -> list[int]:
        return [i for i, _ in self.encode_with_lengths(piece)]

    def encode_with_lengths(self, piece: str) -> list[tuple[int, int]]:
        """(id, how many bytes of the piece it covers)"""
        if self.ignore_merges and piece in self.vocab:
            return [(self.vocab[piece], len(piece.encode()))]
        symbols = self._symbols(piece)
        return self._join_long(symbols) if len(symbols) >= LONG else self._join(symbols)

    def _symbols(self, piece: str) -> list[tuple[int, int]]:
        """What the joining begins with. A character that is not in the vocabulary becomes its bytes' tokens if there are all
        of them, else the unknown token, else (as in Hugging Face's) nothing."""
        symbols, unknown, end = [], 0, len(piece) - 1  # unknown: bytes of an unknown token that is not yet written
        for at, char in enumerate(piece):
            symbol = (self.prefix if at else "") + char + (self.suffix if at == end else "")
            n_bytes = 1 if char < "\x80" else len(char.encode())
            found = self.vocab.get(symbol)
            if found is not None:
                if unknown:
                    symbols.append((self.unk_id, unknown))
                    unknown = 0
                symbols.append((found, n_bytes))
                continue
            if self.byte_ids:
                bytes_of = symbol.encode()
                if all(byte in self.byte_ids for byte in bytes_of):
                    symbols += [(self.byte_ids[byte], 1) for byte in bytes_of]
                    continue
            if self.unk_token is not None:
                if self.unk_id is None:
                    lacks = f"which lacks {self.unk_token[:40]!r} too; add that to the vocabulary"
                    raise UserError(f"{char!r} is not in the vocabulary, {lacks}")
                if unknown and not self.fuse_unk:
                    symbols.append((self.unk_id, unknown))
                    unknown = 0
                unknown += n_bytes
        if unknown:
            symbols.append((self.unk_id, unknown))
        return symbols

    def _join(self, symbols: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The rule as it is said: find the best pair of all, join it, look again."""
        pairs = self.pairs
        while len(symbols) > 1:
            best, where = None, 0
            for at in range(len(symbols) - 1):
                found = pairs.get((symbols[at][0], symbols[at + 1][0]))
                if found is not None and (best is None or found[0] < best[0]):
                    best, where = found, at
            if best is None:
                break
            symbols[where : where + 2] = [(best[1], symbols[where][1] + symbols[where + 1][1])]
        return symbols

    def _join_long(self, symbols: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The same with a heap of pairs and links between neighbours: n·log n, where the plain rule takes n²."""
        pairs, n = self.pairs, len(symbols)
        ids, lengths = [i for i, _ in symbols], [length for _, length in symbols]
        before, after = list(range(-1, n - 1)), [*range(1, n), -1]
        heap = []

        def offer(left: int, right: int) -> None:
            found = pairs.get((ids[left], ids[right]))
            if found is not None:
                heapq.heappush(heap, (found[0], left, found[1]))

        for left in range(n - 1):
            offer(left, left + 1)
        while heap:
            _, left, joined = heapq.heappop(heap)
            right = after[left]
            if lengths[left] == 0 or right < 0 or pairs.get((ids[left], ids[right]), (0, None))[1] != joined:
                continue  # one of the two has been joined to another since
            ids[left] = joined
            lengths[left] += lengths[right]
            lengths[right] = 0
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
                offer(left, after[left])
            if before[left] >= 0:
                offer(before[left], left)
        return [(i, length) for i, length in zip(ids, lengths) if length]


class _RankOrder:
    """Looks like the dictionary of pairs: two tokens whose concatenation is a token join, the lowest id first."""

    def __init__(self, vocab: dict[str, int]):
        self.vocab, self.tokens = vocab, {i: token for token, i in vocab.items()}

    def get(self, pair: tuple[int, int], default=None) -> tuple[int, int] | None:
        joined = self.vocab.get(self.tokens[pair[0]] + self.tokens[pair[1]])
        return default if joined is None else (joined, joined)


def derive_merges(vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """A list of merges that does what rank order does, as far as a list can: each token is made of the two parts that the
    tokens below it leave of it. A token that they do not leave in two parts can only be met whole (`ignore_merges`)."""
    model, merges = BPE(vocab, rank_order=True), []
    for token, rank in sorted(vocab.items(), key=lambda entry: entry[1]):
        parts = [(vocab[char], 1) for char in token if char in vocab]
        if len(parts) != len(token) or len(parts) < 2:
            continue
        joined = _join_below(model, parts, rank)
        if len(joined) == 2:
            left, right = (model.pairs.tokens[i] for i, _ in joined)
            merges.append((left, right))
    return merges


def _join_below(model: BPE, symbols: list[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    while len(symbols) > 2:
        ranks = [model.pairs.get((a, b), (limit, None))[0] for (a, _), (b, _) in zip(symbols, symbols[1:])]
        best = min(ranks)
        if best >= limit:
            break
        at = ranks.index(best)
        symbols = [*symbols[:at], (best, 1), *symbols[at + 2 :]]
    return symbols
