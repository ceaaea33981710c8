r"""Which class each code point has, by the tables of those we must agree with, whatever Unicode the running Python knows.

    classes()[ord("é")] & L       one uint16 a code point: bits for the classes that pre-tokenizers ask for
    members("Lu")                 one bool a code point: a general category, a script, or one of the names in `EXTRA`
    normalize("NFC", text)        as Hugging Face's normalizers do it;   lower(text): as theirs, each character for itself

Every code point belongs to one of a few hundred *kinds*, a kind is a row of properties, and the table (`unicode_table.py`, made by
`tests/golden/make_unicode_table.py`) is the run-length list of kinds. The peers do not agree with one another: they were built
with different versions of Unicode. `peer="hf"` is Oniguruma inside Hugging Face's tokenizers, `peer="tiktoken"` the regex
crate inside tiktoken; what the BERT parts ask for comes from still other tables there, so these have names of their own.

Leaves out: versions of a peer other than those the table was made with (the script prints what has changed).
"""

import functools
import re
import unicodedata

import numpy as np

from pikojax.text import unicode_table

N_CODES = 0x110000
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cs Cn".split()
EXTRA = {  # name → bit of a kind's flags, and whose answer it is
    "space": 0,  # \s of Oniguruma (Split, ByteLevel)
    "word": 1,  # \w of Oniguruma
    "space_tiktoken": 2,  # \s and \w of the regex crate inside tiktoken
    "word_tiktoken": 3,
    "rust_space": 4,  # char::is_whitespace in tokenizers: WhitespaceSplit, Strip, BERT's cleaning, BertPreTokenizer
    "rust_word": 5,  # \w of the regex crate in tokenizers: Whitespace, single_word
    "rust_numeric": 6,  # char::is_numeric in tokenizers: Digits
    "bert_punctuation": 7,  # Punctuation, BertPreTokenizer
    "bert_control": 8,  # what BertNormalizer's clean_text removes
    "bert_cjk": 9,  # what BertNormalizer's handle_chinese_chars puts spaces around
    "bert_mark": 10,  # what BertNormalizer's strip_accents removes, after NFD
    "normal": 11,  # has a decomposition or a combining class in the tables of the normalizers of tokenizers
    "rust_space_class": 12,  # \s of the regex crate in tokenizers: Whitespace, lstrip and rstrip of added tokens
    "mark": 13,  # what StripAccents removes
    "Han_tiktoken": 14,
}

# the bits of `classes`
L, N, M, P, S, SPACE, UPPER, LOWER, OTHER, WORD, HAN, PUNCTUATION, RUST_SPACE, CONTROL, CJK, MARK = (1 << bit for bit in range(16))
_BIT_OF = [  # UPPER: Lu or Lt, LOWER: Ll, OTHER: Lm or Lo; from PUNCTUATION on: the BERT parts' own tables, see EXTRA
    ("L", L), ("N", N), ("M", M), ("P", P), ("S", S), ("space", SPACE), ("Lu", UPPER), ("Lt", UPPER), ("Ll", LOWER),
    ("Lm", OTHER), ("Lo", OTHER), ("word", WORD), ("Han", HAN), ("bert_punctuation", PUNCTUATION), ("rust_space", RUST_SPACE),
    ("bert_control", CONTROL), ("bert_cjk", CJK), ("bert_mark", MARK),
]  # fmt: skip


@functools.cache
def kinds() -> tuple[np.ndarray, np.ndarray]:
    """uint16[0x110000], each code point's kind; and the kinds' rows: category (hf), category (tiktoken), flags, script, hf_script."""
    import base64
    import lzma

    def numbers(data: bytes) -> np.ndarray:  # 7 bits a byte, low bits first, the high bit says that more follow
        raw = np.frombuffer(data, np.uint8)
        last = np.flatnonzero(raw < 128)
        first = np.concatenate([[0], last[:-1] + 1])
        place = np.arange(raw.size) - np.repeat(first, last - first + 1)
        return np.add.reduceat((raw & 127).astype(np.int64) << 7 * place, first)

    parts = numbers(lzma.decompress(base64.b85decode(unicode_table.TABLE.replace("\n", ""))))
    n_rows, n_runs = int(parts[0]), int(parts[1])
    rows = parts[2 : 2 + 5 * n_rows].reshape(n_rows, 5)
    lengths, which = parts[2 + 5 * n_rows :].reshape(2, n_runs)
    of_code = np.repeat(which.astype(np.uint16), lengths)
    of_code.flags.writeable = rows.flags.writeable = False
    return of_code, rows


@functools.cache
def classes(peer: str = "hf") -> np.ndarray:
    """uint16[0x110000]: the bits above of each code point. Read only; contiguous, for native code to point at."""
    of_code, rows = kinds()
    bits = np.zeros(len(rows), np.uint16)
    for name, bit in _BIT_OF:
        bits[_rows_of(name, peer)] |= bit
    found = np.ascontiguousarray(bits[of_code])
    found.flags.writeable = False
    return found


