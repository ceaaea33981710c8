"""Training tokenizers: the native trainers equal the Python ones, and BPE and WordPiece equal Hugging Face's, merge for merge."""

import hashlib
import itertools
import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest

import pikojax.text
from pikojax.config import UserError
from pikojax.text import bpe_trainer, byte_level, unigram_trainer, word_counts, word_splitters
from pikojax.text.bpe_trainer import Rules, bpe_tree
from pikojax.text.unigram_trainer import unigram_tree
from pikojax.text.wordpiece_trainer import wordpiece_tree
from pikojax.text.word_counts import WordCounts, count_files, count_texts

DATA = Path(os.environ.get("PIKOJAX_DATA") or Path(__file__).parent.parent.parent / "shared" / "data")
needs_native = pytest.mark.skipif(word_counts.native_library() is None, reason="no C++ compiler: the Python trainers stand alone")
ODD = "Don't  stop\n\n  naïve café ＡＢＣ ½ … ﬁne İstanbul ΑΣΣ 日本語のテキスト、ｶﾞｷﾞ 한국어 각 e\u0301 \u0301x a\u200bb \x07 \x0b\x85 tab\tend 12345 1st we'LL 🙂👍🏽 \u2581x ſ'ſ ǅ\r\n"
TEXTS = [ODD, "", " ", "the cat and the hat, the cat's hat\n" * 3, "x  y   z\n", "hug hugs pug pugs bun buns " * 5, "    if x:\n\t\treturn  1\n", "aaaaaaa aaa aaaa " * 4]


def random_text(seed: int, size: int = 2000, chars: str = "aab bc \nde'sé日本１ ½\u0301🙂") -> str:
    draw = random.Random(seed)
    return "".join(draw.choice(chars) for _ in range(size))


def random_words(seed: int, n: int = 300) -> dict[bytes, int]:
    draw = random.Random(seed)
    return {"".join(draw.choice("aabcé") for _ in range(draw.randint(1, 9))).encode(): draw.randint(1, 4) for _ in range(n)}


def tokenizers():
    return pytest.importorskip("tokenizers", reason="`tokenizers` is not installed: no live comparison")


# ---------------------------------------------------------------- counting

SPLITTERS = {name: word_splitters.scanner(name) for name in word_splitters.SCANNERS} | {
    "bert": word_splitters.bert(),
    "bert cased": word_splitters.bert(lowercase=False),
    "bert bare": word_splitters.bert(False, True, False, False),
    "metaspace": word_splitters.metaspace(),
    "metaspace plain": word_splitters.metaspace(nmt_nfkc=False),
}


@needs_native
@pytest.mark.parametrize("name", SPLITTERS)
def test_the_native_counter_finds_the_words_of_the_python_one(name):
    texts = [*TEXTS, *(random_text(seed) for seed in range(20))]
    texts = [text.replace("\u2581", "") for text in texts] if name == "metaspace plain" else texts
    for text in texts:
        wanted = dict(count_texts([text], SPLITTERS[name], native=False).items())
        assert dict(count_texts([text], SPLITTERS[name]).items()) == wanted, text
    both = [dict(count_texts(texts, SPLITTERS[name], threads=threads).items()) for threads in (1, 2, 3)]
    assert both[0] == both[1] == both[2] == dict(count_texts(texts, SPLITTERS[name], native=False).items())


@pytest.mark.parametrize("name", SPLITTERS)
def test_the_words_are_those_of_the_pipeline(name):
    splitter = SPLITTERS[name]
    pipeline = word_splitters.of_tree(splitter.normalizer, splitter.pre_tokenizer, None)
    for text in [*TEXTS, *(random_text(seed) for seed in range(5))]:
        words = list(splitter.words(text))
        if name in word_splitters.SCANNERS:
            words = [byte_level.to_chars(word) for word in words]
        wanted = [word for word in pipeline.words(text) if name != "metaspace" or word != "▁"]  # there spaces at an end are a word
        assert words == wanted


