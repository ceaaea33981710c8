"""Every kind of tokenizer, made or ready-made, through data preparation, training and generation: the very ids, the bytes of the text."""

import json
import math
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pikojax import text
from pikojax.config import UserError, config_from_dict
from pikojax.data import corpus, open_dataset, prepare, resolve_vocab
from pikojax.infer.request import Continuation
from pikojax.text.tokenizer import EOS

DATA = Path(os.environ.get("PIKOJAX_DATA") or Path(__file__).parent.parent.parent / "shared" / "data")
READY = ("pile_tokenizer.json", "gpt2.json", "llama2.json", "llama2.model", "cl100k_base.tiktoken", "bert_base_cased.json", "fineweb_unigram.json", "simplestories-4096.json")
SETTINGS = {
    "char": {"kind": "char"},
    "word": {"kind": "word", "vocab_size": 40},
    "bpe": {"kind": "bpe", "vocab_size": 300},
    "wordpiece": {"kind": "wordpiece", "vocab_size": 90},
    "wordpiece, uncased": {"kind": "wordpiece", "vocab_size": 80, "lowercase": True},
    "unigram": {"kind": "unigram", "vocab_size": 90},
}
LOSSLESS = ("char", "word", "bpe")
TEXT = "Nö, the Cat’s  dogs ran!\nThen a ñ came.\n\n  It's 12,345 o'clock\tnow … “no”, she\u200bsaid. The Ａ ﬁsh 犬が走る swam ran. " * 12 + "the end "
TALES = [f"Tale {i}: a Dog ran home.\nIt was {'red ' * (i % 3)}and old." for i in range(40)]


@pytest.fixture(autouse=True)
def cache_root(tmp_path_factory, monkeypatch):
    root = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PIKOJAX_CACHE", str(root))
    return root / "data"


@pytest.fixture
def built(monkeypatch):
    """How often something was prepared."""
    calls, real = [], prepare._build
    monkeypatch.setattr(prepare, "_build", lambda *arguments: (calls.append(1), real(*arguments))[1])
    return calls


def config_for(path, tokenizer, **data):
    model = {"context": 8, "d_model": 16, "n_layers": 1, "n_heads": 2}
    return config_from_dict({"data": {"path": str(path), **data}, "tokenizer": tokenizer, "model": model, "train": {"batch_size": 4, "dtype": "float32"}})


def jsonl(folder, texts=TALES):
    file = folder / "tales.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return file


def plain(tokenizer, said):
    return tokenizer.encode_slowly(said, add_special_tokens=False, allowed_special=())


def ready(name):
    file = DATA / "tokenizers" / name
    if not file.is_file():
        pytest.skip(f"{file} is missing: set PIKOJAX_DATA")
    return file


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("chunk_bytes", [7, 64, 2**22])
def test_a_text_in_chunks_has_the_ids_of_the_whole(tmp_path, monkeypatch, kind, chunk_bytes):
    monkeypatch.setattr(corpus, "CHUNK_BYTES", chunk_bytes)
    (tmp_path / "a.txt").write_text(TEXT)
    dataset, n = open_dataset(config_for(tmp_path / "a.txt", SETTINGS[kind])), int(len(TEXT) * 0.9)
    for stream, part in ((dataset.train, TEXT[:n]), (dataset.val, TEXT[n:])):
        np.testing.assert_array_equal(stream.tokens, plain(dataset.tokenizer, part))
        assert stream.n_bytes == len(part.encode())
    assert EOS not in dataset.tokenizer.specials
    if kind != "char":
        assert dataset.vocab_size <= SETTINGS[kind]["vocab_size"]


@pytest.mark.parametrize("name", [READY[0], *(pytest.param(name, marks=pytest.mark.exhaustive) for name in READY[1:])])
def test_a_ready_made_tokenizer_too(tmp_path, monkeypatch, name):
    monkeypatch.setattr(corpus, "CHUNK_BYTES", 64)
    (tmp_path / "a.txt").write_text(TEXT)
    given = text.load(ready(name))
    dataset, n = open_dataset(config_for(tmp_path / "a.txt", {"path": str(ready(name))})), int(len(TEXT) * 0.9)
    np.testing.assert_array_equal(dataset.train.tokens, plain(given, TEXT[:n]))
    np.testing.assert_array_equal(dataset.val.tokens, plain(given, TEXT[n:]))
    kept = dataset.tokenizer  # as it was saved with the data
    assert (kept.vocab_size, kept.eos_id, kept.unk_id) == (given.vocab_size, given.eos_id, given.unk_id)
    np.testing.assert_array_equal(kept.encode(TEXT), given.encode(TEXT))
    assert kept.decode(dataset.train.tokens) == given.decode(dataset.train.tokens)


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_kinds_that_cut_at_spaces_are_read_in_chunks(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(corpus, "CHUNK_BYTES", 64)
    (tmp_path / "a.txt").write_text(TEXT)
    tokenizer = open_dataset(config_for(tmp_path / "a.txt", SETTINGS[kind])).tokenizer
    whole = corpus.Part(tmp_path / "a.txt", np.array([0, len(TEXT.encode())]))
    assert max(len(chunk) for chunk, _ in corpus.chunks(whole, tokenizer.safe_cut)) < 300 < len(TEXT)


def test_a_text_without_a_place_to_cut_is_not_searched_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "CHUNK_BYTES", 10)
    (tmp_path / "a.txt").write_text("x" * 5_000)
    asked = []
    ((whole, last),) = corpus.chunks(corpus.Part(tmp_path / "a.txt", np.array([0, 5_000])), lambda said: asked.append(len(said)) or 0)
    assert whole == "x" * 5_000 and last and sum(asked) < 4 * 5_000


