"""The shape of Hugging Face's tokenizer.json: reading it from a file that may be hostile, and writing it.

    {"added_tokens": […], "normalizer": {"type": …} | null, "pre_tokenizer": …, "post_processor": …, "decoder": …, "model": {…}}

A file is read once, checked key by key as its parts are built (`field`), and refused in one line that names the key. Numbers
that JSON does not have (NaN), text that is no Unicode, and ids beyond any real vocabulary are refused here.

Leaves out: what the parts do; each is built in its own file.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pikojax.config import UserError, require

ID_LIMIT = 2**22  # the largest vocabularies have a few 100,000 tokens; a list of ids up to here is still cheap
LIMIT_BYTES = 256 << 20  # of a file; the largest there are have some 30 MB
LIMIT_PARTS, LIMIT_PATTERNS = 200, 3_000
_MISSING = object()
_NAMES = {str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list", dict: "an object"}


def read_limited(file: Path) -> bytes:
    """The content of a JSON file, if it begins like one and is no larger than one may be. An endless file is read up to the limit."""
    with open(file, "rb") as opened:
        content = opened.read(4096)
        require(content.lstrip()[:1] in (b"{", b"[", b""), f"{file} is not JSON; give a tokenizer.json in Hugging Face's shape")
        content += opened.read(LIMIT_BYTES + 1 - len(content))
    wanted = f"give a tokenizer.json of at most {LIMIT_BYTES >> 20} MB, or cut its vocabulary"
    require(len(content) <= LIMIT_BYTES, f"{file} is larger than {LIMIT_BYTES >> 20} MB; {wanted}")
    return content


def read_up_to(file: Path, limit_bytes: int, what: str) -> bytes:
    """A whole file that is no larger than `what` may be; one without end is read up to the limit."""
    with open(file, "rb") as opened:
        content = opened.read(limit_bytes + 1)
    require(len(content) <= limit_bytes, f"{file} is larger than {limit_bytes >> 20} MB, {what} is not; give another file")
    return content


def read_tree(file: Path) -> dict:
    try:
        content = read_limited(file)
    except OSError as error:
        raise UserError(f"cannot read the tokenizer {file} ({error.strerror}); give a tokenizer.json or a folder that has one") from None
    tree = parsed(content, file, "give a tokenizer.json in Hugging Face's shape")
    model = tree.get("model") if isinstance(tree, dict) else None
    require(isinstance(model, dict), f"{file} has no model; give a tokenizer.json in Hugging Face's shape")
    return tree


def parsed(content: bytes, file: Path, remedy: str) -> Any:
    """JSON in which no key stands twice: which of the two would hold, readers do not agree on."""
    try:
        text = content.decode()
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
    except _Twice as twice:
        raise UserError(f"{file} has the key {shown(twice.args[0])} twice; {remedy}") from None
    except RecursionError:
        raise UserError(f"{file} is nested too deep; {remedy}") from None
    except json.JSONDecodeError as error:
        begun = text.lstrip()[:1] in ("{", "[") and (error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"))
        raise UserError(f"{file} is cut short; download it again" if begun else f"{file} is not JSON; {remedy}") from None
    except (ValueError, MemoryError):
        raise UserError(f"{file} is not JSON; {remedy}") from None


class _Twice(Exception):
    pass


def _once(pairs: list) -> dict:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        raise _Twice(next(name for name, _ in pairs if name in seen or seen.add(name)))
    return made


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def shown(value: Any) -> str:
    """A value of a file for an error line: one line, not long."""
    text = ascii(value) if isinstance(value, str | int | float | None) else f"{_NAMES.get(type(value), 'something else')}"
    return text if len(text) <= 60 else f"{text[:60]}…"


def field(part: Any, name: str, wanted: type | tuple, default: Any = _MISSING, what: str | None = None) -> Any:
    """`part[name]` if it is of the type wanted; None and a missing key give the default, where there is one."""
    require(isinstance(part, Mapping), f"a part of the tokenizer is {shown(part)}; it must be an object")
    value = part.get(name)
    what = what or part.get("type") or "a part of the tokenizer"
    if value is None:
        require(default is not _MISSING, f"{shown(what)} has no {name!r}; add it")
        return default
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    good = isinstance(value, wanted) and (bool in wanted or not isinstance(value, bool))
    if good and isinstance(value, int) and float in wanted:
        good = abs(value) < 2**63
    require(good, f"{name} of {shown(what)} is {shown(value)}; it must be {' or '.join(_NAMES.get(kind, str(kind)) for kind in wanted)}")
    if isinstance(value, float):
        require(math.isfinite(value), f"{name} of {shown(what)} is not a finite number")
    if isinstance(value, str):
        check_unicode(value, f"{name} of {shown(what)}")
    return value


def character(part: Mapping, name: str, default: Any = _MISSING) -> str:
    value = field(part, name, str, default)
    require(len(value) == 1, f"{name} of {shown(part.get('type'))} is {shown(value)}; it must be one character")
    return value


def pattern_of(part: Mapping) -> tuple[str, bool]:
    """(the pattern, whether it is a regular expression) of {"pattern": {"String": …} | {"Regex": …}}"""
    pattern = part.get("pattern")
    if isinstance(pattern, str):
        pattern = {"String": pattern}
    names = [name for name in ("String", "Regex") if isinstance(pattern, dict) and isinstance(pattern.get(name), str)]
    require(len(names) == 1, f"pattern of {shown(part.get('type'))} is {shown(pattern)}; give {{\"String\": …}} or {{\"Regex\": …}}")
    check_unicode(pattern[names[0]], f"pattern of {shown(part.get('type'))}")
    return pattern[names[0]], names[0] == "Regex"


def check_unicode(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{what} holds half a surrogate pair, which is no Unicode text; mend the file") from None


def build(part: Any, kinds: Mapping[str, Callable], what: str, depth: int = 0) -> Any:
    """The part made by the function that `kinds` has for its type; an unknown type is refused by name."""
    require(depth < 20, f"the {what}s are nested more than 20 deep; flatten the Sequence")
    kind = field(part, "type", str, what=what)
    require(kind in kinds, f"the {what} {shown(kind)} is not known here; those known are: {', '.join(sorted(kinds))}")
    return kinds[kind](part, depth) if kind == "Sequence" else kinds[kind](part)


def check_size(tree: Mapping) -> int:
    """Refuses more parts or longer regular expressions than a file needs: each costs time to make. The number of normalizers."""
    counts, patterns = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"), 0), set()
    for name in counts:
        stack = [tree.get(name)]
        while stack:
            part = stack.pop()
            if isinstance(part, dict):
                counts[name] += "type" in part
                patterns |= {part["Regex"]} if isinstance(part.get("Regex"), str) else set()
            if isinstance(part, dict | list):
                stack += part.values() if isinstance(part, dict) else part
    n_parts, n_chars = sum(counts.values()), sum(map(len, patterns))
    require(n_parts <= LIMIT_PARTS, f"it has {n_parts} normalizers, pre-tokenizers and the like; give at most {LIMIT_PARTS}")
    wanted = f"the patterns of its parts have {n_chars} characters together; give at most {LIMIT_PATTERNS}"
    require(len(patterns) < 2 or n_chars <= LIMIT_PATTERNS, wanted)  # of one alone its reader speaks
    return counts["normalizer"]


def sequence(part: Mapping, name: str) -> list:
    parts = field(part, name, list)
    require(len(parts) <= 1000, f"{name} has {len(parts)} parts; give at most 1000")
    wrong = next((part for part in parts if not isinstance(part, dict)), parts)
    require(wrong is parts, f"{name} holds {shown(wrong)}; each part must be an object")
    return parts


# ---------------------------------------------------------------- vocabularies


def vocabulary(model: Mapping) -> dict[str, int]:
    """model.vocab as token → id, each id a whole number that no other token has."""
    vocab = field(model, "vocab", dict, what="the model")
    check_unicode("".join(vocab), "the vocabulary")
    ids = list(vocab.values())
    if set(map(type, ids)) - {int} or ids and not 0 <= min(ids) <= max(ids) < ID_LIMIT:
        token, bad = next((t, i) for t, i in vocab.items() if type(i) is not int or not 0 <= i < ID_LIMIT)
        raise UserError(f"the token {shown(token)} has the id {shown(bad)}; ids must be whole numbers from 0 to {ID_LIMIT - 1}")
    if len(set(ids)) < len(ids):
        seen: dict[int, str] = {}
        token, other = next((t, seen[i]) for t, i in vocab.items() if seen.setdefault(i, t) != t)
        raise UserError(f"the tokens {shown(other)} and {shown(token)} have the same id {vocab[token]}; give each its own")
    return vocab


def scored_vocabulary(model: Mapping) -> list[tuple[str, float]]:
    """model.vocab of Unigram: a list of [token, log probability], the id being the place."""
    vocab = field(model, "vocab", list, what="the model")
    require(len(vocab) < ID_LIMIT, f"the vocabulary has {len(vocab)} tokens; {ID_LIMIT - 1} are possible")
    for entry in vocab:
        good = type(entry) is list and len(entry) == 2 and type(entry[0]) is str
        if not good or type(entry[1]) not in (int, float) or not abs(entry[1]) < 1e300:
            raise UserError(f"the vocabulary holds {shown(str(entry)[:60])}; each entry must be [token, finite score]")
    check_unicode("".join(token for token, _ in vocab), "the vocabulary")
    number = float if model.get("float32") else as_hugging_face_reads
    return [(token, number(score)) for token, score in vocab]


def as_hugging_face_reads(number: float) -> float:
    """The float64 that its JSON reader makes of a decimal number: all digits as one number, then divided by a power of ten.

    This rounds twice, so every few numbers the last bit is another than the nearest, and sums that tie here differ there.
    """
    digits, _, exponent = repr(float(number)).partition("e")
    whole, _, fraction = digits.partition(".")
    fraction = "" if fraction == "0" else fraction
    power = int(exponent or 0) - len(fraction)
    value = float(int(whole + fraction))
    return value * 10.0**power if power >= 0 else value / 10.0**-power if power > -23 else float(number)


def merge_list(model: Mapping, vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """model.merges as pairs, each of known tokens with a known concatenation. Files have pairs, or "left right" as text."""
    merges, prefix = field(model, "merges", list, [], what="the model"), field(model, "continuing_subword_prefix", str, "")
    pairs = []
    for entry in merges:
        merge = entry.split(" ") if isinstance(entry, str) else entry
        if isinstance(entry, str) and entry.startswith("#version"):
            continue
        if type(merge) is not list or len(merge) != 2 or type(merge[0]) is not str or type(merge[1]) is not str:
            raise UserError(f"merges holds {shown(str(entry)[:60])}; each must be two tokens")
        left, right = merge
        joined = left + right[len(prefix) :]
        if left not in vocab or right not in vocab or joined not in vocab:
            missing = next(token for token in (left, right, joined) if token not in vocab)
            raise UserError(f"the merge of {shown(left)} and {shown(right)} needs the token {shown(missing)}, which the vocabulary lacks")
        pairs.append((left, right))
    return pairs


def model_type(model: Mapping) -> str | None:
    """The model's type; older files name none and are told apart by what they hold."""
    kind = model.get("type")
    if kind is not None:
        return kind if isinstance(kind, str) else shown(kind)
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    if "max_input_chars_per_word" in model or "continuing_subword_prefix" in model:
        return "WordPiece"
    return "WordLevel" if "vocab" in model and "unk_token" in model else None


# ---------------------------------------------------------------- writing


def write(tree: Mapping, path: Path) -> Path:
    """`path`: the file, or a folder that exists; written whole or not at all."""
    path = path / "tokenizer.json" if path.is_dir() else path
    text = json.dumps(tree, ensure_ascii=False, indent=1) + "\n"
    try:
        _write_whole(path, text.encode())
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose a folder that exists and can be written") from None
    return path


def _write_whole(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