@needs_native
@pytest.mark.parametrize("by_line", [True, False])
def test_files_count_the_same_in_blocks_of_any_size(tmp_path, monkeypatch, by_line):
    text = "".join(TEXTS) + random_text(5, 20_000) + "\nlast line, no end"
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    files[0].write_bytes(text.encode()[:15_000] + b"\xff\xfe bad \xe3\x81\n")
    files[1].write_text(text, newline="")
    splitter = word_splitters.scanner("gpt2")
    texts = [file.read_bytes().decode("utf-8", "replace") for file in files]
    if by_line:
        texts = [line + "\n" for text in texts for line in text.split("\n")[:-1]] + [text.split("\n")[-1] for text in texts]
    wanted = dict(count_texts(texts, splitter, native=False).items())
    for block_bytes in (64, 1000, 1 << 20):
        monkeypatch.setattr(word_counts, "BLOCK_BYTES", block_bytes)
        for threads in (1, 2):
            assert dict(count_files(files, splitter, by_line=by_line, threads=threads).items()) == wanted
        assert dict(count_files(files, splitter, by_line=by_line, native=False).items()) == wanted


def test_any_pipeline_can_be_trained():
    splitter = word_splitters.of_tree({"type": "Lowercase"}, {"type": "Whitespace"}, {"type": "WordPiece", "prefix": "##", "cleanup": True})
    tree = wordpiece_tree(count_texts(["The cat, the hat. " * 9], splitter), 40, splitter=splitter)
    assert {"the", "cat", "hat", ","} < tree["model"]["vocab"].keys() and tree["normalizer"] == {"type": "Lowercase"}


def test_a_text_without_a_place_to_cut_is_cut_between_characters(tmp_path, monkeypatch):
    monkeypatch.setattr(word_counts, "BLOCK_BYTES", 10)
    monkeypatch.setattr(word_counts, "LONGEST_BLOCK_BYTES", 40)
    (tmp_path / "a.txt").write_text("日本" * 50)
    counts = dict(count_files(tmp_path / "a.txt", word_splitters.scanner("gpt2")).items())
    assert sum(len(word.decode()) * count for word, count in counts.items()) == 100


def test_progress_tells_how_far_the_files_are(tmp_path):
    (tmp_path / "a.txt").write_text("some words\n" * 100)
    heard = []
    count_files([tmp_path / "a.txt"], word_splitters.scanner("gpt2"), on_progress=lambda *told: heard.append(told))
    assert heard[-1] == ("count", 1100, 1100)


# ---------------------------------------------------------------- BPE and WordPiece


def test_the_example_of_hugging_faces_own_tests():
    words = dict.fromkeys("roses red voilets blue BERT big and so GPT-2".split(), 1) | {"are": 2, "is": 2}
    counts = WordCounts({word.encode(): count for word, count in words.items()})
    tokens, merges = bpe_trainer.learn(counts, Rules(min_frequency=2), by_bytes=False)
    assert tokens == [*"-2BEGPRTabdegilnorstuv", "re", "are", "is"]
    assert merges == [(17, 11, 22), (8, 22, 23), (13, 18, 24)]


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_native), False])
@pytest.mark.parametrize("rules, digest", [({}, "ea5d24d9129f4d2a"), (dict(min_frequency=4), "5e8097baec6a7a71"), (dict(max_token_length=4), "98a4fff2230c04c7")])
def test_bpe_is_what_hugging_face_once_learned(native, rules, digest):
    """Digests of what tokenizers 0.23.3 learns from these texts (tokens in the order of their ids, then merges): see `hf_bpe`."""
    counts = count_texts([ODD, *(random_text(seed) for seed in range(5))], word_splitters.scanner("gpt2"), native=native)
    model = bpe_tree(counts, 600, native=native, **rules)["model"]
    assert hashlib.sha256(json.dumps([list(model["vocab"]), model["merges"]]).encode()).hexdigest()[:16] == digest


def test_of_equal_pairs_the_smallest_ids_merge_first():
    counts = WordCounts({b"ba": 1, b"ab": 1, b"cd": 1, b"dd": 1})
    tokens, _ = bpe_trainer.learn(counts, Rules(7), by_bytes=False)
    assert tokens == ["a", "b", "c", "d", "ab", "ba", "cd"]


RULES = [
    dict(),
    dict(min_frequency=3),
    dict(max_token_length=3),
    dict(max_token_length=2, continuing_subword_prefix="##"),
    dict(limit_alphabet=3),
    dict(continuing_subword_prefix="##"),
    dict(end_of_word_suffix="</w>", special_tokens=("<s>", "ab", "c", "<s>")),
    dict(continuing_subword_prefix="a", end_of_word_suffix="b", initial_alphabet=("z", "é")),
]


