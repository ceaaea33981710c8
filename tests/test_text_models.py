"""The models alone, by hand: BPE's order, WordPiece's greed, Unigram's sums. What the peers do with whole files is in test_text_pipeline."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_trees import MERGES, bpe, tree, unigram, wordpiece

from pikojax.config import UserError
from pikojax.text import load
from pikojax.text.bpe import BPE, derive_merges
from pikojax.text.hf_json import as_hugging_face_reads
from pikojax.text.tokenizer import Tokenizer
from pikojax.text.unigram import Unigram
from pikojax.text.wordpiece import WordPiece


def model_of(spec: dict, **options) -> BPE:
    return BPE(spec["vocab"], spec["merges"], **options)


def names(vocab, ids) -> list[str]:
    back = {i: token for token, i in vocab.items()}
    return [back[i] for i in ids]


def test_bpe_joins_by_rank_not_by_place():
    spec = bpe("lower", ["l o", "lo w", "e r"])
    assert names(spec["vocab"], model_of(spec).encode("lower")) == ["low", "er"]
    spec = bpe("abc", ["b c", "a b", "ab c"])
    assert names(spec["vocab"], model_of(spec).encode("abc")) == ["a", "bc"]  # "b c" came first, "ab" is out of reach then
    spec = bpe("a", ["a a"])
    assert names(spec["vocab"], model_of(spec).encode("aaa")) == ["aa", "a"]  # of equal ranks the leftmost


def test_rank_order_is_not_a_list_of_merges():
    """Tokens abc = ab + c only in the list; by rank any neighbours that make a token join: here a + bc too."""
    vocab = {"a": 0, "b": 1, "c": 2, "bc": 3, "ab": 4, "abc": 5}
    merges = [("b", "c"), ("a", "b"), ("ab", "c")]
    assert names(vocab, BPE(vocab, merges).encode("abc")) == ["a", "bc"]
    assert names(vocab, BPE(vocab, rank_order=True).encode("abc")) == ["abc"]
    assert derive_merges(vocab) == [("b", "c"), ("a", "b"), ("a", "bc")]
    assert names(vocab, BPE(vocab, derive_merges(vocab)).encode("abc")) == ["abc"]


@settings(deadline=None, max_examples=300)
@given(text=st.text("lowernidst", min_size=1, max_size=120), ranks=st.booleans())
def test_the_heap_joins_as_the_plain_rule_does(text, ranks):
    spec = bpe("abcdefghijklmnopqrstuvwxyz", MERGES[:-1])
    model = BPE(spec["vocab"], [] if ranks else spec["merges"], rank_order=ranks)
    symbols = model._symbols(text)
    assert model._join_long(list(symbols)) == model._join(list(symbols))


def test_a_character_that_bpe_lacks():
    spec = bpe("ab", [], ["<unk>", *(f"<0x{byte:02X}>" for byte in "é".encode())])
    assert model_of(spec).encode("aéb中") == [spec["vocab"]["a"], spec["vocab"]["b"]]  # no unknown token: it is left out
    model = model_of(spec, unk_token="<unk>", byte_fallback=True)
    assert names(spec["vocab"], model.encode("aé中中b")) == ["a", "<0xC3>", "<0xA9>", "<unk>", "<unk>", "b"]
    assert names(spec["vocab"], model_of(spec, unk_token="<unk>", fuse_unk=True).encode("é中b")) == ["<unk>", "b"]
    assert model_of(spec, unk_token="<unk>").encode_with_lengths("中b")[0] == (spec["vocab"]["<unk>"], 3)
    with pytest.raises(UserError, match="lacks '<none>' too"):
        model_of(spec, unk_token="<none>").encode("x")


def test_ignore_merges_takes_a_whole_token():
    spec = bpe("abc", [], ["abc"])
    assert names(spec["vocab"], model_of(spec).encode("abc")) == ["a", "b", "c"]
    assert names(spec["vocab"], model_of(spec, ignore_merges=True).encode("abc")) == ["abc"]


def test_wordpiece_takes_the_longest_beginning():
    spec = wordpiece()
    model = WordPiece(spec["vocab"], max_input_chars_per_word=20)
    assert names(spec["vocab"], model.encode("lowest")) == ["low", "##est"]
    assert names(spec["vocab"], model.encode("lowex")) == ["[UNK]"]  # no way on after low, ##e: the whole word is unknown
    assert names(spec["vocab"], model.encode("a" * 20))[0] == "a" and names(spec["vocab"], model.encode("a" * 21)) == ["[UNK]"]
    with pytest.raises(UserError, match="lacks '\\[UNK\\]' too"):
        WordPiece({"a": 0}).encode("b")


def test_unigram_takes_the_highest_sum():
    vocab = [("<unk>", 0.0), ("a", -1.0), ("b", -1.0), ("c", -1.0), ("ab", -1.5), ("bc", -1.8)]
    assert Unigram(vocab, unk_id=0).cut("abc") == ["ab", "c"]
    assert Unigram(vocab[:4] + [("ab", -2.0)], unk_id=0).cut("ab") == ["ab"]  # of equal sums the longer last token
    assert Unigram(vocab, unk_id=0).cut("aéüb") == ["a", "éü", "b"]  # neighbouring unknowns are one
    with pytest.raises(UserError, match="no unknown token"):
        Unigram(vocab).encode("é")


def test_unigram_spells_the_unknown_in_bytes():
    spec = unigram(bytes_too=True)
    model = Unigram(spec["vocab"], unk_id=0, byte_fallback=True)
    ids = {token: i for i, (token, _) in enumerate(spec["vocab"])}
    assert model.encode("aü") == [ids["a"], ids["<0xC3>"], ids["<0xBC>"]]
    tokenizer = Tokenizer.from_tree(tree(spec))
    assert tokenizer.encode_with_offsets("aü").char_spans.tolist() == [[0, 1], [1, 2], [1, 2]]


def test_numbers_are_read_as_the_peer_reads_them(tmp_path):
    """Its reader rounds twice, which can make a neighbour of the nearest float, and sums that tie differ from sums that do not."""
    assert as_hugging_face_reads(-1.25) == -1.25 and as_hugging_face_reads(5.660778937792747) == 5.660778937792747
    assert as_hugging_face_reads(-13.275903873626643) != -13.275903873626643
    assert as_hugging_face_reads(1e22) == 1e22 and as_hugging_face_reads(-0.0) == 0 and as_hugging_face_reads(1e-7) == 1e-7
    spec = unigram()
    spec["vocab"][5][1] = -13.275903873626643
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree(spec)))
    assert load(tmp_path)._vocab.entries[5][1] == as_hugging_face_reads(-13.275903873626643)
    again = load(load(tmp_path).save(tmp_path / "again.json"))  # the file keeps the number, so that reading it again changes nothing
    assert again._vocab.entries[5][1] == as_hugging_face_reads(-13.275903873626643)
