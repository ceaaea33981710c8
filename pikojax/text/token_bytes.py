"""The bytes that each token adds to a text, where tokens leave each other's alone: what a grammar is matched against.

    byte-level  Ġthe → b" the"      SentencePiece  ▁the → b" the", <0xC3> → b"\\xc3"      WordPiece  ##ing → b"ing", the → b" the"

These are of a token behind others: what a decoder does to the first of a text (a space that it strips) is left aside.

Leaves out: decoders whose tokens depend on their neighbours, which are refused.
"""

from collections.abc import Callable

from pikojax.config import require
from pikojax.text import byte_level, decoders
from pikojax.text.hf_json import pattern_of
from pikojax.text.stream import flat


def token_bytes(tokenizer) -> list[bytes]:
    """Of each id; b"" for special tokens, the unknown one, and ids that have none."""
    to_bytes = _decoder(tokenizer.tree.get("decoder"))
    left_out = {tokenizer.unk_id, *(tokenizer.ids[token] for token in tokenizer.specials)}
    there = [i for i, token in enumerate(tokenizer.tokens) if token]
    found = [b""] * tokenizer.vocab_size
    for i, token in zip(there, tokenizer.visible_tokens(there, False), strict=True):
        found[i] = b"" if i in left_out else to_bytes(token)
    return found


def _decoder(tree: dict | None) -> Callable[[str], bytes]:
    """token → the bytes that it adds behind others; a tokenizer whose tokens change each other's text is refused."""
    if tree is None:
        return lambda token: b" " + token.encode()
    steps, fused = [], False
    for part in flat(tree):
        kind = part["type"]
        if kind in ("ByteLevel", "ByteFallback"):
            steps.append(byte_level.to_bytes if kind == "ByteLevel" else _byte_or_text)
        elif kind == "Fuse":
            fused = True
        elif kind == "Strip" and fused:
            require(not part.get("stop"), "this tokenizer's decoder strips the end of a text, which no token tells; choose another model")
        elif kind == "Replace" and fused:
            old, is_regex = pattern_of(part)
            require(not is_regex and len(old) == 1, "this tokenizer's decoder replaces across tokens; choose another model")
            steps.append(lambda text, one=decoders.replace_token(part): one(text, False))
        else:
            known = kind in decoders.TOKEN_BY_TOKEN
            require(known, f"in this tokenizer's decoder ({kind}) tokens change each other; choose another model")
            steps.append(lambda text, one=decoders.TOKEN_BY_TOKEN[kind](part): one(text, False))

    def to_bytes(token: str) -> bytes:
        for step in steps:
            token = step(token) if isinstance(token, str) else token
        return token if isinstance(token, bytes) else token.encode()

    return to_bytes


def _byte_or_text(token: str) -> bytes | str:
    byte = decoders.byte_of(token)
    return token if byte is None else bytes([byte])
