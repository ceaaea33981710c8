"""The whole pipeline: every part against Hugging Face's on small trees, real vocabularies on real texts, and what is promised besides."""

import base64
import json
import os
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_compare import both, difference, trees
from text_trees import BYTE_BPE, BYTE_LEVEL, BYTES_BPE, CHAR_BPE, LLAMA_DECODER, METASPACE, TRICKY, fuzzed, string, tree, unigram, wordpiece

from pikojax.config import UserError
from pikojax.text import load
from pikojax.text.tokenizer import Tokenizer

DATA = Path(os.environ.get("PIKOJAX_DATA") or Path(__file__).parent.parent.parent / "shared" / "data")
GOLDEN = Path(__file__).parent / "golden" / "text_pipeline.json"
TREES = trees()
REAL = ("gpt2", "bert_base_cased", "fineweb_unigram", "fineweb_wordpiece", "llama2", "pile_tokenizer", "simplestories-4096")
GPT2_LIKE = tree(BYTE_BPE, pre_tokenizer=BYTE_LEVEL, decoder=BYTE_LEVEL)


@pytest.fixture(scope="module")
def peers():
    pytest.importorskip("tokenizers", reason="`tokenizers` is not installed: no live comparison")


# ---------------------------------------------------------------- the same as the peer


def test_what_the_peer_said_once():
    """ids of every tree on the tricky texts, as tokenizers gave them (tests/golden/make_text_golden.py)."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert golden.keys() == TREES.keys()
    for name, expected in golden.items():
        tokenizer = Tokenizer.from_tree(TREES[name])
        for text, ids in zip(TRICKY, expected, strict=True):
            if isinstance(ids, int):
                assert zlib.crc32(str(tokenizer.encode_slowly(text).tolist()).encode()) == ids, (name, text)
            else:
                with pytest.raises(UserError):
                    tokenizer.encode_slowly(text)


@pytest.mark.parametrize("name", TREES)
def test_a_small_tree_means_the_same_to_hugging_face(name, peers):
    pair, rng = both(TREES[name]), random.Random(name)
    for text in [*rng.sample(TRICKY, 10), *(fuzzed(rng) for _ in range(4))]:  # all of them: what the peer said once, and the slow test
        assert difference(*pair, text, rng) == ""
    for text in rng.sample(TRICKY, 3):
        assert difference(*pair, text, rng, pair=rng.choice(TRICKY)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", TREES)
def test_a_small_tree_means_the_same_on_many_texts(name, peers):
    pair, rng = both(TREES[name]), random.Random(f"slow {name}")
    for text in [*TRICKY, *(fuzzed(rng) for _ in range(300))]:
        assert difference(*pair, text, rng) == ""


def real(name: str):
    file = DATA / "tokenizers" / f"{name}.json"
    if not file.exists():
        pytest.skip(f"no {file}")
    import tokenizers

    theirs = tokenizers.Tokenizer.from_file(str(file))
    theirs.no_truncation()
    return load(file), theirs


@pytest.mark.parametrize("name", REAL)
def test_a_real_vocabulary_gives_the_peer_s_ids(name, peers):
    ours, theirs = real(name)
    assert ours.vocab_size == theirs.get_vocab_size()
    rng = random.Random(name)
    words = [theirs.id_to_token(rng.randrange(ours.vocab_size)) for _ in range(300)] + list(ours.specials)
    texts = [(DATA / "text" / file).read_text(encoding="utf-8")[:2500] for file in ("mixed_input.txt", "utf8_input.txt", "wagahai.txt")]
    for text in [*texts, *(fuzzed(rng, words) for _ in range(30))]:
        assert difference(ours, theirs, text, rng) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_a_real_vocabulary_gives_the_peer_s_ids_on_all_texts(name, peers):
    ours, theirs = real(name)
    rng = random.Random(name)
    for file in sorted((DATA / "text").glob("*.txt")):
        assert difference(ours, theirs, file.read_text(encoding="utf-8"), rng) == ""
    words = [theirs.id_to_token(rng.randrange(ours.vocab_size)) for _ in range(3000)] + list(ours.specials)
    for _ in range(2000):
        assert difference(ours, theirs, fuzzed(rng, words), rng) == ""


def test_a_saved_file_means_the_same_to_hugging_face(peers, tmp_path):
    import tokenizers

    for name in ("llama 3", "model bytes whole", "normalizer T5", "model WordPiece"):
        file = Tokenizer.from_tree(TREES[name]).save(tmp_path)
        theirs, again = tokenizers.Tokenizer.from_file(str(file)), load(file)
        for text in TRICKY:
            assert difference(again, theirs, text, random.Random(text)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["nmt_nfkc", "nfkc", "nmt_nfkc_cf"])
def test_sentencepiece_s_own_tables_of_replacements(rule, peers):
    """Each code point behind a letter and before a marked one: what counts as one cluster decides what is replaced whole."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="`sentencepiece` is not installed: no table of its making")
    from pikojax.text import normalizers
    from pikojax.text.aligned import Aligned

    proto = sentencepiece.SentencePieceNormalizer(rule_name=rule).serialized_model_proto()
    at = proto.index(b"\x12", proto.index(rule.encode()) + len(rule))  # field 2 of the normalizer: length (a varint), then the table
    size, shift, at = 0, 0, at + 1
    while True:
        size, shift, at = size | (proto[at] & 127) << shift, shift + 7, at + 1
        if proto[at - 1] < 128:
            break
    table = base64.b64encode(proto[at : at + size]).decode()
    spec = {"type": "Precompiled", "precompiled_charsmap": table}
    ours, theirs = normalizers.build(spec), both(tree(CHAR_BPE, normalizer=spec))[1].normalizer
    for code in range(0x110000):
        if not 0xD800 <= code < 0xE000:
            text = f"A{chr(code)} {chr(code)}A\u1dd1"
            assert ours(Aligned(text, None)).text == theirs.normalize_str(text), hex(code)


