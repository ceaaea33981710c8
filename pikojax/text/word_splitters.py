"""What a trainer takes for a word: three kinds of splitter, each as plain Python, as the native counter needs it, and as a tree.

    scanner("gpt2")   a pattern known by name, for byte-level BPE         "it's  so" → "it" "'s" " " " so"
    bert()            BERT's cleaning, then white space and punctuation   "Don't!"   → "don" "'" "t" "!"
    metaspace()       SentencePiece's words, each with its ▁              "a  b"     → "▁a" "▁b"

For the last two the native counter gets a table: what becomes of each code point. Most are kept, dropped, replaced, a gap or a
word of their own, whatever stands beside them. Those that compose with a neighbour are left to Python, with the stretch they
stand in. BERT's cleaning has none such, as it drops what composes.

Leaves out: native counting for any other pre-tokenizer; `of_tree` counts with those in Python.
"""

import ctypes
import functools
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from pikojax.config import require
from pikojax.text import patterns, unicode

SPACE_MARK = "▁"
KEEP, GAP, DROP, ALONE, REPLACE, BY_CALLER = (np.uint32(kind << 29) for kind in range(6))
LETTER, NUMBER, SPACE, UPPERISH, LOWERISH = 1, 2, 4, 8, 16
SCANNERS = {  # name → (which state machine, digits in a piece, contractions, slash)
    "gpt2": (1, 0, 1, 0),
    "cl100k": (2, 3, 1, 0),
    "qwen2": (2, 1, 1, 0),
    "o200k": (3, 3, 1, 1),
    "tekken": (3, 1, 0, 1),
}
NMT_DROPPED = [*range(0x1, 0x9), 0xB, *range(0xE, 0x20), 0x7F, 0x8F, 0x9F]
NMT_SPACES = [0x9, 0xA, 0xC, 0xD, 0x1680, *range(0x200B, 0x2010), 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD]


