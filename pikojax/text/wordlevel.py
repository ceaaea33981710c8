"""Vocabularies that are a plain list of pieces (`WordLevel` in Hugging Face's files); `char` and `word` are such.

    text —split by a regular expression that covers every character→ pieces —dictionary→ ids;   decode = join the pieces

The pieces of `char` and `word` carry their own spaces, so decoding needs no rule about where spaces go and loses none. What is
not in the vocabulary becomes `<unk>` if there is one, and is a clear error if not.

`WordLevelModel` is the model alone, for files that split or decode in other ways.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from pikojax.config import require
from pikojax.text.aligned import Aligned
from pikojax.text.tokenizer import UNK, Tokenizer


class WordLevelModel:
    def __init__(self, vocab: Mapping[str, int], *, unk_token: str = UNK, banned: frozenset[int] = frozenset()):
        self.vocab = {token: i for token, i in vocab.items() if i not in banned}
        self.unk_token, self.unk_id = unk_token, vocab.get(unk_token)

    def encode_with_lengths(self, piece: str) -> list[tuple[int, int]]:
        found = self.vocab.get(piece, self.unk_id)
        missing = f"{piece[:40]!r} is not in the vocabulary and this tokenizer has no {self.unk_token}; make one that has"
        require(found is not None, missing)
        return [(found, len(piece.encode()))]


class WordLevel(Tokenizer):
    """`char` or `word`: their splits cover the text, so that plain stretches need no pipeline."""

    pattern: ClassVar[str]  # how Hugging Face's regular expressions spell the split

    def __init__(self, tokens: Sequence[str], specials: Collection[str] = (), unk_token: str = UNK):
        super().__init__(tree_of(self.pattern, tokens, specials, unk_token))

    def encode_plain(self, text: str) -> np.ndarray:
        raise NotImplementedError

    def pieces(self, text: str) -> list[str]:
        raise NotImplementedError

    _planned = None, "the lookups of these kinds are as quick"

    def _encode_stretch(self, stretch: Aligned, plain: Collection[str], cache: dict) -> Sequence[int]:
        ids = self.encode_plain(stretch.text)
        return self._without(ids, stretch.text, plain) if plain else ids

    def _without(self, ids: np.ndarray, text: str, plain: Collection[str]) -> np.ndarray:
        """`ids` of `text`, one for each piece; a piece that is a special token's text is an unknown one when read as plain text."""
        wrong = np.isin(ids, [self.ids[token] for token in plain]) & (ids != (-1 if self.unk_id is None else self.unk_id))
        if not wrong.any():
            return ids
        piece = self.pieces(text)[int(wrong.argmax())]
        require(self.unk_id is not None, f"{piece!r} is a special token and no word of this tokenizer, which has no {UNK}; make one that has")
        return np.where(wrong, np.int32(self.unk_id), ids)

    def _cut_stretch(self, stretch: Aligned) -> Iterator[Aligned]:
        at = 0
        for piece in self.pieces(stretch.text):
            yield stretch.cut(at, at + len(piece))
            at += len(piece)


def tree_of(pattern: str, tokens: Sequence[str], specials: Collection[str], unk_token: str) -> dict:
    ids = {token: i for i, token in enumerate(tokens)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[token], "content": token, **flags} for token in sorted(specials, key=ids.__getitem__)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": unk_token},
    }


FLAGS = ("single_word", "lstrip", "rstrip")  # of an added token; those of char and word are matched as they stand


def from_tree(tree: dict) -> WordLevel | None:
    """The char or word tokenizer of a tree in the shape that these are saved in; None for another tree."""
    from pikojax.text.char import CharTokenizer
    from pikojax.text.word import WordTokenizer

    model = tree["model"]
    for kind in (CharTokenizer, WordTokenizer):
        split = {"type": "Split", "pattern": {"Regex": kind.pattern}, "behavior": "Isolated", "invert": False}
        rest = [tree.get(part) for part in ("normalizer", "post_processor", "truncation", "padding")]
        if tree.get("pre_tokenizer") == split and tree.get("decoder") == {"type": "Fuse"} and rest == [None] * 4:
            tokens, specials, unk = *_vocabulary(tree), model.get("unk_token", UNK)
            require(isinstance(unk, str), f"model.unk_token = {unk!r} is no text")
            return kind(tokens, specials, unk)
    return None


def _vocabulary(tree: dict) -> tuple[list[str], list[str]]:
    """Tokens in the order of their ids, which must be 0, 1, 2 … without a gap, and which of them are special."""
    vocab, added = tree["model"].get("vocab"), tree.get("added_tokens") or []
    require(isinstance(vocab, dict) and isinstance(added, list), "it has no vocabulary; its model.vocab must map tokens to ids")
    ids, specials = dict(vocab), []
    for entry in added:
        good = isinstance(entry, dict) and isinstance(entry.get("content"), str) and entry["content"] != ""
        require(good, f"added_tokens holds {str(entry)[:60]!r}; each needs an id and its content")
        token = entry["content"]
        flag = next((flag for flag in FLAGS if entry.get(flag)), None)
        require(flag is None, f"the added token {token!r} sets {flag}, which char and word do not know; set it to false")
        require(entry.get("special") is True, f"the added token {token!r} is not special; put it into the vocabulary")
        require(ids.setdefault(token, entry.get("id")) == entry.get("id"), f"the token {token!r} has two ids")
        specials.append(token)
    tokens: list = [None] * len(ids)
    for token, id in ids.items():
        good = type(id) is int and 0 <= id < len(ids) and tokens[id] is None
        require(good, f"the token {token[:30]!r} has the id {id!r}; ids must be 0 to {len(ids) - 1}, each once")
        tokens[id] = token
    require(bool(tokens), "it has an empty vocabulary")
    return tokens, specials