# ---------------------------------------------------------------- documents, bytes, unknown words


@pytest.mark.parametrize("kind", SETTINGS)
def test_documents_end_with_the_mark(tmp_path, kind):
    dataset = open_dataset(config_for(jsonl(tmp_path), SETTINGS[kind]))
    tokenizer = dataset.tokenizer
    assert dataset.train.eos_id == tokenizer.eos_id == tokenizer.token_to_id(EOS)
    np.testing.assert_array_equal(dataset.val.tokens, np.concatenate([i for tale in TALES[36:] for i in (plain(tokenizer, tale), [tokenizer.eos_id])]))
    assert dataset.val.n_bytes == sum(len(tale.encode()) for tale in TALES[36:]), "bytes of the text, not tokens"
    if kind in LOSSLESS and kind != "word":
        assert tokenizer.decode(dataset.val.tokens) == "".join(tale + EOS for tale in TALES[36:])


@pytest.mark.parametrize("kind", ["bpe", "wordpiece, uncased"])
def test_bits_per_byte_count_the_bytes_of_the_text(tmp_path, kind):
    from pikojax.train.evaluate import make_evaluate
    from pikojax.train.step import init_state

    config = config_for(jsonl(tmp_path), SETTINGS[kind])
    dataset = open_dataset(config)
    config = resolve_vocab(config, dataset)
    knows_nothing = jax.tree.map(jnp.zeros_like, init_state(config, None).params)
    found = make_evaluate(config, None)(knows_nothing, dataset.val)
    n_bytes = sum(len(tale.encode()) for tale in TALES[36:])
    assert math.isclose(found["val_bits_per_byte"], (len(dataset.val.tokens) - 1) * math.log2(dataset.vocab_size) / n_bytes, rel_tol=1e-5)


@pytest.mark.parametrize("kind, unk", [("word", "<unk>"), ("wordpiece", "[UNK]"), ("unigram", "<unk>")])
def test_unknown_words_are_counted_and_named(tmp_path, kind, unk):
    file = jsonl(tmp_path, ["a dog ran home " * 3] * 39 + ["ж a dog ran"])
    dataset = open_dataset(config_for(file, {"kind": kind, "vocab_size": 40}, val_fraction=0.02))
    tokens = dataset.val.tokens
    assert dataset.facts["unk_rate"] == np.mean(tokens == dataset.tokenizer.token_to_id(unk)) > 0
    assert f"of the validation tokens are {unk} (" in dataset.description


def test_byte_level_tokens_know_every_text(tmp_path):
    dataset = open_dataset(config_for(jsonl(tmp_path, ["a dog ran home " * 3] * 39 + ["ж a dog\0 ran"]), SETTINGS["bpe"], val_fraction=0.02))
    assert dataset.facts["unk_rate"] == 0 and dataset.tokenizer.decode(dataset.val.tokens) == "ж a dog\0 ran" + EOS


def test_wordpiece_keeps_capitals_unless_told_otherwise(tmp_path):
    decoded = [(d := open_dataset(config_for(jsonl(tmp_path), SETTINGS[kind]))).tokenizer.decode(d.train.tokens) for kind in ("wordpiece", "wordpiece, uncased")]
    assert "Dog" in decoded[0] and "Dog" not in decoded[1] and "dog" in decoded[1]


@pytest.mark.parametrize("kind, size", [("bpe", 100), ("wordpiece", 9), ("unigram", 9), ("word", 2)])
def test_a_vocabulary_that_is_too_small_is_one_line(tmp_path, cache_root, kind, size):
    with pytest.raises(UserError, match=f"^tokenizer.kind = {kind}: vocab_size = {size} [^\n]*; raise it[^\n]*$"):
        open_dataset(config_for(jsonl(tmp_path), {"kind": kind, "vocab_size": size}))
    assert list(cache_root.iterdir()) == []


# ---------------------------------------------------------------- the cache


