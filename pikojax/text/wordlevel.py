"""Vocabularies that are a plain list of pieces (`WordLevel` in Hugging Face's files); `char` and `word` are such.

    text —split by a regular expression that covers every character→ pieces —dictionary→ ids;   decode = join the pieces

The pieces carry their own spaces, so decoding needs no rule about where spaces go and loses none. What is not in the
vocabulary becomes `<unk>` if there is one, and is a clear error if not.

Leaves out: other pre-tokenizers, normalizers and decoders. A file that uses them is refused by name, never half understood.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar

from pikojax.config import UserError, require
from pikojax.text.tokenizer import UNK, Tokenizer

FLAGS = ("single_word", "lstrip", "rstrip")  # of an added token; ours are matched as they stand


class WordLevel(Tokenizer):
    pattern: ClassVar[str]  # how Hugging Face's regular expressions spell the split

    def __init__(self, tokens: Sequence[str], specials: Collection[str] = (), unk_token: str = UNK):
        super().__init__(tokens, specials)
        self.unk_token, self.unk_id = unk_token, self.ids.get(unk_token)

    def to_json(self) -> dict:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": self.ids[token], "content": token, **flags} for token in self.specials],
            "normalizer": None,
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": self.pattern}, "behavior": "Isolated", "invert": False},
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": self.ids, "unk_token": self.unk_token},
        }


def from_json(tree: dict, file: Path) -> WordLevel:
    from pikojax.text.char import CharTokenizer
    from pikojax.text.word import WordTokenizer

    for part in ("normalizer", "post_processor", "truncation", "padding"):
        require(tree.get(part) is None, f"{file} asks for a {part}, which a WordLevel tokenizer here does not have; remove it")
    split, decoder = tree.get("pre_tokenizer"), tree.get("decoder")
    kinds = {kind.pattern: kind for kind in (CharTokenizer, WordTokenizer)}
    pattern = _pattern(split)
    if pattern not in kinds or decoder != {"type": "Fuse"}:
        got = pattern or (split or {}).get("type") if isinstance(split, dict | None) else split
        raise UserError(f"{file} splits text by {got!r}; a WordLevel tokenizer here splits as char or as word and joins by Fuse")
    tokens, specials = _vocabulary(tree, file)
    unk = tree["model"].get("unk_token", UNK)
    require(isinstance(unk, str), f"{file}: model.unk_token = {unk!r} is no text")
    return kinds[pattern](tokens, specials, unk)


def _pattern(split) -> str | None:
    if not isinstance(split, dict) or split.get("type") != "Split" or split.get("invert") or split.get("behavior") != "Isolated":
        return None
    pattern = split.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    return regex if isinstance(regex, str) else None


def _vocabulary(tree: dict, file: Path) -> tuple[list[str], list[str]]:
    """Tokens in the order of their ids, which must be 0, 1, 2 … without a gap, and which of them are special."""
    vocab, added = tree["model"].get("vocab"), tree.get("added_tokens") or []
    require(isinstance(vocab, dict) and isinstance(added, list), f"{file} has no vocabulary; its model.vocab must map tokens to ids")
    ids, specials = dict(vocab), []
    for entry in added:
        good = isinstance(entry, dict) and isinstance(entry.get("content"), str) and entry["content"] != ""
        require(good, f"{file}: added_tokens holds {str(entry)[:60]!r}; each needs an id and its content")
        token = entry["content"]
        flag = next((flag for flag in FLAGS if entry.get(flag)), None)
        require(flag is None, f"{file}: the added token {token!r} sets {flag}, which is not known here; set it to false")
        require(entry.get("special") is True, f"{file}: the added token {token!r} is not special; put it into the vocabulary")
        require(ids.setdefault(token, entry.get("id")) == entry.get("id"), f"{file}: the token {token!r} has two ids")
        specials.append(token)
    tokens: list = [None] * len(ids)
    for token, id in ids.items():
        good = type(id) is int and 0 <= id < len(ids) and tokens[id] is None
        require(good, f"{file}: the token {token[:30]!r} has the id {id!r}; ids must be 0 to {len(ids) - 1}, each once")
        tokens[id] = token
    require(bool(tokens), f"{file} has an empty vocabulary")
    return tokens, specials
