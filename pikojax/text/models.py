"""The model of a tokenizer.json: its vocabulary, checked, and the Python code that encodes with it.

    {"type": "BPE" | "WordPiece" | "Unigram" | "WordLevel", "vocab": …}  →  encode_with_lengths("lower") → [(id, bytes covered), …]

Leaves out: the algorithms, each in a file of its own.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pikojax.config import require
from pikojax.text import hf_json
from pikojax.text.hf_json import field


class Vocabulary(NamedTuple):
    kind: str
    ids: Mapping[str, int]  # token → id
    more: Mapping[int, str]  # id → token where several ids have the same one
    unk_id: int | None
    entries: Any  # what the model is made of besides: BPE's merges, Unigram's scores
    shows_unknown: bool = False  # an unknown token's text is the unknown text, in an Encoding


def read_vocabulary(tree: Mapping) -> Vocabulary:
    model = field(tree, "model", dict, what="the file")
    kind = hf_json.model_type(model)
    require(kind in _READERS, f"it holds a tokenizer of type {kind!r}; the types known here are: {', '.join(_READERS)}")
    return _READERS[kind](model)


def _unk_id(model: Mapping, ids: Mapping[str, int], default: str | None) -> int | None:
    return ids.get(field(model, "unk_token", str, default, what="the model"))


def _read_bpe(model: Mapping) -> Vocabulary:
    ids = hf_json.vocabulary(model)
    for name in ("fuse_unk", "byte_fallback", "ignore_merges", "rank_order"):
        field(model, name, bool, False, what="the model")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        field(model, name, str, "", what="the model")
    field(model, "dropout", (int, float), 0.0, what="the model")
    return Vocabulary("BPE", ids, {}, _unk_id(model, ids, None), hf_json.merge_list(model, ids))


def _read_wordpiece(model: Mapping) -> Vocabulary:
    ids = hf_json.vocabulary(model)
    field(model, "continuing_subword_prefix", str, "##", what="the model")
    limit = field(model, "max_input_chars_per_word", int, 100, what="the model")
    require(limit >= 0, f"max_input_chars_per_word is {limit}; give 1 or more")
    return Vocabulary("WordPiece", ids, {}, _unk_id(model, ids, "[UNK]"), None)


def _read_unigram(model: Mapping) -> Vocabulary:
    vocab = hf_json.scored_vocabulary(model)
    unk_id = field(model, "unk_id", int, None, what="the model")
    require(unk_id is None or 0 <= unk_id < len(vocab), f"unk_id is {hf_json.shown(unk_id)}; the vocabulary has {len(vocab)} tokens")
    field(model, "byte_fallback", bool, False, what="the model")
    return Vocabulary("Unigram", {token: i for i, (token, _) in enumerate(vocab)}, dict(enumerate(t for t, _ in vocab)), unk_id, vocab, True)


def _read_wordlevel(model: Mapping) -> Vocabulary:
    ids = hf_json.vocabulary(model)
    return Vocabulary("WordLevel", ids, {}, _unk_id(model, ids, "<unk>"), None)


SENTENCEPIECE = ("float32", "score_order", "reserved", "user_defined", "unused", "text_symbols")  # keys of its models, see sp_models.py
_READERS = {"BPE": _read_bpe, "WordPiece": _read_wordpiece, "Unigram": _read_unigram, "WordLevel": _read_wordlevel}


def build_model(tree: Mapping, vocab: Vocabulary, banned: frozenset[int] = frozenset()):
    """The model in Python; text does not give the tokens `banned`, unless as the unknown token."""
    model = tree["model"]
    if any(model.get(key) for key in SENTENCEPIECE):
        from pikojax.text import sp_models

        return sp_models.build(model, banned)

    def options(*names: str) -> dict:
        return {name: model[name] for name in names if model.get(name) is not None}

    if vocab.kind == "BPE":
        from pikojax.text.bpe import BPE

        names = "rank_order unk_token fuse_unk byte_fallback ignore_merges continuing_subword_prefix end_of_word_suffix"
        return BPE(vocab.ids, vocab.entries, **options(*names.split()), banned=banned)
    if vocab.kind == "WordPiece":
        from pikojax.text.wordpiece import WordPiece

        return WordPiece(vocab.ids, **options("unk_token", "continuing_subword_prefix", "max_input_chars_per_word"), banned=banned)
    if vocab.kind == "Unigram":
        from pikojax.text.unigram import Unigram

        return Unigram(vocab.entries, **options("unk_id", "byte_fallback"), banned=banned)
    from pikojax.text.wordlevel import WordLevelModel

    return WordLevelModel(vocab.ids, **options("unk_token"), banned=banned)