# ---------------------------------------------------------------- what it promises


def test_offsets_by_hand():
    lower = tree(wordpiece(), normalizer={"type": "Lowercase"}, pre_tokenizer={"type": "Whitespace"})
    encoding = Tokenizer.from_tree(lower).encode_with_offsets("É Lower中")
    assert encoding.tokens == ["é", "[UNK]"] and encoding.char_spans.tolist() == [[0, 1], [2, 8]]
    assert encoding.byte_spans.tolist() == [[0, 2], [3, 11]]
    encoding = Tokenizer.from_tree(GPT2_LIKE).encode_with_offsets("é low")  # é is two bytes, one token here; "Ġlow" is one
    assert encoding.tokens == ["Ã©", "Ġlow"] and encoding.byte_spans.tolist() == [[0, 2], [2, 6]]


def test_a_pair_has_two_types_and_its_own_offsets():
    tokenizer = Tokenizer.from_tree(TREES["post_processor Template"])
    encoding = tokenizer.encode_with_offsets("low é", "é low")
    assert encoding.type_ids.tolist()[:2] == [0, 0] and encoding.type_ids.tolist()[-1] == 3
    assert encoding.special_mask.tolist()[:3] == [True, True, False] and encoding.special_mask[-1]
    second = encoding.byte_spans[(encoding.type_ids == 3) & ~encoding.special_mask]
    assert second[0].tolist() == [0, 2]


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=40))
def test_bytes_of_any_kind_come_back_from_a_byte_level_tokenizer(data):
    tokenizer = Tokenizer.from_tree(GPT2_LIKE)
    assert tokenizer.decode_bytes(tokenizer.encode(data)) == data
    assert tokenizer.decode(tokenizer.encode(data)) == data.decode("utf-8", "replace")


