"""Vocabularies in other files than tokenizer.json: they mean what their makers' programs say; damaged ones are refused at once."""

import base64
import json
import os
import random
import struct
import time
from pathlib import Path

import pytest

from pikojax.config import UserError
from pikojax.text import load
from pikojax.text import patterns, rank_file, sentencepiece, vocab_files
from pikojax.text.rank_file import byte_chars

DATA = Path(os.environ.get("PIKOJAX_DATA") or Path(__file__).parent.parent.parent / "shared" / "data")
GOLDEN = json.loads(Path(__file__).with_name("golden").joinpath("sentencepiece.json").read_text(encoding="utf-8"))


def data_file(name: str) -> Path:
    file = DATA / name
    if not file.exists():
        pytest.skip(f"no {file}")
    return file


def refused(path: Path) -> str:
    """The one line with which a file is refused, in under a second."""
    start_s = time.perf_counter()
    with pytest.raises(UserError) as caught:
        load(path)
    assert time.perf_counter() - start_s < 1
    line = str(caught.value)
    assert "\n" not in line and len(line) < 600 and str(path.parent) in line
    return line


# ---------------------------------------------------------------- tiktoken


def ranks(n: int = 256, more=(b"ab", b"abc", b"bc")) -> bytes:
    tokens = [bytes([byte]) for byte in range(n)] + list(more)
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))


@pytest.fixture
def tiny_kind(monkeypatch):
    monkeypatch.setitem(rank_file._KINDS, "tiny", (259, "gpt2", {"<|end|>": 261}))


def test_a_rank_file_merges_what_joins_to_the_lowest_rank(tmp_path, tiny_kind):
    path = tmp_path / "tiny.tiktoken"
    path.write_bytes(ranks())
    tok = load(path)
    assert tok.encode("abc ab<|end|>").tolist() == [257, 32, 256, 261] and tok.decode([257, 32, 256, 261]) == "abc ab<|end|>"
    assert tok.encode("xbc<|end|>", allowed_special=()).tolist()[:3] == [120, 258, 60] and tok.vocab_size >= 260


def test_the_name_or_the_number_of_tokens_says_how_text_is_cut(tmp_path, tiny_kind):
    for name, good in (("tiny.tiktoken", True), ("some.tiktoken", True), ("cl100k_base.tiktoken", False)):
        path = tmp_path / name
        path.write_bytes(ranks())
        if good:
            assert rank_file.kind_of(path, 259) == "tiny" and load(path).token_to_id("<|end|>") == 261
        else:
            assert "cut short" in refused(path)
    other = tmp_path / "other.tiktoken"
    other.write_bytes(ranks(more=[b"ab"]))
    assert "cl100k_base" in refused(other)


@pytest.mark.parametrize(
    "content, said",
    [
        (ranks(255), "256 single bytes"),
        (ranks() + b"YWI= 259\n", "two ranks"),
        (ranks() + b"YWJjZA== 3\n", "line 260"),
        (ranks() + b"YWJjZA", "line 260"),
        (ranks() + b"YWJj*ZA== 259\n", "line 260"),
        (ranks() + b"YWJjZA== -1\n", "line 260"),
        (ranks() + b"YWJjZA== 99999999\n", "99999999"),
        (ranks() + b"YWJjZA== " + b"9" * 5000 + b"\n", "line 260"),
        (b"IQ== 0\n", "256 single bytes"),
    ],
)
def test_a_damaged_rank_file_is_refused(tmp_path, content, said):
    path = tmp_path / "cl100k_base.tiktoken"
    path.write_bytes(content)
    assert said in refused(path)


def test_cl100k_live():
    tiktoken = pytest.importorskip("tiktoken")
    from test_text_patterns import random_texts

    path = data_file("tokenizers/cl100k_base.tiktoken")
    tok = load(path)
    specials = {entry["content"]: entry["id"] for entry in tok.tree["added_tokens"]}
    mergeable = {token: rank for rank, token in rank_file.read_ranks(path).items()}
    peer = tiktoken.Encoding("cl100k", pat_str=patterns.PATTERNS["cl100k"], mergeable_ranks=mergeable, special_tokens=specials)
    for text in [*random_texts(400, random.Random(3)), data_file("text/utf8_input.txt").read_text()[:20_000]]:
        assert tok.encode(text).tolist() == peer.encode(text, allowed_special="all"), ascii(text)
        assert tok.encode(text, allowed_special=()).tolist() == peer.encode(text, disallowed_special=()), ascii(text)


def test_the_pattern_means_the_same_to_both_peers():
    """A rank file's tree is run by the tables of Hugging Face's engine; no class of these patterns differs in tiktoken's."""
    for kind in rank_file._KINDS.values():
        (a, table_a), (b, table_b) = (patterns.translate(patterns.PATTERNS[kind[1]], peer) for peer in ("hf", "tiktoken"))
        assert a == b and (table_a == table_b).all()


