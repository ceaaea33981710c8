"""The programs whose ids ours must give, opened on the same files, and texts by the hundred thousand that are apt to show a difference.

    vocabulary(name) → (ours, theirs);    strings(rng, n, words) → n texts;    smallest(text, differs) → the shortest that still differs

Leaves out: invalid UTF-8, which no peer takes as it comes; test_text_exact.py says what is asked of it.
"""

import functools
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from text_relatives import FAMILIES, tree

from pikojax.text import load
from pikojax.text.tokenizer import Tokenizer

DATA = Path(os.environ.get("PIKOJAX_DATA") or Path(__file__).parent.parent.parent / "shared" / "data")
NAMES = ("pile_tokenizer.json", "gpt2.json", "cl100k_base.tiktoken", "llama2.json", "llama2.model", "fineweb_wordpiece.json", "bert_base_cased.json",
         "simplestories-4096.json", "fineweb_unigram.json")  # fmt: skip


class Peer(NamedTuple):
    encode: Callable[[Sequence[str]], list[list[int]]] | None  # special tokens in the text are theirs; None: it cannot
    plain: Callable[[Sequence[str]], list[list[int]]]  # special tokens in the text are text
    decode: Callable[[Sequence[list[int]]], list[str]]


@functools.cache
def ours(name: str):
    path = DATA / "tokenizers" / (FAMILIES[name][0] if name in FAMILIES else name)
    if not path.exists():
        pytest.skip(f"no {path}; PIKOJAX_DATA names the folder of the test data")
    return Tokenizer.from_tree(tree(name, path.parent)) if name in FAMILIES else load(path)


@functools.cache
def theirs(name: str) -> Peer:
    path = str(DATA / "tokenizers" / name)
    if name in FAMILIES:
        return _hugging_face(json.dumps(tree(name, DATA / "tokenizers")))
    if name.endswith(".json"):
        return _hugging_face(Path(path).read_text(encoding="utf-8"))
    return _tiktoken(name) if name.endswith(".tiktoken") else _sentencepiece(path)


def _hugging_face(content: str) -> Peer:
    tokenizers = pytest.importorskip("tokenizers", reason="`tokenizers` is not installed: no live comparison")

    def opened(specials_are_text: bool):
        tokenizer = tokenizers.Tokenizer.from_str(content)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = specials_are_text
        return tokenizer, lambda texts: [each.ids for each in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    (tokenizer, encode), (_, plain) = opened(False), opened(True)
    return Peer(encode, plain, lambda ids: tokenizer.decode_batch(list(ids), skip_special_tokens=False))


def _tiktoken(name: str) -> Peer:
    tiktoken = pytest.importorskip("tiktoken", reason="`tiktoken` is not installed: no live comparison")
    from pikojax.text import patterns, rank_file

    ranks = {token: rank for rank, token in rank_file.read_ranks(DATA / "tokenizers" / name).items()}
    specials = {entry["content"]: entry["id"] for entry in ours(name).tree["added_tokens"]}
    peer = tiktoken.Encoding(name, pat_str=patterns.PATTERNS["cl100k"], mergeable_ranks=ranks, special_tokens=specials)
    return Peer(
        lambda texts: peer.encode_batch(list(texts), num_threads=2, allowed_special="all"),
        lambda texts: peer.encode_ordinary_batch(list(texts), num_threads=2),
        lambda ids: peer.decode_batch(list(ids), num_threads=2),
    )


def _sentencepiece(path: str) -> Peer:
    sentencepiece = pytest.importorskip("sentencepiece", reason="`sentencepiece` is not installed: no live comparison")
    peer = sentencepiece.SentencePieceProcessor(model_file=path)
    return Peer(None, lambda texts: peer.encode(list(texts), num_threads=2), lambda ids: peer.decode(list(ids)))


# ---------------------------------------------------------------- texts

_RANGES = [  # scripts and other places where classes, cases and normal forms change
    (0x20, 0x7F), (0x20, 0x7F), (0x00, 0x20), (0x80, 0x180), (0x180, 0x250), (0x250, 0x370), (0x300, 0x370), (0x370, 0x400), (0x400, 0x530),
    (0x530, 0x600), (0x600, 0x700), (0x700, 0x900), (0x900, 0xD80), (0xE00, 0xF00), (0xF00, 0x1000), (0x1000, 0x1100), (0x1100, 0x1200),
    (0x1200, 0x1D00), (0x1D00, 0x1F00), (0x1F00, 0x2000), (0x2000, 0x2070), (0x2070, 0x2190), (0x2190, 0x2460), (0x2460, 0x2E80), (0x2E80, 0x3040),
    (0x3040, 0x3100), (0x3100, 0x3400), (0x4E00, 0x5200), (0x9F00, 0xAC00), (0xAC00, 0xAD00), (0xD700, 0xD800), (0xE000, 0xF900), (0xF900, 0xFB00),
    (0xFB00, 0xFE00), (0xFE00, 0x10000), (0x10000, 0x11000), (0x11000, 0x1D000), (0x1D000, 0x1D800), (0x1F000, 0x1FB00), (0x20000, 0x20100),
    (0x2F800, 0x30000), (0x30000, 0xE0000), (0xE0000, 0xE0200), (0xF0000, 0x110000), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000),
]  # fmt: skip
_ODD = [
    " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n", "\n ", "\x0b", "\x0c", "\x1c", "\x1f", "\x85", "\xa0", "\u1680", "\u2003", "\u2028", "\u202f", "\u3000",
    "'s", "'S", "'t", "'LL", "'re", "'ve", "'d", "'\u017f", "\u2019s", "''", "``", "▁", "▁▁", "##", "##a", "Ġ", "</w>", "<0x41>", "<0xE4>", "<unk>", "<s>",
    "0", "12", "123", "1234", "１２", "²", "½", "Ⅷ", "①", "٣", "𝟘", "e\u0301", "é", "a\u0323\u0302", "Å", "\u212b", "ﬁ", "ẛ\u0323", "각", "\u1100\u1161\u11a8",
    "Σ", "ΌΣ", "ΑΣ ", "ΑΣ'", "İ", "ı", "ǅ", "ß", "ẞ", "ŉ", "\u0345", "\u200b", "\u200c", "\u200d", "\ufeff", "\u00ad", "\u180e", "\ufffd", "\x00", "\x7f",
    "\ufe0f", "👍🏽", "👩\u200d👩\u200d👧", "🇩🇪", "ｶﾞ", "ก็ำ", "क्षि", "中文字", "日本語", "한국어", "привет", "مرحبا", "שלום", "http://a.b/c?d=e&f", "a.b,c;d",
    "def f(x):\n    return x", "    ", "        ", "=" * 9, "-" * 17, "\\n", "don't", "I'M", "_x_", "camelCase", "SHOUT", "naïve", "x" * 101, "é" * 60, ".\n\n",
]  # fmt: skip