@functools.lru_cache(64)
def members(name: str, peer: str = "hf") -> np.ndarray | None:
    """bool[0x110000]: which code points are `name`: "L", "Lu", "LC", "Han", "space", … ; None for a name that is not known."""
    which = _rows_of(name, peer)
    if which is None:
        return None
    found = which[kinds()[0]]
    found.flags.writeable = False
    return found


def _rows_of(name: str, peer: str) -> np.ndarray | None:
    """Which rows of the kinds' table have the property `name`."""
    _, rows = kinds()
    if peer == "tiktoken" and name in ("space", "word", "Han"):
        name += "_tiktoken"
    if name in EXTRA:
        return rows[:, 2] >> EXTRA[name] & 1 == 1
    if name in unicode_table.SCRIPTS:
        return rows[:, 3] == unicode_table.SCRIPTS.index(name)
    wanted = {"LC": ("Lu", "Ll", "Lt"), "L&": ("Lu", "Ll", "Lt"), "Any": CATEGORIES}.get(name)
    wanted = wanted or [category for category in CATEGORIES if category.startswith(name) and name]
    indices = [CATEGORIES.index(category) for category in wanted]
    return np.isin(rows[:, 1 if peer == "tiktoken" else 0], indices) if indices else None


@functools.cache
def hf_scripts() -> np.ndarray:
    """uint8[0x110000]: the scripts as the UnicodeScripts pre-tokenizer sees them; 0 goes with any, equal numbers stay together."""
    of_code, rows = kinds()
    return rows[:, 4].astype(np.uint8)[of_code]


def ranges(which: np.ndarray) -> list[tuple[int, int]]:
    """The runs of True as (first, last), both inside."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], which.astype(np.int8), [0]])))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]


def char_class(which: np.ndarray) -> str:
    """The same as the inside of a [ ] of `re`."""
    return "".join(f"\\U{a:08x}" if a == b else f"\\U{a:08x}-\\U{b:08x}" for a, b in ranges(which))


# ---------------------------------------------------------------- normalization


def normalize(form: str, text: str) -> str:
    """NFC, NFD, NFKC or NFKD as tokenizers has them: its tables are older than Python's, what they lack passes unchanged.

    Such a code point is a starter there that composes with nothing, so the stretches between them can be normalized alone.
    """
    if text.isascii() or unicodedata.is_normalized(form, text) and not _newer().search(text):
        return text
    parts = _newer().split(text)
    return "".join(part if i % 2 else unicodedata.normalize(form, part) for i, part in enumerate(parts))


@functools.cache
def _newer() -> re.Pattern:
    """Finds what this Python would change or reorder and the peer would not; in a group, so that `split` keeps it."""
    quiet = members("normal") | members("Cs") | (members("Han") & members("Lo"))  # ideographs: never a decomposition of their own
    codes = [code for code in np.flatnonzero(~quiet).tolist() if unicodedata.combining(chr(code)) or unicodedata.decomposition(chr(code))]
    which = np.zeros(N_CODES, bool)
    which[codes] = True
    return re.compile(f"([{char_class(which)}])" if codes else "((?!))")


# ---------------------------------------------------------------- lower case


def lower(text: str) -> str:
    """Each character's lower case by itself: Σ becomes σ also at the end of a word, as tokenizers does it; İ becomes two."""
    if text.isascii():
        return text.lower()
    odd, mapped = _odd_lower()
    if not odd.search(text):
        return text.lower()
    return "".join(mapped.get(part, part) if i % 2 else part.lower() for i, part in enumerate(odd.split(text)))


@functools.cache
def lower_table() -> dict[int, str]:
    """Code point → its lower case, where that is another, by the peer's table."""
    table = {}
    for run in unicode_table.LOWER.split():
        first, last, step, shift = (int(part, 36) for part in run.split(","))
        table |= {code: chr(code + shift) for code in range(first, last + 1, step)}
    return table | {0x130: "i̇"}


@functools.cache
def _odd_lower() -> tuple[re.Pattern, dict[str, str]]:
    """What `str.lower` of this Python does differently from the peer, and what the peer makes of it."""
    table = lower_table()
    codes = np.array([*range(0x130), *range(0x131, 0x3A3), *range(0x3A4, 0xD800), *range(0xE000, N_CODES)], np.uint32)
    lowered = np.frombuffer(codes.tobytes().decode("utf-32-le").lower().encode("utf-32-le"), np.uint32)  # without İ and Σ one for one
    changed = codes != lowered
    mine = dict(zip(map(chr, codes[changed].tolist()), map(chr, lowered[changed].tolist()), strict=True))
    peer = {chr(code): low for code, low in table.items() if code not in (0x130, 0x3A3)}
    odd = [char for char in mine.keys() | peer.keys() if mine.get(char) != peer.get(char)] + ["Σ"]
    return re.compile(f"([{''.join(sorted(odd))}])"), {char: table.get(ord(char), char) for char in odd}