def test_specials_of_the_encodings():
    for name, (n_ranks, pattern, specials) in rank_file._KINDS.items():
        assert pattern in patterns.PATTERNS and len(set(specials.values())) == len(specials)
        assert min(specials.values()) >= n_ranks or name.startswith("p50k")
    assert rank_file._KINDS["llama3"][2]["<|eot_id|>"] == 128009 and len(rank_file._KINDS["llama3"][2]) == 256
    assert rank_file._KINDS["qwen"][2]["<|im_start|>"] == 151644


def test_byte_characters_are_gpt2s():
    chars = byte_chars()
    assert chars[32] == "Ġ" and chars[10] == "Ċ" and chars[ord("a")] == "a" and chars[0xC3] == "Ã" and len(set(chars)) == 256


# ---------------------------------------------------------------- SentencePiece


@pytest.mark.parametrize("name", GOLDEN["models"])
def test_sentencepiece_golden(name, tmp_path):
    path, entry = tmp_path / "some.model", GOLDEN["models"][name]
    path.write_bytes(base64.b64decode(entry["file"]))
    tok = load(path)
    for text, ids in zip(GOLDEN["texts"], entry["ids"], strict=True):
        assert tok.encode(text, add_special_tokens=False, allowed_special=()).tolist() == ids, repr(text)
    tok.save(tmp_path / "saved.json")
    again = load(tmp_path / "saved.json")
    for text, ids in zip(GOLDEN["texts"], entry["ids"], strict=True):
        assert again.encode(text, add_special_tokens=False, allowed_special=()).tolist() == ids, repr(text)


