"""Where a long text may be cut so that its parts encode as the whole does.

    "… the last word| next …"      before a single space between two letters, for the kinds that always split there

Leaves out: kinds whose pieces reach over spaces (SentencePiece's without a pre-tokenizer), for which there is no such place.
"""

import re

from pikojax.text import patterns

_PLACE = re.compile(r"(?<=[^\W\d_]) (?=[A-Za-z])")
_SPLITS = {"gpt2", "cl100k", "qwen2", "qwen3.5", "o200k", "tekken", "clip", "words", "spaces"}  # patterns that cut before or at it
_KEEPS = {"NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "BertNormalizer"}  # they look at no space's surroundings


def safe_cut(tokenizer, text: str) -> int:
    return last_place(text) if _has_places(tokenizer) else 0


def last_place(text: str) -> int:
    """The last such place in `text`, 0: there is none; whether a tokenizer splits there is another question."""
    size = 4096
    while True:
        start = max(0, len(text) - size)
        places = [match.start() for match in _PLACE.finditer(text, start)]
        if places or start == 0:
            return places[-1] if places else 0
        size *= 16


def _has_places(tokenizer) -> bool:
    from pikojax.text.tokenizer import _parts

    tree = tokenizer.tree
    normal = all(part["type"] in _KEEPS or part["type"] == "Sequence" or _harmless(part) for part in _parts(tree.get("normalizer")))
    added = all(not token.rstrip and not re.search("[^\\W\\d_] [A-Za-z]", token.content) for token in tokenizer._added.by_id.values())
    return normal and added and any(map(_splits, _parts(tree.get("pre_tokenizer"))))


def _harmless(part: dict) -> bool:
    if part["type"] != "Replace":
        return False
    if part["pattern"] == {"Regex": " {2,}"}:  # no such run at a single space
        return True
    if " " in part.get("content", " "):
        return False
    pattern = part["pattern"].get("String")
    return bool(pattern) and re.fullmatch(r"[^\w\s]+", pattern) is not None


def _splits(part: dict) -> bool:
    kind = part["type"]
    if kind in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer"):
        return True
    if kind == "ByteLevel":
        return part.get("use_regex") is not False
    if kind == "Metaspace":
        return part.get("split") is not False
    return kind == "Split" and patterns.known(part["pattern"].get("Regex") or "") in _SPLITS