def test_text_that_is_none_is_refused():
    tokenizer = Tokenizer.from_tree(GPT2_LIKE)
    with pytest.raises(UserError, match="half a surrogate pair, U\\+D800"):
        tokenizer.encode("a\ud800")
    with pytest.raises(UserError, match="only a byte-level tokenizer"):
        Tokenizer.from_tree(tree(unigram())).encode(b"a\xff")
    with pytest.raises(UserError, match="wants text, got int"):
        tokenizer.encode(5)


def test_ids_of_another_vocabulary_are_refused_and_holes_are_silent():
    tokenizer = Tokenizer.from_tree(tree({"type": "WordLevel", "vocab": {"a": 0, "b": 5}, "unk_token": "a"}))
    assert tokenizer.vocab_size == 6 and tokenizer.id_to_token(3) is None and tokenizer.tokens == ["a", "", "", "", "", "b"]
    assert tokenizer.decode([0, 3, 5]) == "a b"
    for bad in (-1, 6):
        with pytest.raises(UserError, match=f"id {bad} is not in"):
            tokenizer.decode([bad])


@settings(deadline=None, max_examples=150)
@given(text=st.text("ab low'S.,\n\té中5 ", max_size=60), more=st.text("a low.\n 5", max_size=8))
def test_a_safe_cut_does_not_change_the_ids(text, more):
    for name in ("ByteLevel plain True True", "ByteLevel space True True", "llama 3", "pre_tokenizer Bert", "pre_tokenizer Metaspace", "pre_tokenizer first"):
        tokenizer = Tokenizer.from_tree({**TREES[name], "added_tokens": []})
        cut = tokenizer.safe_cut(text)
        parts = [tokenizer.encode(part, add_special_tokens=False, allowed_special=()) for part in (text[:cut], text[cut:] + more)]
        assert np.concatenate(parts).tolist() == tokenizer.encode(text + more, add_special_tokens=False, allowed_special=()).tolist(), name


def test_where_a_text_may_be_cut():
    assert Tokenizer.from_tree(GPT2_LIKE).safe_cut("one two three") == 7
    assert Tokenizer.from_tree(GPT2_LIKE).safe_cut("x y " + "-" * 20_000) == 1
    assert Tokenizer.from_tree(TREES["model bytes whole"]).safe_cut("one two three") == 0
    assert Tokenizer.from_tree(TREES["added after lower"]).safe_cut("one two three") == 0


def test_batches_are_the_same_as_one_by_one():
    tokenizer = Tokenizer.from_tree(TREES["post_processor Template"])
    for add in (False, True):
        found = tokenizer.encode_batch(TRICKY, threads=2, add_special_tokens=add)
        assert [ids.tolist() for ids in found] == [tokenizer.encode(text, add_special_tokens=add).tolist() for text in TRICKY]
    assert tokenizer.encode_batch([]) == []
    with pytest.raises(UserError, match="a list of texts"):
        tokenizer.encode_batch("text")


def test_padding_and_truncation_by_hand():
    tokenizer = Tokenizer.from_tree(TREES["post_processor Bert"])  # <s> … </s>, ids 1 and 2
    one, two = tokenizer.encode("low", add_special_tokens=False).tolist(), tokenizer.encode("ab", add_special_tokens=False).tolist()
    padded = tokenizer.encode_padded(["low", "ab"], pad_id=9)
    assert padded.ids_BT.tolist() == [[1, *one, 2, 9], [1, *two, 2]] and padded.mask_BT.tolist() == [[True] * 3 + [False], [True] * 4]
    padded = tokenizer.encode_padded([("low", "ab")], length=8, side="left", pad_id=9)
    assert padded.ids_BT.tolist() == [[9, 9, 1, *one, 2, *two, 2]] and padded.type_ids_BT.tolist() == [[0] * 5 + [1] * 3]
    assert tokenizer.encode_padded(["abab"], length=4, truncate=True, pad_id=9).ids_BT.tolist() == [[1, *two, 2]]
    for options, says in (({"length": 3}, "raise it or set truncate"), ({"truncate": True}, "needs a length"), ({"length": 1, "truncate": True}, "no room"),
                          ({"side": "top"}, "side"), ({"length": 9}, "no padding token")):  # fmt: skip
        with pytest.raises(UserError, match=says):
            tokenizer.encode_padded(["abab"], **options)


