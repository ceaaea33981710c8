"""The model of a tokenizer.json tree as arrays for the native code.

    {"a": 0, "b": 1, …}  →  b"a\\xffb\\xff…" and [0, 1, …]        a byte 0xFF after each token: no UTF-8 has it, so lengths need not be told

One blob and one array for all tokens, because a hundred thousand calls would take longer than all the rest of loading.

Leaves out: what the native code cannot do; that raises `Unknown` with a reason.
"""

import itertools

import numpy as np

from pikojax.text.byte_level import CHARS
from pikojax.text.native import Setup

PLAIN, BYTE_LEVEL, MARKED = range(3)  # alphabets, as in text_vocab.h
MODELS = {"BPE": 0, "WordPiece": 1, "Unigram": 2}


class Unknown(Exception):
    """A part of the tree that the native code does not do."""


def keep_array(setup: Setup, keep: list, name: str, array: np.ndarray) -> None:
    array = np.ascontiguousarray(array)
    keep.append(array)
    setattr(setup, name, array.ctypes.data)



def _blob(tokens) -> bytes:
    tokens = list(map(str.encode, tokens))
    return b"\xff".join(tokens) + b"\xff" if tokens else b""


def set_model(model: dict, banned: frozenset[int], setup: Setup, keep: list) -> None:
    from pikojax.text.hf_json import as_hugging_face_reads, model_type

    kind = model_type(model)
    if kind not in MODELS:
        raise Unknown(f"the model {kind}")
    setup.model = MODELS[kind]
    vocab = model["vocab"]
    if kind == "Unigram":
        tokens, ids = [token for token, _ in vocab], np.arange(len(vocab), dtype=np.int32)
        scores = [float(score) if model.get("float32") else as_hugging_face_reads(score) for _, score in vocab]
        keep_array(setup, keep, "scores", np.array(scores, np.float64))
        unk = model.get("unk_id")
        setup.float32 = bool(model.get("float32"))
    else:
        tokens, ids = list(vocab), np.fromiter(vocab.values(), np.int32, len(vocab))
        unk_token = model.get("unk_token", "[UNK]" if kind == "WordPiece" else None)
        unk = vocab.get(unk_token)
        affixed = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
        spells_all = kind == "BPE" and setup.alphabet == BYTE_LEVEL and not affixed and all(vocab.get(c, -1) not in {-1, *banned} for c in CHARS)
        if unk is None and unk_token is not None and not spells_all:
            raise Unknown("an unknown token that the vocabulary lacks")
    setup.tokens = _blob(tokens)
    setup.tokens_size, setup.n_tokens = len(setup.tokens), len(tokens)
    keep_array(setup, keep, "ids", ids)
    setup.unk = -1 if unk is None else unk
    setup.byte_fallback, setup.fuse_unk = bool(model.get("byte_fallback")), bool(model.get("fuse_unk"))
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    setup.prefix, setup.suffix = prefix.encode(), suffix.encode()
    if kind == "WordPiece":
        setup.prefix = model.get("continuing_subword_prefix", "##").encode()
        setup.max_chars = min(model.get("max_input_chars_per_word", 100), 2**31 - 1)
    if model.get("unused") or model.get("user_defined"):
        raise Unknown("unused or user-defined pieces of SentencePiece")
    reserved = set(model.get("reserved", ()))
    if reserved or banned:
        usable = np.isin(ids, list(banned), invert=True)
        keep_array(setup, keep, "usable", usable & np.fromiter((token not in reserved for token in tokens), bool, len(tokens)))
    if setup.alphabet == MARKED and "▁" not in tokens:
        raise Unknown("a vocabulary without ▁")
    if kind == "BPE":
        if setup.byte_fallback and (prefix or suffix or setup.alphabet == BYTE_LEVEL):
            raise Unknown("byte fallback with prefixes, suffixes or a byte-level alphabet")
        if (model.get("rank_order") or model.get("score_order")) and setup.alphabet != BYTE_LEVEL:
            if set("".join(token for token in tokens if token not in reserved)) - set(tokens):
                raise Unknown("pieces with a character that is no piece: SentencePiece joins such as text")
        setup.whole_first = bool(model.get("ignore_merges"))
        _merges(model, ids, tokens, setup, keep)


def _merges(model: dict, ids: np.ndarray, tokens: list[str], setup: Setup, keep: list) -> None:
    if model.get("rank_order"):
        return keep_array(setup, keep, "ranks", ids)
    if model.get("score_order"):
        scores = np.array(model["scores"], np.float64)
        _, ranks = np.unique(-scores[ids], return_inverse=True)
        return keep_array(setup, keep, "ranks", ranks.astype(np.int32))
    merges = model.get("merges") or []
    if len(set(map(type, merges))) > 1:
        raise Unknown("merges of two kinds")
    if merges and isinstance(merges[0], str):
        merges = [merge for merge in merges if not merge.startswith("#version")]
        blob = _blob(merges).replace(b" ", b"\xff")
        if blob.count(b"\xff") != 2 * len(merges):
            raise Unknown("merges that are not two tokens each")
    else:
        blob = _blob(itertools.chain.from_iterable(merges))
    setup.merges, setup.merges_size = blob, len(blob)
