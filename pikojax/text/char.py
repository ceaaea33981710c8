"""`char`: one token a character (a Unicode code point).

    ids = table[code points of the text]      the text as UTF-32 is already an array of indices; one NumPy lookup

Special tokens come first, then the characters of the training text in code point order: with no special token the ids
are those of nanoGPT's character data. A character the vocabulary lacks is an error that names it.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import ClassVar

import numpy as np

from pikojax.config import UserError, require
from pikojax.text.wordlevel import WordLevel

N_CODE_POINTS = 0x110000


class CharTokenizer(WordLevel):
    pattern: ClassVar[str] = r"[\s\S]"

    @cached_property
    def _table(self) -> np.ndarray:
        """Id of each code point up to the highest known; the last entry stands for all above. -1: not in the vocabulary."""
        chars = [(ord(token), i) for i, token in enumerate(self.tokens) if len(token) == 1]
        table = np.full(max((code for code, _ in chars), default=0) + 2, -1 if self.unk_id is None else self.unk_id, np.int32)
        for code, i in chars:
            table[code] = i
        return table

    def encode_plain(self, text: str) -> np.ndarray:
        ids = self._table.take(code_points(text), mode="clip")
        if self.unk_id is None and ids.size and ids.min() < 0:
            where = int(np.argmin(ids))
            raise UserError(
                f"character {text[where]!r} (U+{ord(text[where]):04X}) is not among the {self.vocab_size - self.n_special}"
                " characters of this tokenizer; remove it, or make the tokenizer from text that has it"
            )
        return ids

    def pieces(self, text: str) -> list[str]:
        return list(text)

    def safe_cut(self, text: str) -> int:
        return len(text)


def code_points(text: str) -> np.ndarray:
    try:
        return np.frombuffer(text.encode("utf-32-le"), np.uint32)
    except UnicodeEncodeError as error:
        raise UserError(f"the text holds half a surrogate pair, U+{ord(text[error.start]):04X}; it is no Unicode text") from None


def train_char(texts: Iterable[str], specials: Iterable[str] = ()) -> CharTokenizer:
    """The tokenizer of every character in `texts`."""
    seen = np.zeros(N_CODE_POINTS, bool)
    for text in texts:
        seen[code_points(text)] = True
    chars = [chr(code) for code in np.flatnonzero(seen)]
    specials = list(dict.fromkeys(specials))
    require(bool(chars), "a character tokenizer needs text; the text is empty")
    require(all(len(token) > 1 for token in specials), "a special token of a character tokenizer needs two characters or more")
    return CharTokenizer(specials + chars, specials)
