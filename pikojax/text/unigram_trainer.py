"""The Unigram model, the training: start with every substring that comes often, learn its probability, drop what helps least.

    P("▁hugs") = Σ over all ways to cut it of Π p(piece):   p(▁hugs) + p(▁hug)·p(s) + p(▁hu)·p(gs) + …
    E step: expected[piece] = Σ over words: weight · (the share of P(word) that goes through the piece)
    M step: log p = ψ(expected) − ψ(Σ expected)       ψ, digamma, in place of the logarithm favours few pieces
    prune:  drop the pieces without which the best cuts of the words lose least likelihood, to 3/4 of them; then again

Seeds are the substrings that come twice, scored by occurrences × length; one that the same character always follows is left to the longer.
A piece stays within one word; with `split_by_script` also within one script, as SentencePiece has it. Single characters always stay;
those beyond `character_coverage` of the text become unknown (or bytes, with `byte_fallback`). Words are counted
with their weights from the start, and a word that comes twice may be a seed whatever follows it.

Expected counts are added up in whole multiples of 2^-24, so their sum does not depend on the order: any number of threads, and
the native version, give the same result to the last bit. Long words would leave the range of floats: α and β are lifted by 2^400
when they get that small.

Leaves out: sampling while training, digits one by one, user-defined symbols.
"""

import ctypes
import functools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pikojax.config import require
from pikojax.text import unicode, word_splitters
from pikojax.text.bpe_trainer import tree
from pikojax.text.word_counts import Progress, WordCounts, _pointer, count_texts

ONE = 1 << 24  # 1 in fixed point
SMALL, LIFT_BITS = 2.0**-400, 400
Word = tuple[str, int]


@dataclass(frozen=True)
class Rules:
    vocab_size: int = 8_000
    special_tokens: tuple[str, ...] = ("<unk>", "<s>", "</s>")
    unk_token: str = "<unk>"
    byte_fallback: bool = False
    character_coverage: float = 0.9995  # the share of the text whose characters are in the vocabulary
    max_piece_length: int = 16
    seed_size: int | None = None  # None: 8 · vocab_size. Far more do harm: pruning, which looks one step ahead, then errs more often
    shrinking_factor: float = 0.75
    n_sub_iterations: int = 2
    split_by_script: bool = False  # as SentencePiece does: no piece such as foo( or x1

    def __post_init__(self):
        require(2 <= self.max_piece_length <= 16, f"max_piece_length = {self.max_piece_length}; give 2 to 16")
        require(0 < self.character_coverage <= 1, f"character_coverage = {self.character_coverage}; give a share above 0, at most 1")
        require(0 < self.shrinking_factor < 1, f"shrinking_factor = {self.shrinking_factor}; give a factor between 0 and 1")
        require(self.unk_token in self.special_tokens, f"unk_token = {self.unk_token!r} is none of the special tokens; add it")

    def seeds(self) -> int:
        return 8 * self.vocab_size if self.seed_size is None else self.seed_size


def train_unigram(
    texts: Iterable[str], vocab_size: int = 8_000, *, nmt_nfkc: bool = True, threads: int = 2, on_progress: Progress | None = None, **rules
):
    """A Unigram tokenizer of `texts`; see `Rules` for the other options."""
    from pikojax.text.tokenizer import Tokenizer

    splitter = word_splitters.metaspace(nmt_nfkc)
    counts = count_texts(texts, splitter, threads=threads, on_progress=on_progress)
    return Tokenizer.from_tree(unigram_tree(counts, vocab_size, splitter=splitter, threads=threads, on_progress=on_progress, **rules))


