"""What a chat template may do, and what it pays: each operation is charged for what it reads and makes, before it makes it.

    "ab" * 10**12   →  charge(2 × 10**12) exceeds the work that is left, nothing is multiplied

The work of one rendering is 50 million characters plus 100 times the size of the messages; a charge beyond it, or after the deadline,
ends the rendering. So memory and time are bounded whatever the template does, and no single operation is long: values nested over 100
deep or worth over half a million items are refused ([x, x] of [x, x] of … would be small to hold and endless to print), whole numbers
keep to 63 bits, widths to what is left. What may be called is listed: methods of strings and containers, the template's own macros
and five functions. Everything else is refused, whatever object a template may get hold of.

Leaves out: filters that have no place in a chat (lipsum, urlize, xmlattr, random, batch …). `safe` changes nothing, as nothing
is escaped here; joiner and cycler. Needs jinja2, so it is imported through `chat.py`, which says so.
"""

import datetime
import json
import re
import string
import time
import types
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import wraps
from itertools import islice
from typing import Any

from jinja2 import TemplateError, pass_context
from jinja2.defaults import DEFAULT_FILTERS
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import SandboxedEnvironment
from jinja2.utils import Namespace

from pikojax.text import marked

LIMIT_RANGE = 100_000
LIMIT_ITEMS = 500_000
LIMIT_DEPTH = 100
LIMIT_INT = 1 << 63
WORK = 50_000_000  # characters
CONTAINERS = (dict, list, tuple, *(type(view) for view in ({}.keys(), {}.values(), {}.items())))


class TooMuch(Exception):
    """The template wants more than it may have."""


class Refused(TemplateError):
    """The template itself called raise_exception."""


# ---------------------------------------------------------------- what things cost


class Meter:
    """The work left to one rendering, in characters read or written, and when it must be done."""

    def __init__(self, work: int, seconds: float):
        self.left, self.seconds = work, seconds
        self.restart()

    def restart(self) -> None:
        self.deadline_s = time.monotonic() + self.seconds

    def charge(self, n: int) -> None:
        self.left -= n + 16
        if self.left < 0:
            raise TooMuch("it makes or reads far more text than the messages hold")
        if time.monotonic() > self.deadline_s:
            raise TooMuch(f"it takes over {self.seconds:g} s")


METER: ContextVar[Meter] = ContextVar("meter")  # of the rendering that runs


def charge(n: int) -> None:
    METER.get().charge(n)


def weigh(value: Any) -> tuple[int, int, int]:
    """(items, characters, depth) of a value as if it were printed: what stands in it twice counts twice."""
    items = chars = deepest = 0
    stack = [(value, 0)]
    while stack:
        value, depth = stack.pop()
        items += 1
        if isinstance(value, str):
            chars += len(value)
        elif isinstance(value, CONTAINERS):
            deepest = max(deepest, depth + 1)
            if items + len(stack) + len(value) > LIMIT_ITEMS:  # before the stack grows by it
                raise _too_many()
            if isinstance(value, dict):
                stack += [(key, depth + 1) for key in value]
                value = value.values()
            stack += [(item, depth + 1) for item in value]
        if items + len(stack) > LIMIT_ITEMS or depth > LIMIT_DEPTH:
            raise _too_many()
    return items, chars, deepest


def _too_many() -> TooMuch:
    return TooMuch(f"it makes a value of over {LIMIT_ITEMS:,} items, or nested over {LIMIT_DEPTH} deep")


def checked(value: Any) -> Any:
    """A value that an operation has made: paid for, and within the limits that all values keep."""
    if isinstance(value, str):
        charge(len(value))
    elif isinstance(value, CONTAINERS):
        items, chars, _ = weigh(value)
        charge(items)
        if chars > METER.get().left:
            raise TooMuch("it makes a value that could not be printed")
    elif isinstance(value, int) and not -LIMIT_INT <= value <= LIMIT_INT:
        raise TooMuch("it makes a whole number of more than 63 bits")
    return value


def size(value: Any) -> int:
    """What it costs to read `value` through."""
    if isinstance(value, (str, range)):
        return len(value)
    if isinstance(value, CONTAINERS):
        items, chars, _ = weigh(value)
        return items + chars
    return 1


def printed(value: Any) -> str:
    """`value` as the template's output shows it."""
    if isinstance(value, str):
        charge(len(value))
        return value
    if isinstance(value, CONTAINERS):
        charge(10 * size(value))  # a character may be written as \\U0001f600
        text = str(value)
        return marked.covered(text) if marked.has_marks(value if isinstance(value, dict) else list(value)) else text
    if value is None or isinstance(value, (bool, int, float, range, Undefined, Macro, LoopContext, Iterator)):
        return str(value)
    if isinstance(value, Namespace):
        return "<Namespace>"  # jinja2 prints what is in it, which may be endless
    raise SecurityError(f"a {type(value).__name__} is not to be printed")


# ---------------------------------------------------------------- operators and methods