def test_the_cache_knows_every_setting_of_a_tokenizer(tmp_path, built):
    file = jsonl(tmp_path)
    for kind in ("word", "bpe", "wordpiece", "unigram"):
        open_dataset(config_for(file, SETTINGS[kind]))
        open_dataset(config_for(file, SETTINGS[kind]))
        open_dataset(config_for(file, SETTINGS[kind] | {"vocab_size": 301}))
        open_dataset(config_for(file, SETTINGS[kind], tokenizer_sample_mb=1.0))
    assert len(built) == 12
    open_dataset(config_for(file, SETTINGS["wordpiece, uncased"] | {"vocab_size": 90}))
    assert len(built) == 13
    for kind in ("char", "bpe"):  # what does not matter to a kind makes nothing anew
        open_dataset(config_for(file, SETTINGS[kind] | {"lowercase": True}))
    open_dataset(config_for(file, {"kind": "char", "vocab_size": 77}))
    assert len(built) == 14


def test_the_cache_knows_the_files_of_a_ready_made_tokenizer(tmp_path, built):
    file, folder = jsonl(tmp_path), tmp_path / "gpt2"
    folder.mkdir()
    model = text.train_bpe(TALES, 300).tree["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))

    def written(merges):
        (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
        return open_dataset(config_for(file, {"path": str(folder)}))

    many = written(model["merges"])
    np.testing.assert_array_equal(many.train.tokens, np.concatenate([plain(text.load(folder), tale) for tale in TALES[:36]]))
    assert many.train.eos_id is None, "this one has no mark for the end of a text"
    assert len(written(model["merges"][:5]).train) > len(many.train), "vocab.json is the same, but merges.txt is not"
    assert len(built) == 2
    os.rename(folder, tmp_path / "moved")
    open_dataset(config_for(file, {"path": str(tmp_path / "moved")}))
    assert len(built) == 2, "where it lies does not matter"
    with pytest.raises(UserError, match=r"^cannot read the tokenizer .*gpt2[^\n]*$"):
        open_dataset(config_for(file, {"path": str(folder)}))


# ---------------------------------------------------------------- training and writing


@pytest.mark.parametrize("kind", [*SETTINGS, "one that holds tokens back"])
def test_what_is_written_joins_the_prompt_as_in_one_text(tmp_path, kind):
    tokenizer = open_dataset(config_for(jsonl(tmp_path), SETTINGS.get(kind, SETTINGS["bpe"]))).tokenizer
    if kind not in SETTINGS:  # a full stop is a space, but not at the end: a token is certain only when the next one comes
        tokenizer = text.Tokenizer.from_tree(tokenizer.tree | {"decoder": {"type": "BPEDecoder", "suffix": "."}})
    ids = [*plain(tokenizer, TALES[2]), tokenizer.eos_id, *plain(tokenizer, "It was old.")]
    for cut in range(len(ids)):
        follows = Continuation(tokenizer, ids[:cut])
        pieces = [follows.push(i) for i in ids[cut:]] + [follows.finish()]
        assert tokenizer.decode(ids[:cut]) + "".join(pieces) == tokenizer.decode(ids)
    assert kind != "unigram" or "".join(map(Continuation(tokenizer, plain(tokenizer, "a dog")).push, plain(tokenizer, "ran"))) == " ran"


WITH = ("wordpiece", "bpe", "llama2.model", "cl100k_base.tiktoken", "bert_base_cased.json")


@pytest.mark.parametrize("kind", ["unigram", *(pytest.param(kind, marks=pytest.mark.exhaustive) for kind in ("pile_tokenizer.json", *WITH))])
def test_train_and_generate_with_it(tmp_path, monkeypatch, capsys, kind):
    from pikojax.cli.main import main

    monkeypatch.chdir(tmp_path)
    settings = SETTINGS[kind] if kind in SETTINGS else {"path": str(ready(kind))}
    flags = [f"tokenizer.{key}={value}" for key, value in settings.items()]
    (tmp_path / "c.toml").write_text("[model]\nd_model = 8\nn_layers = 1\nn_heads = 2\ncontext = 16\n[train]\nbatch_size = 2\nsteps = 1\n")
    data = ["data.path=" + str(jsonl(tmp_path)), "run.sample_tokens=3", "run.sample_prompt=A dog"]
    assert main(["train", "c.toml", *data, *flags]) == 0
    used, kept = open_dataset(config_for(tmp_path / "tales.jsonl", settings)).tokenizer, text.load("runs/c")
    np.testing.assert_array_equal(kept.encode(TEXT), used.encode(TEXT))
    capsys.readouterr()
    assert main(["generate", "runs/c", "--prompt", "A dog ran", "--max-tokens", "40", "--temperature", "1.5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    prompt = plain(kept, "A dog ran").tolist()
    assert told["prompt_tokens"] == len(prompt), "no [CLS] before it, no [SEP] behind it"
    assert kept.decode(prompt) + told["text"] == kept.decode(prompt + told["ids"])
