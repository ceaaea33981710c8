"""Many ids → text through the native decoder, which writes each token's bytes one after another.

    ["▁Hi", "<0x21>"]  →  b" Hi" + b"!"  →  without the first space "Hi!"

What a token reads as is asked of the Python decoders once for each token: as the first of a text, and elsewhere.

Leaves out: decoders that look at neighbours in other ways (CTC, BPEDecoder); Python serves these.
"""

import numpy as np

from pikojax.text.native import NativeDecoder, NativeError


class FastDecoder:
    """`tokenizer.decode` for decoders that read each token by itself (but for the first, and for runs of bytes)."""

    def __init__(self, native: NativeDecoder, strip_one: bool):
        self.native, self.strip_one = native, strip_one

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """uint8[n], the bytes of the text."""
        data = self.native.decode(ids)
        return data[1:] if self.strip_one and data.size and data[0] == ord(" ") else data


_LLAMA = [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]


def make(tokenizer) -> FastDecoder | None:
    """None for decoders that are not of the known shapes, and without native code."""
    from pikojax.text import decoders

    tree = tokenizer.tree.get("decoder") or {}
    tokens = tokenizer._shown
    ids = np.fromiter(tokens, np.int32, len(tokens))
    try:
        if tree.get("type") == "ByteLevel":
            return FastDecoder(NativeDecoder(_blob(tokens.values()), ids, alphabet=1), False)
        if tree.get("type") in decoders.TOKEN_BY_TOKEN:
            one = decoders.TOKEN_BY_TOKEN[tree["type"]](tree)
            rest, first = ([one(token, is_first) for token in tokens.values()] for is_first in (False, True))
            return FastDecoder(NativeDecoder(_blob(rest), ids, first=_blob(first)), False)
        parts = tree.get("decoders") or [] if tree.get("type") == "Sequence" else []
        strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        if parts in (_LLAMA, [*_LLAMA, strip]):
            texts = [token.replace("▁", " ") for token in tokens.values()]
            return FastDecoder(NativeDecoder(_blob(texts), ids, byte_fallback=True), parts[-1] == strip)
    except NativeError:
        pass
    return None


def _blob(texts) -> bytes:
    return b"".join(text.encode("utf-8", "surrogatepass") + b"\xff" for text in texts)
