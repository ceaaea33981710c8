"""Byte-pair encoding, the training: start from characters, and merge the most frequent pair of neighbours, again and again.

    words {"hug": 10, "pug": 5, "hugs": 5}: "u"+"g" 20 → "ug"; "h"+"ug" 15 → "hug"; "p"+"ug" 5 → "pug"; "hug"+"s" 5 → "hugs"
    count[a, b] = Σ over words: weight · times that a, b stand side by side; the greatest first; of equals the smallest ids first

A merge changes only the words that hold the pair, and only the counts beside it, so an index pair → words and a heap do
all the work. Counts in the heap grow stale; an entry that no longer holds is put back with the true count. The rules are those
of Hugging Face's BpeTrainer to the letter, so the same corpus gives the same merges and the same vocabulary:
ids are special tokens, then the alphabet by code point, then what the merges make; a token that two merges make has one id.
One thing is settled here that is left to chance there: the order of tokens with a prefix or suffix (as "##s") in the alphabet, here by
code point, and which of equally rare characters `limit_alphabet` drops, here the last.

Leaves out: dropout, training on more than 2^63 pairs.
"""

import ctypes
import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pikojax.config import require
from pikojax.text import byte_level, word_splitters
from pikojax.text.word_counts import Progress, WordCounts, _offsets, _pointer, count_texts

UNLIMITED = 2**63 - 1


@dataclass(frozen=True)
class Rules:
    """The options of Hugging Face's trainer, with its defaults."""

    vocab_size: int = 30_000
    min_frequency: int = 0
    special_tokens: tuple[str, ...] = ()
    limit_alphabet: int | None = None
    initial_alphabet: tuple[str, ...] = ()
    max_token_length: int | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


def train_bpe(
    texts: Iterable[str],
    vocab_size: int = 30_000,
    *,
    pattern: str = "gpt2",
    threads: int = 2,
    on_progress: Progress | None = None,
    **rules: Any,
):
    """A byte-level BPE tokenizer of `texts`; see `Rules` for the other options."""
    from pikojax.text.tokenizer import Tokenizer

    counts = count_texts(texts, word_splitters.scanner(pattern), threads=threads, on_progress=on_progress)
    return Tokenizer.from_tree(bpe_tree(counts, vocab_size, pattern=pattern, on_progress=on_progress, **rules))


def bpe_tree(
    counts: WordCounts,
    vocab_size: int = 30_000,
    *,
    pattern: str = "gpt2",
    on_progress: Progress | None = None,
    native: bool | None = None,
    **rules,
) -> dict:
    """The tree of a byte-level tokenizer.json. All 256 bytes are in the vocabulary, so that every text can be encoded."""
    rules.setdefault("initial_alphabet", tuple(byte_level.CHARS))
    made = Rules(vocab_size, **rules)
    tokens, merges = learn(counts, made, by_bytes=True, on_progress=on_progress, native=native)
    splitter = word_splitters.scanner(pattern)
    return tree(splitter, bpe_model(tokens, merges, made), made.special_tokens, tokens)


def tree(splitter: word_splitters.Splitter, model: dict, special_tokens: Iterable[str], tokens: list[str]) -> dict[str, Any]:
    ids = {token: i for i, token in enumerate(tokens)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[token], "content": token, **flags} for token in sorted(set(special_tokens), key=ids.__getitem__)],
        "normalizer": splitter.normalizer,
        "pre_tokenizer": splitter.pre_tokenizer,
        "post_processor": None,
        "decoder": splitter.decoder,
        "model": model,
    }


def bpe_model(tokens: list[str], merges: list[tuple[int, int, int]], rules: Rules) -> dict[str, Any]:
    ranks = {(left, right): rank for rank, (left, right, _) in enumerate(merges)}  # a pair that was merged twice has its last rank
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": rules.continuing_subword_prefix,
        "end_of_word_suffix": rules.end_of_word_suffix,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: i for i, token in enumerate(tokens)},
        "merges": [[tokens[left], tokens[right]] for left, right in sorted(ranks, key=ranks.__getitem__)],
    }


def learn(
    counts: WordCounts, rules: Rules, by_bytes: bool, on_progress: Progress | None = None, native: bool | None = None
) -> tuple[list[str], list[tuple[int, int, int]]]:
    """Tokens in the order of their ids, and merges (left, right, what they make) in the order in which they were made."""
    require(len(counts) > 0, "a tokenizer needs text to learn from; the text is empty")
    require(
        native is not True or counts.lib is not None,
        "these words were counted in Python; count them with native code, or leave out native=True",
    )
    tokens, ids = alphabet(counts.symbol_counts(by_bytes), rules, byte_level.CHARS if by_bytes else None)
    wanted = f"the special tokens and the alphabet take {len(tokens)}; raise it"
    require(rules.vocab_size >= len(tokens), f"vocab_size = {rules.vocab_size} is too small: {wanted}")
    report = (lambda done: on_progress("merge", done, rules.vocab_size)) if on_progress else (lambda done: None)
    if counts.lib is not None and native is not False:
        return _learn_natively(counts, rules, by_bytes, tokens, ids, report)
    words = []
    for word, count in counts.items():
        symbols = word if by_bytes else list(map(ord, word.decode("utf-8", "replace")))
        places = [(symbol, (i > 0) + 2 * (i + 1 == len(symbols))) for i, symbol in enumerate(symbols)]
        words.append(([int(ids[place]) for place in places if ids[place] >= 0], count))
    return merge_pairs(words, tokens, rules, report)


