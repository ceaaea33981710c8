"""WordPiece, BERT's: take the longest token that the word begins with, then go on behind it; "##" marks what continues a word.

    "unaffable" → "un" "##aff" "##able"        greedy, left to right, never looking back

A word that cannot be finished, or has more than 100 characters, is unknown as a whole.

Leaves out: splitting text into words (the pre-tokenizer's), scores (there are none: length alone decides).
"""

from collections.abc import Mapping

from pikojax.config import UserError


class WordPiece:
    def __init__(
        self,
        vocab: Mapping[str, int],
        *,
        unk_token: str = "[UNK]",
        continuing_subword_prefix: str = "##",
        max_input_chars_per_word: int = 100,
        banned: frozenset[int] = frozenset(),
    ):
        self.vocab = {token: i for token, i in vocab.items() if i not in banned}
        self.unk_token, self.unk_id = unk_token, vocab.get(unk_token)
        self.prefix, self.max_chars = continuing_subword_prefix, max_input_chars_per_word
        self.longest = max(map(len, vocab), default=0)

    def encode(self, piece: str) -> list[int]:
        return [i for i, _ in self.encode_with_lengths(piece)]

    def encode_with_lengths(self, piece: str) -> list[tuple[int, int]]:
        """(id, how many bytes of the piece it covers)"""
        found, start = [], 0
        while start < len(piece) <= self.max_chars:
            prefix = self.prefix if start else ""
            for end in range(min(len(piece), start + self.longest), start, -1):
                token = self.vocab.get(prefix + piece[start:end])
                if token is not None:
                    break
            else:
                break
            found.append((token, len(piece[start:end].encode())))
            start = end
        if start < len(piece):
            if self.unk_id is None:
                raise UserError(f"{piece[:40]!r} is not in the vocabulary, which lacks {self.unk_token!r} too; add that to the vocabulary")
            return [(self.unk_id, len(piece.encode()))]
        return found
