"""SentencePiece's own way of encoding, where Hugging Face's BPE and Unigram do something else.

    a tree's model with one of: float32, rank_order + reserved, score_order, user_defined, unused        (see sentencepiece.py)

BPE: symbols are text, not ids (a character without a piece of its own may still become part of one); the pair joins whose text is the
piece of the highest score, leftmost first; user-defined pieces are cut out first and never joined; an unused piece is joined through
and taken apart again at the end.   Unigram: the best sum of scores over the whole text, *kept in float32*, so that on a long
text two cuts may tie that would not in double precision; a user-defined piece is worth more than any other.

Leaves out: sampling, n-best lists, `word` models.
"""

import ctypes
import heapq
from collections.abc import Collection, Mapping

from pikojax.config import UserError, require
from pikojax.text.unigram import UNKNOWN_PENALTY


def build(model: Mapping, banned: frozenset[int] = frozenset()) -> "SentencePieceModel":
    """`banned`: ids that plain text must not give, unless as the unknown token."""
    return (_Unigram if isinstance(model["vocab"], list) else _BPE)(model, banned)


class SentencePieceModel:
    def __init__(self, model: Mapping, banned: frozenset[int]):
        vocab = model["vocab"]
        self.all = {token: i for i, (token, _) in enumerate(vocab)} if isinstance(vocab, list) else vocab
        unk_id = model.get("unk_id") if isinstance(vocab, list) else vocab.get(model.get("unk_token"))
        require(unk_id is not None, "the SentencePiece model in this file has no unknown piece; fetch the file again")
        self.unk_id: int = unk_id
        reserved, user_defined, unused = (_pieces(model, name) for name in ("reserved", "user_defined", "unused"))
        self.vocab = {token: i for token, i in self.all.items() if token not in reserved and i not in banned}  # what text can become
        self.unused, self.user_defined = {self.all[token] for token in unused}, {self.all[token] for token in user_defined}
        self.normal = [i for token, i in self.vocab.items() if i not in self.unused | self.user_defined]
        names = [f"<0x{byte:02X}>" for byte in range(256)] if model.get("byte_fallback") else []
        require(all(name in self.all for name in names), "the SentencePiece model in this file lacks byte pieces; fetch the file again")
        self.byte_ids = [self.all[name] for name in names]
        self.match_user_defined = longest_match(user_defined)

    def encode(self, piece: str) -> list[int]:
        return [i for i, _ in self.encode_with_lengths(piece)]

    def encode_with_lengths(self, piece: str) -> list[tuple[int, int]]:
        """(id, how many bytes of the piece it covers). Unknown text becomes bytes; without byte pieces runs of it become one."""
        found: list[tuple[int, int]] = []
        was_unknown = False
        for part, id in self.cut(piece):
            n_bytes, unknown = len(part.encode()), id == self.unk_id
            if unknown and self.byte_ids:
                found += [(self.byte_ids[byte], 1) for byte in part.encode()]
            elif unknown and was_unknown:
                found[-1] = id, found[-1][1] + n_bytes
            else:
                found.append((id, n_bytes))
            was_unknown = unknown and not self.byte_ids
        return found

    def cut(self, piece: str) -> list[tuple[str, int]]:
        raise NotImplementedError


def _pieces(model: Mapping, name: str) -> set[str]:
    found, vocab = model.get(name) or [], model["vocab"]
    known = {token for token, _ in vocab} if isinstance(vocab, list) else vocab
    good = isinstance(found, list) and all(isinstance(token, str) and token != "" and token in known for token in found)
    require(good, f"{name} of the model holds something that is not in its vocabulary; fetch the file again")
    return set(found)


def longest_match(words: Collection[str]):
    """(text, at) → the end of the longest of `words` that stands there, or None."""
    lengths: dict[str, set[int]] = {}
    for word in words:
        lengths.setdefault(word[0], set()).add(len(word))
    known, by_first = set(words), {first: sorted(found, reverse=True) for first, found in lengths.items()}

    def match(text: str, at: int) -> int | None:
        return next((at + length for length in by_first.get(text[at], ()) if text[at : at + length] in known), None)

    return match


class _BPE(SentencePieceModel):
    def __init__(self, model: Mapping, banned: frozenset[int]):
        super().__init__(model, banned)
        scores = model.get("scores") if model.get("score_order") else range(0, -1 - max(self.all.values()), -1)
        good = isinstance(scores, list | range) and len(scores) > max(self.all.values())
        good = good and all(isinstance(score, int | float) for score in scores)
        require(good, "score_order of the model needs scores, a number for each id; fetch the file again")
        self.scores = scores if model.get("rank_order") or model.get("score_order") else None  # `char` models join nothing

    def cut(self, piece: str) -> list[tuple[str, int]]:
        texts, frozen, at = [], [], 0
        while at < len(piece):
            end = self.match_user_defined(piece, at)
            frozen.append(end is not None)
            texts.append(piece[at : end or at + 1])
            at = end or at + 1
        n = len(texts)
        before, after = list(range(-1, n - 1)), [*range(1, n), -1]
        heap: list[tuple[float, int, int]] = []
        taken_apart: dict[str, tuple[str, str]] = {}

        def offer(left: int, right: int) -> None:
            if self.scores is None or left < 0 or right < 0 or frozen[left] or frozen[right]:
                return
            joined = texts[left] + texts[right]
            id = self.vocab.get(joined)
            if id is not None:
                heapq.heappush(heap, (-self.scores[id], left, len(joined)))
                if id in self.unused:
                    taken_apart[joined] = texts[left], texts[right]

        for left in range(n - 1):
            offer(left, left + 1)
        while heap:
            _, left, size = heapq.heappop(heap)
            right = after[left]
            if not texts[left] or right < 0 or len(texts[left]) + len(texts[right]) != size:
                continue  # one of the two has been joined to another since
            texts[left] += texts[right]
            texts[right] = ""
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            offer(before[left], left)
            offer(left, after[left])
        return [part for text in texts if text for part in self._apart(text, taken_apart)]

    def _apart(self, text: str, taken_apart: dict[str, tuple[str, str]]) -> list[tuple[str, int]]:
        found, stack = [], [text]
        while stack:
            text = stack.pop()
            id = self.vocab.get(text, self.unk_id)
            if id in self.unused and text in taken_apart:
                stack += taken_apart[text][::-1]
            else:
                found.append((text, id))
        return found


