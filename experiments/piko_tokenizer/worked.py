"""The README's worked examples, done by the toolkit's own code: python worked.py

One corpus for all five: hug 10 times, pug 5, pun 12, bun 4, hugs 5. A test compares what is printed here with the README.
"""

import math
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pikojax.text import Tokenizer, train_char, train_word
from pikojax.text import bpe_trainer as bpe
from pikojax.text import unigram_trainer as unigram
from pikojax.text.word_counts import WordCounts
from pikojax.text.wordpiece_trainer import wordpiece_tree

WORDS = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}
TEXTS = [word for word, count in WORDS.items() for _ in range(count)]


def cut(tokenizer, text: str) -> str:
    return f"{text} → " + " ".join(map(tokenizer.id_to_token, tokenizer.encode_slowly(text).tolist()))


def counts(lead: str = "") -> WordCounts:
    return WordCounts({(lead + word).encode(): count for word, count in WORDS.items()}, native=False)


def char_and_word() -> Iterator[str]:
    chars, words = train_char(TEXTS), train_word(TEXTS, 4)
    yield "char: " + " ".join(chars.tokens)
    yield cut(chars, "pugs")
    yield "word, 4 entries: " + " ".join(words.tokens)
    yield from (cut(words, text) for text in ("pun", "pug"))


def pair_encoding() -> Iterator[str]:
    words = {word: list(word) for word in WORDS}
    learnt = bpe.bpe_tree(counts(), 11, initial_alphabet=(), native=False)
    for left, right in learnt["model"]["merges"]:
        pairs = Counter()
        for word, parts in words.items():
            for pair in zip(parts, parts[1:], strict=False):
                pairs[pair] += WORDS[word]
        told = ", ".join(f"{a}+{b} {count}" for (a, b), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:3])
        yield f"{told} … → merge {left}+{right}"
        for parts in words.values():
            for i in reversed(range(len(parts) - 1)):
                if parts[i : i + 2] == [left, right]:
                    parts[i : i + 2] = [left + right]
    tokenizer = Tokenizer.from_tree(learnt)
    yield "vocabulary: " + " ".join(tokenizer.tokens)
    yield from (cut(tokenizer, text) for text in ("hugs", "bug"))


def wordpiece() -> Iterator[str]:
    tokenizer = Tokenizer.from_tree(wordpiece_tree(counts(), 16, special_tokens=("[UNK]",), native=False))
    yield "vocabulary: " + " ".join(tokenizer.tokens)
    yield from (cut(tokenizer, text) for text in ("hugs", "bug", "snug", "bum"))


def unigrams() -> Iterator[str]:
    words, longest = {"▁" + word: count for word, count in WORDS.items()}, 16
    scores = unigram.seed_pieces(words, longest, 20)
    yield "seeds: " + " ".join(piece for piece in scores if len(piece) > 1)
    expected = unigram.e_step(words, scores, longest)
    scores = unigram.m_step(expected)
    best = sorted(scores, key=lambda piece: (-scores[piece], piece))[:5]
    yield "expected uses: " + ", ".join(f"{piece} {expected[piece] / unigram.ONE:.2f}" for piece in best)
    yield "after one step: " + ", ".join(f"{piece} {math.exp(scores[piece]):.3f}" for piece in best)
    ways = [("▁hugs",), ("▁hug", "s")]
    chances = [math.exp(sum(scores[piece] for piece in way)) for way in ways]
    for way, chance in zip(ways, chances, strict=True):
        yield f"▁hugs as {' '.join(way)}: {chance:.4f}, {chance / sum(chances):.1%} of the two"
    fewer = unigram.prune(words, scores, longest, len(scores) - 2)
    yield "pruned by two: " + " ".join(sorted(scores.keys() - fewer.keys()))
    tokenizer = Tokenizer.from_tree(unigram.unigram_tree(counts("▁"), 12, special_tokens=("<unk>",), native=False))
    yield "vocabulary of 12: " + " ".join(tokenizer.tokens)
    yield from (cut(tokenizer, text) for text in ("hugs", "pugs", "bum"))


EXAMPLES = {"Characters and words": char_and_word, "Byte-pair encoding": pair_encoding, "WordPiece": wordpiece, "Unigram": unigrams}

if __name__ == "__main__":
    for name, example in EXAMPLES.items():
        print(f"{name}\n" + "".join(f"    {line}\n" for line in example()))