_WIDTHS = ("center", "ljust", "rjust", "zfill")
_SEARCH_FROM_THE_RIGHT = ("rfind", "rindex", "rsplit", "rpartition")  # these are slow on repetitions
_PLAIN_METHODS = (
    "upper lower title capitalize swapcase casefold split splitlines partition removeprefix removesuffix startswith endswith find index count "
    "isalpha isdigit isnumeric isdecimal isalnum isspace isupper islower istitle isascii"
).split()
STRING_METHODS = {*_PLAIN_METHODS, *_WIDTHS, *_SEARCH_FROM_THE_RIGHT, "strip", "lstrip", "rstrip", "replace", "join", "format"}
OTHER_METHODS = {dict: {"get", "items", "keys", "values", "copy"}, list: {"index", "count", "copy"}, tuple: {"index", "count"}}


def call_method(name: str, text: str, *args: Any, **kwargs: Any) -> Any:
    """A method of a string, after its price."""
    if name == "join":
        args = ([_text(part) for part in args[0]], *args[1:])
        charge(sum(map(len, args[0])) + len(text) * len(args[0]))
    elif name == "replace":
        old, new = args[0], args[1]
        charge(len(text) + (text.count(old) if old else len(text) + 1) * len(new))
    elif name in _WIDTHS:
        charge(max(int(args[0]), 0))
    elif name == "format":
        for _, field, spec, conversion in string.Formatter().parse(text):
            if field and not re.fullmatch(r"\w*", field) or spec or conversion:
                raise SecurityError("format fields with attributes, widths or conversions are not allowed")
            charge(len(text) + (sum(size(value) for value in (*args, *kwargs.values())) * 10 if field is not None else 0))
        args, kwargs = tuple(map(_scalar, args)), {key: _scalar(value) for key, value in kwargs.items()}
    elif name in ("strip", "lstrip", "rstrip", *_SEARCH_FROM_THE_RIGHT):
        charge(len(text) * (1 + max((len(arg) for arg in args if isinstance(arg, str)), default=0) // 8))
    charge(len(text))
    if name in ("split", "rsplit", "splitlines") and _n_parts(name, text, *args, **kwargs) > LIMIT_ITEMS:
        raise _too_many()
    return checked(marked.call(name, text, *args, **kwargs))


def _n_parts(name: str, text: str, sep: Any = None, maxsplit: Any = -1, **_: Any) -> int:
    """At most so many parts; those between white space are counted without being kept."""
    if len(text) <= LIMIT_ITEMS:
        return 0
    if name != "splitlines" and isinstance(sep, str) and sep:
        found = text.count(sep) + 1
    else:
        pattern = r"[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]" if name == "splitlines" else r"[\S\x1c-\x1f]+"
        found = sum(1 for _ in islice(re.finditer(pattern, text), LIMIT_ITEMS)) + 1
    return min(found, maxsplit + 1) if name != "splitlines" and isinstance(maxsplit, int) and maxsplit >= 0 else found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"sequence item: expected str instance, {type(value).__name__} found")
    return value


def _scalar(value: Any) -> Any:
    return value if isinstance(value, (str, int, float)) else printed(value)


_CONVERSION = re.compile(r"%(?:\(([^()]*)\))?[-+ #0]*(\*|\d*)(?:\.(\*|\d*))?[hlL]*(.)", re.S)  # as Python reads them, one after another


def modulo(left: Any, right: Any) -> Any:
    if not isinstance(left, str):
        return left % right
    found = _CONVERSION.findall(left)
    if any(width == "*" or len(width) > 3 or kind == "(" for _, *widths, kind in found for width in widths):
        raise SecurityError("widths over 999 and nested brackets are not allowed after %")
    values = right if isinstance(right, tuple) else (right,)
    charge(len(left) + len(found) * 1000 + (len(found) + 1) * 10 * sum(map(size, values)))
    return marked.modulo(left, tuple(map(_scalar, values)) if not isinstance(right, dict) else right)


def operate(operator: str, left: Any, right: Any) -> Any:
    charge(0)
    if operator == "%":
        return checked(modulo(left, right))
    if operator == "*":
        sequence, n = (left, right) if isinstance(left, (str, list, tuple)) else (right, left)
        if isinstance(sequence, (str, list, tuple)):
            n_items = len(sequence) * max(int(n), 0)
            charge(n_items)
            if n_items > LIMIT_ITEMS and not isinstance(sequence, str):
                raise _too_many()
        return checked(left * right)
    if operator == "**":
        if isinstance(right, int) and right > 64:
            raise TooMuch("it raises a number to a power over 64")
        return checked(left**right)
    if operator == "+" and isinstance(left, str) and isinstance(right, str):
        charge(len(left) + len(right))
        return marked.concat((left, right))
    return checked(_OPERATORS[operator](left, right))


_OPERATORS = SandboxedEnvironment.default_binop_table


# ---------------------------------------------------------------- filters


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """As transformers has it: nothing is escaped for HTML, characters stay as they are."""
    items, chars, depth = weigh(value)
    width = 0 if indent is None else len(indent) if isinstance(indent, str) else int(indent)
    charge((12 if ensure_ascii else 6) * (items + chars) + items * max(width, 0) * depth)
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return marked.covered(text) if marked.has_marks(value) else text


def _join(context, value, d="", attribute=None):
    if attribute is not None:
        value = DEFAULT_FILTERS["map"](context, value, attribute=attribute)
    return call_method("join", printed(d), [printed(item) for item in value])


def _replace(text, old, new, count=None):
    return call_method("replace", printed(text), printed(old), printed(new), *(() if count is None else (count,)))


def _indent(text, width=4, first=False, blank=False):
    text = printed(text)
    charge((text.count("\n") + 1) * (len(width) if isinstance(width, str) else max(int(width), 0)))
    return DEFAULT_FILTERS["indent"](text, width, first, blank)


def _round(value, precision=0, method="common"):
    if abs(precision) > 30:
        raise TooMuch("it rounds to more than 30 digits")
    return DEFAULT_FILTERS["round"](value, precision, method)


def _sum(value, attribute=None, start=0):
    return sum((item for item in value if isinstance(item, (int, float))), start if isinstance(start, (int, float)) else 0)


def _escape(text):
    text = printed(text)
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&#39;"), ('"', "&#34;")):
        text = call_method("replace", text, char, entity)
    return text


def _on_text(name: str) -> Callable:
    return lambda text, *args: call_method(name, printed(text), *args)


_READ_LITTLE = set("map reject rejectattr select selectattr d default first last length count items list attr reverse".split())
_JINJAS_OWN = "abs dictsort float groupby int max min sort title truncate unique wordcount".split()  # a new string of theirs is marked as a whole
_OURS = {
    **{name: _on_text(name) for name in ("upper", "lower", "capitalize")},
    "trim": lambda text, chars=None: call_method("strip", printed(text), chars),
    "format": lambda form, *args: modulo(printed(form), args),
    "join": pass_context(_join),
    "string": printed,
    "safe": printed,
    "e": _escape,
    "escape": _escape,
    "tojson": to_json,
    "replace": _replace,
    "indent": _indent,
    "round": _round,
    "sum": _sum,
}


def _guarded(name: str, inner: Callable) -> Callable:
    @wraps(inner)
    def filtered(*args, **kwargs):
        values = [value for value in (*args, *kwargs.values()) if not isinstance(value, Context)]
        charge(sum(len(value) if name in _READ_LITTLE and hasattr(value, "__len__") else size(value) for value in values))
        result = checked(inner(*args, **kwargs))
        made_anew = type(result) is str and name in (*_JINJAS_OWN, "indent")
        return marked.covered(result) if made_anew and marked.has_marks(values) else result

    return filtered


_ALLOWED = {**{name: DEFAULT_FILTERS[name] for name in (*_READ_LITTLE, *_JINJAS_OWN)}, **_OURS}
FILTERS = {name: _guarded(name, inner) for name, inner in _ALLOWED.items()}


# ---------------------------------------------------------------- what may be called


class Space(Namespace):
    """`namespace(…)`; no name in it may look like one of Python's own."""

    def __init__(*args, **kwargs):  # like jinja2's, so that namespace(self=…) works
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _named(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name, value):
        Namespace.__setitem__(self, _named(name), value)


def _named(name):
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace with {name!r:.50} in it is not allowed")
    return name


def _range(*args):
    made = range(*args)
    if len(made) > LIMIT_RANGE:
        raise TooMuch(f"it makes a range of more than {LIMIT_RANGE:,}")
    return made


def _raise_exception(message=""):
    raise Refused(printed(message))


def _strftime_now(form):
    text = datetime.datetime.now().strftime(str.__str__(form)[:200])
    return marked.covered(text) if marked.has_marks(form) else text


FUNCTIONS = {"range": _range, "namespace": Space, "dict": dict, "raise_exception": _raise_exception, "strftime_now": _strftime_now}


def call_object(target: Any, args: tuple, kwargs: dict) -> Any:
    """`target(*args, **kwargs)` if a template may call it."""
    kwargs = {name: value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")}  # jinja2's own
    if isinstance(target, Undefined):
        return target()  # jinja2's own words on what is not defined
    if any(target is function for function in FUNCTIONS.values()):
        charge(sum(size(value) for value in (*args, *kwargs.values())))
        return checked(target(*args, **kwargs))
    if isinstance(target, types.FunctionType):
        target = getattr(target, "__wrapped__", target)  # jinja2 hands out str.format wrapped
    owner, name = getattr(target, "__self__", None), getattr(target, "__name__", None)
    if isinstance(owner, LoopContext) and isinstance(target, types.MethodType) and name in ("cycle", "changed"):
        return target(*args)
    if isinstance(target, types.BuiltinMethodType):
        if isinstance(owner, str) and name in STRING_METHODS:
            return call_method(name, owner, *args, **kwargs)
        if name in OTHER_METHODS.get(type(owner), ()):
            charge(len(owner) + sum(map(size, args)))
            return checked(target(*args, **kwargs))
    raise SecurityError(f"{name or type(target).__name__} is not to be called")
