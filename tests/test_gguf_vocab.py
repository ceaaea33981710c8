"""Vocabularies inside GGUF files give the ids that llama.cpp's own test files state."""

import os
from pathlib import Path

import numpy as np
import pytest

from pikojax.config import UserError
from pikojax.formats import gguf
from pikojax.text import gguf_vocab
from pikojax.text.tokenizer import Tokenizer

GGUF = Path(os.environ.get("PIKOJAX_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data") / "gguf"


def files():
    return sorted(GGUF.glob("ggml-vocab-*.gguf")) or [pytest.param(None, marks=pytest.mark.skip(reason=f"no {GGUF}"))]


@pytest.mark.parametrize("file", files(), ids=lambda file: getattr(file, "stem", "none"))
def test_every_case_of_every_vocabulary(file):
    tok = Tokenizer.from_tree(gguf_vocab.tree(gguf.read(file).metadata, str(file)))
    texts = Path(f"{file}.inp").read_text(encoding="utf-8").removesuffix("\n__ggml_vocab_test__\n").split("\n__ggml_vocab_test__\n")
    lines = Path(f"{file}.out").read_text().removesuffix("\n").split("\n")
    assert len(texts) == len(lines) == 46
    for text, line in zip(texts, lines, strict=True):
        assert tok.encode(text, add_special_tokens=False).tolist() == [int(word) for word in line.split()], repr(text)


def words(model: str, tokens: list[str], **more) -> dict:
    return {"tokenizer.ggml.model": model, "tokenizer.ggml.tokens": tokens} | {f"tokenizer.ggml.{name}": value for name, value in more.items()}


def test_a_vocabulary_of_bytes():
    tokens = ["<s>", "h", "u", "g", "s", "ug", "hug", "Ġ"]
    made = words("gpt2", tokens, pre="llama-bpe", merges=["u g", "h ug"], token_type=np.array([3] + [1] * 7), bos_token_id=0, eos_token_id=0)
    tok = Tokenizer.from_tree(gguf_vocab.tree(made, "x"))
    assert tok.encode("hugs hug").tolist() == [0, 6, 4, 7, 6] and tok.decode([6, 4]) == "hugs" and tok.eos_id == 0
    without = Tokenizer.from_tree(gguf_vocab.tree(made | {"tokenizer.ggml.add_bos_token": False}, "x"))
    assert without.encode("hug").tolist() == [6]


def test_texts_begin_and_end_as_the_file_says():
    made = words("gpt2", ["<s>", "</s>", "h"], pre="gpt-2", merges=[], token_type=[3, 3, 1], bos_token_id=0, eos_token_id=1)
    pieces = words("llama", ["<unk>", "<s>", "</s>", "h"], token_type=[2, 3, 3, 1], scores=[0.0] * 4, bos_token_id=1, eos_token_id=2, add_space_prefix=False)
    ids = lambda tree, **more: Tokenizer.from_tree(gguf_vocab.tree(tree | {f"tokenizer.ggml.{name}": more[name] for name in more}, "x")).encode("h").tolist()
    assert ids(made) == [2] and ids(made, add_eos_token=True) == [2, 1] and ids(made, add_eos_token=True, add_bos_token=True) == [0, 2, 1]
    assert ids(pieces) == [1, 3] and ids(pieces, add_eos_token=True) == [1, 3, 2] and ids(pieces, add_bos_token=False) == [3]
    pieces["tokenizer.ggml.model"] = "t5"
    assert ids(pieces) == [3, 2] and ids(pieces, add_eos_token=False) == [3]


def test_a_bracket_alone_is_a_word_piece_like_others():
    made = gguf_vocab.tree(words("bert", ["[UNK]", "▁[", "[", "[x]"], token_type=np.array([3, 1, 1, 1]), unknown_token_id=0), "x")
    assert list(made["model"]["vocab"]) == ["[UNK]", "[", "##[", "[x]"]


def test_a_vocabulary_of_word_pieces():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁hug", "s", "▁a"]
    made = words("bert", tokens, token_type=np.array([3, 2, 3, 3, 1, 1, 1]), cls_token_id=2, seperator_token_id=3, unknown_token_id=1)
    tok = Tokenizer.from_tree(gguf_vocab.tree(made, "x"))
    assert tok.encode("Hugs a zoo").tolist() == [2, 4, 5, 6, 1, 3]


def test_no_vocabulary():
    assert gguf_vocab.tree({}, "x") is None and gguf_vocab.tree({"tokenizer.ggml.model": "none"}, "x") is None


@pytest.mark.parametrize("made, part", [
    (words("rwkv", ["a"]), "'rwkv'"),
    (words("gpt2", ["a"], pre="of tomorrow", merges=[]), "'of tomorrow', which is not known"),
    (words("gpt2", ["a", "a"], pre="gpt-2", merges=[]), "'a' twice"),
    (words("gpt2", ["a"], pre="gpt-2"), "merges"),
    (words("gpt2", ["a"], pre="gpt-2", merges=[], bos_token_id=1), "bos_token_id = 1"),
    (words("gpt2", ["a"], pre="gpt-2", merges=[], token_type=[1, 1]), "token_type"),
    (words("llama", ["a"]), "score"),
    (words("llama", []), "no list of tokens"),
    (words(7, ["a"]), "kind '7'"),
    (words(np.arange(3), ["a"]), "kind '.0 1 2.'"),
    (words("gpt2", 7), "no list of tokens"),
    (words("gpt2", [7]), "no list of tokens"),
    (words("gpt2", np.arange(3)), "no list of tokens"),
    (words("gpt2", ["a"], pre=np.arange(3), merges=[]), "which is not known"),
    (words("gpt2", ["a"], pre="kimi-k2", merges=[]), "'kimi-k2', which is not known"),
    (words("gpt2", ["a"], pre="gpt-2", merges=7), "no list of merges"),
    (words("gpt2", ["a"], pre="gpt-2", merges=np.arange(3)), "no list of merges"),
    (words("gpt2", ["a"], pre="gpt-2", merges=[], bos_token_id=np.arange(3)), "bos_token_id = "),
    (words("gpt2", ["a"], pre="gpt-2", merges=[], token_type=7), "token_type"),
    (words("gpt2", ["a"], pre="gpt-2", merges=[], token_type=["a"]), "token_type that is no number"),
    (words("gpt2", ["a"], pre="gpt-2", merges=[], token_type=[np.inf]), "token_type that is no number"),
    (words("gpt2", ["a"], pre="gpt-2", merges=[], add_bos_token="no"), "add_bos_token = 'no'"),
    (words("gpt2", ["a"], pre="gpt-2", merges=[], add_eos_token=1), "add_eos_token = '1'"),
    (words("gpt2", ["a"], pre="gpt-2", merges=[], add_eos_token=True), "no eos_token_id"),
    (words("gpt2", ["a"], pre="gpt-2", merges=[], add_space_prefix=np.arange(3)), "add_space_prefix = "),
    (words("bert", ["[UNK]"], add_eos_token=True), "no eos_token_id"),
    (words("llama", ["a"], scores="x"), "scores"),
    (words("llama", ["a"], scores=np.array([np.nan])), "scores that is no number"),
    (words("llama", ["a"], scores=np.array([[0.0]])), "no scores"),
    (words("t5", ["a"], scores=[0.0], precompiled_charsmap=1 << 40), "no array of bytes"),
    (words("t5", ["a"], scores=[0.0], precompiled_charsmap=np.arange(3)), "no array of bytes"),
    (words("t5", ["a"], scores=[0.0], remove_extra_whitespaces="x"), "remove_extra_whitespaces = 'x'"),
])  # fmt: skip
def test_what_is_wrong_is_one_line(made, part):
    with pytest.raises(UserError, match=part):
        gguf_vocab.tree(made, "model.gguf")
