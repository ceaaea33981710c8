"""Tokens back to text. Each decoder: list of tokens → list of texts, which the next one of a Sequence takes; joined at the end.

    Llama's: Replace ▁ by a space → ByteFallback → Fuse → Strip one space at the start        ["▁Hi", "<0x21>"] → "Hi!"

`build(tree)` gives the function for a part of tokenizer.json; without one the tokens are joined by spaces, as Hugging Face does.
What the streaming decode does with the same parts is in stream.py.

Leaves out: word boundaries for alignment of speech.
"""

import re
from collections.abc import Callable

from pikojax.text import byte_level
from pikojax.text.hf_json import build as build_part
from pikojax.text.hf_json import character, field, pattern_of, sequence

Decoder = Callable[[list[str]], list[str]]


def build(tree: dict | None, depth: int = 0) -> Decoder:
    return _spaced if tree is None else build_part(tree, _KINDS, "decoder", depth)


def _spaced(tokens: list[str]) -> list[str]:
    return [" ".join(tokens)]


def _sequence(tree: dict, depth: int) -> Decoder:
    steps = [build(part, depth + 1) for part in sequence(tree, "decoders")]

    def run(tokens: list[str]) -> list[str]:
        for step in steps:
            tokens = step(tokens)
        return tokens

    return run


def _fuse(tree: dict) -> Decoder:
    return lambda tokens: ["".join(tokens)]


def _byte_level(tree: dict) -> Decoder:
    for name in ("add_prefix_space", "trim_offsets", "use_regex"):
        field(tree, name, bool, True)
    return lambda tokens: [b"".join(map(byte_level.to_bytes, tokens)).decode("utf-8", "replace")]


# ---------------------------------------------------------------- bytes of a vocabulary with <0x00> … <0xFF>

_BYTE = re.compile(r"<0x([0-9a-fA-F]{2}|\+[0-9a-fA-F])>")


def byte_of(token: str) -> int | None:
    found = _BYTE.fullmatch(token)
    return int(found[1], 16) if found else None


def bytes_as_text(run: bytes) -> list[str]:
    """A run of byte tokens is text if it is UTF-8 as a whole; if not, each of its bytes shows as a replacement character."""
    try:
        return [run.decode()] if run else []
    except UnicodeDecodeError:
        return ["\ufffd"] * len(run)


def _byte_fallback(tree: dict) -> Decoder:
    def run(tokens: list[str]) -> list[str]:
        found, pending = [], bytearray()
        for token in tokens:
            byte = byte_of(token)
            if byte is not None:
                pending.append(byte)
                continue
            found += [*bytes_as_text(bytes(pending)), token]
            pending.clear()
        return found + bytes_as_text(bytes(pending))

    return run


# ---------------------------------------------------------------- token by token


def cleanup(text: str) -> str:
    """Spaces that English does not have; within one token."""
    for old, new in _CLEANUP:
        text = text.replace(old, new)
    return text


_CLEANUP = [(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" do not", " don't"),
            (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")]  # fmt: skip


def wordpiece_token(tree: dict) -> Callable[[str, bool], str]:
    """(token, whether it is the first) → its text"""
    prefix, clean = field(tree, "prefix", str, "##"), field(tree, "cleanup", bool, True)

    def one(token: str, first: bool) -> str:
        if not first:
            token = token[len(prefix) :] if token.startswith(prefix) else f" {token}"
        return cleanup(token) if clean else token

    return one


def metaspace_token(tree: dict) -> Callable[[str, bool], str]:
    from pikojax.text.pretokenizers import metaspace_scheme

    mark, keep = character(tree, "replacement", "▁"), metaspace_scheme(tree) == "never"
    field(tree, "split", bool, True)
    return lambda token, first: token.replace(mark, "" if first and not keep else " ")


def replace_token(tree: dict) -> Callable[[str, bool], str]:
    from pikojax.text import patterns

    pattern, is_regex = pattern_of(tree)
    content = field(tree, "content", str)
    if not is_regex:
        return lambda token, first: token.replace(pattern, content)
    spans = patterns.compiled(pattern)

    def one(token: str, first: bool) -> str:
        parts, at = [], 0
        for start, end in spans(token):
            parts += [token[at:start], content]
            at = end
        return "".join(parts) + token[at:]

    return one


def strip_token(tree: dict) -> Callable[[str, bool], str]:
    char, start, stop = character(tree, "content"), field(tree, "start", int, 0), field(tree, "stop", int, 0)

    def one(token: str, first: bool) -> str:
        begin = 0
        while begin < min(start, len(token)) and token[begin] == char:
            begin += 1
        end = len(token)
        while end > begin and len(token) - end < stop and token[end - 1] == char:
            end -= 1
        return token[begin:end]

    return one


TOKEN_BY_TOKEN = {"WordPiece": wordpiece_token, "Metaspace": metaspace_token, "Replace": replace_token, "Strip": strip_token}


def _each(make: Callable[[dict], Callable[[str, bool], str]]) -> Callable[[dict], Decoder]:
    def made(tree: dict) -> Decoder:
        one = make(tree)
        return lambda tokens: [one(token, i == 0) for i, token in enumerate(tokens)]

    return made


def _bpe(tree: dict) -> Decoder:
    suffix = field(tree, "suffix", str, "</w>")
    return lambda tokens: [token.replace(suffix, " " if i + 1 < len(tokens) else "") for i, token in enumerate(tokens)]


def ctc_token(tree: dict) -> Callable[[str], str]:
    pad, space = field(tree, "pad_token", str, "<pad>"), field(tree, "word_delimiter_token", str, "|")
    clean = field(tree, "cleanup", bool, True)

    def one(token: str) -> str:
        token = token.replace(pad, "")
        return cleanup(token).replace(space, " ") if clean else token

    return one


def _ctc(tree: dict) -> Decoder:
    one = ctc_token(tree)
    return lambda tokens: [text for i, token in enumerate(tokens) if (i == 0 or token != tokens[i - 1]) and (text := one(token))]


_KINDS = {
    "BPEDecoder": _bpe,
    "ByteFallback": _byte_fallback,
    "ByteLevel": _byte_level,
    "CTC": _ctc,
    "Fuse": _fuse,
    "Sequence": _sequence,
    **{name: _each(make) for name, make in TOKEN_BY_TOKEN.items()},
}
