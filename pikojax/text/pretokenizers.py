r"""How a text is cut into pieces before the model sees it; no token ever reaches over such a cut. Each: Aligned → [Aligned].

    ByteLevel: "Don't go" → "Don" "'t" "Ġgo"      Metaspace: "Don't go" → "▁Don't" "▁go"      BertPreTokenizer: Don ' t go

Most find matches of a pattern and then do one of five things with them, as in "the-final--countdown" by "-":

    Removed             the final countdown            MergedWithPrevious  the- final- - countdown
    Isolated            the - final - - countdown      MergedWithNext      the -final - -countdown
    Contiguous          the - final -- countdown

Leaves out: nothing that the files use. What a pattern means is in patterns.py, what a character is in unicode.py.
"""

from collections.abc import Callable, Iterator

import numpy as np

from pikojax.config import UserError, require
from pikojax.text import byte_level, unicode
from pikojax.text.aligned import Aligned
from pikojax.text.hf_json import build as build_part
from pikojax.text.hf_json import character, field, pattern_of, sequence
from pikojax.text.normalizers import find_all

PreTokenizer = Callable[[Aligned], list[Aligned]]
Matches = list[tuple[int, int]]
BEHAVIORS = ("Removed", "Isolated", "Contiguous", "MergedWithPrevious", "MergedWithNext")


def build(tree: dict | None, depth: int = 0) -> PreTokenizer:
    return (lambda text: [text]) if tree is None else build_part(tree, _KINDS, "pre_tokenizer", depth)


def _sequence(tree: dict, depth: int) -> PreTokenizer:
    steps = [build(part, depth + 1) for part in sequence(tree, "pretokenizers")]

    def run(text: Aligned) -> list[Aligned]:
        pieces = [text]
        for step in steps:
            pieces = [part for piece in pieces for part in step(piece) if part.text]
        return pieces

    return run


# ---------------------------------------------------------------- splitting at matches


def split(text: Aligned, matches: Matches, behavior: str, invert: bool = False) -> list[Aligned]:
    """`matches` lie in order and apart. `invert`: what lies between them is what matches."""
    ranges = [(first, last) for first, last, keep in _ranges(list(_cover(matches, len(text.text), invert)), behavior) if keep]
    return [text.cut(first, last) for first, last in ranges if first < last]


def _cover(matches: Matches, n: int, invert: bool) -> Iterator[tuple[int, int, bool]]:
    """All of the text as (first, last, whether it matches)."""
    at = 0
    for first, last in matches:
        if at != first:
            yield at, first, invert
        yield first, last, not invert
        at = last
    if at != n:
        yield at, n, invert


def _ranges(parts: list[tuple[int, int, bool]], behavior: str) -> list[tuple[int, int, bool]]:
    """What is kept of the parts, and which of them are glued together."""
    if behavior == "Removed":
        return [(first, last, not matched) for first, last, matched in parts]
    if behavior == "Isolated":
        return [(first, last, True) for first, last, _ in parts]
    backwards = behavior == "MergedWithNext"
    glued: list[tuple[int, int, bool]] = []
    before = False  # whether the part before matched
    for first, last, matched in reversed(parts) if backwards else parts:
        glue = matched == before if behavior == "Contiguous" else matched and not before
        if glue and glued:
            other = glued[-1]
            glued[-1] = (first, other[1], True) if backwards else (other[0], last, True)
        else:
            glued.append((first, last, True))
        before = matched
    return glued[::-1] if backwards else glued


def _where(which: np.ndarray) -> Callable[[str], Matches]:
    """The places of the characters that are among `which`, one by one."""

    def find(text: str) -> Matches:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        return [(at, at + 1) for at in np.flatnonzero(which[codes]).tolist()]

    return find


def _behavior(tree: dict, default: str | None = None) -> str:
    behavior = field(tree, "behavior", str, *([] if default is None else [default]))
    known = {name.lower(): name for name in BEHAVIORS}
    name = known.get(behavior.lower().replace("_", ""))
    require(name is not None, f"behavior of {tree.get('type')!r} is {behavior[:40]!r}; it must be one of: {', '.join(BEHAVIORS)}")
    return name


def _split(tree: dict) -> PreTokenizer:
    from pikojax.text import patterns

    pattern, is_regex = pattern_of(tree)
    behavior, invert = _behavior(tree), field(tree, "invert", bool, False)
    find = patterns.compiled(pattern, field(tree, "peer", str, "hf")) if is_regex else lambda text: find_all(text, pattern)
    return lambda text: split(text, find(text.text), behavior, invert)