def alphabet(symbol_counts: np.ndarray, rules: Rules, names: list[str] | None) -> tuple[list[str], np.ndarray]:
    """The first tokens, and int32[symbol, place]: the id of a symbol at a place of its word, −1 where it is left out.

    `names`: what stands for each symbol; None: symbols are code points.
    """
    name = chr if names is None else names.__getitem__
    totals = {name(symbol): int(symbol_counts[symbol].sum()) for symbol in np.flatnonzero(symbol_counts.any(1)).tolist()}
    kept = totals | dict.fromkeys((char[0] for char in rules.initial_alphabet if char), UNLIMITED)
    if rules.limit_alphabet is not None and len(kept) > rules.limit_alphabet:
        kept = sorted(kept, key=lambda char: (-kept[char], char))[: rules.limit_alphabet]
    of = {token: i for i, token in enumerate(dict.fromkeys(rules.special_tokens))}
    for char in sorted(kept):
        of.setdefault(char, len(of))
    prefix, suffix = rules.continuing_subword_prefix or "", rules.end_of_word_suffix or ""
    ids = np.full(symbol_counts.shape, -1, np.int32)
    spelled = {}
    for symbol, place in np.argwhere(symbol_counts > 0).tolist():
        if name(symbol) in of:
            spelled[symbol, place] = (prefix if place & 1 else "") + name(symbol) + (suffix if place & 2 else "")
    for token in sorted(set(spelled.values())):
        of.setdefault(token, len(of))
    for (symbol, place), token in spelled.items():
        ids[symbol, place] = of[token]
    return list(of), ids


def merge_pairs(
    words: list[tuple[list[int], int]], tokens: list[str], rules: Rules, report: Callable[[int], None] = lambda done: None
) -> tuple[list[str], list[tuple[int, int, int]]]:
    """The training itself, on words as lists of ids; `words` is used up."""
    tokens, merges = list(tokens), []
    ids, lengths = {token: i for i, token in enumerate(tokens)}, [1] * len(tokens)
    prefix, longest = rules.continuing_subword_prefix or "", rules.max_token_length or UNLIMITED
    counts, came_up, heap = defaultdict(int), defaultdict(dict), []  # came_up: pair → the words where it is new, in order

    def change(pair: tuple[int, int], count: int, word: int) -> None:
        counts[pair] += count
        if count > 0:
            came_up[pair][word] = None

    def queue() -> None:
        for pair, where in came_up.items():
            if counts[pair] > 0:
                heapq.heappush(heap, (-counts[pair], pair, len(merges), list(where)))
        came_up.clear()

    for i, (word, count) in enumerate(words):
        for pair in zip(word, word[1:], strict=False):
            change(pair, count, i)
    queue()
    while heap and len(tokens) < rules.vocab_size:
        negative, pair, age, where = heapq.heappop(heap)
        count = counts[pair] if counts[pair] >= 0 else 2**64 + counts[pair]  # as an unsigned number, which the length limit can bring about
        if count != -negative:
            heapq.heappush(heap, (-count, pair, age, where))
            continue
        if count < 1 or rules.min_frequency > count:
            break
        left, right = pair
        token = tokens[left] + tokens[right].removeprefix(prefix)
        made = ids.setdefault(token, len(tokens))
        length = lengths[left] + lengths[right]
        if made == len(tokens):
            tokens.append(token)
            lengths.append(length)
        lengths[made] = length
        merges.append((left, right, made))
        for i in where:
            word, count = words[i]
            for gone, new, beside in merge_in(word, left, right, made):
                change(gone, -count, i)
                if lengths[beside] + length < longest:
                    change(new, count, i)
        queue()
        report(len(tokens))
    return tokens, merges


def merge_in(word: list[int], left: int, right: int, made: int) -> Iterator[tuple[tuple[int, int], tuple[int, int], int]]:
    """Puts `made` in place of each left, right in a word, and tells which pairs go, which come for them, and the neighbour in both."""
    to = at = 0
    while at < len(word):
        if word[at : at + 2] != [left, right]:
            word[to], at, to = word[at], at + 1, to + 1
            continue
        if to > 0:
            yield (word[to - 1], left), (word[to - 1], made), word[to - 1]
        if at + 2 < len(word):
            yield (right, word[at + 2]), (made, word[at + 2]), word[at + 2]
        word[to], at, to = made, at + 2, to + 1
    del word[to:]


def _learn_natively(counts, rules, by_bytes, tokens, ids, report):
    lib, caught = counts.lib, []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64)
    def progress(size: int) -> int:
        try:
            report(size)
        except BaseException as error:  # Ctrl-C too: stop the loop first, then raise it
            caught.append(error)
        return len(caught)

    spelled = [token.encode() for token in tokens]
    ends = _offsets(map(len, spelled))[1:].copy()
    prefix = (rules.continuing_subword_prefix or "").encode()
    longest = rules.max_token_length or UNLIMITED
    trainer = lib.pikojax_bpe_train(
        counts.handle,
        by_bytes,
        _pointer(ids),
        b"".join(spelled),
        _pointer(ends),
        len(tokens),
        prefix,
        rules.vocab_size,
        rules.min_frequency,
        longest,
        progress,
    )
    try:
        if caught:
            raise caught[0]
        n_merges, n_tokens, n_bytes = (ctypes.c_uint64() for _ in range(3))
        lib.pikojax_bpe_size(trainer, *map(ctypes.byref, (n_merges, n_tokens, n_bytes)))
        merges, text, ends = (
            np.empty((n_merges.value, 3), np.uint32),
            np.empty(n_bytes.value, np.uint8),
            np.empty(n_tokens.value, np.uint64),
        )
        lib.pikojax_bpe_read(trainer, *map(_pointer, (merges, text, ends)))
    finally:
        lib.pikojax_bpe_free(trainer)
    text, ends = text.tobytes(), [0, *ends.tolist()]
    return [text[a:b].decode() for a, b in zip(ends, ends[1:], strict=False)], list(map(tuple, merges.tolist()))
