"""What a tokenizer.json tree asks of the native encoder: a `Setup` of arrays, and the steps that prepare a text.

    normalizer    → steps bytes → bytes        Lowercase, NFC, BertNormalizer, …: a map of characters;  Replace: bytes.replace
    pre_tokenizer → a scanner by name, or a class for each code point, or both (Digits, then ByteLevel)
    model         → see native_model.py

SentencePiece's ▁ is written as a space from here on, in texts and tokens alike: after the steps neither a real space nor a real ▁
is left in a text, so nothing is confused, and a word begins with one byte that is easy to find.

Leaves out: parts that only Python knows; those raise `Unknown` with a reason.
"""

import itertools
import re
import unicodedata
from collections.abc import Callable

import numpy as np

from pikojax.text import native_table, unicode
from pikojax.text.char_map import CharMap
from pikojax.text.native import Setup, Steps
from pikojax.text.native_model import BYTE_LEVEL, MARKED, Unknown, keep_array, set_model

WHOLE, GPT2, CL100K, O200K, CLASSES, EACH_MARK, _JOINS_ONLY = range(7)  # scanners, as in text_encode.h
LETTER, NUMBER, SPACE, UPPERISH, LOWERISH = 1, 2, 4, 8, 16  # bits of a scanner's table, as in text_scan.h
MARK = "▁".encode()

_SCANNERS = {  # pattern's name → scanner and its rules
    "gpt2": (GPT2, {}),
    "cl100k": (CL100K, {"digits": 3, "contractions": 1}),
    "qwen2": (CL100K, {"digits": 1, "contractions": 1}),
    "qwen3.5": (CL100K, {"digits": 1, "contractions": 1}),
    "o200k": (O200K, {"digits": 3, "contractions": 1, "slash": 1}),
    "tekken": (O200K, {"digits": 1, "contractions": 0, "slash": 1}),
}


def read(tree: dict, banned: frozenset[int] = frozenset()) -> tuple[Setup, list, Steps]:
    """(setup, the arrays that it points into, steps)."""
    setup, keep, steps = Setup(max_chars=100), [], Steps([], [])
    normalizer, pre_tokenizer = _said(tree.get("normalizer")), _said(tree.get("pre_tokenizer"))
    if any(part.get("prepend_scheme") == "first" for part in _parts(pre_tokenizer, "pretokenizers")):
        if not all(map(_keeps_the_start, _parts(_sentencepiece(normalizer), "normalizers"))):
            raise Unknown("prepend_scheme first after a normalizer that may drop a text's first character")
    marked = _normalizer(normalizer, steps.normalize)
    marked = _pre_tokenizer(pre_tokenizer, marked, setup, keep, steps.prepare)
    if marked:
        if steps.normalize and steps.normalize[-1] is _mark_spaces and not steps.prepare and not _looks_between(tree):
            steps.normalize.pop()  # " " → "▁" → " "
        steps.prepare.append(lambda data, at_start: data if data.isascii() else data.replace(MARK, b" "))
        setup.alphabet = MARKED
    set_model({name: value for name, value in tree["model"].items() if value is not None}, banned, setup, keep)
    return setup, keep, steps


def _looks_between(tree: dict) -> bool:
    """Whether some added token is looked for in normalized text."""
    return any(token.get("normalized") is not False for token in tree.get("added_tokens") or ())


def _keeps_the_start(part: dict) -> bool:
    return part.get("type") in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase") or (part.get("type") == "Replace" and bool(part.get("content")))


def _said(part):
    """A part without the options that are null, which stand for those that are missing (see hf_json.field)."""
    if isinstance(part, dict):
        return {name: _said(value) for name, value in part.items() if value is not None}
    return list(map(_said, part)) if isinstance(part, list) else part


def _oracle(tree: dict) -> Callable[[str], str]:
    from pikojax.text.aligned import Aligned
    from pikojax.text.normalizers import build

    normalize = build(tree)
    return lambda text: normalize(Aligned(text, None)).text


def _by_oracle(tree: dict) -> Callable[[bytes], bytes]:
    normalize = _oracle(tree)
    return lambda data: normalize(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def _parts(tree: dict | None, name: str) -> list[dict]:
    """A Sequence, nested or not, as a flat list."""
    if tree is None:
        return []
    if tree.get("type") != "Sequence":
        return [tree]
    return [part for inner in tree[name] for part in _parts(inner, name)]


# ---------------------------------------------------------------- normalizers

_CHAR_BY_CHAR = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "BertNormalizer", "Precompiled"}
_MAKES_NO_SPACE = {"NFC", "NFD", "Lowercase", "StripAccents"}


