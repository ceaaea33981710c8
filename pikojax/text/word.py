r"""`word`: the most common words, each with the space before it; single punctuation marks, digits and line breaks.

    "Don't go, Tim!\n" → "Don" "'t" " go" "," " Tim" "!" "\n"

The split covers every character and the space belongs to the piece after it, so joining the pieces gives the text back:
nothing is lost but what is not in the vocabulary. That becomes `<unk>`, which hides it: a loss over a text with many
`<unk>` looks better than it is, so data report the share of them. Digits and punctuation stand alone, so that numbers
and odd groups of marks need no entries of their own. Runs of letters are Unicode letters as this Python knows them: a
letter newer than its tables stands alone, and so does a combining mark.
"""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import repeat
from typing import ClassVar

import numpy as np

from pikojax.config import require
from pikojax.text.tokenizer import UNK
from pikojax.text.wordlevel import WordLevel

# The same split twice. Python's `re` has no \p{…}: letters and such numbers as Ⅷ and ½ are what is left of \w without \d and _.
_SPLIT = r"['’](?:s|t|re|ve|m|ll|d)(?![A-Za-z])| ?%s+| ?[^ \n\r\t]|[ \n\r\t]"
_pieces = re.compile(_SPLIT % r"[^\W\d_]").findall


class WordTokenizer(WordLevel):
    pattern: ClassVar[str] = _SPLIT % r"[\p{L}\p{Nl}\p{No}]"

    def encode_plain(self, text: str) -> np.ndarray:
        pieces = _pieces(text)
        if self.unk_id is not None:
            return np.fromiter(map(self.ids.get, pieces, repeat(self.unk_id)), np.int32, len(pieces))
        missing = next((piece for piece in pieces if piece not in self.ids), None)
        require(missing is None, f"{missing!r} is not in the vocabulary and this tokenizer has no {UNK}; make one that has")
        return np.fromiter(map(self.ids.__getitem__, pieces), np.int32, len(pieces))

    def pieces(self, text: str) -> list[str]:
        return _pieces(text)

    def safe_cut(self, text: str) -> int:
        return safe_cut(text)


def safe_cut(text: str) -> int:
    """Before the last space or line break: these only ever begin a piece."""
    return max(0, *map(text.rfind, " \n\r\t"))


def train_word(texts: Iterable[str], vocab_size: int = 10_000, specials: Iterable[str] = (UNK,)) -> WordTokenizer:
    """The `vocab_size` most common pieces, special tokens counted; equally common ones in code point order."""
    specials = list(dict.fromkeys(specials))
    require(vocab_size > len(specials), f"vocab_size = {vocab_size} leaves no room beside {len(specials)} special tokens; raise it")
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_pieces(text))
    require(bool(counts), "a word tokenizer needs text; the text is empty")
    common = sorted(counts, key=lambda piece: (-counts[piece], piece))
    return WordTokenizer(specials + [piece for piece in common if piece not in specials][: vocab_size - len(specials)], specials)