def test_padding_and_truncation_are_the_peer_s(peers):
    ours, theirs = both(TREES["post_processor Template"])
    rng = random.Random(0)
    for _ in range(100):
        length = rng.randrange(6, 14)
        theirs.enable_truncation(length)
        theirs.enable_padding(length=length, pad_id=7, direction=rng.choice(("left", "right")))
        pair = tuple("".join(rng.choice("ab low é") for _ in range(rng.randrange(20))) for _ in range(2))
        rows = [rng.choice((pair, pair[0]))]
        expected = theirs.encode_batch(rows)[0]
        padded = ours.encode_padded(rows, length=length, truncate=True, side=theirs.padding["direction"], pad_id=7)
        assert padded.ids_BT[0].tolist() == expected.ids, (rows, length)
        assert padded.mask_BT[0].tolist() == [bool(x) for x in expected.attention_mask] and padded.type_ids_BT[0].tolist() == expected.type_ids


def test_what_a_file_says_of_truncation_cuts_no_text():
    cut = {**GPT2_LIKE, "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}}
    assert len(Tokenizer.from_tree(cut).encode("abcdefg")) == 7


def test_names_of_tokens_that_matter():
    tokenizer = Tokenizer.from_tree(TREES["normalizer NFC"])
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id) == (1, 2, None, 0)
    assert tokenizer.specials[:2] == ("<s>", "</s>") and tokenizer.token_to_id("</s>") == 2 and tokenizer.id_to_token(2) == "</s>"


def test_a_folder_is_searched(tmp_path):
    Tokenizer.from_tree(GPT2_LIKE).save(tmp_path)
    assert load(tmp_path).encode("low").tolist() == load(tmp_path / "tokenizer.json").encode("low").tolist()


def test_the_model_s_own_files_name_the_tokens_that_matter(tmp_path):
    Tokenizer.from_tree(TREES["normalizer NFC"]).save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<mask>", "bos_token": {"content": "</s>"}, "pad_token": "no such"}))
    tokenizer = load(tmp_path)
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id) == (tokenizer.token_to_id("<mask>"), 2, None)
    (tmp_path / "run").mkdir()
    assert load(tokenizer.save(tmp_path / "run")).eos_id == tokenizer.eos_id  # a copy elsewhere remembers
    (tmp_path / "tokenizer_config.json").write_text("[1")
    assert load(tmp_path).eos_id == 2


def test_python_alone_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("PIKOJAX_TEXT", "python")
    tokenizer = Tokenizer.from_tree(GPT2_LIKE)
    assert tokenizer._native is None and tokenizer.encode("low low").tolist() == tokenizer.encode_slowly("low low").tolist()


@pytest.mark.parametrize("model", [CHAR_BPE, BYTES_BPE], ids=["char", "bytes"])
def test_the_space_of_metaspace_goes_in_and_out(model):
    tokenizer = Tokenizer.from_tree(tree(model, pre_tokenizer=METASPACE, decoder=METASPACE))
    assert tokenizer.tokens[tokenizer.encode("low")[0]] == "▁low" and tokenizer.decode(tokenizer.encode("low low")) == "low low"
    plain = tree(model, normalizer={"type": "Replace", "pattern": string(" "), "content": "▁"}, decoder=LLAMA_DECODER)
    assert Tokenizer.from_tree(plain).decode(Tokenizer.from_tree(plain).encode(" low")) == "low"