def _normalizer(tree: dict | None, steps: list) -> bool:
    """Adds the steps; whether they turn spaces into ▁."""
    marked = False
    parts = _parts(_sentencepiece(tree), "normalizers")
    for is_map, group in itertools.groupby(parts, lambda part: part.get("type") in _CHAR_BY_CHAR):
        group = list(group)
        if is_map:
            steps.append(CharMap(_oracle({"type": "Sequence", "normalizers": group}), _complexity(group)))
            marked = marked and {part["type"] for part in group} <= _MAKES_NO_SPACE
            continue
        for part in group:
            kind = part.get("type")
            if kind == "Replace":
                steps.append(_replace(part))
                content = part.get("content", "")
                marked = (marked and " " not in content) or (part["pattern"] == {"String": " "} and content == "▁")
            elif kind == "Prepend":
                prefix = part["prepend"].encode()
                steps.append(lambda data, prefix=prefix: prefix + data if data else data)
                marked = marked and b" " not in prefix
            elif kind == "Strip":
                steps.append(_by_oracle(part))
            elif kind == "_Blanks":
                steps.append(_blanks)
            elif kind == "_Table":
                plain = dict.fromkeys(("add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces"), False)
                table = {"type": "SentencePiece", "precompiled_charsmap": part["precompiled_charsmap"], **plain}
                steps.append(native_table.char_map(part["precompiled_charsmap"], _oracle(table)))
            else:
                raise Unknown(f"the normalizer {kind}")
    return marked


def _sentencepiece(tree: dict | None) -> dict | None:
    """A .model file's own normalizer in parts."""
    if tree is None or tree.get("type") != "SentencePiece":
        return tree
    if tree.get("user_defined") or tree.get("treat_whitespace_as_suffix") or not tree.get("escape_whitespaces", True):
        raise Unknown("a SentencePiece normalizer with spaces of its own kind or user-defined pieces")
    remove, table = tree.get("remove_extra_whitespaces", True), tree.get("precompiled_charsmap")
    if table and not remove:  # then a text that the table makes nothing of gets a space all the same
        raise Unknown("a SentencePiece normalizer that keeps extra spaces")
    parts = [{"type": "_Table", "precompiled_charsmap": table}] if table else []
    parts += [{"type": "_Blanks"}] if remove else []
    parts += [{"type": "Prepend", "prepend": "▁"}] if tree.get("add_dummy_prefix", True) else []
    return {"type": "Sequence", "normalizers": [*parts, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}


def _blanks(data: bytes) -> bytes:
    """Without spaces at the ends and more than one in a row; at the end ▁ counts as one."""
    while data.endswith((b" ", MARK)):
        data = data.rstrip(b" ").removesuffix(MARK)
    return re.sub(rb" {2,}", b" ", data.lstrip(b" "))


def _replace(part: dict) -> Callable[[bytes], bytes]:
    pattern, content = part["pattern"], part.get("content", "").encode()
    if isinstance(pattern, dict) and pattern.get("String"):
        old = pattern["String"].encode()
        if (old, content) == (b" ", MARK):
            return _mark_spaces
        return lambda data: data.replace(old, content)
    if pattern == {"Regex": " {2,}"}:
        return lambda data: re.sub(rb" {2,}", lambda _: content, data) if b"  " in data else data
    return _by_oracle(part)


def _mark_spaces(data: bytes) -> bytes:
    return data.replace(b" ", MARK)


_JOINS = {0x200C, 0x200D, 0xE33, 0xEB3, 0xFF9E, 0xFF9F, 0xD, *range(0x1F3FB, 0x1F400), *range(0xE0020, 0xE0080)}
_PREPENDS = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0xD4E}


