"""Plain values → frozen dataclasses, checked: unknown keys name the nearest one, wrong types and choices say what was wanted.

Knows nothing of any particular block: `config.py` holds those. A block may have named groups of values (`PRESETS`, `SIZES`).
"""

import dataclasses
import difflib
import functools
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal


GROUPS = ("preset", "size")  # keys that stand for several values; the block lists them in PRESETS and SIZES


class UserError(ValueError):
    """A mistake the user can mend. Its text is one line: what was got, what was wanted, what to do."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def parse_value(text: str) -> Any:
    text = text.strip()
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except ValueError:  # also a number of more digits than Python reads
        return text  # a bare word is a string: data.path=stories.txt; `none` and True/False are read by type


def keys(block: type) -> list[str]:
    return [f.name for f in dataclasses.fields(block)] + [group for group in GROUPS if hasattr(block, f"{group.upper()}S")]


def is_text(block: type, key: str) -> bool:
    """Whether `key` holds text, which is then taken as it was typed: data.path=1e5 is a file's name."""
    return _hints(block).get(key) in (str, str | None)


def expand_groups(block: type, values: Mapping) -> dict:
    """`preset = "modern"` and `size = "tiny"` become the values they stand for, below what is said outright."""
    values, expanded = dict(values), {}
    for group in GROUPS:
        choices = getattr(block, f"{group.upper()}S", None)
        if choices is None or group not in values:
            continue
        name = values.pop(group)
        require(isinstance(name, str) and name in choices, f"model.{group} = {name!r}; choose one of: {', '.join(choices)}")
        expanded |= choices[name]
    return expanded | values


def build(block: type, values: Mapping, prefix: str):
    hints, known = _hints(block), keys(block)
    checked = {}
    for key, value in values.items():
        require(key in known, f"unknown key {prefix + key!r}{nearest(prefix + key, [prefix + k for k in known])}")
        checked[key] = value if dataclasses.is_dataclass(value) else _coerce(value, hints[key], prefix + key)
    return block(**checked)


@functools.cache
def _hints(block: type) -> dict:
    return typing.get_type_hints(block)


def _coerce(value: Any, wanted: Any, key: str) -> Any:
    origin = typing.get_origin(wanted)
    if origin is Literal:
        choices = typing.get_args(wanted)
        require(value in choices, f"{key} = {value!r}; choose one of: {', '.join(map(str, choices))}")
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        return _coerce(value, next(t for t in typing.get_args(wanted) if t is not type(None)), key)
    if origin is tuple:
        require(isinstance(value, (list, tuple)), f"{key} = {value!r} is {_describe(value)}; give a list")
        return tuple(_coerce(item, typing.get_args(wanted)[0], key) for item in value)
    if wanted is Any:
        return value
    if wanted is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        require(abs(value) < 1 << 1023, f"{key} is a number of {len(str(value)[:5000])} digits; give a finite number")
        value = float(value)
    if wanted is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)  # data.path=1984
    good = isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))
    require(good, f"{key} = {value!r} is {_describe(value)}; give {_WANTED.get(wanted, wanted)}")
    require(not (wanted is float and not math.isfinite(value)), f"{key} = {value!r}; give a finite number")
    require(not (wanted is str and not _is_unicode(value)), f"{key} = {value!r} is not UTF-8; rename it")
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a surrogate: a byte of the command line that was no UTF-8
        return False
    return True


_WANTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _describe(value: Any) -> str:
    return _WANTED.get(type(value), type(value).__name__)


def nearest(key: str, known: Iterable[str]) -> str:
    known = list(known)
    by_leaf = {k.rpartition(".")[2]: k for k in known}
    close = difflib.get_close_matches(key, known, 1, 0.5)
    close = close or [by_leaf[k] for k in difflib.get_close_matches(key.rpartition(".")[2], by_leaf, 1, 0.5)]
    return f"; did you mean {close[0]!r}?" if close else f"; the keys are: {', '.join(known)}"


def toml_value(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else c for c in escaped) + '"'
    return f"[{', '.join(map(toml_value, value))}]" if isinstance(value, tuple) else repr(value)
