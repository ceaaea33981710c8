"""Unigram (SentencePiece's): of all ways to cut a text into tokens, the one whose tokens' log probabilities sum highest.

    best[end] = max over tokens text[start:end] of best[start] + score(token)        then follow the best cuts back

"abc" with a: -1, b: -1, c: -1, ab: -1.5, bc: -1.8  →  best["ab"] = -1.5, best["abc"] = max(-1.5 - 1, -1 - 1.8) = -2.5  →  ab c

Where no token covers a character alone, one may be skipped as unknown for 10 less than the lowest score. Neighbouring
unknowns become one, which is written as bytes where the vocabulary has them all (`byte_fallback`). Of equal sums the cut
found first stays: the one with the longer last token. Scores are added as float64, from left to right.

Leaves out: sampling of other cuts (subword regularization).
"""

from collections.abc import Sequence

from pikojax.config import UserError

UNKNOWN_PENALTY = 10.0


class Unigram:
    def __init__(
        self,
        vocab: Sequence[tuple[str, float]],
        *,
        unk_id: int | None = None,
        byte_fallback: bool = False,
        banned: frozenset[int] = frozenset(),
    ):
        self.vocab = {token: i for i, (token, _) in enumerate(vocab) if i not in banned}
        self.scores = [score for _, score in vocab]
        self.unk_id, self.byte_fallback = unk_id, byte_fallback
        self.unk_score = min(self.scores, default=0.0) - UNKNOWN_PENALTY
        lengths: dict[str, set[int]] = {}
        for token in self.vocab:
            if token:
                lengths.setdefault(token[0], set()).add(len(token))
        self.lengths = {char: sorted(found) for char, found in lengths.items()}  # of the tokens that begin with a character

    def encode(self, piece: str) -> list[int]:
        return [i for i, _ in self.encode_with_lengths(piece)]

    def encode_with_lengths(self, piece: str) -> list[tuple[int, int]]:
        """(id, how many bytes of the piece it covers); the bytes of one character share its place, and cover 0 but the last."""
        found = []
        for part in self.cut(piece):
            token, n_bytes = self.vocab.get(part), len(part.encode())
            if token is None and self.byte_fallback:
                bytes_of = [self.vocab.get(f"<0x{byte:02X}>") for byte in part.encode()]
                if None not in bytes_of:
                    found += [(i, -n_bytes) for i in bytes_of[:-1]] + [(bytes_of[-1], n_bytes)]
                    continue
            found.append((self._unknown(part) if token is None else token, n_bytes))
        return found

    def cut(self, piece: str) -> list[str]:
        """The best cut of `piece`, neighbouring unknown characters in one part."""
        n = len(piece)
        best, start_of, unknown = [0.0] * (n + 1), [-1] * (n + 1), [False] * (n + 1)
        for start in range(n):
            here, single = best[start], False
            for length in self.lengths.get(piece[start], ()):
                end = start + length
                token = self.vocab.get(piece[start:end]) if end <= n else None
                if token is None:
                    continue
                single = single or length == 1
                total = here + self.scores[token]
                if start_of[end] < 0 or total > best[end]:
                    best[end], start_of[end], unknown[end] = total, start, token == self.unk_id
            end = start + 1
            if not single and (start_of[end] < 0 or here + self.unk_score > best[end]):
                self._unknown(piece[start])
                best[end], start_of[end], unknown[end] = here + self.unk_score, start, True
        parts, end = [], n
        while end:
            first = start_of[end]
            while unknown[end] and first and unknown[first]:
                first = start_of[first]
            parts.append(piece[first:end])
            end = first
        return parts[::-1]

    def _unknown(self, part: str) -> int:
        if self.unk_id is None:
            raise UserError(f"{part[:40]!r} is not in the vocabulary and this tokenizer has no unknown token; leave it out or set unk_id")
        return self.unk_id
