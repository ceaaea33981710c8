r"""SentencePiece's table of replacements ("precompiled charsmap"), which holds nmt_nfkc and its like: "ﬁ" → "fi", "①" → "1".

    4 bytes: size of the trie | the trie, a double array of uint32 | the replacements, each ended by a zero byte

Double array: a unit holds an offset and the label of the byte that leads to it. From a node's unit, the child by byte b is the
unit at  position ^ offset ^ b, if its label is b; a unit with the leaf bit has, at position ^ offset, where its replacement begins.

Hugging Face's rule (`longest` false): a grapheme of less than 6 bytes is replaced *whole* if the table knows any beginning of it
(the shortest counts!), otherwise its characters one by one. SentencePiece's rule (`longest` true, a private key of ours, for
`.model` files): at each place the longest entry of the table that the text goes on with.

Leaves out: making such tables.
"""

import base64
import binascii
import re

import numpy as np

from pikojax.config import UserError, require
from pikojax.text.aligned import Aligned
from pikojax.text.hf_json import field


def build(tree: dict):
    encoded = field(tree, "precompiled_charsmap", str)
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise UserError("precompiled_charsmap of Precompiled is not base64; give the bytes of SentencePiece's table in base64") from None
    find = read(blob)
    rule = _longest if field(tree, "longest", bool, False) else _by_graphemes
    return lambda text: text if text.text == "" else _changed(text, rule(text.text, find))


def read(blob: bytes):
    """The function (bytes, longest) → (length of the match, its replacement) | None."""
    size = int.from_bytes(blob[:4], "little") if len(blob) >= 4 else -1
    require(0 < size <= len(blob) - 4 and size % 4 == 0, f"the table of replacements is cut short or damaged ({len(blob)} bytes)")
    units = np.frombuffer(blob, "<u4", size // 4, 4).tolist()
    texts = blob[4 + size :]
    replacements: dict[int, str] = {}

    def replacement(at: int) -> str:
        if at not in replacements:
            end = texts.find(b"\0", at)
            replacements[at] = texts[at : end if end >= 0 else len(texts)].decode("utf-8", "replace")
        return replacements[at]

    def find(key: bytes, longest: bool) -> tuple[int, str] | None:
        found, at = None, _offset(units[0])
        for length, byte in enumerate(key, 1):
            at ^= byte
            if byte == 0 or at >= len(units) or units[at] & 0x800000FF != byte:
                break
            has_leaf, at = units[at] >> 8 & 1, at ^ _offset(units[at])
            if has_leaf and at < len(units):
                found = length, units[at] & 0x7FFFFFFF
                if not longest:
                    break
        return found and (found[0], replacement(found[1]))

    return find


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 0x200) >> 6)


def _by_graphemes(text: str, find) -> list[tuple[str, int]]:
    changes: list[tuple[str, int]] = []
    for cluster in graphemes(text):
        coded = cluster.encode()
        found = find(coded, False) if len(coded) < 6 else None
        if found:
            _put(changes, len(cluster), found[1])
            continue
        for char in cluster:
            found = find(char.encode(), False)
            if found:
                _put(changes, 1, found[1])
            else:
                changes.append((char, 0))
    return changes


def _longest(text: str, find) -> list[tuple[str, int]]:
    changes: list[tuple[str, int]] = []
    coded, at = text.encode(), 0
    while at < len(coded):
        found = find(coded[at : at + 64], True)
        n = found[0] if found else 1 if coded[at] < 0x80 else 2 if coded[at] < 0xE0 else 3 if coded[at] < 0xF0 else 4
        part = coded[at : at + n].decode()
        if found:
            _put(changes, len(part), found[1])
        else:
            changes.append((part, 0))
        at += n
    return changes


def _put(changes: list[tuple[str, int]], n_old: int, new: str) -> None:
    """`new` for the next `n_old` characters, as changes (see Aligned.changed)."""
    more = len(new) - n_old
    changes += [(char, 1 if more > 0 and i >= len(new) - more else 0) for i, char in enumerate(new)]
    if more < 0 and changes:
        changes[-1] = changes[-1][0], changes[-1][1] + more


def _changed(text: Aligned, changes: list[tuple[str, int]]) -> Aligned:
    return text.changed(changes)


# ---------------------------------------------------------------- graphemes

# What joins the character before it, or (prepending) the one after it. As the table can tell only where a whole cluster has less
# than 6 bytes, what is of no matter there (Hangul, flags, emoji, Indic conjuncts) is left out.
_MC_ALONE = (0x102B, 0x102C, 0x1038, *range(0x1062, 0x1065), *range(0x1067, 0x106E), 0x1083, *range(0x1087, 0x108D), 0x108F,
             *range(0x109A, 0x109D), 0x1A61, 0x1A63, 0x1A64, 0xAA7B, 0xAA7D, 0x11720, 0x11721)  # fmt: skip
_PREPEND = (
    "\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u0d4e\U000110bd\U000110cd\U000111c2\U000111c3\U000113d1\U0001193f\U00011941"
    "\U00011a84-\U00011a89\U00011d46\U00011f02"
)
_NEWER = (  # marks that the peer's clusters know and its regular expressions do not
    *range(0x1ACF, 0x1ADE), *range(0x1AE0, 0x1AEC), 0x10EFA, 0x10EFB, *range(0x11B60, 0x11B68), 0x1E6E3, 0x1E6E6, 0x1E6EE, 0x1E6EF, 0x1E6F5,
)  # fmt: skip
_MORE_EXTEND = "\u200c\u200d\u0e33\u0eb3\uff9e\uff9f"


def graphemes(text: str) -> list[str]:
    if text.isascii() and "\r" not in text:
        return list(text)
    return _cluster_pattern().findall(text)


_pattern: list[re.Pattern] = []


def _cluster_pattern() -> re.Pattern:
    if not _pattern:
        from pikojax.text import unicode

        joins = unicode.members("M").copy()
        joins[list(_MC_ALONE)] = False
        joins[list(_NEWER)] = True
        control = unicode.members("Cc") | unicode.members("Cf") | unicode.members("Zl") | unicode.members("Zp")
        control[[0x200C, 0x200D, *range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD]] = False
        extend = unicode.char_class(joins) + _MORE_EXTEND + "\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f"
        alone = unicode.char_class(control)
        _pattern.append(re.compile(f"\r\n|[{alone}]|[{_PREPEND}]*[^{alone}{_PREPEND}][{extend}]*|[{_PREPEND}]+[{extend}]*", re.DOTALL))
    return _pattern[0]
