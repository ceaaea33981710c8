"""What every tokenizer shares: special tokens inside a text, ids back to text, streaming, and files.

    encode:  text → special tokens | plain stretches → each stretch by the kind's own `encode_plain` → int32 ids
    decode:  ids → tokens → text; a kind may glue them in its own way

A kind is a subclass that knows how to encode a plain stretch and how to write itself as `tokenizer.json` (the shape of
Hugging Face's `tokenizers`, which loads our files and agrees with them). `load` chooses the kind by the file's model type.

`decode` shows special tokens, so that `decode(encode(x))` is x; `skip_special_tokens=True` leaves them out.
Leaves out: normalizers, post-processors, pairs of texts, offsets.
"""

import json
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pikojax.config import UserError, require

EOS = "<|endoftext|>"  # what we put between documents
UNK = "<unk>"
EOS_NAMES = (EOS, "<|end_of_text|>", "</s>", "<eos>", "[EOS]")  # what others call it


class Tokenizer:
    """`tokens[id]` is the text of an id; `specials` are the tokens that are parsed out of a text before anything else."""

    def __init__(self, tokens: Sequence[str], specials: Collection[str] = ()):
        self.tokens = list(tokens)
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.specials = tuple(sorted(specials, key=self.ids.__getitem__))
        self.eos_id = next((self.ids[name] for name in EOS_NAMES if name in self.specials), None)
        self.unk_id: int | None = None

    # what a kind brings

    def encode_plain(self, text: str) -> np.ndarray:
        raise NotImplementedError

    def to_json(self) -> dict:
        raise NotImplementedError

    def safe_cut(self, text: str) -> int:
        """The last place where `text` may be cut so that the parts encode as the whole does; 0: nowhere."""
        return 0

    # what all share

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    @property
    def n_special(self) -> int:
        return len(self.specials)

    def token_to_id(self, token: str) -> int | None:
        return self.ids.get(token)

    def id_to_token(self, id: int) -> str | None:
        return self.tokens[id] if 0 <= id < len(self.tokens) else None

    def encode(
        self, text: str, add_special_tokens: bool = True, allowed_special: Literal["all"] | Collection[str] = "all"
    ) -> np.ndarray:
        """int32 ids. `allowed_special=()` reads special tokens in `text` as plain text. (No kind here frames its text, so
        `add_special_tokens` changes nothing yet.)"""
        allowed = self._allowed(allowed_special)
        if not any(token in text for token in allowed):
            return self.encode_plain(text)
        longest_first = sorted(allowed, key=len, reverse=True)  # leftmost, then longest, as Hugging Face does
        parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
        ids = [
            np.array([self.ids[part]], np.int32) if i % 2 else self.encode_plain(part) for i, part in enumerate(parts) if part
        ]
        return np.concatenate(ids)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        ids = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), np.int64)
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            bad = int(ids[(ids < 0) | (ids >= self.vocab_size)][0])
            raise UserError(f"id {bad} is not in this tokenizer's vocabulary of {self.vocab_size}; it belongs to another tokenizer")
        tokens = map(self.tokens.__getitem__, ids.tolist())
        if skip_special_tokens:
            tokens = (token for token in tokens if token not in self.specials)
        return "".join(tokens)

    def stream(self, skip_special_tokens: bool = False) -> "TextStream":
        return TextStream(self, skip_special_tokens)

    def save(self, path: str | os.PathLike) -> Path:
        """Write `tokenizer.json` (`path`: the file, or a folder that exists), whole or not at all."""
        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        text = json.dumps(self.to_json(), ensure_ascii=False, indent=1) + "\n"
        try:
            _write_whole(path, text.encode())
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}); choose a folder that exists and can be written") from None
        return path

    def _allowed(self, allowed_special: Literal["all"] | Collection[str]) -> Collection[str]:
        if isinstance(allowed_special, str):
            require(allowed_special == "all", f"allowed_special = {allowed_special!r}; give 'all' or a collection of special tokens")
            return self.specials
        for token in allowed_special:
            require(token in self.specials, f"{token!r} is no special token of this tokenizer; it has: {', '.join(self.specials) or 'none'}")
        return allowed_special


class TextStream:
    """Ids in one by one, text out as soon as it is certain; the pieces joined are `decode` of all ids."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool):
        self.tokenizer, self.skip_special_tokens = tokenizer, skip_special_tokens

    def push(self, id: int) -> str:
        return self.tokenizer.decode([int(id)], self.skip_special_tokens)

    def finish(self) -> str:
        return ""  # these kinds never hold text back: every token is whole characters


def load(path: str | os.PathLike) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`, or in a folder that has one."""
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tree = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read the tokenizer {file} ({error.strerror}); give a tokenizer.json or a folder that has one") from None
    except (ValueError, RecursionError):
        raise UserError(f"{file} is not JSON; give a tokenizer.json in Hugging Face's shape") from None
    model = tree.get("model") if isinstance(tree, dict) else None
    require(isinstance(model, dict), f"{file} has no model; give a tokenizer.json in Hugging Face's shape")
    kind = model.get("type") or ("BPE" if "merges" in model else None)  # older BPE files name no type
    require(kind in _LOADERS, f"{file} holds a tokenizer of type {kind!r}; the types known here are: {', '.join(_LOADERS)}")
    return _LOADERS[kind](tree, file)


def _load_word_level(tree: dict[str, Any], file: Path) -> Tokenizer:
    from pikojax.text.wordlevel import from_json

    return from_json(tree, file)


_LOADERS = {"WordLevel": _load_word_level}


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