class _Unigram(SentencePieceModel):
    def __init__(self, model: Mapping, banned: frozenset[int]):
        super().__init__(model, banned)
        self.worth = [float(score) for _, score in model["vocab"]]
        normal = [self.worth[i] for i in self.normal]
        self.unk_score = _float32(min(normal, default=0.0) - UNKNOWN_PENALTY)
        for token, id in self.vocab.items():
            if id in self.user_defined:
                self.worth[id] = _float32(_float32(0.1) * (len(token.encode()) - 1))  # as of version 0.2.3; earlier ones: -0.1
        lengths: dict[str, set[int]] = {}
        for token, id in self.vocab.items():
            if id not in self.unused and token:
                lengths.setdefault(token[0], set()).add(len(token))
        self.lengths = {char: sorted(found) for char, found in lengths.items()}

    def cut(self, piece: str) -> list[tuple[str, int]]:
        n, worth, vocab = len(piece), self.worth, self.vocab
        best, start_of, id_of = [0.0] * (n + 1), [-1] * (n + 1), [self.unk_id] * (n + 1)
        for start in range(n):
            here, single = best[start], False
            for length in self.lengths.get(piece[start], ()):
                end = start + length
                id = vocab.get(piece[start:end]) if end <= n else None
                if id is None or id in self.unused:
                    continue
                single = single or length == 1
                total = _float32(worth[id] + here)
                if start_of[end] < 0 or total > best[end]:
                    best[end], start_of[end], id_of[end] = total, start, id
            end = start + 1
            total = _float32(self.unk_score + here)
            if not single and (start_of[end] < 0 or total > best[end]):
                best[end], start_of[end], id_of[end] = total, start, self.unk_id
        parts, end = [], n
        while end:
            parts.append((piece[start_of[end] : end], id_of[end]))
            end = start_of[end]
        return parts[::-1]


def _float32(value: float) -> float:
    return ctypes.c_float(value).value


# ---------------------------------------------------------------- the normalizer


def normalizer(tree: Mapping):
    """SentencePiece's normalizer: its map of characters, then spaces (extra ones away, one before the text, ▁ for each)."""
    from pikojax.text.aligned import Aligned
    from pikojax.text.hf_json import field

    find, plain = _charsmap(field(tree, "precompiled_charsmap", str, ""))
    prefix, remove = field(tree, "add_dummy_prefix", bool, True), field(tree, "remove_extra_whitespaces", bool, True)
    suffix, space = field(tree, "treat_whitespace_as_suffix", bool, False), "▁" if field(tree, "escape_whitespaces", bool, True) else " "
    user_defined = field(tree, "user_defined", list, [])
    if not all(isinstance(word, str) and word for word in user_defined):
        raise UserError("user_defined of SentencePiece holds something else than text; mend the file")
    match = longest_match(user_defined) if user_defined else lambda text, at: None

    def steps(text: str):
        """(where it begins, where it ends, what it becomes) over the text."""
        at = 0
        while at < len(text):
            end, became = match(text, at), None
            if end is None:
                end = at + 1
                found = None if plain(text[at]) else find(text[at : at + 64].encode(), True)
                if found:
                    end = at + len(text[at : at + 64].encode()[: found[0]].decode())
                    became = found[1]
            yield at, end, text[at:end] if became is None else became
            at = end

    def run(text: Aligned) -> Aligned:
        parts: list[tuple[str, tuple[int, int]]] = []
        before_space, began = remove, not remove
        for first, last, became in steps(text.text):
            if not began and became == " ":
                continue
            began = True
            while before_space and became.startswith(" "):
                became = became[1:]
            if became:
                before_space = became.endswith(" ")
                parts.append((became.replace(" ", space), (first, last)))
            before_space = before_space and remove
        if not began or not text.text:
            return Aligned("", None if text.spans is None else [], text.base)
        if prefix and not suffix:
            parts.insert(0, (space, (0, 0)))
        while remove and parts and parts[-1][0].endswith(space):
            became, where = parts.pop()
            became = became.removesuffix(space)
            if became:
                parts.append((became, where))
        if prefix and suffix:
            parts.append((space, (len(text.text), len(text.text))))
        joined = "".join(part for part, _ in parts)
        if text.spans is None:
            return Aligned(joined, None, text.base)
        return Aligned(joined, [_span(text.spans, *where) for part, where in parts for _ in part], text.base)

    return run


def _span(spans: list[tuple[int, int]], first: int, last: int) -> tuple[int, int]:
    if first == last:
        at = spans[0][0] if first == 0 else spans[-1][1]
        return at, at
    return spans[first][0], spans[last - 1][1]


def _charsmap(encoded: str):
    """The function that finds the longest entry, and a test that tells for a character that no entry begins with it."""
    import base64
    import binascii

    from pikojax.text.charsmap import read

    if not encoded:
        return (lambda key, longest: None), (lambda char: True)
    try:
        find = read(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError("precompiled_charsmap of SentencePiece is not base64; fetch the file again") from None
    return find, lambda char: False
