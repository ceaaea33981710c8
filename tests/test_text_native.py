"""The native encoder gives what the Python pipeline gives: on every kind of tree, on each code path, with any number of threads."""

import ctypes
import functools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import text_trees as trees

from pikojax.native import build, cpu
from pikojax.text import fast, native, patterns
from pikojax.text.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("PIKOJAX_DATA") or ROOT.parent / "shared" / "data")
needs_compiler = pytest.mark.skipif(build.find_compiler()[0] is None, reason=f"{build.find_compiler()[1]}")
FILES = ["pile_tokenizer.json", "gpt2.json", "cl100k_base.tiktoken", "llama2.json", "llama2.model", "fineweb_wordpiece.json",
         "bert_base_cased.json", "simplestories-4096.json", "fineweb_unigram.json"]  # fmt: skip


def split(name: str, behavior: str = "Isolated", **more) -> dict:
    pattern = {"Regex": patterns.PATTERNS[name]}
    first = {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": behavior == "Removed", **more}
    return {"type": "Sequence", "pretokenizers": [first, {**trees.BYTE_LEVEL, "use_regex": False}]}


def sequence(*parts: dict, name: str = "pretokenizers") -> dict:
    return {"type": "Sequence", name: list(parts)}


def kind(name: str, **more) -> dict:
    return {"type": name, **more}


MARKS = sequence(kind("Prepend", prepend="▁"), kind("Replace", pattern={"String": " "}, content="▁"), name="normalizers")
RANKS = {**trees.LINES_BPE, "merges": [], "rank_order": True, "ignore_merges": True}
BERT = kind("BertPreTokenizer")
TREES = {
    "gpt2": (trees.LINES_BPE, {"pre_tokenizer": trees.BYTE_LEVEL, "decoder": trees.BYTE_LEVEL}),
    "gpt2 with a space": (trees.LINES_BPE, {"pre_tokenizer": {**trees.BYTE_LEVEL, "add_prefix_space": True}}),
    "nfc": (trees.LINES_BPE, {"pre_tokenizer": trees.BYTE_LEVEL, "normalizer": kind("NFC")}),
    "digits first": (trees.LINES_BPE, {"pre_tokenizer": sequence(kind("Digits", individual_digits=True), trees.BYTE_LEVEL)}),
    **{name: (trees.LINES_BPE, {"pre_tokenizer": split(name)}) for name in ("cl100k", "qwen2", "qwen3.5", "o200k", "tekken")},
    "ranks": (RANKS, {"pre_tokenizer": split("cl100k")}),
    "ranks, tiktoken's tables": (RANKS, {"pre_tokenizer": split("o200k", peer="tiktoken")}),
    "whole text in bytes": (trees.LINES_BPE, {"pre_tokenizer": {**trees.BYTE_LEVEL, "use_regex": False}}),
    "llama": (trees.BYTES_BPE, {"normalizer": MARKS, "decoder": trees.LLAMA_DECODER}),
    "llama without bytes": (trees.CHAR_BPE, {"normalizer": MARKS}),
    "fused": ({**trees.CHAR_BPE, "fuse_unk": True}, {"normalizer": MARKS}),
    "characters": (trees.CHAR_BPE, {}),
    "nothing for the unknown": ({**trees.CHAR_BPE, "unk_token": None}, {"pre_tokenizer": kind("WhitespaceSplit")}),
    "metaspace": (trees.BYTES_BPE, {"pre_tokenizer": trees.METASPACE}),
    "metaspace first": (trees.BYTES_BPE, {"pre_tokenizer": {**trees.METASPACE, "prepend_scheme": "first", "split": False}}),
    "suffixes": ({**trees.CHAR_BPE, "end_of_word_suffix": "</w>"}, {"pre_tokenizer": BERT}),
    "bert": (trees.wordpiece(), {"normalizer": kind("BertNormalizer", lowercase=True), "pre_tokenizer": BERT, "decoder": kind("WordPiece")}),
    "bert cased": (trees.wordpiece(), {"normalizer": kind("BertNormalizer", lowercase=False, strip_accents=None), "pre_tokenizer": BERT}),
    "whitespace": (trees.wordpiece(), {"pre_tokenizer": kind("Whitespace")}),
    "three cuts": (
        trees.wordpiece(),
        {"pre_tokenizer": sequence(kind("Whitespace"), kind("Punctuation", behavior="Isolated"), kind("Digits", individual_digits=True)),
         "normalizer": sequence(kind("Lowercase"), kind("Replace", pattern={"String": "``"}, content='"'), name="normalizers")},
    ),
    "unigram": (trees.unigram(), {"pre_tokenizer": trees.METASPACE, "decoder": kind("Metaspace")}),
    "unigram, whole": (trees.unigram(True), {"pre_tokenizer": {**trees.METASPACE, "split": False}}),
    "t5": (
        trees.unigram(True),
        {"normalizer": sequence(kind("Precompiled", precompiled_charsmap=trees.CHARSMAP), kind("Strip"), kind("Replace", pattern={"Regex": " {2,}"}, content="▁"), name="normalizers"),
         "pre_tokenizer": sequence(kind("WhitespaceSplit"), trees.METASPACE)},
    ),
    "xlnet": (
        trees.unigram(),
        {"normalizer": sequence(kind("Replace", pattern={"String": "``"}, content='"'), kind("NFKD"), kind("StripAccents"), kind("Lowercase"), name="normalizers"),
         "pre_tokenizer": trees.METASPACE},
    ),
    "nfkc": (trees.unigram(), {"normalizer": sequence(kind("Nmt"), kind("NFKC"), kind("Lowercase"), name="normalizers"), "pre_tokenizer": trees.METASPACE}),
}  # fmt: skip


@functools.cache
def tokenizer(name: str) -> Tokenizer:
    model, parts = TREES[name]
    specials = [trees.added("<s>", 900), trees.added("</s>", 901)]
    return Tokenizer(json.loads(json.dumps(trees.tree(model, added_tokens=specials, **parts))))


@functools.cache
def of_file(name: str) -> Tokenizer:
    from pikojax.text import rank_file, sentencepiece

    path = DATA / "tokenizers" / name
    if not path.exists():
        pytest.skip(f"{path} is not here; PIKOJAX_DATA names the folder of the test data")
    if path.suffix == ".json":
        return Tokenizer.from_tree(json.loads(path.read_bytes()))
    return Tokenizer.from_tree((rank_file if path.suffix == ".tiktoken" else sentencepiece).read(path))


def texts(seed: int, n: int) -> list[str]:
    rng = random.Random(seed)
    made = [*trees.TRICKY, *(trees.fuzzed(rng) for _ in range(n))]
    return made + ["".join(rng.choices(made, k=6)) for _ in range(n // 4)]


def attempt(encode, *arguments) -> list[int] | str:
    try:
        return encode(*arguments).tolist()
    except Exception as error:
        return type(error).__name__


def assert_alike(tok: Tokenizer, given: list, plain=()) -> None:
    assert tok._native is not None, tok._planned[1]
    served = 0
    for text in given:
        for allowed in ("all", plain):
            assert attempt(tok.encode, text, False, allowed) == attempt(tok.encode_slowly, text, False, allowed), ascii(text)
        served += tok._native.encode([text])[0] is not None
    assert served > len(given) / 3  # not all went the slow way


@needs_compiler
@pytest.mark.parametrize("name", TREES)
def test_native_is_what_python_is(name):
    assert_alike(tokenizer(name), texts(1, 80))


@needs_compiler
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", TREES)
def test_native_is_what_python_is_on_many_texts(name):
    assert_alike(tokenizer(name), texts(2, 4000))


@needs_compiler
@pytest.mark.parametrize("name", ["gpt2", "cl100k", "o200k", "ranks"])
def test_bytes_that_are_no_text(name):
    rng = random.Random(3)
    given = [bytes(rng.choices(range(256), k=rng.randrange(1, 40))) for _ in range(100)]
    given += [b"a\xff b\xc3", b"\xe4\xb8", b"\xed\xa0\x80x", b"\xf4\x90\x80\x80", b"\xc0\xaf", "é中".encode()[:4]]
    assert_alike(tokenizer(name), given)


# ---------------------------------------------------------------- long texts


def long_texts() -> list[str]:
    rng = random.Random(4)
    words = [*trees.MERGES, "low", "lower", "lowest", "aaaaaaa", "日本語", "é", "newer", "\n", " ", "  "]
    return [
        "a" * 3000, "lo" * 2000, "lowest" * 600, " " * 1500, "中" * 1000, "é" * 700 + "lower", "".join(rng.choices("aelorwst", k=6000)),
        "".join(rng.choices(words, k=2000)), " ".join(rng.choices(words, k=2000)), "aaaa" * 300 + "x" + "aaa" * 500,
    ]  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("name", ["gpt2", "cl100k", "ranks", "whole text in bytes", "llama", "fused", "characters", "nothing for the unknown",
                                  "suffixes", "unigram", "unigram, whole", "bert"])  # fmt: skip
def test_long_pieces(name):
    """Windows and heaps of BPE, settled parts of Unigram: nothing of it shows."""
    assert_alike(tokenizer(name), long_texts())


@needs_compiler
@pytest.mark.parametrize("name", ["gpt2", "cl100k", "o200k", "llama", "metaspace", "bert", "three cuts", "unigram", "unigram, whole", "digits first"])
def test_two_threads_agree_with_one(name, monkeypatch):
    monkeypatch.setattr(native, "SPLIT_FROM_BYTES", 64)
    given = [*long_texts(), *texts(5, 40), "\n".join(texts(6, 200)), ""]
    one, two = (tokenizer(name).encode_batch(given, threads=threads) for threads in (1, 3))
    assert list(map(len, one)) == list(map(len, two)) and all(map(np.array_equal, one, two))
    assert all(np.array_equal(tokenizer(name).encode(text), ids) for text, ids in zip(given, one, strict=True))


@needs_compiler
@pytest.mark.parametrize("name", ["gpt2", "bert", "unigram", "suffixes"])
def test_a_batch_shared_among_threads_keeps_its_order(name, monkeypatch):
    monkeypatch.setattr(fast, "LEAST_TO_SHARE", 64)
    given = [*texts(8, 60), "", "a" * 50]
    tok = tokenizer(name)
    assert len(fast.shared_out([len(text) for text in given], 3)) > 3
    for threads in (2, 3, 7):
        assert all(map(np.array_equal, tok.encode_batch(given, threads=threads), map(tok.encode, given))), threads


def test_shares_are_even_and_a_giant_is_left_to_be_cut(monkeypatch):
    monkeypatch.setattr(fast, "LEAST_TO_SHARE", 10)
    assert len(fast.shared_out([1] * 1000, 2)) == 2 * fast.SHARES_A_THREAD
    shares = fast.shared_out([5, 9, 1, 4, 3, 2], 2)
    assert sorted(sum(shares, [])) == list(range(6)) and [sum((5, 9, 1, 4, 3, 2)[i] for i in share) for share in shares] == [12, 12]
    assert fast.shared_out([100, 1, 1], 2) == [[0, 1, 2]]
    assert fast.shared_out([1, 1, 1], 2) == [[0, 1, 2]]  # too little to share
    assert fast.shared_out([], 2) == [[]]


@needs_compiler
@pytest.mark.parametrize("name", TREES)
def test_cuts_for_threads_leave_the_ids_as_they_are(name, monkeypatch):
    monkeypatch.setattr(native, "SPLIT_FROM_BYTES", 64)
    parts = ("a\n\n", "a\n\n  b\n", "def f():\n    x\n\n\n    y = 10\n", "lower\r\n\r\nlow ", "a  b   low\t\n", "!\n/a 1\n\n1", "\n\n\n", "é\n\n日 本\n\n ")
    given = [(part * 200)[shift:] for part in parts for shift in range(3)] + ["".join(random.Random(7).choices(parts, k=300))]
    tok = tokenizer(name)
    one, two, three = (tok.encode_batch(given, threads=threads, add_special_tokens=False) for threads in (1, 2, 3))
    for text, wanted, *cut in zip(given, one, two, three, strict=True):
        assert all(np.array_equal(wanted, ids) for ids in cut), ascii(text[:30])


@needs_compiler
@pytest.mark.parametrize("path", cpu.PATHS)
def test_every_path_gives_the_same(path, monkeypatch, tmp_path_factory):
    if not cpu.PATHS[path] <= cpu.features():
        pytest.skip(f"this processor has no {path}")
    names = ("cl100k", "llama", "bert", "unigram")
    wanted = [[tokenizer(name).encode(text).tolist() for text in long_texts()] for name in names]
    monkeypatch.setenv("PIKOJAX_CPU", path)
    assert build.status("text") == path
    again = [Tokenizer(tokenizer(name).tree) for name in names]
    assert [[tok.encode(text).tolist() for text in long_texts()] for tok in again] == wanted


# ---------------------------------------------------------------- special tokens, decoding


@needs_compiler
def test_special_tokens_can_be_kept_out():
    tok = tokenizer("llama")
    assert tok.ids["<s>"] in tok.encode("a<s>b", False)
    for text in ("<s>", "a<s>b</s>", "<<s>>", "<s"):
        plain = tok.encode(text, False, allowed_special=())
        assert tok.ids["<s>"] not in plain and plain.tolist() == tok.encode_slowly(text, False, allowed_special=()).tolist()


@needs_compiler
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "unigram"])
@pytest.mark.parametrize("skip", [False, True])
def test_decoding_is_what_python_does(name, skip, monkeypatch):
    from pikojax.text import tokenizer as module

    tok = tokenizer(name)
    ids = np.random.default_rng(0).choice(sorted(tok._by_id), 3000).astype(np.int32)
    assert tok._fast_decoder is not None
    fast_text, fast_bytes = tok.decode(ids, skip), tok.decode_bytes(ids, skip)
    monkeypatch.setattr(module, "FAST_FROM_IDS", 1 << 60)
    assert fast_text == tok.decode(ids, skip)
    assert fast_bytes == tok.decode_bytes(ids, skip)


# ---------------------------------------------------------------- where there is no native code


def test_what_is_not_known_is_named():
    made, why = native.plan(trees.tree(trees.BYTE_BPE, pre_tokenizer=split("deepseek3")))
    assert made is None and ("deepseek3" in why or "none: " in why)
    for parts in ({"pre_tokenizer": kind("UnicodeScripts")}, {"normalizer": kind("ByteLevel")}, {"pre_tokenizer": kind("FixedLength", length=3)}):
        assert native.plan(trees.tree(trees.CHAR_BPE, **parts))[0] is None


def test_without_a_compiler_python_serves(tmp_path):
    code = """
import text_trees as trees
from pikojax.text.tokenizer import Tokenizer
tok = Tokenizer(trees.tree(trees.BYTE_BPE, pre_tokenizer=trees.BYTE_LEVEL, decoder=trees.BYTE_LEVEL))
assert tok._native is None and "no C++ compiler" in tok._planned[1], tok._planned
text = "lower low " * 100
assert tok.decode(tok.encode(text)) == text and tok.encode(text).tolist() == tok.encode_slowly(text).tolist()
"""
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "PIKOJAX_CACHE": str(tmp_path), "PATH": "", "CXX": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the pure path serves" in done.stderr and done.stderr.count("\n") == 1


@needs_compiler
def test_setups_that_make_no_sense_are_one_line():
    loaded, error = native.typed_library(), ctypes.create_string_buffer(native.ERROR_SIZE)
    ids = np.array([0, -1], np.int32)
    for tokens, n in ((b"a\xffb", 1), (b"a\xffb\xff", 1), (b"a\xffb\xff", 2), (b"a\xff", 2)):
        setup = native.Setup(tokens=tokens, tokens_size=len(tokens), ids=ids.ctypes.data, n_tokens=n, prefix=b"", suffix=b"", unk=-1)
        assert loaded.pikojax_text_encoder(ctypes.byref(setup), error) is None
        assert error.value and b"\n" not in error.value


# ---------------------------------------------------------------- real files


@needs_compiler
@pytest.mark.parametrize("name", FILES)
def test_real_vocabularies(name):
    tok = of_file(name)
    sample = (DATA / "text" / "mixed_input.txt").read_bytes().decode()[:5000]
    assert_alike(tok, [sample, *texts(7, 100)])


@functools.cache
def peer(name: str):
    """A function texts → lists of ids of the implementation that the file comes from, without special tokens."""
    path = DATA / "tokenizers" / name
    of_file(name)
    if name.endswith(".json"):
        tokenizers = pytest.importorskip("tokenizers")
        made = tokenizers.Tokenizer.from_str(json.dumps({**json.loads(path.read_bytes()), "added_tokens": []}))
        return lambda given: [each.ids for each in made.encode_batch(given, add_special_tokens=False)]
    if name.endswith(".model"):
        made = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_file=str(path))
        return lambda given: [made.encode(text) for text in given]
    from pikojax.text.rank_file import read_ranks

    ranks = {token: rank for rank, token in read_ranks(path).items()}
    made = pytest.importorskip("tiktoken").Encoding(name, pat_str=patterns.PATTERNS["cl100k"], mergeable_ranks=ranks, special_tokens={})
    return lambda given: [made.encode_ordinary(text) for text in given]


