"""Added tokens: what is cut out of a text, what their flags do, and that a user's words cannot smuggle one in."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_compare import both, trees
from text_trees import BYTES_BPE, CHAR_BPE, FLAGGED, TRICKY, added, fuzzed, tree, unigram, wordlevel, wordpiece

from pikojax.config import UserError
from pikojax.text.tokenizer import Tokenizer

PLAIN = {"special": False}


def pieces(text: str, *tokens: dict, normalizer=None, **options) -> list[str]:
    """The text cut at its added tokens, as an Encoding shows them; letters are single tokens."""
    tokenizer = Tokenizer.from_tree(tree({**CHAR_BPE, "merges": []}, added_tokens=list(tokens), normalizer=normalizer))
    return tokenizer.encode_with_offsets(text, **options).tokens


def test_the_longest_of_those_that_begin_first():
    tokens = added("<a>", 90), added("<a><b>", 91), added("a><", 92)
    assert pieces("x<a><b><a>", *tokens) == ["x", "<a><b>", "<a>"]
    assert pieces("<a", *tokens) == ["<unk>", "a"]  # the end of a text is not the end of a token


def test_flags():
    assert pieces("a  <m>  b", added("<m>", 90, lstrip=True)) == ["a", "  <m>", " ", " ", "b"]
    assert pieces("a  <m>  b", added("<m>", 90, rstrip=True)) == ["a", " ", " ", "<m>  ", "b"]
    assert pieces("<m> <m>", added("<m>", 90, lstrip=True, rstrip=True)) == ["<m> ", "<m>"]
    assert pieces("day days a day", added("day", 90, single_word=True)) == ["day", " ", "d", "a", "y", "s", " ", "a", " ", "day"]
    assert pieces("étéday", added("day", 90, single_word=True))[-3:] == ["d", "a", "y"]


def test_normalized_or_as_it_stands():
    lower = {"type": "Lowercase"}
    assert pieces("Day day DAY", added("Day", 90), normalizer=lower) == ["Day", " ", "d", "a", "y", " ", "d", "a", "y"]
    assert pieces("Day day DAY", added("Day", 90, normalized=True), normalizer=lower) == ["day", " ", "day", " ", "day"]
    space = {"type": "Prepend", "prepend": "▁"}
    assert pieces("low<s>low", added("<s>", 1), normalizer=space) == ["▁", "l", "o", "w", "<s>", "▁", "l", "o", "w"]


def test_ids_of_tokens_that_the_vocabulary_lacks_follow_it():
    size = len(CHAR_BPE["vocab"])
    tokenizer = Tokenizer.from_tree(tree(CHAR_BPE, added_tokens=[added("<s>", 1), added("<x>", 5000), added("<y>", 7), added("", 3)]))
    assert (tokenizer.token_to_id("<s>"), tokenizer.token_to_id("<x>"), tokenizer.token_to_id("<y>")) == (1, size, size + 1)
    ranks = {**CHAR_BPE, "merges": [], "rank_order": True}  # a rank file names its ids, gaps and all
    assert Tokenizer.from_tree(tree(ranks, added_tokens=[added("<x>", 5000)])).vocab_size == 5001


SMUGGLERS = {
    "BPE": tree({**CHAR_BPE, "ignore_merges": True}, added_tokens=[added("<unk>", 0), added("<s>", 1), added("</s>", 2)]),
    "bytes": tree(BYTES_BPE, added_tokens=FLAGGED[:3], normalizer={"type": "NFKC"}),
    "WordPiece": tree(wordpiece(), pre_tokenizer={"type": "WhitespaceSplit"}, added_tokens=[added(f"[{t}]", i) for i, t in enumerate(("UNK", "PAD", "CLS"))]),
    "Unigram": tree(unigram(), added_tokens=[added("<unk>", 0), added("<s>", 1), added("</s>", 2)], normalizer={"type": "NFKC"}),
    "WordLevel": tree(wordlevel(), pre_tokenizer={"type": "WhitespaceSplit"}, added_tokens=[added("<unk>", 0), added("low", 1)]),
}


@pytest.mark.parametrize("name", SMUGGLERS)
def test_a_user_s_words_smuggle_no_special_token_in(name):
    tokenizer, rng = Tokenizer.from_tree(SMUGGLERS[name]), random.Random(name)
    special = {tokenizer.token_to_id(token) for token in tokenizer.specials} - {tokenizer.unk_id}
    wide = [token.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)}) for token in tokenizer.specials]  # NFKC makes them narrow
    for text in [*tokenizer.specials, *wide, *TRICKY, *(fuzzed(rng, [*tokenizer.specials, *wide]) for _ in range(200))]:
        ids = tokenizer.encode(text, add_special_tokens=False, allowed_special=())
        assert not special & set(ids.tolist()), text
        assert tokenizer.encode_with_offsets(text, add_special_tokens=False, allowed_special=()).ids.tolist() == ids.tolist()
    some = tokenizer.specials[-1]
    assert tokenizer.encode(some, allowed_special=[some]).tolist() == [tokenizer.token_to_id(some)]


def test_what_is_allowed_must_be_there():
    tokenizer = Tokenizer.from_tree(SMUGGLERS["Unigram"])
    with pytest.raises(UserError, match="'<x>' is no special token of this tokenizer; it has: <unk>, <s>, </s>"):
        tokenizer.encode("a", allowed_special=["<x>"])
    with pytest.raises(UserError, match="give 'all' or a collection"):
        tokenizer.encode("a", allowed_special="none")


def test_added_tokens_that_are_not_special_are_always_cut_out():
    assert pieces("a<w>b", added("<w>", 90, **PLAIN), added("<s>", 1), allowed_special=()) == ["a", "<w>", "b"]


def test_special_tokens_as_plain_text_are_the_peer_s():
    """Hugging Face's encode_special_tokens; it lets a model make the token again, we do not."""
    pytest.importorskip("tokenizers", reason="`tokenizers` is not installed: no live comparison")
    for name in ("model bytes added", "normalizer NFKC", "ByteLevel plain True True", "pre_tokenizer Bert"):
        ours, theirs = both(trees()[name])
        theirs.encode_special_tokens = True
        rng = random.Random(name)
        for text in [*TRICKY, *(fuzzed(rng) for _ in range(100))]:
            assert ours.encode(text, allowed_special=()).tolist() == theirs.encode(text).ids, text


@settings(deadline=None, max_examples=200)
@given(text=st.text("ab<s>/ m", max_size=30))
def test_cutting_loses_nothing(text):
    tokenizer = Tokenizer.from_tree(tree(BYTES_BPE, added_tokens=FLAGGED[:3], decoder={"type": "Fuse"}))
    encoding = tokenizer.encode_with_offsets(text)
    assert "".join(text[a:b] for a, b in encoding.char_spans.tolist()) == text