@pytest.mark.parametrize("name", [name for name in GOLDEN["models"] if "user" not in name])
def test_hugging_face_reads_what_we_save(name, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path / "some.model"
    path.write_bytes(base64.b64decode(GOLDEN["models"][name]["file"]))
    tok = load(path)
    peer = tokenizers.Tokenizer.from_file(str(tok.save(tmp_path / "saved.json")))
    for text in ["she sells sea shells", "a cab", "the shore"]:
        assert peer.encode(text).ids == tok.encode(text).tolist()


def test_llama2_as_a_model_file_and_as_a_tokenizer_json():
    ours, other = load(data_file("tokenizers/llama2.model")), load(data_file("tokenizers/llama2.json"))
    assert ours.vocab_size == other.vocab_size == 32_000 and ours.tokens[:1000] == other.tokens[:1000]
    for text in ["Hello wörld!\n  x", "<s>a</s>", "", " ", "中文 😀"]:
        assert ours.encode(text).tolist() == other.encode(text).tolist()
        assert ours.decode(ours.encode(text)) == other.decode(other.encode(text))


@pytest.mark.parametrize("n", [150, pytest.param(20_000, marks=pytest.mark.slow)])
def test_sentencepiece_live(n, tmp_path):
    peer = pytest.importorskip("sentencepiece")
    from test_text_patterns import random_texts

    files = [(name, base64.b64decode(entry["file"])) for name, entry in GOLDEN["models"].items()]
    if (DATA / "tokenizers" / "llama2.model").exists():
        files.append(("llama2", (DATA / "tokenizers" / "llama2.model").read_bytes()))
    for name, content in files:
        path = tmp_path / f"{name}.model"
        path.write_bytes(content)
        tok, processor = load(path), peer.SentencePieceProcessor(model_proto=content)
        for text in random_texts(n, random.Random(n)):
            text = text.replace("\0", "")
            assert tok.encode(text, add_special_tokens=False, allowed_special=()).tolist() == processor.encode(text), (name, ascii(text))


def message(*fields: tuple[int, bytes | float | int]) -> bytes:
    out = b""
    for number, value in fields:
        if isinstance(value, bytes):
            out += varint(number << 3 | 2) + varint(len(value)) + value
        elif isinstance(value, float):
            out += varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            out += varint(number << 3) + varint(value)
    return out


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def model(pieces, trainer=(), normalizer=((4, 0),)) -> bytes:
    parts = [(1, message((1, text.encode()), (2, float(score)), (3, kind))) for text, score, kind in pieces]
    return message(*parts, (2, message(*trainer)), (3, message(*normalizer)))


SOME = [("<unk>", 0, 2), ("▁", -1, 1), ("a", -2, 1), ("b", -3, 1)]


def test_ties_unused_pieces_and_characters_without_a_piece(tmp_path):
    path = tmp_path / "x.model"
    path.write_bytes(model([*SOME, ("ab", -1, 1), ("ba", -1, 1)], [(3, 2)]))
    assert [load(path).id_to_token(i) for i in load(path).encode("abab")] == ["▁", "ab", "ab"]  # of equal scores the leftmost
    path.write_bytes(model([*SOME, ("ab", -1, 5), ("aba", -0.5, 1)], [(3, 2)]))
    tok = load(path)
    assert [tok.id_to_token(i) for i in tok.encode("abaab")] == ["▁", "aba", "a", "b"]  # joined through, taken apart
    path.write_bytes(model([*SOME, ("ac", -1, 1)], [(3, 2)]))
    tok = load(path)
    assert [tok.id_to_token(i) for i in tok.encode("acc")] == ["▁", "ac", "<unk>"]


@pytest.mark.parametrize(
    "damage",
    [
        {"scores": [1]}, {"scores": "x"}, {"scores": None}, {"unk_token": None}, {"unk_token": "?"}, {"user_defined": ["?"]}, {"user_defined": "a"},
        {"unused": [1]}, {"reserved": [[]]}, {"byte_fallback": True}, {"scores": ["a"] * 6},
    ],
)  # fmt: skip
def test_private_keys_of_a_saved_file_are_checked(tmp_path, damage):
    path = tmp_path / "x.model"
    path.write_bytes(model([*SOME, ("ab", -1, 1), ("ba", -1, 1)], [(3, 2)]))
    tree = load(path).tree
    assert tree["model"]["score_order"]
    (tmp_path / "x.json").write_text(json.dumps({**tree, "model": {**tree["model"], **damage}}))
    with pytest.raises(UserError) as caught:
        load(tmp_path / "x.json").encode("ab")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, said",
    [
        (model(SOME)[:-3], "cut short"),
        (model(SOME)[:20], "cut short"),
        (model(SOME[1:]), "0 unknown pieces"),
        (model([*SOME, SOME[0]]), "stands there twice"),
        (model([*SOME, ("c", float("nan"), 1)]), "score"),
        (model([*SOME, ("c", 0, 9)]), "type 9"),
        (model([*SOME, ("", 0, 1)]), "piece 4"),
        (model([*SOME, ("<0x41>", 0, 6)]), "byte pieces"),
        (model(SOME, [(35, 1)]), "0 byte pieces"),
        (model(SOME, [(3, 3)]), "word"),
        (model(SOME) + b"\x0b", "wire type"),
        (model(SOME) + b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "cut short"),
        (model(SOME) + message((1, message((1, b"\xff\xfe")))), "cut short"),
        (model(SOME) + message((1, 5)), "another type"),
        (model([*SOME, ("x" * 9000, 0, 1)]), "piece of 9000 bytes"),
        (model(SOME, normalizer=[(2, b"\xff\xff\xff\xff")]), "replacements"),
        (model(SOME, normalizer=[(2, b"\x04\0\0\0\0\0\0\0")]), None),
    ],
)
def test_a_damaged_model_is_refused(tmp_path, content, said):
    path = tmp_path / "x.model"
    path.write_bytes(content)
    if said is None:
        assert load(path).encode("ab").size
    else:
        assert said in refused(path)


# ---------------------------------------------------------------- BERT, GPT-2


def test_a_bert_vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\n[MASK]\r\nhe\r\n##llo\r\n!\r\n".encode())
    tok = load(path)
    assert tok.encode("Héllo! x[MASK]").tolist() == [2, 5, 6, 7, 1, 4, 3] and tok.decode([5, 6, 7]) == "hello!"
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load(path).encode("Hello", add_special_tokens=False).tolist() == [1]
    path.write_text("[PAD]\na\n")
    assert "[UNK]" in refused(path)
    path.write_bytes(b"[PAD]\n[UNK]\n\xff\n")
    assert "UTF-8" in refused(path)


def gpt2_files(folder: Path, merges: str = "#version: 0.2\nl l\nh e\nhe ll\n", **more) -> Path:
    chars = sorted(byte_chars())
    tokens = [*chars, "ll", "he", "hell", *more.pop("tokens", ["<|endoftext|>"])]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text(merges)
    for name, content in more.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / "vocab.json"