def unlike_peer(name: str, given: list[str]) -> list[str]:
    encoder = of_file(name)._native.encoders[frozenset()]
    return [text for text, wanted in zip(given, peer(name)(given), strict=True) if encoder.encode(text.encode()).tolist() != wanted]


@needs_compiler
@pytest.mark.parametrize("name", FILES)
def test_real_texts_as_the_peers_encode_them(name):
    peer(name)
    for file in sorted((DATA / "text").iterdir()):
        text = file.read_bytes().decode("utf-8", "ignore")[:30_000]
        assert unlike_peer(name, [text, *text.splitlines()[:100]]) == [], file.name


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_200_000_texts_as_the_peers_encode_them(name):
    peer(name)
    rng = random.Random(8)
    words = list({*(DATA / "text" / "mixed_input.txt").read_text(encoding="utf-8").split(), *(DATA / "text" / "wagahai.txt").read_text(encoding="utf-8")[:20000].split()})
    for _ in range(200):
        assert unlike_peer(name, [trees.fuzzed(rng, words) for _ in range(1000)]) == []


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("normalization", ["identity", "nmt_nfkc", "nmt_nfkc_cf"])
@pytest.mark.parametrize("bytes_too", [False, True])
def test_sentencepiece_models_as_sentencepiece_encodes_them(kind, normalization, bytes_too, tmp_path):
    trainer = pytest.importorskip("sentencepiece")
    from pikojax.text import sentencepiece

    files = [DATA / "text" / name for name in ("pride_and_prejudice.txt", "mixed_input.txt")]
    if not all(file.exists() for file in files):
        pytest.skip(f"{files[0]} is not here; PIKOJAX_DATA names the folder of the test data")
    trainer.SentencePieceTrainer.train(
        input=",".join(map(str, files)), model_prefix=str(tmp_path / "m"), vocab_size=5000, model_type=kind, byte_fallback=bytes_too,
        normalization_rule_name=normalization, character_coverage=0.98, hard_vocab_limit=False, minloglevel=2, num_threads=1,
        remove_extra_whitespaces=normalization != "identity",
    )  # fmt: skip
    rng = random.Random(10)
    made = trainer.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    encoder, why_not = native.plan(sentencepiece.read(tmp_path / "m.model"))
    assert encoder is not None, why_not
    given = [text for text in (trees.fuzzed(rng) for _ in range(3000)) if "<s>" not in text and "<unk>" not in text and "\0" not in text]
    assert [text for text in given if encoder.encode(text.encode()).tolist() != made.encode(text)] == []