def _complexity(group: list[dict]) -> Callable[[str, str], bool]:
    """Whether what becomes of a character (old → new) may depend on its neighbours."""
    kinds = {part["type"] for part in group}
    bert_strips = any(part.get("strip_accents", None) or (part.get("strip_accents", None) is None and part.get("lowercase", True)) for part in group)
    composes, maps = bool(kinds & {"NFC", "NFKC"}), "Precompiled" in kinds
    strips = "StripAccents" in kinds or ("BertNormalizer" in kinds and bert_strips)
    decomposes = bool(kinds & {"NFD", "NFKD"}) or strips
    marks, jamo = unicode.members("M"), [range(0x1100, 0x1200), range(0xA960, 0xA980), range(0xD7B0, 0xD800)]

    def is_complex(old: str, new: str) -> bool:
        if old == "" or not (composes or maps or decomposes):
            return False
        codes = [ord(char) for char in old + new]
        if strips and not composes and not maps:  # of marks only those that stay are in an order that matters
            return any(map(unicodedata.combining, new))
        if any(marks[code] or unicodedata.combining(chr(code)) for code in codes):
            return True
        if maps and any(code in _JOINS or code in _PREPENDS for code in codes):
            return True
        return composes and any(code in run for code in codes for run in jamo)

    return is_complex


# ---------------------------------------------------------------- pre-tokenizers


def _pre_tokenizer(tree: dict | None, marked: bool, setup: Setup, keep: list, steps: list) -> bool:
    """Sets scanner, tables and alphabet, adds steps; gives whether ▁ stands for spaces."""
    parts = _parts(tree, "pretokenizers")
    if marked:  # no space is left for such a part to find
        parts = [part for part in parts if not (part.get("type") == "Split" and part.get("pattern") in ({"String": " "}, {"Regex": " "}))]
    if parts and parts[-1].get("type") == "ByteLevel":
        if marked:
            raise Unknown("ByteLevel after a normalizer that writes ▁")
        setup.alphabet = BYTE_LEVEL
        _byte_level(parts[:-1], parts[-1], setup, keep, steps)
        return False
    if parts and parts[-1].get("type") == "Metaspace":
        return _metaspace(parts[:-1], parts[-1], marked, setup, steps)
    if parts and marked:
        raise Unknown(f"the pre-tokenizer {parts[0].get('type')} after a normalizer that writes ▁")
    setup.scanner = CLASSES if parts else WHOLE
    _add_classes(parts, setup, keep)
    return marked


def _byte_level(before: list[dict], part: dict, setup: Setup, keep: list, steps: list) -> None:
    peer = "hf"
    if part.get("add_prefix_space", True):
        if before:
            raise Unknown("ByteLevel with add_prefix_space after another pre-tokenizer")
        steps.append(lambda data, at_start: data if data[:1] == b" " or not data else b" " + data)
    if part.get("use_regex", True):
        name = "gpt2"
    elif before and before[-1].get("type") == "Split":
        name, peer = _split_name(before[-1])
        before = before[:-1]
    elif before:
        raise Unknown(f"the pre-tokenizer {before[-1].get('type')} before ByteLevel")
    else:
        setup.scanner = WHOLE
        return
    setup.scanner, rules = _SCANNERS[name.partition(" ")[0]]
    for field, value in rules.items():
        setattr(setup, field, value)
    setup.whole_tail = name.endswith(" whole_tail")
    keep_array(setup, keep, "flags", scanner_flags(peer, letters_with_marks=name.startswith("qwen3.5")))
    _add_classes(before, setup, keep)


def _split_name(part: dict) -> tuple[str, str]:
    from pikojax.text import patterns

    peer = part.get("peer", "hf")
    pattern = part.get("pattern")
    pattern = pattern.get("Regex") if isinstance(pattern, dict) else None
    name = patterns.known(pattern, peer) if pattern else None
    if name not in _SCANNERS:
        raise Unknown(f"the pattern {name or str(pattern)[:60]!r}")
    if (part.get("behavior"), bool(part.get("invert", False))) not in (("Isolated", False), ("Removed", True)):
        raise Unknown(f"the pattern {name} with behavior {part.get('behavior')}")
    return name + " whole_tail" * (name == "cl100k" and r"\s++$" in pattern), peer


def scanner_flags(peer: str = "hf", letters_with_marks: bool = False) -> np.ndarray:
    classes = unicode.classes(peer)
    letters = unicode.L | unicode.M if letters_with_marks else unicode.L
    both = unicode.OTHER | unicode.M
    flags = np.zeros(len(classes), np.uint8)
    for bit, members in [
        (LETTER, letters), (NUMBER, unicode.N), (SPACE, unicode.SPACE), (UPPERISH, unicode.UPPER | both), (LOWERISH, unicode.LOWER | both)
    ]:  # fmt: skip
        flags |= ((classes & members) != 0).astype(np.uint8) * bit
    return flags


