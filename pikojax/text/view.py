"""A text with its tokens in colour: for a terminal, or as one HTML page. Nothing in a text or a vocabulary acts.

    "Hi é\\n" in bytes  →  ▏Hi▏ ▏\\xc3▏\\xa9▏↵▏      a token that is part of a character is shown as its bytes

What is shown is the text that a token covers, not the token's name in the vocabulary. Control characters, direction marks and
such are spelled out. The page is escaped text and a style sheet, forbids itself scripts and requests, and shows a token's id, name
and bytes where the pointer rests.

Leaves out: attention, probabilities, more than one tokenizer side by side.
"""

import html
import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

COLOURS = ("#ffd6a5", "#caffbf", "#9bf6ff", "#bdb2ff", "#ffc6ff", "#fdffb6")
LIMIT_CHARS = 50_000  # a page of more is slow to look at
_SPELLED = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


class Piece(NamedTuple):
    id: int | None  # None: text that no token covers, as the spaces between words in some kinds
    token: str  # its name in the vocabulary
    data: bytes  # of the text, UTF-8; empty for what the tokenizer adds
    special: bool


def pieces(tok, text: str, add_special_tokens: bool = True) -> list[Piece]:
    """The whole of `text` in order, in tokens."""
    encoded = tok.encode_with_offsets(text, add_special_tokens=add_special_tokens)
    data, out, position = text.encode(), [], 0
    spans = [tuple(span) for span in encoded.byte_spans.tolist()]
    for i, (first, last) in enumerate(spans):
        id, special = int(encoded.ids[i]), bool(encoded.special_mask[i])
        if first > position:
            out.append(Piece(None, "", data[position:first], False))
        own = data[max(first, position) : last]
        beside = spans[i - 1 : i] + spans[i + 1 : i + 2]
        if first < last and any(a < last and first < b for a, b in beside):  # tokens that share a character
            part = _bytes_of(tok, id)
            own = part if part and part in data[first:last] else own
        out.append(Piece(id, tok.id_to_token(id) or "", own, special))
        position = max(position, last)
    return out + ([Piece(None, "", data[position:], False)] if position < len(data) else [])


def _bytes_of(tok, id: int) -> bytes:
    named = re.fullmatch("<0x([0-9A-F]{2})>", tok.id_to_token(id) or "")  # byte fallback
    return bytes.fromhex(named[1]) if named else tok.decode_bytes([id])


def shown(data: bytes) -> str:
    """Bytes of a text for eyes: control characters spelled out, bytes that are no character as \\xNN."""
    return spelled(data.decode("utf-8", "backslashreplace"))


def spelled(text: str) -> str:
    return "".join(_spell(c) for c in text)


def _spell(char: str) -> str:
    if char in "\n\t":
        return "↵" if char == "\n" else "⇥"
    if unicodedata.category(char) not in _SPELLED:
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# ---------------------------------------------------------------- terminal


def to_text(found: Iterable[Piece]) -> str:
    """A mark after each token."""
    return "".join(f"{_line(piece)}▏" + ("\n" if piece.data.endswith(b"\n") else "") for piece in found)


def to_terminal(found: Iterable[Piece]):
    """A `rich.text.Text`, each token on a colour of its own; without rich, `to_text`."""
    try:
        from rich.style import Style
        from rich.text import Text
    except ImportError:
        return to_text(found)
    out = Text()
    for i, piece in enumerate(found):
        coloured = Style(color="black", bgcolor=COLOURS[i % len(COLOURS)], bold=piece.special)
        out.append(_line(piece), Style() if piece.id is None else coloured)
        if piece.data.endswith(b"\n"):
            out.append("\n")
    return out


def _line(piece: Piece) -> str:
    return shown(piece.data) if piece.data else spelled(piece.token)


# ---------------------------------------------------------------- page

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 16px/1.7 ui-monospace, monospace; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; background: #fff }}
p {{ white-space: pre-wrap; overflow-wrap: anywhere }}
b {{ font-weight: normal; unicode-bidi: isolate; border-radius: 3px; padding: 1px 0 }}
b.s {{ outline: 1px solid #888 }} b.x {{ font-style: italic; color: #555 }} b:hover {{ outline: 2px solid #000 }}
{colours}
</style></head><body>
<h1>{title}</h1>
<div>{n_tokens:,} tokens, {n_bytes:,} bytes, {per_token:.2f} bytes per token. Rest the pointer on a token for its id, name and bytes.</div>
<p>{body}</p>
</body></html>
"""


def to_html(found: Iterable[Piece], title: str = "tokens") -> str:
    found = list(found)
    n_bytes, n_tokens = sum(len(piece.data) for piece in found), sum(piece.id is not None for piece in found)
    colours = "\n".join(f"b.c{i} {{ background: {colour} }}" for i, colour in enumerate(COLOURS))
    body = "".join(_span(piece, i) for i, piece in enumerate(found))
    title, per_token = html.escape(spelled(title)), n_bytes / max(n_tokens, 1)
    return _PAGE.format(title=title, colours=colours, body=body, n_tokens=n_tokens, n_bytes=n_bytes, per_token=per_token)


def _span(piece: Piece, i: int) -> str:
    text = html.escape(_line(piece)) + ("\n" if piece.data.endswith(b"\n") else "")
    if piece.id is None:
        return text
    kind = f"c{i % len(COLOURS)}" + (" s" if piece.special else "") + ("" if _whole(piece.data) else " x")
    about = f"id {piece.id}, token {spelled(piece.token)}, " + (f"bytes {piece.data.hex(' ')}" if piece.data else "added by the tokenizer")
    return f'<b class="{kind}" title="{html.escape(about)}">{text}</b>'


def _whole(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
