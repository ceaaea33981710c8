"""Whole texts through the native encoder: added tokens cut out, stretches normalized, all stretches encoded in one native call.

    "Hi<eos>you"  →  find <eos>  →  ["Hi", <eos>, "you"]  →  one call for both stretches  →  ids in their order

The same as the Python pipeline's `_stretches` and `_encode_stretch`, in bytes. Where an added token asks for something about its
surroundings (spaces to swallow, word boundaries) and occurs in the text, the answer is None and the Python pipeline serves.

Leaves out: templates, offsets.
"""

import threading
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pikojax.text.hf_json import model_type
from pikojax.text.models import SENTENCEPIECE
from pikojax.text.native import Finder, NativeEncoder, NativeError, plan

LEAST_TO_SHARE = 1 << 16  # characters; below, starting threads costs more than they save
SHARES_A_THREAD = 8  # small enough that none waits long for another, and that the next one takes the memory of the last


class Fast:
    """What stands ready for one tokenizer: encoders (one for each set of special tokens that must stay text) and finders."""

    def __init__(self, tokenizer, encoder: NativeEncoder):
        self.tree, self.ids = tokenizer.tree, tokenizer.ids
        self.encoders: dict[frozenset[int], NativeEncoder | None] = {frozenset(): encoder}
        self.raw, self.normalized = (Finder(finder.ids) for finder in (tokenizer._added.raw, tokenizer._added.normalized))
        self.contents = {i: token.content for i, token in tokenizer._added.by_id.items()}
        self.asks = {i for i, token in tokenizer._added.by_id.items() if token.lstrip or token.rstrip or token.single_word}
        self._watches: dict[frozenset[str], list[int] | None] = {}
        self._lock = threading.Lock()

    def encode(self, texts: Sequence[str | bytes], plain: frozenset[str] = frozenset(), threads: int = 1) -> list[np.ndarray | None]:
        """int32 ids of each text, without template; None for one that only the Python pipeline can do. `plain`: special tokens that
        are text this time. Bytes that are no UTF-8 are for byte-level vocabularies."""
        shares = shared_out([len(text) for text in texts], threads)
        if len(shares) == 1:
            return self._encode(texts, plain, threads)
        found: list[np.ndarray | None] = [None] * len(texts)
        with ThreadPoolExecutor(threads) as pool:
            for share, encoded in zip(shares, pool.map(lambda share: self._encode([texts[i] for i in share], plain, 1), shares), strict=True):
                for i, ids in zip(share, encoded, strict=True):
                    found[i] = ids
        return found

    def _encode(self, texts: Sequence[str | bytes], plain: frozenset[str], threads: int) -> list[np.ndarray | None]:
        """The threads are for what is encoded; finding added tokens and normalizing is done by this one."""
        encoder = self.encoders[frozenset()]
        stretches: list[bytes] = []  # of all texts
        plans: list[list[int] | None] = []  # of each text: an id, or -1 - i for stretch i
        try:
            coded = list(map(_coded, texts))
            if len(texts) > 1 and self.normalized.is_empty and not self.raw.find(b"\n".join(coded)):  # no added token in any of them
                stretches = [encoder.prepare(encoder.normalize(data)) for data in coded]
                plans = [[-1 - i] for i in range(len(texts))]
                coded = []
            for data in coded:
                known = len(stretches)
                made = self._plan(data, plain, encoder, stretches)
                plans.append(made)
                if made is None:
                    del stretches[known:]
            watched = self._watched(plain) if plain else []
            encoded = [] if watched is None else encoder.encode_many(stretches, threads) if stretches else []
            if watched is None or watched and encoded and np.isin(np.concatenate(encoded), watched).any():
                return self._without(texts, plain, threads)
        except NativeError:  # a text that this vocabulary cannot spell: the Python version says which
            return [None] * len(texts)
        return [None if made is None else _assemble(made, encoded) for made in plans]

    def _plan(self, data: bytes, plain: Collection[str], encoder: NativeEncoder, stretches: list[bytes]) -> list[int] | None:
        made: list[int] = []
        for first, last, i in self._split(self.raw, data, plain):
            if i is None:
                return None
            if i >= 0:
                made.append(i)
                continue
            normal = encoder.normalize(data[first:last] if last - first < len(data) else data)
            for begin, end, j in self._split(self.normalized, normal, plain):
                if j is None:
                    return None
                if j < 0:
                    stretches.append(encoder.prepare(normal[begin:end] if end - begin < len(normal) else normal, first == 0 and begin == 0))
                    j = -len(stretches)
                made.append(j)
        return made

    def _split(self, finder: Finder, data: bytes, plain: Collection[str]):
        """(begin, end, id of the added token | -1 for plain text | None: too hard for here)"""
        done = 0
        for begin, end, i in finder.find(data):
            if self.contents[i] in plain:
                continue
            if i in self.asks:
                yield begin, end, None
                return
            if done < begin:
                yield done, begin, -1
            yield begin, end, i
            done = end
        if done < len(data):
            yield done, len(data), -1

    def _watched(self, plain: frozenset[str]) -> list[int] | None:
        """If none of these ids comes out, no special token had a hand in it; None: one may have without being seen, as a part that went on."""
        if plain not in self._watches:
            model = self.tree["model"]
            kind, vocab, banned = model_type(model), model["vocab"], {self.ids[token] for token in plain}
            held = {i for i in banned if i < len(vocab)} if kind == "Unigram" else banned.intersection(vocab.values())
            if held and kind == "BPE":
                names = {token for token, i in vocab.items() if i in held}
                merges = (merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges") or ())
                hidden = model.get("rank_order") or model.get("score_order") or not all(map(names.isdisjoint, merges))
            else:
                hidden = False
            if held and kind == "WordPiece":  # a word that begins with a special token may go unknown
                held |= {vocab.get(model.get("unk_token") or "[UNK]", -1)}
            self._watches[plain] = None if hidden else sorted(held)
        return self._watches[plain]

    def _without(self, texts: Sequence[str | bytes], plain: frozenset[str], threads: int) -> list[np.ndarray | None]:
        """Texts that would give special tokens: by an encoder whose vocabulary lacks these."""
        banned = frozenset(self.ids[token] for token in plain)
        with self._lock:
            if banned not in self.encoders:
                self.encoders[banned] = plan(self.tree, banned)[0]
        encoder = self.encoders[banned]
        if encoder is None:
            return [None] * len(texts)
        found: list[np.ndarray | None] = []
        for text in texts:
            stretches: list[bytes] = []
            made = self._plan(_coded(text), plain, encoder, stretches)
            found.append(None if made is None else _assemble(made, encoder.encode_many(stretches, threads) if stretches else []))
        return found


def shared_out(lengths: Sequence[int], threads: int) -> list[list[int]]:
    """Texts in shares of about the same length, some for each thread, as not all text is equally hard: the longest first, each to the
    smallest share. One share of all of them where a text is so long that it had better be cut."""
    total, threads = sum(lengths), min(threads, len(lengths))
    if threads < 2 or total < LEAST_TO_SHARE or max(lengths) > total / threads:
        return [list(range(len(lengths)))]
    n_shares = min(len(lengths), max(threads, min(SHARES_A_THREAD * threads, total // LEAST_TO_SHARE)))
    shares: list[list[int]] = [[] for _ in range(n_shares)]
    loads = [0] * n_shares
    for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        least = loads.index(min(loads))
        shares[least].append(i)
        loads[least] += lengths[i]
    return [sorted(share) for share in shares]


def _coded(text: str | bytes) -> bytes:
    """Half a surrogate pair raises UnicodeEncodeError here."""
    return text if isinstance(text, bytes) else text.encode()


def _assemble(made: list[int], encoded: list[np.ndarray]) -> np.ndarray:
    if len(made) == 1 and made[0] < 0:
        return encoded[-1 - made[0]]
    parts = [encoded[-1 - i] if i < 0 else np.array([i], np.int32) for i in made]
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def make(tokenizer) -> tuple[Fast | None, str | None]:
    """(what encodes natively for a tokenizer, None), or (None, why there is no such)."""
    if any(tokenizer.tree["model"].get(key) for key in SENTENCEPIECE):
        tokenizer._model(frozenset())  # checks these keys, which the native code trusts
    encoder, why_not = plan(tokenizer.tree)
    return (None, why_not) if encoder is None else (Fast(tokenizer, encoder), None)