def _metaspace(before: list[dict], part: dict, marked: bool, setup: Setup, steps: list) -> bool:
    if part.get("replacement", "▁") != "▁":
        raise Unknown("a Metaspace with another replacement than ▁")
    scheme = part.get("prepend_scheme") or ("always" if part.get("add_prefix_space", True) else "never")
    if "prepend_scheme" in part and part.get("add_prefix_space") is False:
        scheme = "never"
    if [other.get("type") for other in before] == ["WhitespaceSplit"] and not marked and scheme == "always":
        steps.append(_spaced_words)
        setup.scanner = EACH_MARK
        return True
    if before:
        raise Unknown(f"the pre-tokenizer {before[0].get('type')} before Metaspace")

    def prefix(data: bytes, at_start: bool) -> bytes:
        wanted = scheme == "always" or (scheme == "first" and at_start)
        return b" " + data if wanted and data and not data.startswith((b" ", MARK)) else data

    steps.append(prefix)
    setup.scanner = EACH_MARK if part.get("split", True) else WHOLE
    return True


def _spaced_words(data: bytes, at_start: bool) -> bytes:
    """Each word with one ▁ (written as a space) before it, of its own or a new one; other white space is gone."""
    if not data.isascii():
        data = _WIDE_SPACE.sub(" ", data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    words = b" ".join(data.split())
    return (b" " + words).replace(b" " + MARK, MARK) if words else b""




_WIDE_SPACE = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")


def _add_classes(parts: list[dict], setup: Setup, keep: list) -> None:
    """A class for each code point that says what all of `parts`, one after another, do with it."""
    if not parts:
        return
    combined = _classes(parts[0])
    for part in parts[1:]:
        other = _classes(part)
        alone = (combined == 1) | (other == 1)
        pairs = combined.astype(np.uint16) * 256 + other
        kinds, both = np.unique(pairs, return_inverse=True)
        if len(kinds) > 250:
            raise Unknown("pre-tokenizers that tell too many kinds of characters apart")
        both = np.where(alone, 1, both + 2)
        combined = np.where((combined == 0) | (other == 0), 0, both).astype(np.uint8)
    keep_array(setup, keep, "classes", combined)


def _classes(part: dict) -> np.ndarray:
    """0: dropped, 1: stands alone, from 2 on: holds together with its like."""
    kind = part.get("type")
    runs = np.full(unicode.N_CODES, 2, np.uint8)
    if kind == "Whitespace":
        return np.where(_members("rust_space_class"), 0, np.where(_members("rust_word"), 2, 3)).astype(np.uint8)
    if kind == "WhitespaceSplit":
        return np.where(_members("rust_space"), 0, runs)
    if kind == "BertPreTokenizer":
        return np.where(_members("rust_space"), 0, np.where(_members("bert_punctuation"), 1, runs)).astype(np.uint8)
    if kind == "CharDelimiterSplit":
        runs[ord(part["delimiter"])] = 0
        return runs
    if kind == "Punctuation":
        which, behavior = _members("bert_punctuation"), part.get("behavior", "Isolated")
    elif kind == "Digits":
        which, behavior = _members("rust_numeric"), "Isolated" if part.get("individual_digits") else "Contiguous"
    elif kind == "Split" and not part.get("invert"):
        which, behavior = _split_set(part)
    else:
        raise Unknown(f"the pre-tokenizer {kind}")
    what = {"Removed": 0, "Isolated": 1, "Contiguous": 3}.get(behavior.capitalize())
    if what is None:
        raise Unknown(f"the pre-tokenizer {kind} with behavior {behavior}")
    return np.where(which, what, runs).astype(np.uint8)


def _members(name: str) -> np.ndarray:
    which = unicode.members(name)
    assert which is not None, name
    return which


def _split_set(part: dict) -> tuple[np.ndarray, str]:
    from pikojax.text import patterns

    pattern, behavior = part["pattern"], part.get("behavior", "")
    text = pattern.get("String") if isinstance(pattern, dict) else pattern
    if isinstance(text, str) and len(text) == 1:
        which = np.zeros(unicode.N_CODES, bool)
        which[ord(text)] = True
        return which, behavior
    name = patterns.known(pattern["Regex"]) if isinstance(pattern, dict) and "Regex" in pattern else None
    if name == "number":
        return _members("N"), behavior
    if name == "numbers" and behavior in ("Isolated", "Contiguous"):
        return _members("N"), "Contiguous"
    raise Unknown(f"a Split by {name or str(pattern)[:60]!r}")
