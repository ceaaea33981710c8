"""Streaming decode: ids in one by one, text out as soon as nothing that follows can change it; joined it is `decode` of all ids.

    [Ġn, Ã, ©]  →  " n", "", "é"      half a character waits for the rest of it; `finish` gives what still waits

Each decoder becomes a stage that is fed token by token and says what it is sure of. Up to the stage that makes one text of all
tokens (Fuse, ByteLevel) the unit is a token; behind it, a bit of that one text.

    holds back:  ByteLevel up to 3 bytes · ByteFallback a run of byte tokens · BPEDecoder, and Strip at the end, the last few
    characters · Replace behind Fuse what may be the beginning of a match · the rest behind Fuse (nobody has such) everything

Leaves out: going back. What was handed out is never changed.
"""

import codecs
from collections.abc import Callable

from pikojax.text import byte_level, decoders
from pikojax.text.hf_json import character, field, pattern_of


class Each:
    """One token in, one out."""

    def __init__(self, one: Callable[[str, bool], str]):
        self.one, self.first = one, True

    def push(self, token: str) -> list[str]:
        first, self.first = self.first, False
        return [self.one(token, first)]

    def finish(self) -> list[str]:
        return []


class ByteFallback:
    def __init__(self):
        self.run = bytearray()

    def push(self, token: str) -> list[str]:
        byte = decoders.byte_of(token)
        if byte is None:
            return [*self.finish(), token]
        self.run.append(byte)
        return []

    def finish(self) -> list[str]:
        run, self.run = bytes(self.run), bytearray()
        return decoders.bytes_as_text(run)


class Utf8:
    """ByteLevel: the bytes of a character may come in several tokens."""

    def __init__(self):
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: str) -> list[str]:
        return [self.decoder.decode(byte_level.to_bytes(token))]

    def finish(self) -> list[str]:
        return [self.decoder.decode(b"", True)]


class LastDiffers:
    """BPEDecoder: the mark at the end of a word is a space, but not behind the last word."""

    def __init__(self, suffix: str):
        self.suffix, self.last = suffix, None

    def push(self, token: str) -> list[str]:
        last, self.last = self.last, token
        return [] if last is None else [last.replace(self.suffix, " ")]

    def finish(self) -> list[str]:
        return [] if self.last is None else [self.last.replace(self.suffix, "")]


class Ctc:
    def __init__(self, one: Callable[[str], str]):
        self.one, self.last = one, None

    def push(self, token: str) -> list[str]:
        last, self.last = self.last, token
        text = "" if token == last else self.one(token)
        return [text] if text else []

    def finish(self) -> list[str]:
        return []


# ---------------------------------------------------------------- behind Fuse: bits of one text


class StripText:
    def __init__(self, char: str, start: int, stop: int):
        self.char, self.start, self.stop, self.held = char, start, stop, ""

    def push(self, text: str) -> list[str]:
        while self.start and text.startswith(self.char):
            text, self.start = text[1:], self.start - 1
        if text:
            self.start = 0
        text = self.held + text
        kept = len(text)
        while kept and len(text) - kept < self.stop and text[kept - 1] == self.char:
            kept -= 1
        self.held = text[kept:]
        return [text[:kept]]

    def finish(self) -> list[str]:
        return []


class ReplaceText:
    def __init__(self, old: str, new: str):
        self.old, self.new, self.held = old, new, ""

    def push(self, text: str) -> list[str]:
        *done, rest = (self.held + text).split(self.old)
        begun = next((n for n in range(min(len(rest), len(self.old) - 1), 0, -1) if rest.endswith(self.old[:n])), 0)
        self.held = rest[len(rest) - begun :]
        return [self.new.join([*done, rest[: len(rest) - begun]])]

    def finish(self) -> list[str]:
        return [self.held]


class Whole:
    """A decoder of which nothing is known but what it makes of the whole text."""

    def __init__(self, decode: decoders.Decoder):
        self.decode, self.parts = decode, []

    def push(self, text: str) -> list[str]:
        self.parts.append(text)
        return []

    def finish(self) -> list[str]:
        return self.decode(["".join(self.parts)])


# ---------------------------------------------------------------- the chain


def stages(tree: dict | None) -> list:
    """The stages of a decoder, fresh."""
    if tree is None:
        return [Each(lambda token, first: token if first else f" {token}")]
    made, fused = [], False
    for part in flat(tree):
        kind = part["type"]
        made += _fused_stage(part) if fused else _stage(part)
        fused = fused or kind in ("Fuse", "ByteLevel")
    return made


def flat(tree: dict) -> list[dict]:
    return [part for inner in tree["decoders"] for part in flat(inner)] if tree["type"] == "Sequence" else [tree]


def _stage(part: dict) -> list:
    kind = part["type"]
    if kind in decoders.TOKEN_BY_TOKEN:
        return [Each(decoders.TOKEN_BY_TOKEN[kind](part))]
    if kind == "BPEDecoder":
        return [LastDiffers(field(part, "suffix", str, "</w>"))]
    make = {"ByteFallback": ByteFallback, "ByteLevel": Utf8, "CTC": lambda: Ctc(decoders.ctc_token(part))}.get(kind)
    return [make()] if make else []  # Fuse: nothing to do, the texts are joined anyway


def _fused_stage(part: dict) -> list:
    kind = part["type"]
    if kind == "Fuse":
        return []
    if kind == "Strip":
        return [StripText(character(part, "content"), field(part, "start", int, 0), field(part, "stop", int, 0))]
    if kind == "Replace" and pattern_of(part)[0] and not pattern_of(part)[1]:
        return [ReplaceText(pattern_of(part)[0], field(part, "content", str))]
    return [Whole(decoders.build(part))]


class TextStream:
    """`push(id)` → the text that is certain now; `finish()` → the rest. Use it once."""

    def __init__(self, tokenizer, skip_special_tokens: bool = False):
        self.tokenizer, self.skip_special_tokens = tokenizer, skip_special_tokens
        self.stages = stages(tokenizer.tree.get("decoder"))

    def push(self, id: int) -> str:
        return "".join(self._feed(self.tokenizer.visible_token(int(id), self.skip_special_tokens), 0))

    def finish(self) -> str:
        text = ""
        for i, stage in enumerate(self.stages):
            text += "".join(self._feed(stage.finish(), i + 1))
        self.stages = []
        return text

    def _feed(self, tokens: list[str], first: int) -> list[str]:
        for stage in self.stages[first:]:
            tokens = [text for token in tokens for text in stage.push(token)]
        return tokens