def test_gpt2s_two_files(tmp_path):
    tok = load(gpt2_files(tmp_path))
    assert [tok.id_to_token(i) for i in tok.encode("hello hell<|endoftext|>")] == ["hell", "o", "Ġ", "hell", "<|endoftext|>"]
    assert load(tmp_path).tree == tok.tree and tok.decode(tok.encode("é\n")) == "é\n"
    tok = load(gpt2_files(tmp_path, tokenizer_config={"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {"300": {"content": "<|im|>", "special": True}}}))
    assert tok.tree["normalizer"] == {"type": "NFC"} and tok.token_to_id("<|im|>") == 300
    tok = load(gpt2_files(tmp_path, tokens=["<s>", "</s>", "<mask>"], tokenizer_config={}))
    assert [tok.id_to_token(i) for i in tok.encode("o")] == ["<s>", "o", "</s>"]


def test_clip_marks_the_ends_of_words(tmp_path):
    tokens = ["he</w>", "!</w>", "o</w>", "<|startoftext|>", "<|endoftext|>"]
    tok = load(gpt2_files(tmp_path, "#version: 0.2\nh e</w>\n", tokens=["e</w>", *tokens]))
    assert [tok.id_to_token(i) for i in tok.encode("HE  O!")] == ["<|startoftext|>", "he</w>", "o</w>", "!</w>", "<|endoftext|>"]


@pytest.mark.parametrize(
    "merges, said", [("l l l\n", "line 1"), ("#version\nl z z\n", "line 2"), ("ll ll\n", "lacks"), ("\udcff\n", None), ("ab\n", "line 1")]
)
def test_damaged_merges_are_refused(tmp_path, merges, said):
    path = gpt2_files(tmp_path, "")
    (tmp_path / "merges.txt").write_bytes(merges.encode("utf-8", "surrogateescape"))
    assert (said or "UTF-8") in refused(path)


def test_a_vocabulary_that_gives_no_ids_is_refused(tmp_path):
    path = gpt2_files(tmp_path)
    for content in ('{"a": 1, "b": 1}', '{"a": "1"}', '{"a": -1}', '{"a": 99999999}', "[1]", "{", '{"a": true}', "{}", "[" * 100_000):
        path.write_text(content)
        refused(path)
    (tmp_path / "merges.txt").unlink()
    refused(path)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("n", [250, pytest.param(10_000, marks=pytest.mark.exhaustive)])
def test_random_damage_is_refused_or_harmless(n, tmp_path):
    rng = random.Random(n)
    whole = {"x.model": model([*SOME, ("ab", -1, 1)], [(3, 2)], [(2, b"\x08\0\0\0" + bytes(8) + b"a\0"), (3, 1)])}
    whole["y.model"] = base64.b64decode(GOLDEN["models"]["unigram"]["file"])
    whole["gpt2.tiktoken"] = ranks()
    whole["vocab.txt"] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nhe\n##llo\n".encode()
    for i in range(n):
        name = rng.choice(list(whole))
        content = bytearray(whole[name])
        for _ in range(rng.choice([1, 1, 2, 10])):
            at = rng.randrange(len(content) or 1)
            match rng.randrange(4):
                case 0:
                    content[at : at + 1] = rng.randbytes(1)
                case 1:
                    del content[at : at + rng.randrange(1, 20)]
                case 2:
                    content[at:at] = rng.randbytes(rng.randrange(1, 9))
                case 3:
                    content = content[: at + 1]
        path = tmp_path / name
        path.write_bytes(content)
        start_s = time.perf_counter()
        try:
            tok = load(path)
            tok.decode(tok.encode("ab a<unk>é", allowed_special=()))
        except UserError as error:
            assert "\n" not in str(error)
        assert time.perf_counter() - start_s < 1, i


def test_the_kinds_of_files_are_told_apart():
    golden = base64.b64decode(GOLDEN["models"]["bpe"]["file"])
    heads = {"model": golden[:100], "ranks": ranks()[:100], "bert": b"[PAD]\n[unused0]\n[UNK]\n", "json": b'{"model": {}}', "text": b"Hello\n", "": b""}
    for name, head in heads.items():
        assert sentencepiece.looks_like(head) == (name == "model")
        assert rank_file.looks_like(head) == (name == "ranks")
        assert vocab_files.looks_like_bert(head) == (name == "bert")


def test_the_older_files_of_known_vocabularies_mean_what_their_tokenizer_json_means(tmp_path):
    from test_text_patterns import random_texts

    bert = json.loads(data_file("tokenizers/bert_base_cased.json").read_bytes())
    tokens = sorted(bert["model"]["vocab"], key=bert["model"]["vocab"].get)
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    gpt2 = json.loads(data_file("tokenizers/gpt2.json").read_bytes())
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in gpt2["model"]["merges"]]
    (tmp_path / "vocab.json").write_text(json.dumps(gpt2["model"]["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    for old, new in (("vocab.txt", "bert_base_cased.json"), ("vocab.json", "gpt2.json")):
        ours, other = load(tmp_path / old), load(DATA / "tokenizers" / new)
        for text in ["Hello, World! naïve [MASK] <|endoftext|> 中文", *random_texts(100, random.Random(8))]:
            assert ours.encode(text).tolist() == other.encode(text).tolist(), ascii(text)
            assert ours.decode(ours.encode(text)) == other.decode(other.encode(text))
