"""Bytes as printable characters, GPT-2's way, so that a vocabulary of byte strings can be a JSON file.

    " né" —UTF-8→ 20 6e c3 a9 —table→ "ĠnÃ©"      the 188 bytes that print stand for themselves, the other 68 are U+0100 and on

Leaves out: what is merged or split; that is BPE's and the pre-tokenizer's.
"""

_PRINT = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_REST = [byte for byte in range(256) if byte not in _PRINT]
CHARS = [chr(byte) if byte in _PRINT else chr(256 + _REST.index(byte)) for byte in range(256)]  # byte → character
BYTES = {char: byte for byte, char in enumerate(CHARS)}
_TABLE = dict(enumerate(CHARS))


def to_chars(text: str) -> str:
    """Bytes that were no UTF-8 stand in `text` as Python's surrogate escapes and come out as themselves."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1").translate(_TABLE)


def to_bytes(token: str) -> bytes:
    """A token's bytes; one with a character that is no byte (an added token, say) means its own UTF-8."""
    try:
        return bytes(map(BYTES.__getitem__, token))
    except KeyError:
        return token.encode("utf-8", "replace")
