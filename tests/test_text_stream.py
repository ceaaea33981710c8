"""Streaming: at every split what was handed out is the beginning of the whole, and nothing of it ever changes."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_compare import trees
from text_trees import BYTE_BPE, BYTE_LEVEL, BYTES_BPE, LLAMA_DECODER, TRICKY, tree

from pikojax.config import UserError
from pikojax.text.tokenizer import Tokenizer

DECODERS = {name: Tokenizer.from_tree(part) for name, part in trees().items() if name.startswith(("decoder", "ByteLevel plain", "model char"))}
BYTE_LEVEL_TOKENIZER = Tokenizer.from_tree(tree(BYTE_BPE, pre_tokenizer=BYTE_LEVEL, decoder=BYTE_LEVEL))
LLAMA = Tokenizer.from_tree(tree(BYTES_BPE, decoder=LLAMA_DECODER))


def streamed(tokenizer, ids, skip=False) -> tuple[list[str], str]:
    stream = tokenizer.stream(skip)
    return [stream.push(i) for i in ids], stream.finish()


@pytest.mark.parametrize("name", DECODERS)
def test_the_chunks_are_the_whole(name):
    tokenizer, rng = DECODERS[name], random.Random(name)
    for _ in range(60):
        ids = [rng.randrange(tokenizer.vocab_size) if rng.random() < 0.6 else rng.randrange(259, tokenizer.vocab_size) if
               tokenizer.vocab_size > 260 else 3 for _ in range(rng.randrange(25))]  # fmt: skip
        for skip in (False, True):
            chunks, rest = streamed(tokenizer, ids, skip)
            whole = tokenizer.decode(ids, skip)
            assert "".join(chunks) + rest == whole
            for n in range(len(ids)):  # whatever comes, what is out stays
                assert tokenizer.decode(ids[: n + 1], skip).startswith("".join(chunks[: n + 1]))


@settings(deadline=None, max_examples=200)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_no_half_characters(text):
    for tokenizer in (BYTE_LEVEL_TOKENIZER, LLAMA):
        chunks, rest = streamed(tokenizer, tokenizer.encode(text))
        assert "".join(chunks) + rest == tokenizer.decode(tokenizer.encode(text))
        assert all("\ufffd" not in chunk for chunk in chunks) or "\ufffd" in text
    assert tokenizer.decode(BYTE_LEVEL_TOKENIZER.encode(text)[:0]) == ""


def test_a_character_waits_for_its_last_byte():
    ids = BYTE_LEVEL_TOKENIZER.encode("a€b")
    assert streamed(BYTE_LEVEL_TOKENIZER, ids) == (["a", "", "", "€", "b"], "")
    assert streamed(BYTE_LEVEL_TOKENIZER, ids[:3]) == (["a", "", ""], "\ufffd")
    back = [BYTES_BPE["vocab"][name] for name in ("<0xE2>", "<0x82>", "<0xAC>", "low")]
    assert streamed(LLAMA, back) == (["", "", "", "€low"], "")
    assert streamed(LLAMA, back[:2]) == (["", ""], "\ufffd\ufffd")


def test_the_first_space_alone_is_swallowed():
    ids = [BYTES_BPE["vocab"][name] for name in ("▁", "▁low", "▁low")]
    assert streamed(LLAMA, ids) == (["", " low", " low"], "") and LLAMA.decode(ids) == " low low"


def test_real_text_comes_out_word_by_word():
    for text in TRICKY:
        chunks, rest = streamed(BYTE_LEVEL_TOKENIZER, BYTE_LEVEL_TOKENIZER.encode(text))
        assert "".join(chunks) == text and rest == ""


def test_an_id_of_another_vocabulary_is_refused():
    with pytest.raises(UserError, match="id 99999 is not in"):
        LLAMA.stream().push(99999)
