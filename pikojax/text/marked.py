"""Strings that remember which of their characters are a user's words, so that no word can pass for a control token.

    Marked("hi", b"\\1\\1") joined to "<|end|>"  →  text "hi<|end|>", mask 1 1 0 0 0 0 0 0 0

A chat template joins, trims and splits what users say with tokens of its own. Looking for a token's text in the finished string
cannot tell the two apart, and escaping before fails too: "<|en" and "d|>" from two messages meet only in the result. So the mask
travels with the string through every operation. Where an operation's effect on single characters is not known here, its whole
result counts as words: a template may then lose a token of its own, but never grants one.

Leaves out: operations that no template needs; `template.py` lets none through that is not listed here or covered as a whole.
"""

from collections.abc import Iterable, Mapping
from typing import Any

_SAME_LENGTH = ("upper", "lower", "title", "capitalize", "swapcase", "casefold")


class Marked(str):
    """A string and its mask: one byte a character, 1 where the character is a user's word."""

    _mask: bytes

    def __new__(cls, text: str, mask: bytes):
        made = super().__new__(cls, text)
        made._mask = mask
        return made

    def __str__(self):
        return self  # str(x) keeps the mask

    def __getitem__(self, key):
        mask = self._mask[key]
        return Marked(str.__getitem__(self, key), mask if isinstance(mask, bytes) else bytes([mask]))

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __add__(self, other):
        return concat((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other):
        return concat((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, n):
        return Marked(str.__mul__(self, n), self._mask * n)

    __rmul__ = __mul__


def mask_of(text: str) -> bytes:
    return text._mask if isinstance(text, Marked) else bytes(len(text))


def words(value: Any) -> Any:
    """`value` with every string in it, keys too, marked as a user's words throughout."""
    if isinstance(value, str):
        return Marked(str.__str__(value), b"\1" * len(value))
    if isinstance(value, Mapping):
        return {words(key): words(item) for key, item in value.items()}
    return [words(item) for item in value] if isinstance(value, (list, tuple)) else value


def covered(value: Any) -> Any:
    """The same for the result of an operation: a string, or a sequence of them."""
    if isinstance(value, str):
        return Marked(str.__str__(value), b"\1" * len(value))
    return type(value)(map(covered, value)) if type(value) in (list, tuple) else value


def has_marks(*values: Any) -> bool:
    stack = list(values)
    while stack:
        value = stack.pop()
        if isinstance(value, Marked):
            return True
        if isinstance(value, Mapping):
            stack += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple)):
            stack += value
    return False


def concat(parts: Iterable[str]) -> str:
    parts = list(parts)
    text = "".join(parts)
    return Marked(text, b"".join(map(mask_of, parts))) if any(isinstance(part, Marked) for part in parts) else text


def join(separator: str, parts: Iterable[str]) -> str:
    parts = list(parts)
    return concat(piece for i, part in enumerate(parts) for piece in ((separator, part) if i else (part,)))


def call(name: str, text: str, *args: Any, **kwargs: Any) -> Any:
    """`text.name(*args)` with marks carried over."""
    if name == "join":
        return join(text, *args)
    result = getattr(str, name)(text, *args, **kwargs)
    if not has_marks(text, list(args), kwargs):
        return result
    if name == "replace" and isinstance(text, str) and args[0]:
        parts = str.split(text, args[0], *args[2:])
        return join(args[1], _located(text, parts, len(args[0])))
    if name in ("format",):
        return _filled(text, result, args, kwargs)
    if not isinstance(text, Marked) or not isinstance(result, (str, list, tuple)):
        return covered(result)
    if name in ("strip", "lstrip", "rstrip"):
        start = 0 if name == "rstrip" else len(text) - len(str.lstrip(text, *args))
        return text[start : start + len(result)]
    if name in ("removeprefix", "removesuffix"):
        return text[len(text) - len(result) :] if name == "removeprefix" else text[: len(result)]
    if name in ("partition", "rpartition"):
        return tuple(_located(text, result, 0))
    if name in ("split", "rsplit", "splitlines"):
        separator = kwargs.get("sep", args[0] if args else None) if name != "splitlines" else None
        return _located(text, result, None if separator is None else len(separator))
    if name in _SAME_LENGTH and len(result) == len(text):  # these never shorten: of equal length means character by character
        return Marked(result, text._mask)
    return covered(result)


def modulo(form: str, values: Any) -> str:
    """`form % values`."""
    result = str.__mod__(form, values)
    if not has_marks(form, values):
        return result
    args, kwargs = (values, {}) if isinstance(values, tuple) else ((), values) if isinstance(values, dict) else ((values,), {})
    plain = [spec for spec in str.split(form.replace("%%", ""), "%")[1:] if not spec.startswith(("s", "d", "("))]
    if plain or isinstance(form, Marked) or kwargs:
        return covered(result)
    stand_ins, marks = _stand_ins(form, args)
    return _put_back(str.__mod__(form, tuple(stand_ins)), marks)


def _filled(form: str, result: str, args: tuple, kwargs: dict) -> str:
    if isinstance(form, Marked):
        return covered(result)
    names = list(kwargs)
    stand_ins, marks = _stand_ins(form, (*args, *kwargs.values()))
    return _put_back(form.format(*stand_ins[: len(args)], **dict(zip(names, stand_ins[len(args) :]))), marks)


def _stand_ins(form: str, values: Iterable[Any]) -> tuple[list, dict[str, str]]:
    """For each marked value one private character that occurs nowhere else; other values as they are."""
    values = list(values)
    taken = set(form).union(*(set(str.__str__(str(value))) for value in values))
    free = (chr(code) for code in range(0xF0000, 0x10FFFE) if chr(code) not in taken)
    marks: dict[str, str] = {}
    out = []
    for value in values:
        if has_marks(value):
            stand_in = next(free)
            marks[stand_in] = value if isinstance(value, Marked) else covered(str(value))
            value = stand_in
        out.append(value)
    return out, marks


def _put_back(text: str, marks: dict[str, str]) -> str:
    parts, start = [], 0
    for i, char in enumerate(text):
        if char in marks:
            parts += [text[start:i], marks[char]]
            start = i + 1
    return concat([*parts, text[start:]])


def _located(text: str, parts: Iterable[str], gap: int | None) -> list[str]:
    """`parts` of `text` in order, `gap` characters between them, as slices that keep their marks; None: only space between."""
    found, position = [], 0
    for part in parts:
        start = position if gap is not None or not part else text.find(part, position)
        found.append(text[start : start + len(part)])
        position = start + len(part) + (gap or 0)
    return found