def _whitespace(tree: dict) -> PreTokenizer:
    """Runs of \\w, and runs of what is neither that nor space."""
    word, space = unicode.members("rust_word"), unicode.members("rust_space_class")
    kinds = (word + 2 * ~(word | space)).astype(np.uint8)  # 0: space, 1: word, 2: the rest

    def run(text: Aligned) -> list[Aligned]:
        kind = kinds[np.frombuffer(text.text.encode("utf-32-le", "surrogatepass"), np.uint32)]
        edges = [0, *(np.flatnonzero(np.diff(kind)) + 1).tolist(), len(kind)]
        return [text.cut(first, last) for first, last in zip(edges, edges[1:]) if kind[first]] if len(kind) else []

    return run


def _whitespace_split(tree: dict) -> PreTokenizer:
    find = _where(unicode.members("rust_space"))
    return lambda text: split(text, find(text.text), "Removed")


def _punctuation(tree: dict) -> PreTokenizer:
    find, behavior = _where(unicode.members("bert_punctuation")), _behavior(tree, "Isolated")
    return lambda text: split(text, find(text.text), behavior)


def _digits(tree: dict) -> PreTokenizer:
    find = _where(unicode.members("rust_numeric"))
    behavior = "Isolated" if field(tree, "individual_digits", bool, False) else "Contiguous"
    return lambda text: split(text, find(text.text), behavior)


def _bert(tree: dict) -> PreTokenizer:
    space, mark = _whitespace_split(tree), _where(unicode.members("bert_punctuation"))
    return lambda text: [part for word in space(text) for part in split(word, mark(word.text), "Isolated")]


def _char_delimiter(tree: dict) -> PreTokenizer:
    delimiter = character(tree, "delimiter")
    return lambda text: split(text, find_all(text.text, delimiter), "Removed")


def _fixed_length(tree: dict) -> PreTokenizer:
    length = field(tree, "length", int, 5)
    require(length >= 1, f"length of 'FixedLength' is {length}; give 1 or more")
    return lambda text: [text.cut(at, min(at + length, len(text.text))) for at in range(0, len(text.text), length)]


def _unicode_scripts(tree: dict) -> PreTokenizer:
    """A cut where the script changes. Spaces and the like go with any; before the first letter they are dropped, as there."""
    scripts = unicode.hf_scripts()

    def run(text: Aligned) -> list[Aligned]:
        cuts, before = [], None
        for at, char in enumerate(text.text):
            script = scripts[ord(char)]
            if script:
                cuts += [at] if script != before else []
                before = script
        return [text.cut(first, last) for first, last in zip(cuts, [*cuts[1:], len(text.text)])]

    return run


# ---------------------------------------------------------------- ByteLevel and Metaspace


def _byte_level(tree: dict) -> PreTokenizer:
    from pikojax.text import patterns

    add_space = field(tree, "add_prefix_space", bool, True)
    field(tree, "trim_offsets", bool, True)
    find = patterns.compiled(patterns.PATTERNS["gpt2"]) if field(tree, "use_regex", bool, True) else None

    def run(text: Aligned) -> list[Aligned]:
        if add_space and not text.text.startswith(" "):
            text = text.prepended(" ")
        pieces = [text] if find is None else split(text, find(text.text), "Isolated")
        return [piece.map(byte_level.to_chars) for piece in pieces]

    return run


def metaspace_scheme(tree: dict) -> str:
    """Where a space is put in front: "always", "first" (of the text alone) or "never"; older files say add_prefix_space."""
    add = field(tree, "add_prefix_space", bool, None)
    scheme = field(tree, "prepend_scheme", str, "always")
    require(scheme in ("always", "first", "never"), f"prepend_scheme of 'Metaspace' is {scheme[:40]!r}; give always, first or never")
    if add is False:
        if scheme != "never" and "prepend_scheme" in tree:
            raise UserError(f"'Metaspace' says add_prefix_space = false and prepend_scheme = {scheme!r}; leave one of them out")
        return "never"
    return scheme


def _metaspace(tree: dict) -> PreTokenizer:
    mark, scheme, cut = character(tree, "replacement", "▁"), metaspace_scheme(tree), field(tree, "split", bool, True)

    def run(text: Aligned) -> list[Aligned]:
        text = text.map(lambda part: part.replace(" ", mark))
        if scheme != "never" and not text.text.startswith(mark) and (scheme == "always" or text.base == 0):
            text = text.prepended(mark)
        return split(text, find_all(text.text, mark), "MergedWithNext") if cut else [text]

    return run


_KINDS = {
    "BertPreTokenizer": _bert,
    "ByteLevel": _byte_level,
    "CharDelimiterSplit": _char_delimiter,
    "Digits": _digits,
    "FixedLength": _fixed_length,
    "Metaspace": _metaspace,
    "Punctuation": _punctuation,
    "Sequence": _sequence,
    "Split": _split,
    "UnicodeScripts": _unicode_scripts,
    "Whitespace": _whitespace,
    "WhitespaceSplit": _whitespace_split,
}
