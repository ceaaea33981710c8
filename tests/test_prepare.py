"""From documents to token files: the split is the stated one, nothing is lost, and the cache is whole or made again."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from pikojax.config import UserError, config_from_dict
from pikojax.data import cache, corpus, open_dataset, prepare
from pikojax.text import train_char

EOS = "<|endoftext|>"


@pytest.fixture(autouse=True)
def cache_root(tmp_path_factory, monkeypatch):
    root = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PIKOJAX_CACHE", str(root))
    return root / "data"


def config_for(path=None, tokenizer=None, context=4, **data):
    data |= {"path": str(path)} if path else {}
    return config_from_dict({"data": data, "tokenizer": tokenizer or {}, "model": {"context": context}})


def text_of(stream, tokenizer):
    return tokenizer.decode(stream.tokens)


@pytest.mark.parametrize("kind", ["char", "word"])
@pytest.mark.parametrize("chunk_bytes", [7, 2**22])
def test_one_text_is_split_by_characters(tmp_path, monkeypatch, kind, chunk_bytes):
    monkeypatch.setattr(corpus, "CHUNK_BYTES", chunk_bytes)
    text = "Nö, the cat’s 𝄞 dogs ran!\nThen a ñ came.\n" * 9 + "end"
    (tmp_path / "a.txt").write_text(text)
    dataset = open_dataset(config_for(tmp_path / "a.txt", {"kind": kind}))
    n = int(len(text) * 0.9)
    vocabulary = set(text[:n] if kind == "word" else text)
    np.testing.assert_array_equal(dataset.train.tokens, dataset.tokenizer.encode(text[:n]))
    np.testing.assert_array_equal(dataset.val.tokens, dataset.tokenizer.encode(text[n:]))
    train, val = text_of(dataset.train, dataset.tokenizer), text_of(dataset.val, dataset.tokenizer)
    assert train == text[:n]
    assert val == text[n:] or "<unk>" in val  # a word cut in two by the split is new to the vocabulary
    assert (dataset.train.n_bytes, dataset.val.n_bytes) == (len(text[:n].encode()), len(text[n:].encode()))
    assert (dataset.train.n_documents, dataset.val.n_documents) == (1, 1)
    assert EOS not in dataset.tokenizer.specials and dataset.train.eos_id is None
    if kind == "char":
        assert dataset.vocab_size == len(vocabulary)


@pytest.mark.parametrize("kind", ["char", "word"])
@pytest.mark.parametrize("chunk_bytes", [7, 2**22])
def test_documents_are_split_whole_and_end_with_a_mark(tmp_path, monkeypatch, kind, chunk_bytes):
    monkeypatch.setattr(corpus, "CHUNK_BYTES", chunk_bytes)
    texts = [f"Tale {i}: a dog ran.\nIt was {'red' * (i % 3)}." for i in range(30)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    dataset = open_dataset(config_for(tmp_path / "a.jsonl", {"kind": kind}))
    assert text_of(dataset.train, dataset.tokenizer) == "".join(t + EOS for t in texts[:27])
    assert text_of(dataset.val, dataset.tokenizer) == "".join(t + EOS for t in texts[27:])
    assert dataset.val.n_bytes == sum(map(len, texts[27:]))  # the marks are not text
    assert dataset.train.eos_id == dataset.tokenizer.eos_id is not None
    assert dataset.facts["train_documents"] == 27 and dataset.facts["unk_rate"] == 0
    half = open_dataset(config_for(tmp_path / "a.jsonl", {"kind": kind}, val_fraction=0.5))
    assert half.val.n_documents == 15
    most = open_dataset(config_for(tmp_path / "a.jsonl", {"kind": kind}, val_fraction=0.99))
    assert (most.train.n_documents, most.val.n_documents) == (1, 29)


def test_the_words_come_from_the_training_part(tmp_path):
    texts = ["a dog ran " * 3] * 9 + ["a lion slept a"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    dataset = open_dataset(config_for(tmp_path / "a.jsonl", {"kind": "word"}))
    assert text_of(dataset.val, dataset.tokenizer) == f"a<unk><unk> a{EOS}"
    assert dataset.facts["unk_rate"] == 2 / 5
    assert "40% of the validation tokens are <unk>" in dataset.description


def test_a_sample_is_enough_for_the_words(tmp_path):
    texts = ["early " * 50, "late " * 50] + ["early"] * 20
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    sampled = open_dataset(config_for(tmp_path / "a.jsonl", {"kind": "word"}, tokenizer_sample_mb=0.0003))
    assert sampled.tokenizer.token_to_id(" early") and sampled.tokenizer.token_to_id(" late") is None
    (tmp_path / "a.txt").write_text("é " * 1000)  # a sample of one text may end within a character
    for n_bytes in (1, 2, 3, 4):
        config = config_for(tmp_path / "a.txt", {"kind": "word"}, tokenizer_sample_mb=n_bytes * 1e-6)
        try:
            open_dataset(config)
        except UserError as error:
            assert "the text is empty" in str(error) and n_bytes == 1


def test_a_given_tokenizer_is_used(tmp_path):
    (tmp_path / "a.txt").write_text("abcabcabcabc")
    given = train_char(["xyzabc"]).save(tmp_path / "tokenizer.json")
    dataset = open_dataset(config_for(tmp_path / "a.txt", {"path": str(given)}))
    assert dataset.vocab_size == 6 and dataset.train.tokens[:3].tolist() == [0, 1, 2]
    train_char(["cba"], ["<pad>"]).save(given)
    assert open_dataset(config_for(tmp_path / "a.txt", {"path": str(given)})).train.tokens[:3].tolist() == [1, 2, 3]
    train_char(["ab"]).save(given)
    with pytest.raises(UserError, match="character 'c'"):
        open_dataset(config_for(tmp_path / "a.txt", {"path": str(given)}))


def test_a_special_token_in_a_text_is_text(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"tale {EOS} {i}"}) + "\n" for i in range(20)))
    dataset = open_dataset(config_for(tmp_path / "a.jsonl"))
    assert np.count_nonzero(dataset.train.tokens == dataset.train.eos_id) == 18


def test_many_tokens_are_written_in_parts(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("".join(map(chr, range(40, 120))) * 50)
    whole = open_dataset(config_for(tmp_path / "a.txt")).train.tokens
    monkeypatch.setattr(corpus, "CHUNK_BYTES", 64)
    monkeypatch.setattr(prepare, "FLUSH_TOKENS", 100)
    monkeypatch.setattr(prepare, "FORMAT", -1)
    np.testing.assert_array_equal(open_dataset(config_for(tmp_path / "a.txt")).train.tokens, whole)


def test_large_vocabularies_take_four_bytes(tmp_path):
    (tmp_path / "a.txt").write_text("".join(chr(i) for i in range(1, 90_000) if not 0xD800 <= i < 0xE000))
    dataset = open_dataset(config_for(tmp_path / "a.txt"))
    assert dataset.vocab_size > 2**16 and (np.diff(dataset.train.tokens) == 1).all()


@pytest.mark.parametrize("chunk_bytes", [7, 14, 2**22])
def test_bad_text_is_one_line_and_leaves_nothing(tmp_path, cache_root, monkeypatch, chunk_bytes):
    monkeypatch.setattr(corpus, "CHUNK_BYTES", chunk_bytes)
    for content, says in ((b"abc" * 9 + b"\xffabc", r"not UTF-8 text \(byte 27\)"), (b"ab\xc3", r"\(byte 2\)"), (b"abcdef\xc3x", r"\(byte 6\)"), (b"a", "one character")):
        (tmp_path / "a.txt").write_bytes(content)
        with pytest.raises(UserError, match=says):
            open_dataset(config_for(tmp_path / "a.txt"))
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(UserError, match="has no text"):
        open_dataset(config_for(tmp_path / "a.jsonl"))
    assert list(cache_root.iterdir()) == []


def test_too_little_text_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("abc" * 20)
    with pytest.raises(UserError, match="training split of .*a.txt.* has 54 tokens, one window needs 65"):
        open_dataset(config_for(tmp_path / "a.txt", context=64))
    with pytest.raises(UserError, match="validation split of .* has 1 tokens; raise data.val_fraction"):
        open_dataset(config_for(tmp_path / "a.txt", val_fraction=1e-17))


# ---------------------------------------------------------------- cache


@pytest.fixture
def built(monkeypatch):
    """How often something was prepared."""
    calls, real = [], prepare._build
    monkeypatch.setattr(prepare, "_build", lambda *arguments: (calls.append(1), real(*arguments))[1])
    return calls


def test_the_cache_is_used_and_knows_what_matters(tmp_path, built):
    file = tmp_path / "a.txt"
    file.write_text("The cat ran. " * 40)
    open_dataset(config_for(file))
    open_dataset(config_for(file, context=8))  # the model is no matter
    assert len(built) == 1
    open_dataset(config_for(file, {"kind": "word"}))
    open_dataset(config_for(file, {"kind": "word", "vocab_size": 5}))
    open_dataset(config_for(file, val_fraction=0.2))
    assert len(built) == 4
    file.write_text("The dog ran. " * 40)  # the same size
    os.utime(file, ns=(1, 1))
    assert open_dataset(config_for(file)).tokenizer.token_to_id("g") is not None
    assert len(built) == 5


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "tokenizer.json", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_entry_is_made_again(tmp_path, cache_root, built, name, damage):
    (tmp_path / "a.txt").write_text("The cat ran. " * 40)
    before = open_dataset(config_for(tmp_path / "a.txt")).train.tokens
    (entry,) = cache_root.iterdir()
    content = (entry / name).read_bytes()
    if damage == "gone":
        (entry / name).unlink()
    else:
        (entry / name).write_bytes(content[:-2] if damage == "cut" else content[:5] + bytes([content[5] ^ 255]) + content[6:])
    after = open_dataset(config_for(tmp_path / "a.txt")).train.tokens
    np.testing.assert_array_equal(after, before)
    assert len(built) == 2
    assert [folder.name for folder in cache_root.iterdir()] == [entry.name]
    assert sorted(file.name for file in entry.iterdir()) == ["meta.json", "tokenizer.json", "train.bin", "val.bin"]


def test_the_first_of_two_at_once_stays(cache_root):
    def slow(folder: Path):
        (folder / "a").write_text("slow")
        cache.entry({"k": 1}, lambda other: ((other / "a").write_text("fast"), {"who": "fast"})[1])
        return {"who": "slow"}

    entry = cache.entry({"k": 1}, slow)
    assert (entry.folder / "a").read_text() == "fast"
    assert cache.entry({"k": 1}, slow).facts == {"who": "fast"} and len(list(cache_root.iterdir())) == 1


def test_another_process_may_finish_at_the_last_moment(cache_root, monkeypatch):
    def fill(folder: Path):
        (folder / "a").write_text("a")
        return {"fine": True}

    def rename(*paths):
        monkeypatch.setattr(os, "rename", real)
        cache.entry({"k": 1}, fill)
        real(*paths)

    real = os.rename
    monkeypatch.setattr(os, "rename", rename)
    assert cache.entry({"k": 1}, fill).facts == {"fine": True} and len(list(cache_root.iterdir())) == 1


def test_the_oldest_go_beyond_the_cap(cache_root, monkeypatch):
    monkeypatch.setattr(cache, "CAP_BYTES", 3000)

    def fill(folder: Path):
        (folder / "a").write_bytes(bytes(1000))
        return {}

    folders = [cache.entry({"k": i}, fill).folder for i in range(2)]
    for age_s, folder in zip((200, 100), folders):
        os.utime(folder, (time.time() - age_s,) * 2)
    cache.entry({"k": 0}, fill)  # used now, so entry 1 is the oldest
    abandoned = cache_root / "making-x"
    abandoned.mkdir()
    os.utime(abandoned, (1, 1))
    newest = cache.entry({"k": 2}, fill).folder
    assert sorted(cache_root.iterdir()) == sorted([folders[0], newest])
    monkeypatch.setattr(cache, "CAP_BYTES", 500)
    largest = cache.entry({"k": 3}, fill).folder  # more than the cap, but wanted now
    assert list(cache_root.iterdir()) == [largest]


def test_a_full_disk_is_one_line(cache_root, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare, "_encode", full)
    (tmp_path / "a.txt").write_text("The cat ran. " * 40)
    with pytest.raises(UserError, match=r"cannot write prepared data into .* \(No space left on device\)"):
        open_dataset(config_for(tmp_path / "a.txt"))
    assert list(cache_root.iterdir()) == []


# ---------------------------------------------------------------- stories


def test_stories_are_one_corpus(built):
    dataset = open_dataset(config_for(stories_mb=0.1))
    assert dataset.vocab_size <= 65 and dataset.tokenizer.eos_id == 0
    documents = text_of(dataset.val, dataset.tokenizer).split(EOS)
    assert len(documents) - 1 == dataset.val.n_documents > 1 and documents[-1] == ""
    assert 100_000 <= dataset.train.n_bytes + dataset.val.n_bytes < 110_000
    open_dataset(config_for(stories_mb=0.1))
    assert len(built) == 1
    assert open_dataset(config_for(stories_mb=0.1, stories_seed=1)).train.tokens.tolist() != dataset.train.tokens.tolist()
    words = open_dataset(config_for(tokenizer={"kind": "word"}, stories_mb=0.1))
    assert text_of(words.train, words.tokenizer) == text_of(dataset.train, dataset.tokenizer)