@needs_native
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("by_bytes", [True, False])
def test_the_native_bpe_is_the_python_one(rules, by_bytes):
    for seed in range(5):
        counts = WordCounts(random_words(seed))
        wanted = bpe_trainer.learn(counts, Rules(60 + 40 * by_bytes, **rules), by_bytes, native=False)
        assert bpe_trainer.learn(counts, Rules(60 + 40 * by_bytes, **rules), by_bytes, native=True) == wanted
        assert len(wanted[1]) > 0


def hf_bpe(texts, pre_tokenizer=None, files=None, **rules):
    hf = tokenizers()
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer or hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    rules = {"initial_alphabet": hf.pre_tokenizers.ByteLevel.alphabet()} | rules
    trainer = hf.trainers.BpeTrainer(show_progress=False, **rules)
    tokenizer.train(files, trainer) if files else tokenizer.train_from_iterator(texts, trainer)
    return json.loads(tokenizer.to_str())["model"]


def same_bpe(ours: dict, theirs: dict) -> None:
    assert list(ours["vocab"].items()) == sorted(theirs["vocab"].items(), key=lambda item: item[1])
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in theirs["merges"]]
    assert ours["merges"] == merges


@pytest.mark.parametrize("rules", [{}, dict(min_frequency=4), dict(max_token_length=4), dict(special_tokens=["<|endoftext|>", "the", "a"])])
def test_bpe_equals_hugging_face(rules):
    texts = [*TEXTS, *(random_text(seed) for seed in range(5))]
    counts = count_texts(texts, word_splitters.scanner("gpt2"))
    same_bpe(bpe_tree(counts, 600, **rules)["model"], hf_bpe(texts, vocab_size=600, **rules))


def test_bpe_equals_hugging_face_on_overlapping_pairs_and_ties():
    for seed in range(30):
        texts = [random_text(seed, 300, "aaab ")]
        counts = count_texts(texts, word_splitters.scanner("gpt2"))
        same_bpe(bpe_tree(counts, 350)["model"], hf_bpe(texts, vocab_size=350))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tinyshakespeare", "wagahai", "mixed_input", "utf8_input"])
def test_bpe_equals_hugging_face_on_real_files(name):
    hf = tokenizers()
    file = DATA / "text" / f"{name}.txt"
    if not file.is_file():
        pytest.skip(f"{file} is missing: set PIKOJAX_DATA")
    counts = count_files([file], word_splitters.scanner("gpt2"))
    same_bpe(bpe_tree(counts, 8000, special_tokens=("<|endoftext|>",))["model"], hf_bpe(None, files=[str(file)], vocab_size=8000, special_tokens=["<|endoftext|>"]))
    text = file.read_text()
    counts = count_texts([text], word_splitters.scanner("cl100k"))
    split = hf.pre_tokenizers.Split(hf.Regex(word_splitters.patterns.PATTERNS["cl100k"]), "isolated")
    level = hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs = hf_bpe([text], hf.pre_tokenizers.Sequence([split, level]), vocab_size=3000)
    same_bpe(bpe_tree(counts, 3000, pattern="cl100k")["model"], theirs)


def in_their_order(vocab: dict[str, int]):
    """Theirs numbers the "##…" of the alphabet at random, differently on every run, and ties hang on that: here they come as there."""
    plain = bpe_trainer.alphabet

    def alphabet(*args):
        tokens, ids = plain(*args)
        new = sorted(tokens, key=vocab.__getitem__)
        renamed = np.array([new.index(token) for token in tokens] + [-1], np.int32)
        return new, renamed[ids]

    return alphabet


WORDPIECE_TEXTS = ["hug hugs pug pugs bun buns Hug! " * 5, "the cat and the hat, the cat's hat and that\n" * 3, "naïve café unaffable unaffected effect " * 2, ODD]