@needs_compiler
def test_scores_are_read_as_hugging_face_reads_them():
    """Its JSON reader rounds twice; sums that tie in one reading do not in the other."""
    from pikojax.text.hf_json import as_hugging_face_reads

    assert as_hugging_face_reads(-10.25) == -10.25 and as_hugging_face_reads(0.0) == 0.0 and as_hugging_face_reads(-3.0) == -3.0
    rng = random.Random(9)
    numbers = [-rng.random() * 20 for _ in range(1000)]
    off = [abs(as_hugging_face_reads(x) - x) / np.spacing(abs(x)) for x in numbers]
    assert max(off) == 1 and 0 < sum(off) < 500


def test_the_encoder_of_many_is_the_encoder_of_each():
    if tokenizer("gpt2")._native is None:
        pytest.skip("no compiler")
    made, why = fast.make(tokenizer("gpt2"))
    given = ["", "low", "<s>", "a<s>low", "</s></s>"]
    assert why is None and [ids.tolist() for ids in made.encode(given)] == [tokenizer("gpt2").encode(text).tolist() for text in given]


def test_a_mark_reaches_back_over_characters_that_go_away():
    assert_alike(tokenizer("nfkc"), ["day\x01\x01\u0323O", "a\x01\u0323\x01\u0302b", "\xe9\x01\u0323\x02q\u0301", "\x01\u0323x"])
