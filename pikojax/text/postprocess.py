"""What is put around a text for the model: [CLS] text [SEP], <s> text </s>; and which part a token belongs to.

    TemplateProcessing: "[CLS] $A [SEP] $B:1 [SEP]:1"        tokens of A, of B, and the special tokens between them

`build(tree)` gives a function of the encodings (one, or two of a pair) and whether special tokens are wanted, which returns the
parts in their order; joined they are the result. `frame` asks the same for ids alone: what stands before and behind a text.

ByteLevel and Roberta also take the spaces out of the offsets of byte-level tokens (`trim_offsets`), in Hugging Face's way.
Leaves out: overflowing parts (what truncation cuts off is gone).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from pikojax.config import UserError, require
from pikojax.text import byte_level
from pikojax.text.hf_json import build as build_part
from pikojax.text.hf_json import field, sequence, shown


class Part(NamedTuple):
    """A run of tokens. Spans are in characters of the text that it is of: 0, 1 (of a pair), or None: put in here."""

    ids: list[int]
    tokens: list[str]
    spans: list[tuple[int, int]]
    type_ids: list[int]
    text: int | None = None


Processor = Callable[[list[Part], bool], list[Part]]


def build(tree: dict | None, depth: int = 0) -> Processor:
    return (lambda parts, add: parts) if tree is None else build_part(tree, _KINDS, "post_processor", depth)


def _sequence(tree: dict, depth: int) -> Processor:
    steps = [build(part, depth + 1) for part in sequence(tree, "processors")]

    def run(parts: list[Part], add: bool) -> list[Part]:
        for step in steps:
            parts = step(parts, add)
        return parts

    return run


def _typed(part: Part, type_id: int) -> Part:
    return part._replace(type_ids=[type_id] * len(part.ids))


def _special(ids: list[int], tokens: list[str], type_id: int) -> Part:
    return Part(ids, tokens, [(0, 0)] * len(ids), [type_id] * len(ids))


def _texts(parts: list[Part]) -> list[Part]:
    """The one or two texts, which a processor before this one must not have framed already."""
    require(len(parts) <= 2, "two post-processors put special tokens around a text; leave one of them out")
    return parts


# ---------------------------------------------------------------- templates


def _template(tree: dict) -> Processor:
    table = _template_tokens(tree)
    single, pair = (_template_items(tree, name, table) for name in ("single", "pair"))

    def run(parts: list[Part], add: bool) -> list[Part]:
        found = []
        for which, type_id, special in single if len(_texts(parts)) == 1 else pair:
            if special is not None:
                found += [_special(*special, type_id)] if add else []
            elif which < len(parts):
                parts[which] = _typed(parts[which], type_id)
                found.append(parts[which])
        return found

    return run


def _template_tokens(tree: dict) -> dict[str, tuple[list[int], list[str]]]:
    table = {}
    for name, entry in (field(tree, "special_tokens", dict, {})).items():
        ids, tokens = field(entry, "ids", list, what=name), field(entry, "tokens", list, what=name)
        good = all(type(i) is int and 0 <= i < 2**31 for i in ids) and all(isinstance(token, str) for token in tokens)
        require(good and len(ids) == len(tokens), f"the special token {shown(name)} of the template needs ids and as many tokens")
        table[name] = ids, tokens
    return table


def _template_items(tree: dict, name: str, table: Mapping) -> list[tuple[int, int, tuple | None]]:
    """(which text, type id, None) or (0, type id, the special token) for each item of the template"""
    items = []
    for item in field(tree, name, list, []):
        kind = next(iter(item), None) if isinstance(item, dict) else None
        require(kind in ("Sequence", "SpecialToken"), f"the template {name!r} holds {shown(kind or item)}; give Sequence or SpecialToken")
        key, type_id = field(item[kind], "id", str, what=kind), field(item[kind], "type_id", int, 0, what=kind)
        require(0 <= type_id < 2**31, f"the template {name!r} has the type_id {shown(type_id)}; give 0 or more")
        if kind == "Sequence":
            require(key in ("A", "B"), f"the template {name!r} names the text {shown(key)}; it must be A or B")
            items.append((0 if key == "A" else 1, type_id, None))
        else:
            require(key in table, f"the template {name!r} uses {shown(key)}, which its special_tokens lack")
            items.append((0, type_id, table[key]))
    return items


def _named(tree: dict, name: str) -> tuple[list[int], list[str]]:
    """["[SEP]", 102] as ids and tokens"""
    value = field(tree, name, list)
    good = len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int and 0 <= value[1] < 2**31
    require(good, f"{name} of {tree.get('type')!r} must be [token, id]")
    return [value[1]], [value[0]]


def _bert(tree: dict) -> Processor:
    sep, cls = _named(tree, "sep"), _named(tree, "cls")

    def run(parts: list[Part], add: bool) -> list[Part]:
        if not add:
            return parts
        found = [_special(*cls, 0)]
        for i, part in enumerate(_texts(parts)):
            found += [_typed(part, i), _special(*sep, i)]
        return found

    return run


def _roberta(tree: dict) -> Processor:
    sep, cls = _named(tree, "sep"), _named(tree, "cls")
    trim, add_space = field(tree, "trim_offsets", bool, True), field(tree, "add_prefix_space", bool, True)

    def run(parts: list[Part], add: bool) -> list[Part]:
        parts = [_typed(trimmed(part, add_space) if trim else part, 0) for part in parts]
        if not add:
            return parts
        found = []
        for i, part in enumerate(_texts(parts)):
            found += [_special(*(sep if i else cls), 0), part, _special(*sep, 0)]
        return found

    return run


# ---------------------------------------------------------------- offsets


def _byte_level(tree: dict) -> Processor:
    trim, add_space = field(tree, "trim_offsets", bool, True), field(tree, "add_prefix_space", bool, True)
    field(tree, "use_regex", bool, True)
    return lambda parts, add: [trimmed(part, add_space) for part in parts] if trim else parts


_SPACE = byte_level.CHARS[ord(" ")]


def trimmed(part: Part, add_prefix_space: bool) -> Part:
    """The spaces at both ends of a token do not count; but a single one at the start of the text counts as put there."""
    spans = []
    for i, (token, (first, last)) in enumerate(zip(part.tokens, part.spans)):
        leading, trailing = len(token) - len(_lstrip(token)), len(token) - len(_lstrip(token[::-1]))
        if leading:
            if leading == 1 and add_prefix_space and (i == 0 or first == 0):
                leading = 0
            first = min(first + leading, last)
        if trailing and last >= trailing:
            last = max(last - trailing, first)
        spans.append((first, last))
    return part._replace(spans=spans)


def _lstrip(token: str) -> str:
    return token.lstrip(_SPACE + _WHITE)


_WHITE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"


def put_in(processor: Processor) -> set[int]:
    """All ids that it may put beside those of a text, or of two."""
    found = set()
    for n in (1, 2):
        try:
            parts = processor([Part([0], [""], [(0, 0)], [0], i) for i in range(n)], True)
        except UserError:  # one that is for one text alone says so when it gets two
            continue
        found |= {id for part in parts if part.text is None for id in part.ids}
    return found


def frame(processor: Processor) -> tuple[list[int], list[int]] | None:
    """The ids that stand before and behind a single text; None where the text is not there just once."""
    parts = processor([Part([0], [""], [(0, 0)], [0], 0)], True)
    places = [i for i, part in enumerate(parts) if part.text is not None]
    if len(places) != 1:
        return None
    before, behind = parts[: places[0]], parts[places[0] + 1 :]
    return [i for part in before for i in part.ids], [i for part in behind for i in part.ids]


_KINDS = {
    "BertProcessing": _bert,
    "ByteLevel": _byte_level,
    "RobertaProcessing": _roberta,
    "Sequence": _sequence,
    "TemplateProcessing": _template,
}