@pytest.mark.parametrize("rules", [{}, dict(min_frequency=3), dict(limit_alphabet=20, vocab_size=60)])
def test_wordpiece_equals_hugging_face(monkeypatch, rules):
    hf = tokenizers()
    specials = ["[UNK]", "[CLS]"]
    rules = dict(vocab_size=300) | rules
    texts = WORDPIECE_TEXTS[:3] if "limit_alphabet" in rules else WORDPIECE_TEXTS  # which of equally rare characters goes is chance there
    tokenizer = hf.Tokenizer(hf.models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = hf.normalizers.BertNormalizer(), hf.pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(texts, hf.trainers.WordPieceTrainer(special_tokens=specials, show_progress=False, **rules))
    theirs = json.loads(tokenizer.to_str())
    splitter = word_splitters.bert()
    monkeypatch.setattr(bpe_trainer, "alphabet", in_their_order(theirs["model"]["vocab"]))
    for native in (False, None):
        counts = count_texts(texts, splitter, native=native)
        ours = wordpiece_tree(counts, splitter=splitter, special_tokens=tuple(specials), **rules)
        assert ours["model"]["vocab"] == theirs["model"]["vocab"]
        assert {k: v for k, v in ours["model"].items() if k != "vocab"} == {k: v for k, v in theirs["model"].items() if k != "vocab"}
        assert all(ours[part] == theirs[part] for part in ("normalizer", "pre_tokenizer", "added_tokens"))


# ---------------------------------------------------------------- Unigram


def unigram_counts(seed: int = 0) -> WordCounts:
    texts = [*TEXTS, *(random_text(seed + i, 3000, "abcab dab cabde日本語 ") for i in range(4))]
    return count_texts(texts, word_splitters.metaspace())


@needs_native
@pytest.mark.parametrize("rules", [{}, dict(split_by_script=True, character_coverage=1.0), dict(character_coverage=0.97, max_piece_length=5), dict(seed_size=150, byte_fallback=True)])
def test_the_native_unigram_is_the_python_one(rules):
    counts = unigram_counts()
    size = 400 if rules.get("byte_fallback") else 160
    wanted = unigram_tree(counts, size, native=False, **rules)
    for threads in (1, 2, 3):
        assert unigram_tree(counts, size, native=True, threads=threads, **rules) == wanted
    vocab = wanted["model"]["vocab"]
    assert len({token for token, _ in vocab}) == len(vocab) <= size
    assert all(math.isfinite(score) and score <= 0 for _, score in vocab)


@needs_native
def test_words_too_long_for_the_range_of_floats():
    draw = random.Random(1)
    words = {"▁" + "".join(draw.choice("abcdefghij") for _ in range(length)): 1 for length in (900, 700, 40, 30)} | {"▁" + "j" * 1200: 3, "a" * 1500: 2}
    counts = WordCounts({word.encode(): count for word, count in words.items()})
    rules = dict(seed_size=2000, character_coverage=1.0)
    wanted = unigram_tree(counts, 60, native=False, **rules)
    assert unigram_tree(counts, 60, native=True, **rules) == wanted
    scores = {piece: score for piece, score in wanted["model"]["vocab"][3:]}
    found = unigram_trainer.e_step(words, scores, 16)
    lengths = sum(count / unigram_trainer.ONE * len(piece) for piece, count in found.items())
    assert lengths == pytest.approx(sum(len(word) * count for word, count in words.items()), rel=1e-4)  # every character is in one piece


def test_expected_counts_are_those_of_all_segmentations():
    scores = {piece: math.log(p) for piece, p in {"a": 0.3, "b": 0.2, "ab": 0.25, "ba": 0.15, "aba": 0.1}.items()}
    word, expected, total = "ababa", dict.fromkeys(scores, 0.0), 0.0
    for cuts in itertools.product([0, 1], repeat=len(word) - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(word)]
        parts = [word[a:b] for a, b in zip(edges, edges[1:], strict=False)]
        if all(part in scores for part in parts):
            p = math.exp(sum(scores[part] for part in parts))
            total += p
            for part in parts:
                expected[part] += p
    found = unigram_trainer.e_step({word: 2}, scores, 16)
    for piece in scores:
        assert found[piece] / unigram_trainer.ONE == pytest.approx(2 * expected[piece] / total, abs=1e-6)


def test_digamma():
    for x, value in ((0.5, -1.9635100260214235), (1.0, -0.5772156649015329), (10.0, 2.251752589066721), (1e6, 13.815510057964191)):
        assert unigram_trainer.digamma(x) == pytest.approx(value, abs=2e-10)


def test_a_better_vocabulary_is_found_than_single_characters():
    counts = count_texts(["hug hugs pug pugs bun buns " * 5, "the cat and the hat, the cat's hat and that\n" * 3], word_splitters.metaspace())
    vocab = dict(map(tuple, unigram_tree(counts, 45)["model"]["vocab"]))
    words = [word.decode() for word, _ in counts.items()]
    assert sum(len(unigram_trainer.best_cut(word, vocab, 16)[1]) for word in words) < 0.6 * sum(map(len, words))


# ---------------------------------------------------------------- files, errors


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "unigram bytes"])
def test_hugging_face_loads_the_tree_and_round_trips(kind):
    hf = tokenizers()
    texts = ["the cat and the hat, the cat's hat and that\n" * 3, "hug hugs pug pugs bun buns " * 5]
    splitter = {"bpe": word_splitters.scanner("gpt2"), "wordpiece": word_splitters.bert()}.get(kind, word_splitters.metaspace())
    counts = count_texts(texts, splitter)
    if kind == "bpe":
        tree = bpe_tree(counts, 300, special_tokens=("<|endoftext|>",))
    elif kind == "wordpiece":
        tree = wordpiece_tree(counts, 60)
    else:
        tree = unigram_tree(counts, 340, byte_fallback=True) if "bytes" in kind else unigram_tree(counts, 60)
    loaded = hf.Tokenizer.from_str(json.dumps(tree))
    assert loaded.get_vocab_size() == len(tree["model"]["vocab"])
    assert loaded.decode(loaded.encode("the cat hugs").ids) == "the cat hugs"
    again = json.loads(loaded.to_str())
    for part, value in tree.items():
        if part != "model":
            assert again[part] == value, part


