"""What a tokenizer is and how it does on a text: its parts, its fertility, its speed.

    tokens per word = ids / runs of characters without white space;   bytes per token = UTF-8 bytes / ids

`speed` times whole passes over documents of which each is encoded once in a pass, with a tokenizer opened anew for each pass, so
that nothing remembered from one pass helps the next. What is timed is the call that a user makes: str in, int32 ids out, and back.

Leaves out: the time to open the file; comparing with other libraries (experiments do that in one run for both sides).
"""

import os
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pikojax.config import UserError, require

DOCUMENT_BYTES = 100_000
_word = re.compile(r"\S+")


def describe(tok, n_longest: int = 10) -> dict:
    """The parts of the pipeline by name, the vocabulary's size, the special tokens and the longest others."""
    tree = tok.to_json()
    model = tree.get("model") or {}
    kind = model.get("type") or ("BPE" if "merges" in model else "unknown")
    specials = {token: int(tok.token_to_id(token)) for token in tok.specials}
    others = [(token, i) for i in range(tok.vocab_size) if (token := tok.id_to_token(i)) is not None and token not in specials]
    longest = sorted(others, key=lambda entry: (-len(entry[0]), entry[1]))[:n_longest]
    return {
        "kind": kind.lower(),
        "vocab_size": tok.vocab_size,
        **{part: _named(tree.get(part)) for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder")},
        "specials": specials,
        "longest_tokens": [{"id": i, "token": token, "text": tok.decode([i])} for token, i in longest],
    }


def _named(part) -> str | None:
    """"Sequence(NFC, ByteLevel)" for a part of a tokenizer.json."""
    if not isinstance(part, dict):
        return None
    inner = next((part[key] for key in ("normalizers", "pretokenizers", "processors", "decoders") if isinstance(part.get(key), list)), None)
    return str(part.get("type")) + (f"({', '.join(str(_named(each)) for each in inner)})" if inner is not None else "")


def fertility(tok, texts: Iterable[str]) -> dict:
    """How finely `texts` are cut, and whether they come back as they were."""
    n_bytes = n_words = n_tokens = n_unk = n_docs = exact = 0
    for text in texts:
        ids = tok.encode(text, add_special_tokens=False)
        n_docs += 1
        n_bytes += len(text.encode())
        n_words += sum(1 for _ in _word.finditer(text))
        n_tokens += len(ids)
        n_unk += int((ids == tok.unk_id).sum()) if tok.unk_id is not None else 0
        exact += tok.decode(ids) == text
    require(n_tokens > 0, "the text is empty; give one with words in it")
    return {
        "bytes": n_bytes,
        "words": n_words,
        "tokens": n_tokens,
        "tokens_per_word": n_tokens / n_words if n_words else None,
        "bytes_per_token": n_bytes / n_tokens,
        "unk_share": n_unk / n_tokens,
        "comes_back_exactly": exact == n_docs,
    }


def speed(
    open_tokenizer: Callable, texts: Sequence[str], threads: int = 1, passes: int = 3, budget_s: float = 60.0, on_progress: Callable | None = None
) -> dict:
    """Megabytes of UTF-8 encoded and decoded in a second: the median of `passes`, fewer where these would take over `budget_s`."""
    n_bytes = sum(len(text.encode()) for text in texts)
    require(n_bytes > 0, "the text is empty; give one with words in it")
    encode_s, decode_s = [], []
    while len(encode_s) < passes and (not encode_s or sum(encode_s + decode_s) * (1 + 1 / len(encode_s)) < budget_s):
        tok = open_tokenizer()
        first = tok.encode(texts[0][:200], add_special_tokens=False)
        tok.decode(np.resize(first, 512) if len(first) else first)  # both build on first use; the native decoder is made for many ids alone
        start_s = time.perf_counter()
        if threads == 1:
            encoded = [tok.encode(text, add_special_tokens=False) for text in texts]
        else:
            encoded = tok.encode_batch(list(texts), threads=threads, add_special_tokens=False)
        encode_s.append(time.perf_counter() - start_s)
        start_s = time.perf_counter()
        for ids in encoded:
            tok.decode(ids)
        decode_s.append(time.perf_counter() - start_s)
        if on_progress:
            on_progress("pass", len(encode_s), passes)
    return {
        "encode_mb_per_s": n_bytes / 1e6 / statistics.median(encode_s),
        "decode_mb_per_s": n_bytes / 1e6 / statistics.median(decode_s),
        "slowest_encode_mb_per_s": n_bytes / 1e6 / max(encode_s),
        "tokens": sum(map(len, encoded)),
        "bytes": n_bytes,
        "documents": len(texts),
        "threads": threads,
        "passes": len(encode_s),
    }


# ---------------------------------------------------------------- corpora


def files_of(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """Every file that `paths` stand for: a file for itself, a folder for all within."""
    files: list[Path] = []
    for path in map(Path, paths):
        require(path.exists(), f"there is no {path}; give text files, or folders of them")
        files += sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    require(bool(files), f"there are no files in {', '.join(map(str, paths))}; give text files")
    return files


def documents(paths: Iterable[str | os.PathLike], size: int = DOCUMENT_BYTES) -> Iterator[str]:
    """The text of files, cut at line ends into documents of about `size` bytes; a longer line stays whole."""
    for file in files_of(paths):
        try:
            with open(file, "rb") as source:
                while lines := source.readlines(size):
                    yield b"".join(lines).decode()
        except OSError as error:
            raise UserError(f"cannot read {file} ({error.strerror}); give text files") from None
        except UnicodeDecodeError:
            raise not_utf8(file) from None


def not_utf8(file: Path) -> UserError:
    return UserError(f"{file} is not UTF-8; convert it, as with iconv -t utf-8, or leave it out")