class NativeSplitter(ctypes.Structure):
    """`Splitter` in text_train_count.cc."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("classes", "actions", "pool")],
        ("lead", ctypes.c_char_p),
        *[(name, ctypes.c_uint32) for name in ("lead_length", "empty_words", "scanner", "digits", "contractions", "slash", "whole_tail")],
    ]


class Splitter(NamedTuple):
    words: Callable[[str], Iterable[str]]
    normalizer: dict | None
    pre_tokenizer: dict | None
    decoder: dict | None
    make_native: Callable[[ctypes.CDLL], NativeSplitter] | None = None  # None: only Python can


def scanner(name: str = "gpt2") -> Splitter:
    """The words of a pattern in `patterns.PATTERNS`, for byte-level models."""
    require(name in patterns.PATTERNS, f"no pattern is called {name!r}; the patterns are: {', '.join(patterns.PATTERNS)}")
    spans = patterns.compiled(patterns.PATTERNS[name])
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": name == "gpt2"}
    split = {"type": "Split", "pattern": {"Regex": patterns.PATTERNS[name]}, "behavior": "Isolated", "invert": False}
    pre_tokenizer = level if name == "gpt2" else {"type": "Sequence", "pretokenizers": [split, level]}
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    make = functools.partial(_native_scanner, name) if name in SCANNERS else None
    return Splitter(lambda text: (text[a:b] for a, b in spans(text)), None, pre_tokenizer, decoder, make)


@functools.cache
def _native_scanner(name: str, lib: ctypes.CDLL) -> NativeSplitter:
    bits = unicode.classes()
    classes = np.zeros(len(bits), np.uint8)
    either = unicode.OTHER | unicode.M
    for bit, flag in (
        (unicode.L, LETTER),
        (unicode.N, NUMBER),
        (unicode.SPACE, SPACE),
        (unicode.UPPER | either, UPPERISH),
        (unicode.LOWER | either, LOWERISH),
    ):
        classes[bits & bit > 0] |= flag
    machine, digits, contractions, slash = SCANNERS[name]
    return NativeSplitter(
        classes=lib.pikojax_code_table_new(_address(classes)), scanner=machine, digits=digits, contractions=contractions, slash=slash
    )


def bert(lowercase: bool = True, strip_accents: bool | None = None, clean_text: bool = True, handle_chinese_chars: bool = True) -> Splitter:
    """BertNormalizer and BertPreTokenizer. `strip_accents` None: as `lowercase`."""
    options = {
        "clean_text": clean_text,
        "handle_chinese_chars": handle_chinese_chars,
        "strip_accents": strip_accents,
        "lowercase": lowercase,
    }
    normalizer = {"type": "BertNormalizer", **options}
    strip = lowercase if strip_accents is None else strip_accents
    words = functools.partial(_bert_words, clean_text, handle_chinese_chars, strip, lowercase)
    make = functools.partial(_native_bert, clean_text, handle_chinese_chars, strip, lowercase)
    return Splitter(words, normalizer, {"type": "BertPreTokenizer"}, {"type": "WordPiece", "prefix": "##", "cleanup": True}, make)


def _bert_words(clean: bool, chinese: bool, strip: bool, lowercase: bool, text: str) -> list[str]:
    """In the order in which BERT does it: clean, set ideographs apart, strip accents, lower case; then split."""
    spaces, controls, cjk, marks = (_chars(name) for name in ("rust_space", "bert_control", "bert_cjk", "bert_mark"))
    if clean:
        text = "".join(" " if char in spaces else char for char in text if char not in controls and char not in "\0\ufffd")
    if chinese:
        text = "".join(f" {char} " if char in cjk else char for char in text)
    if strip:
        text = "".join(char for char in unicode.normalize("NFD", text) if char not in marks)
    if lowercase:
        text = unicode.lower(text)
    return _word_or_mark().findall(text)


@functools.cache
def _chars(name: str) -> frozenset[str]:
    return frozenset(map(chr, np.flatnonzero(unicode.members(name)).tolist()))


@functools.cache
def _word_or_mark() -> re.Pattern:
    marks, spaces = (unicode.char_class(unicode.members(name)) for name in ("bert_punctuation", "rust_space"))
    return re.compile(f"[{marks}]|[^{marks}{spaces}]+")


@functools.cache
def _native_bert(clean: bool, chinese: bool, strip: bool, lowercase: bool, lib: ctypes.CDLL) -> NativeSplitter:
    spaces, controls, cjk, marks = (unicode.members(name) for name in ("rust_space", "bert_control", "bert_cjk", "bert_mark"))
    actions = np.full(unicode.N_CODES, KEEP)
    actions[unicode.members("bert_punctuation")] = ALONE
    actions[cjk & chinese] = ALONE
    actions[marks & strip] = DROP
    actions[spaces] = GAP
    actions[controls & clean] = DROP  # also of the white space, as its cleaning does first
    if clean:
        actions[[0, 0xFFFD]] = DROP
    pool: list[int] = []
    changed = {code for code in np.flatnonzero(unicode.members("normal")).tolist() if strip} | (
        unicode.lower_table().keys() if lowercase else set()
    )
    for code in sorted(changed):
        char = unicode.normalize("NFD", chr(code)) if strip else chr(code)
        char = "".join(part for part in char if not (strip and marks[ord(part)]))
        char = unicode.lower(char) if lowercase else char
        if char != chr(code) and actions[code] not in (DROP, GAP):
            actions[code] = _replaced(char, pool)
    return _table(actions, pool, "", empty_words=False)


def metaspace(nmt_nfkc: bool = True) -> Splitter:
    """SentencePiece's words. With `nmt_nfkc` white space is one space and characters are normalized as its default does (nearly:
    by Nmt and NFKC); without, a text comes back to the letter, and of several spaces each begins a word."""
    parts = [{"type": "Nmt"}, {"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]
    normalizer = {"type": "Sequence", "normalizers": parts} if nmt_nfkc else None
    level = {"type": "Metaspace", "replacement": SPACE_MARK, "prepend_scheme": "always", "split": True}
    make = functools.partial(_native_metaspace, nmt_nfkc)
    return Splitter(_nmt_words if nmt_nfkc else _marked_words, normalizer, level, level, make)


def _nmt_words(text: str) -> list[str]:
    text = unicode.normalize("NFKC", text.translate(_nmt_table()))
    return [SPACE_MARK + word for word in text.split(" ") if word]


def _marked_words(text: str) -> list[str]:
    text = text.replace(" ", SPACE_MARK)
    return re.findall(f"{SPACE_MARK}[^{SPACE_MARK}]*", text if text.startswith(SPACE_MARK) or not text else SPACE_MARK + text)


@functools.cache
def _nmt_table() -> dict[int, str | None]:
    return dict.fromkeys(NMT_DROPPED) | dict.fromkeys(NMT_SPACES, " ")


@functools.cache
def _native_metaspace(nmt_nfkc: bool, lib: ctypes.CDLL) -> NativeSplitter:
    actions = np.full(unicode.N_CODES, KEEP)
    pool: list[int] = []
    if nmt_nfkc:
        actions[_composing()] = BY_CALLER
        for code in np.flatnonzero(unicode.members("normal") & (actions == KEEP)).tolist():
            char = unicode.normalize("NFKC", chr(code))
            if char != chr(code):
                actions[code] = BY_CALLER if any(actions[ord(part)] == BY_CALLER for part in char) else _replaced(char, pool)
        actions[NMT_DROPPED], actions[NMT_SPACES] = DROP, GAP
    else:
        actions[ord(SPACE_MARK)] = BY_CALLER
    actions[ord(" ")] = GAP
    return _table(actions, pool, SPACE_MARK, empty_words=not nmt_nfkc)


def _composing() -> list[int]:
    """Code points that may combine with what stands before them: marks, and second halves of compositions."""
    codes = {code for code in range(unicode.N_CODES) if unicodedata.combining(chr(code))}
    for code in np.flatnonzero(unicode.members("normal")).tolist():
        parts = unicodedata.normalize("NFD", chr(code))
        codes |= set(map(ord, parts[1:]))
    return sorted(codes)


def of_tree(normalizer: dict | None, pre_tokenizer: dict | None, decoder: dict | None) -> Splitter:
    """Whatever a tokenizer.json asks for, in Python. Its ByteLevel gives words of byte characters: train on those by characters."""
    from pikojax.text import normalizers, pretokenizers
    from pikojax.text.aligned import Aligned

    normalize, cut = normalizers.build(normalizer), pretokenizers.build(pre_tokenizer)
    return Splitter(lambda text: (piece.text for piece in cut(normalize(Aligned(text, None)))), normalizer, pre_tokenizer, decoder)


def _replaced(chars: str, pool: list[int]) -> np.uint32:
    if not chars:
        return DROP
    pool += [len(chars), *map(ord, chars)]
    return REPLACE | np.uint32(len(pool) - len(chars) - 1)


def _table(actions: np.ndarray, pool: list[int], lead: str, empty_words: bool) -> NativeSplitter:
    kept = np.ascontiguousarray(actions, np.uint32), np.array([*pool, 0], np.uint32)
    made = NativeSplitter(
        actions=_address(kept[0]), pool=_address(kept[1]), lead=lead.encode(), lead_length=len(lead.encode()), empty_words=empty_words
    )
    made.kept = kept  # the structure holds addresses only
    return made


def _address(array: np.ndarray) -> int:
    return array.ctypes.data