@pytest.mark.parametrize("name", ["train_bpe", "train_wordpiece", "train_unigram"])
def test_from_texts_to_a_tokenizer(name):
    texts = ["the cat and the hat, the cat's hat and that\n" * 3, "hug hugs pug pugs bun buns " * 5]
    for _ in range(2):  # the second look finds it too
        train = getattr(pikojax.text, name)
        exec(f"from pikojax.text import {name} as imported", found := {})
        assert found["imported"] is train
    tokenizer = train(texts, 300 if name == "train_bpe" else 60)
    ids = tokenizer.encode("the cat hugs", add_special_tokens=False)
    assert tokenizer.decode(ids) == "the cat hugs"
    assert len(ids) < len("the cat hugs") and tokenizer.vocab_size <= 300
    hf = tokenizers()
    assert hf.Tokenizer.from_str(json.dumps(tokenizer.tree)).encode("that cat's hug, bun").ids == tokenizer.encode("that cat's hug, bun").tolist()


@pytest.mark.parametrize("learn", [lambda counts: bpe_tree(counts, 300), lambda counts: wordpiece_tree(counts, 300), lambda counts: unigram_tree(counts, 300)])
def test_an_empty_corpus_is_one_clear_line(learn):
    with pytest.raises(UserError, match="needs text.*empty"):
        learn(count_texts([], word_splitters.scanner("gpt2")))


def test_a_vocabulary_too_small_is_one_clear_line():
    counts = count_texts(TEXTS, word_splitters.metaspace())
    with pytest.raises(UserError, match="vocab_size = 100 is too small: the special tokens and the alphabet take 25[67]"):
        bpe_tree(count_texts(TEXTS, word_splitters.scanner("gpt2")), 100, special_tokens=("<s>",))
    with pytest.raises(UserError, match="vocab_size = 20 is too small"):
        unigram_tree(counts, 20)
    with pytest.raises(UserError, match="vocab_size = 8 is too small"):
        wordpiece_tree(counts, 8)


def test_other_mistakes():
    splitter = word_splitters.scanner("gpt2")
    with pytest.raises(UserError, match="half a surrogate pair, U\\+D800"):
        count_texts(["a\ud800"], splitter)
    with pytest.raises(UserError, match="got one text"):
        count_texts("abc", splitter)
    with pytest.raises(UserError, match="cannot read .*missing.txt"):
        count_files(["missing.txt"], splitter)
    with pytest.raises(UserError, match="no pattern is called 'gpt3'"):
        word_splitters.scanner("gpt3")
    with pytest.raises(UserError, match="max_piece_length = 40"):
        unigram_tree(unigram_counts(), 200, max_piece_length=40)
    with pytest.raises(UserError, match="unk_token"):
        unigram_tree(unigram_counts(), 200, special_tokens=("<s>",))


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_native), False])
def test_an_interrupt_while_training_is_raised(native):
    def interrupt(stage, done, total):
        raise KeyboardInterrupt

    draw = random.Random(0)
    counts = WordCounts({"".join(draw.choice("abcdefgh") for _ in range(9)).encode(): 1 for _ in range(500)}, native=native)
    with pytest.raises(KeyboardInterrupt):
        bpe_tree(counts, 2000, on_progress=interrupt)
