"""What is done to a text before it is split: Unicode forms, lower case, accents, replacements. Each: Aligned → Aligned.

    {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}        "ﬁNE" → "fine"

`build(tree)` gives one function for a part of tokenizer.json. Each keeps track of where the characters came from (see
aligned.py), in Hugging Face's way of counting, so that offsets agree.

Lower case goes character by character, as there: Σ at the end of a word becomes σ, not ς.
Leaves out: nothing that the files use. SentencePiece's own tables of replacements are in charsmap.py.
"""

import unicodedata
from collections.abc import Callable

from pikojax.text import byte_level, unicode
from pikojax.text.aligned import Aligned
from pikojax.text.hf_json import build as build_part
from pikojax.text.hf_json import field, pattern_of, sequence

Normalizer = Callable[[Aligned], Aligned]


class CharTable(dict):
    """For `str.translate`: asks `rule` once for each code point that occurs. None removes the character."""

    def __init__(self, rule: Callable[[int], str | int | None]):
        super().__init__()
        self.rule = rule

    def __missing__(self, code: int):
        self[code] = found = self.rule(code)
        return found


def build(tree: dict | None, depth: int = 0) -> Normalizer:
    return _same if tree is None else build_part(tree, _KINDS, "normalizer", depth)


def _same(text: Aligned) -> Aligned:
    return text


def _sequence(tree: dict, depth: int) -> Normalizer:
    steps = [build(part, depth + 1) for part in sequence(tree, "normalizers")]

    def run(text: Aligned) -> Aligned:
        for step in steps:
            text = step(text)
        return text

    return run


def _char_by_char(change: Callable[[str], str]) -> Callable[[dict], Normalizer]:
    return lambda tree: lambda text: text.map(change)


def _translated(rule: Callable[[int], str | int | None]) -> Normalizer:
    table = CharTable(rule)
    return lambda text: text.map(lambda part: part.translate(table))


# ---------------------------------------------------------------- Unicode forms


def unicode_form(form: str) -> Normalizer:
    def run(text: Aligned) -> Aligned:
        normal = unicode.normalize(form, text.text)
        if normal == text.text:
            return text
        if text.spans is None:
            return Aligned(normal, None, text.base)
        changes = _decomposed("NFKD" if "K" in form else "NFD", text.text)
        return text.changed(_composed(changes) if form.endswith("C") else changes)

    return run


def _combining(char: str) -> int:
    return unicodedata.combining(char) if unicode.members("normal")[ord(char)] else 0


def _decomposed(form: str, text: str) -> list[tuple[str, int]]:
    """The decomposition with its changes (see Aligned.changed); runs of combining marks in their canonical order."""
    found: list[tuple[str, int]] = []
    run = 0  # where the run of marks that is being sorted begins
    for char in text:
        for i, part in enumerate(unicode.normalize(form, char)):
            starter = not _combining(part)
            if starter:
                found[run:] = sorted(found[run:], key=lambda entry: _combining(entry[0]))
            found.append((part, min(i, 1)))
            run = len(found) if starter else run
    found[run:] = sorted(found[run:], key=lambda entry: _combining(entry[0]))
    return found