def unigram_tree(
    counts: WordCounts,
    vocab_size: int = 8_000,
    *,
    splitter: word_splitters.Splitter | None = None,
    threads: int = 2,
    on_progress: Progress | None = None,
    native: bool | None = None,
    **rules,
) -> dict[str, Any]:
    """The tree of a tokenizer.json; `splitter` is the one that the words were counted with."""
    made = Rules(vocab_size, **rules)
    firsts = list(dict.fromkeys(made.special_tokens))
    if made.byte_fallback:
        firsts += [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = learn(counts, made, made.vocab_size - len(firsts), threads, on_progress, native)
    vocab = [[token, 0.0] for token in firsts] + [[piece, score] for piece, score in pieces]
    model = {"type": "Unigram", "unk_id": firsts.index(made.unk_token), "vocab": vocab, "byte_fallback": made.byte_fallback}
    splitter = splitter or word_splitters.metaspace()
    if made.byte_fallback:
        splitter = splitter._replace(decoder={"type": "Sequence", "decoders": [{"type": "ByteFallback"}, splitter.decoder]})
    return tree(splitter, model, made.special_tokens, [token for token, _ in vocab])


def learn(
    counts: WordCounts, rules: Rules, room: int, threads: int = 2, on_progress: Progress | None = None, native: bool | None = None
) -> list[tuple[str, float]]:
    """Pieces with their log-probabilities, at most `room`, the likeliest first."""
    require(len(counts) > 0, "a tokenizer needs text to learn from; the text is empty")
    require(
        native is not True or counts.lib is not None,
        "these words were counted in Python; count them with native code, or leave out native=True",
    )
    wanted = required_characters(counts, rules.character_coverage)
    n_chars = int(wanted.sum())
    taken = rules.vocab_size - room + n_chars
    require(
        n_chars <= room, f"vocab_size = {rules.vocab_size} is too small: the special tokens and {n_chars} characters take {taken}; raise it"
    )
    model = _Native(counts, rules, wanted, threads) if counts.lib is not None and native is not False else _Python(counts, rules, wanted)
    enough = rules.vocab_size * 11 // 10
    first = size = model.size()
    while True:
        for _ in range(rules.n_sub_iterations):
            model.step()
        if on_progress:
            on_progress("prune", first - max(model.size(), enough), max(1, first - enough))
        size = model.size()
        if size <= max(enough, n_chars):
            break
        model.prune(max(enough, int(rules.shrinking_factor * size)))
    pieces = sorted(model.pieces(), key=lambda piece: (len(piece[0]) > 1, -piece[1], piece[0]))[:room]  # single characters stay
    return sorted(pieces, key=lambda piece: (-piece[1], piece[0]))


def required_characters(counts: WordCounts, coverage: float) -> np.ndarray:
    """bool[0x110000]: the most frequent characters, which make up `coverage` of the text."""
    by_code = counts.symbol_counts(by_bytes=False).sum(1, dtype=np.uint64).astype(np.int64)
    seen = np.flatnonzero(by_code)
    order = seen[np.argsort(-by_code[seen], kind="stable")]
    before = np.cumsum(by_code[order]) - by_code[order]
    wanted = np.zeros(unicode.N_CODES, bool)
    wanted[order[before < coverage * by_code.sum()]] = True
    return wanted


def stretches(words: Iterable[Word], rules: Rules, wanted: np.ndarray) -> dict[str, int]:
    """The words cut where no piece may cross: between scripts, and at characters that are not wanted."""
    scripts = scripts_of()
    found: Counter[str] = Counter()
    for word, count in words:
        begin, script = 0, 0
        for at, char in enumerate(word):
            own = int(scripts[ord(char)]) if rules.split_by_script else 0
            if at > begin and (not wanted[ord(char)] or (own and script and own != script)):
                found[word[begin:at]] += count
                begin, script = at, 0
            script = own or script
            if not wanted[ord(char)]:
                begin, script = at + 1, 0
        if begin < len(word):
            found[word[begin:]] += count
    return found


@functools.cache
def scripts_of() -> np.ndarray:
    """uint8[0x110000]: 0 goes with any, as the mark of a space and accents do; kana count as ideographs."""
    scripts = unicode.hf_scripts().copy()
    scripts[unicode.members("M")] = scripts[ord(word_splitters.SPACE_MARK)] = 0
    return scripts


def seed_pieces(words: dict[str, int], longest: int, most: int) -> dict[str, float]:
    """Single characters and the best repeated substrings, with log-probabilities by score."""
    counts: Counter[str] = Counter()
    for word, weight in words.items():
        for begin in range(len(word)):
            for end in range(begin + 1, min(begin + longest, len(word)) + 1):
                counts[word[begin:end]] += weight
    grows = {piece[:-1] for piece, count in counts.items() if len(piece) > 1 and counts[piece[:-1]] == count}
    scores = {piece: count * len(piece) for piece, count in counts.items() if len(piece) > 1 and count >= 2 and piece not in grows}
    best = sorted(scores, key=lambda piece: (-scores[piece], piece))[:most]
    scored = {piece: counts[piece] for piece in sorted(counts) if len(piece) == 1} | {piece: scores[piece] for piece in best}
    log_sum = math.log(sum(scored.values()))
    return {piece: math.log(score) - log_sum for piece, score in scored.items()}


def e_step(words: dict[str, int], scores: dict[str, float], longest: int) -> dict[str, int]:
    """Expected counts, in fixed point: forward and backward through the lattice of each word."""
    p = {piece: math.exp(score) for piece, score in scores.items()}
    expected = dict.fromkeys(scores, 0)
    for word, weight in words.items():
        n = len(word)
        arcs = [[word[i:j] for j in range(i + 1, min(i + longest, n) + 1) if word[i:j] in p] for i in range(n)]
        alpha, lifts, lifted = [1.0] + [0.0] * n, [], 0
        for i in range(n + 1):
            if alpha[i] < SMALL:
                alpha[i : i + 17] = [value * 2.0**LIFT_BITS for value in alpha[i : i + 17]]
                lifted += 1
            lifts.append(lifted)
            for piece in arcs[i] if i < n else ():
                alpha[i + len(piece)] += alpha[i] * p[piece]
        beta, fallen, share = [0.0] * n + [1.0], 0, weight / alpha[n] * ONE
        for i in reversed(range(n)):
            for piece in arcs[i]:
                rest = p[piece] * beta[i + len(piece)]
                beta[i] += rest
                count = alpha[i] * rest * share
                expected[piece] += int(math.ldexp(count, LIFT_BITS * (lifted - lifts[i] - fallen)) + 0.5)
            if beta[i] < SMALL:
                beta[i : i + 17] = [value * 2.0**LIFT_BITS for value in beta[i : i + 17]]
                fallen += 1
    return expected


def m_step(expected: dict[str, int]) -> dict[str, float]:
    """What is expected less than half a time goes; a single character stays, as if it were."""
    counts = {piece: max(count, ONE // 2) if len(piece) == 1 else count for piece, count in expected.items()}
    counts = {piece: count for piece, count in counts.items() if count >= ONE // 2}
    log_sum = digamma(sum(counts.values()) / ONE)
    return {piece: digamma(count / ONE) - log_sum for piece, count in counts.items()}


def prune(words: dict[str, int], scores: dict[str, float], longest: int, wanted: int) -> dict[str, float]:
    """Keeps single characters, and of the others those that cost most when every use of them becomes what they fall into."""
    frequency = dict.fromkeys(scores, 0)
    for word, weight in words.items():
        for piece in best_cut(word, scores, longest)[1]:
            frequency[piece] += weight
    total = sum(frequency.values())
    losses = []
    for i, (piece, score) in enumerate(scores.items()):
        uses = frequency[piece]
        if len(piece) == 1 or uses == 0:
            continue
        without, parts = best_cut(piece, scores, longest, without=piece)
        if without > score:  # it is never the best cut of itself
            continue
        log_sum = math.log(total + uses * (len(parts) - 1))
        instead = 0.0
        for part in parts:
            instead += math.log(frequency[part] + uses) - log_sum
        losses.append((-(uses * (math.log(uses) - math.log(total) - instead)), i, piece))
    singles = [piece for piece in scores if len(piece) == 1]
    kept = {piece for _, _, piece in sorted(losses)[: max(0, wanted - len(singles))]} | set(singles)
    return {piece: score for piece, score in scores.items() if piece in kept}


def best_cut(word: str, scores: dict[str, float], longest: int, without: str | None = None) -> tuple[float, list[str]]:
    """The likeliest way to cut a word, by dynamic programming; of equals the one found first."""
    best, back = [0.0] + [-math.inf] * len(word), [""] * (len(word) + 1)
    for i in range(len(word)):
        for j in range(i + 1, min(i + longest, len(word)) + 1):
            piece = word[i:j]
            if piece in scores and piece != without and best[i] + scores[piece] > best[j]:
                best[j], back[j] = best[i] + scores[piece], piece
    parts, at = [], len(word)
    while at > 0:
        parts.append(back[at])
        at -= len(back[at])
    return best[-1], parts[::-1]


def digamma(x: float) -> float:
    result = 0.0
    while x < 7:
        result -= 1 / x
        x += 1
    x -= 0.5
    x2 = 1 / (x * x)
    x4 = x2 * x2
    return result + math.log(x) + x2 / 24 - 7 * x4 / 960 + 31 * x4 * x2 / 8064 - 127 * x4 * x4 / 30720


class _Python:
    """The steps above, holding on to the words and the scores between them."""

    def __init__(self, counts: WordCounts, rules: Rules, wanted: np.ndarray):
        self.words = stretches(((word.decode("utf-8", "replace"), count) for word, count in counts.items()), rules, wanted)
        self.longest = rules.max_piece_length
        self.scores = seed_pieces(self.words, self.longest, rules.seeds())

    def size(self) -> int:
        return len(self.scores)

    def pieces(self) -> list[tuple[str, float]]:
        return list(self.scores.items())

    def step(self) -> None:
        self.scores = m_step(e_step(self.words, self.scores, self.longest))

    def prune(self, wanted: int) -> None:
        self.scores = prune(self.words, self.scores, self.longest, wanted)


class _Native:
    """The same in C++ (text_train_unigram.cc)."""

    def __init__(self, counts: WordCounts, rules: Rules, wanted: np.ndarray, threads: int):
        self.lib = counts.lib
        scripts = scripts_of()
        longest, most = rules.max_piece_length, rules.seeds()
        by_script = _pointer(scripts) if rules.split_by_script else None
        self.handle = self.lib.pikojax_unigram_new(counts.handle, by_script, _pointer(wanted), longest, most, threads)

    def __del__(self):
        if getattr(self, "handle", None):
            self.lib.pikojax_unigram_free(self.handle)

    def size(self) -> int:
        return self.lib.pikojax_unigram_size(self.handle, ctypes.byref(ctypes.c_uint64()))

    def pieces(self) -> list[tuple[str, float]]:
        chars = ctypes.c_uint64()
        n = self.lib.pikojax_unigram_size(self.handle, ctypes.byref(chars))
        codes, ends, scores = np.empty(chars.value, np.uint32), np.empty(n, np.uint64), np.empty(n, np.float64)
        self.lib.pikojax_unigram_read(self.handle, _pointer(codes), _pointer(ends), _pointer(scores))
        text, ends = codes.tobytes().decode("utf-32-le"), [0, *ends.tolist()]
        return [(text[a:b], score) for a, b, score in zip(ends, ends[1:], scores.tolist(), strict=False)]

    def step(self) -> None:
        self.lib.pikojax_unigram_step(self.handle)

    def prune(self, wanted: int) -> None:
        self.lib.pikojax_unigram_prune(self.handle, wanted)