@functools.cache
def _real_words() -> list[str]:
    found: set[str] = set()
    for file in sorted((DATA / "text").glob("*.txt")):
        found.update(file.read_text(encoding="utf-8")[:60_000].split())
    return sorted(found) or ["the", "word"]


def strings(rng: random.Random, n: int, words: Sequence[str], specials: Sequence[str]) -> list[str]:
    """Scripts mixed, runs, odd things in a row, real words, the vocabulary's own tokens, and special tokens, whole and broken."""
    real, specials = _real_words(), list(specials) or ["<s>"]
    makers = [_mixed, _mixed, _run, _odd, _odd, lambda r: _joined(r, real), lambda r: _joined(r, words), lambda r: _special(r, specials, words)]
    return [makers[rng.randrange(len(makers))](rng) for _ in range(n)]


def _mixed(rng) -> str:
    ranges = rng.choices(_RANGES, k=rng.randrange(1, 5))
    codes = [rng.randrange(*rng.choice(ranges)) for _ in range(rng.choice((1, 2, 4, 9, 20, 40)))]
    return "".join([chr(code) for code in codes if not 0xD800 <= code < 0xE000])


def _run(rng) -> str:
    unit = rng.choice(_ODD) if rng.random() < 0.5 else _mixed(rng)[:2]
    return _odd(rng)[:9] + unit * rng.choice((2, 3, 5, 17, 40, 130)) + rng.choice(_ODD)


def _odd(rng) -> str:
    return "".join(rng.choices(_ODD, k=rng.choice((1, 2, 3, 5, 9, 15))))


def _joined(rng, words) -> str:
    return rng.choice(("", " ", " ", "\n", "  ", "▁", "'", rng.choice(_ODD))).join(rng.choices(words, k=rng.choice((1, 2, 4, 9))))


def _special(rng, specials, words) -> str:
    parts = []
    for _ in range(rng.randrange(1, 4)):
        token = rng.choice(specials)
        kind = rng.randrange(8)
        if kind == 0:
            token = token[: rng.randrange(len(token) + 1)]
        elif kind == 1:
            token = token.swapcase()
        elif kind == 2:
            at = rng.randrange(len(token) + 1)
            token = token[:at] + rng.choice((" ", "\u0301", "\u200b", token)) + token[at:]
        parts += [rng.choice((rng.choice(_ODD), rng.choice(words), "", " ")), token]
    return "".join(parts) + rng.choice(("", " ", "s", "\u0301", "\n", rng.choice(words)))


def smallest(text: str, differs: Callable[[str], bool]) -> str:
    """Of a text that differs: parts are left out, halves first, as long as the rest still does."""
    size = len(text) // 2
    while size:
        at = 0
        while at < len(text):
            shorter = text[:at] + text[at + size :]
            if differs(shorter):
                text = shorter
            else:
                at += size
        size //= 2
    return text
