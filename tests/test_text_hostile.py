"""Files that are damaged or mean harm: one line in under a second, never a traceback, a hang or memory without end."""

import copy
import json
import random
import time
import tracemalloc

import numpy as np
import pytest
from text_compare import trees
from text_trees import BYTE_BPE, BYTE_LEVEL, CHAR_BPE, METASPACE, TRICKY, added, tree, unigram, wordpiece

from pikojax.config import UserError
from pikojax.text import hf_json, load

TREES = trees()
WRONG = [None, True, False, -1, 0, 1, 2**31, 10**30, 1e308, "", "x", "\n", "▁", [], [[]], [1], ["a", "b"], {}, {"type": "x"}, {"type": []}, {"a": 1}]


def refused(content: str | bytes, tmp_path) -> str:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    start = time.perf_counter()
    with pytest.raises(UserError) as error:
        load(file)
    assert time.perf_counter() - start < 1
    assert str(file) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 600
    return str(error.value)


def changed(base: dict, **parts) -> str:
    return json.dumps({**base, **parts})


def model(**parts) -> str:
    return changed(tree({**CHAR_BPE, **parts}))


NESTED = '{"type":"Sequence","normalizers":[' * 5000 + "]}" * 5000
CASES = {
    "deep": ('{"model":' + "[" * 100_000, "nested too deep"),
    "deep sequence": (changed(tree(CHAR_BPE))[:-1] + f', "normalizer": {NESTED}}}', "nested too deep"),
    "nested": (changed(tree(CHAR_BPE), normalizer=json.loads('{"type":"Sequence","normalizers":[' * 30 + "]}" * 30)), "nested more than 20 deep"),
    "NaN": (model(vocab={"a": float("nan")}), "is not JSON"),
    "huge id": (model(vocab={"a": 10**9}, merges=[]), "'a' has the id 1000000000"),
    "many digits": ('{"model": {"type": "BPE", "vocab": {"a": ' + "9" * 5000 + "}}}", "is not JSON"),
    "negative id": (model(vocab={"a": -1}, merges=[]), "'a' has the id -1"),
    "float id": (model(vocab={"a": 1.0}, merges=[]), "'a' has the id 1.0"),
    "true id": (model(vocab={"a": True}, merges=[]), "'a' has the id True"),
    "one id twice": (model(vocab={"a": 1, "b": 1}, merges=[]), "'a' and 'b' have the same id 1"),
    "missing merge": (model(vocab={"a": 0, "b": 1}, merges=[["a", "b"]]), "needs the token 'ab'"),
    "merge of one": (model(merges=["ab"]), "each must be two tokens"),
    "merge of three": (model(merges=[["a", "b", "c"]]), "each must be two tokens"),
    "merges of numbers": (model(merges=[[1, 2]]), "each must be two tokens"),
    "list for a vocabulary": (model(vocab=[]), "vocab of 'the model' is a list; it must be an object"),
    "no vocabulary": (changed(tree({"type": "BPE"})), "has no 'vocab'"),
    "empty vocabulary": (model(vocab={}, merges=[]), "empty vocabulary"),
    "surrogate": ('{"model": {"type": "BPE", "vocab": {"\\ud800": 0}, "merges": []}}', "half a surrogate"),
    "Unigram NaN": (changed(tree(unigram())).replace("-2.0", "NaN"), "is not JSON"),
    "Unigram infinite": (changed(tree(unigram())).replace("-2.0", "-1e999"), "finite score"),
    "Unigram unk": (changed(tree(unigram(unk_id=5000))), "unk_id is 5000"),
    "Unigram unk below": (changed(tree(unigram(unk_id=-1))), "unk_id is -1"),
    "type": (changed(tree({"type": "GPT", "vocab": {}})), "type 'GPT'; the types known here are"),
    "normalizer": (changed(tree(CHAR_BPE), normalizer={"type": "Rot13"}), "the normalizer 'Rot13' is not known here"),
    "control in a type": (changed(tree(CHAR_BPE), normalizer={"type": "\x1b[31m\nRot13"}), "the normalizer '\\x1b[31m\\nRot13'"),
    "pre_tokenizer": (changed(tree(CHAR_BPE), pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Sideways"}), "behavior"),
    "regex": (changed(tree(CHAR_BPE), pre_tokenizer={"type": "Split", "pattern": {"Regex": "(((("}, "behavior": "Isolated"}), "pattern"),
    "post_processor": (changed(tree(CHAR_BPE), post_processor={"type": "Frame"}), "the post_processor 'Frame'"),
    "template": (changed(tree(CHAR_BPE), post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}],
                                                         "pair": [], "special_tokens": {}}), "'x', which its special_tokens lack"),
    "decoder": (changed(tree(CHAR_BPE), decoder={"type": "Rot13"}), "the decoder 'Rot13'"),
    "charsmap": (changed(tree(CHAR_BPE), normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "cut short or damaged"),
    "charsmap no base64": (changed(tree(CHAR_BPE), normalizer={"type": "Precompiled", "precompiled_charsmap": "!"}), "not base64"),
    "added id": (changed(tree(CHAR_BPE), added_tokens=[added("<a>", 10**12)]), "'<a>' has the id"),
    "added negative": (changed(tree(CHAR_BPE), added_tokens=[added("<a>", -1)]), "'<a>' has the id -1"),
    "added content": (changed(tree(CHAR_BPE), added_tokens=[{"id": 1, "content": 5}]), "each needs an id and its content"),
    "added flag": (changed(tree(CHAR_BPE), added_tokens=[added("<a>", 1, lstrip="yes")]), "lstrip of"),
    "prefix": (changed(tree(wordpiece(continuing_subword_prefix=5))), "continuing_subword_prefix"),
    "metaspace": (changed(tree(CHAR_BPE), pre_tokenizer=METASPACE | {"replacement": "ab"}), "must be one character"),
    "length": (changed(tree(CHAR_BPE), pre_tokenizer={"type": "FixedLength", "length": 0}), "length"),
    "many parts": (changed(tree(CHAR_BPE), normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}] * 201}), "it has 202 normalizers"),
    "many patterns": (changed(tree(CHAR_BPE), pre_tokenizer={"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": f"{i}" + "[a-z]" * 50}, "behavior": "Isolated"} for i in range(100)]}), "characters together"),
    "many added": (changed(tree(CHAR_BPE), normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}] * 100},
                           added_tokens=[added(f"<é{i}>", 9 + i, normalized=True) for i in range(4000)]), "to normalize in 101 steps"),
    "binary": (bytes(range(256)) * 40, ""),
    "empty": (b"", "is empty"),
    "half": (changed(tree(BYTE_BPE))[:2000], "is cut short"),
    "UTF-16": (changed(tree(CHAR_BPE)).encode("utf-16"), "is not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused_in_one_line(name, tmp_path):
    content, says = CASES[name]
    assert says in refused(content, tmp_path)


def test_a_file_is_read_up_to_a_limit(tmp_path, monkeypatch):
    file = tmp_path / "tokenizer.json"
    file.write_text(changed(tree(CHAR_BPE)))
    monkeypatch.setattr(hf_json, "LIMIT_BYTES", 1 << 20)
    load(file)
    (tmp_path / "tokenizer_config.json").write_text("{" + " " * (1 << 20) + "}")
    with pytest.raises(UserError, match="tokenizer_config.json is larger than 1 MB; give"):
        load(file)
    (tmp_path / "tokenizer_config.json").write_text("no JSON")
    load(file)
    with pytest.raises(UserError, match="tokenizer.json is larger than 1 MB; give"):
        file.write_text(changed(tree(CHAR_BPE)) + " " * (1 << 20))
        load(file)
    with open(file, "r+b") as opened:  # 10 GB of zeros that take no room
        opened.truncate(0)
        opened.truncate(10 << 30)
    tracemalloc.start()
    with pytest.raises(UserError, match="zero bytes"):
        load(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


def mutated(base: dict, rng: random.Random) -> dict:
    """One or two places of the tree changed to something wrong, taken out, or exchanged with another place."""
    base = copy.deepcopy(base)
    for _ in range(rng.choice((1, 1, 2))):
        places = [(base, key) for key in base]
        for holder, key in places:
            inner = holder[key]
            if isinstance(inner, dict) and len(places) < 3000:
                places += [(inner, key) for key in list(inner)[:40]]
            elif isinstance(inner, list) and len(places) < 3000:
                places += [(inner, i) for i in range(len(inner))[:40]]
        holder, key = rng.choice(places[:40] if rng.random() < 0.5 else places)
        kind = rng.random()
        if kind < 0.7:
            holder[key] = copy.deepcopy(rng.choice(WRONG))
        elif kind < 0.85:
            del holder[key]
        else:
            other, name = rng.choice(places)
            if key in holder if isinstance(holder, dict) else key < len(holder):
                holder[key] = copy.deepcopy(other[name]) if (name in other if isinstance(other, dict) else name < len(other)) else None
    return base


def try_mutations(n: int, seed: int, tmp_path) -> int:
    rng, n_loaded, names = random.Random(seed), 0, sorted(TREES)
    file = tmp_path / "tokenizer.json"
    for _ in range(n):
        name = rng.choice(names)
        try:
            content = json.dumps(mutated(TREES[name], rng))
        except (RecursionError, ValueError):
            continue
        if rng.random() < 0.1:
            content = content[: rng.randrange(len(content))]
        file.write_text(content)
        start = time.perf_counter()
        try:
            tokenizer = load(file)
            n_loaded += 1
            for text in rng.sample(TRICKY, 3):
                ids = tokenizer.encode_with_offsets(text).ids
                assert ids.dtype == np.int32
                assert tokenizer.encode(text).tolist() == ids.tolist(), (text, content)
                assert not ids.size or int(ids.max()) < tokenizer.vocab_size
                stream = tokenizer.stream()
                assert "".join(map(stream.push, ids)) + stream.finish() == tokenizer.decode(ids), content
        except UserError as error:
            assert "\n" not in str(error), content
        except Exception as error:
            raise AssertionError(f"{error!r} of {name}: {content[:3000]}") from error
        assert time.perf_counter() - start < 2, content[:2000]
    return n_loaded


def test_a_changed_file_loads_or_is_refused(tmp_path):
    assert try_mutations(150, 1, tmp_path) > 20  # many changes do no harm; the rest is refused


@pytest.mark.slow
def test_many_changed_files_load_or_are_refused(tmp_path):
    assert try_mutations(1500, 2, tmp_path) > 180


def test_one_long_word_takes_no_square_of_its_length():
    from pikojax.text.tokenizer import Tokenizer

    for part in (tree(BYTE_BPE, pre_tokenizer=BYTE_LEVEL), tree(wordpiece(), pre_tokenizer={"type": "Whitespace"}), tree(unigram())):
        tokenizer = Tokenizer.from_tree(part)
        times = []
        for n in (20_000, 80_000):
            text = "lowera" * (n // 6)
            start = time.perf_counter()
            tokenizer.encode_slowly(text)
            times.append(time.perf_counter() - start)
        assert times[1] < 10 * times[0] + 0.5, times