def _composed(changes: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Each starter swallows the marks behind it that compose with it and are not blocked by another of their class."""
    found: list[tuple[str, int]] = []
    starter, last = None, 0  # where the starter stands in `found`, and the class of the mark last kept behind it
    for char, change in changes:
        kind = _combining(char)
        if starter is not None and (last < kind or starter == len(found) - 1):
            joined = unicode.normalize("NFC", found[starter][0] + char)
            if len(joined) == 1:
                found[starter] = joined, found[starter][1] + change - 1
                continue
        if kind == 0:
            starter = len(found)
        last = kind
        found.append((char, change))
    return found


# ---------------------------------------------------------------- BERT and others


def _bert(tree: dict) -> Normalizer:
    lowercase = field(tree, "lowercase", bool, True)
    strip = field(tree, "strip_accents", bool, lowercase)
    steps = [_bert_clean] if field(tree, "clean_text", bool, True) else []
    steps += [_bert_cjk] if field(tree, "handle_chinese_chars", bool, True) else []
    steps += [unicode_form("NFD"), _no_accents] if strip else []
    steps += [lambda text: text.map(unicode.lower)] if lowercase else []

    def run(text: Aligned) -> Aligned:
        for step in steps:
            text = step(text)
        return text

    return run


def _clean(code: int) -> str | int | None:
    if code in (9, 10, 13) or unicode.members("rust_space")[code]:
        return None if unicode.members("bert_control")[code] and code not in (9, 10, 13) else " "
    return None if code in (0, 0xFFFD) or unicode.members("bert_control")[code] else code


_bert_clean = _translated(_clean)
_bert_cjk = _translated(lambda code: f" {chr(code)} " if unicode.members("bert_cjk")[code] else code)
_no_accents = _translated(lambda code: None if unicode.members("bert_mark")[code] else code)
_no_marks = _translated(lambda code: None if unicode.members("mark")[code] else code)

_NMT_REMOVED = {*range(1, 9), 0xB, *range(0xE, 0x20), 0x7F, 0x8F, 0x9F}
_NMT_SPACES = {9, 10, 12, 13, 0x1680, *range(0x200B, 0x2010), 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD}
_nmt = _translated(lambda code: None if code in _NMT_REMOVED else " " if code in _NMT_SPACES else code)


def _strip(tree: dict) -> Normalizer:
    left, right = field(tree, "strip_left", bool, True), field(tree, "strip_right", bool, True)

    def run(text: Aligned) -> Aligned:
        space, first, last = unicode.members("rust_space"), 0, len(text.text)
        while left and first < last and space[ord(text.text[first])]:
            first += 1
        while right and first < last and space[ord(text.text[last - 1])]:
            last -= 1
        kept = text.cut(first, last)
        kept.base = text.base
        return kept

    return run


def _replace(tree: dict) -> Normalizer:
    from pikojax.text import patterns

    pattern, is_regex = pattern_of(tree)
    content = field(tree, "content", str)
    if is_regex:
        spans = patterns.compiled(pattern)
        return lambda text: text.replaced(spans(text.text), content)

    def run(text: Aligned) -> Aligned:
        if text.spans is None:
            return Aligned(text.text.replace(pattern, content), None, text.base)
        return text.replaced(find_all(text.text, pattern), content)

    return run


def find_all(text: str, part: str) -> list[tuple[int, int]]:
    """Where `part` stands in `text`; an empty part stands before, between and behind all characters."""
    if not part:
        return [(at, at) for at in range(len(text) + 1)]
    found, at = [], text.find(part)
    while at >= 0:
        found.append((at, at + len(part)))
        at = text.find(part, at + len(part))
    return found


def _prepend(tree: dict) -> Normalizer:
    content = field(tree, "prepend", str)
    return lambda text: text.prepended(content)


def _precompiled(tree: dict) -> Normalizer:
    from pikojax.text.charsmap import build as build_charsmap

    return build_charsmap(tree)


def _sentencepiece(tree: dict) -> Normalizer:
    from pikojax.text.sp_models import normalizer

    return normalizer(tree)


_KINDS = {
    "NFC": lambda tree: unicode_form("NFC"),
    "NFD": lambda tree: unicode_form("NFD"),
    "NFKC": lambda tree: unicode_form("NFKC"),
    "NFKD": lambda tree: unicode_form("NFKD"),
    "Lowercase": _char_by_char(unicode.lower),
    "ByteLevel": _char_by_char(byte_level.to_chars),
    "StripAccents": lambda tree: _no_marks,
    "Nmt": lambda tree: _nmt,
    "Strip": _strip,
    "Replace": _replace,
    "Prepend": _prepend,
    "BertNormalizer": _bert,
    "Precompiled": _precompiled,
    "SentencePiece": _sentencepiece,
    "Sequence": _sequence,
}
