"""Damaged models and tokenizers of every format: each loads or is refused in one line, soon; the mistakes people make have lines of their own.

The mutants are those of experiments/hostile_files, which tries a million.
"""

import random
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import test_gguf

import pikojax
from pikojax.cli.main import main
from pikojax.config import UserError

sys.path.append(str(Path(__file__).parents[1] / "experiments" / "hostile_files"))
import mutants  # noqa: E402

# Tried in all, 20,250: more of those that cost less. A fifth of them in the fast half.
HOW_MANY = {"gguf": 4000, "gguf packed": 3000, "safetensors": 1500, "config.json": 2000, "config.json of GPT-2": 3000, "tokenizer.json, BPE": 800,
            "tokenizer.json, Unigram": 500, "tokenizer.model": 2750, "tiktoken": 1500, "vocab.json": 400}  # fmt: skip
OTHERS = 114


def tried(kind: str, numbers: range, folder: Path, run_every: int | None = None) -> Counter:
    seed, found, configs = mutants.SEEDS[kind](folder), Counter(), set()
    whole = seed.content
    assert mutants.outcome(seed, run=False) != "refused"
    for i in numbers:
        seed.damaged.write_bytes(mutants.mutant(whole, random.Random(f"{kind} {i}")))
        began_s = time.process_time()
        result = mutants.outcome(seed, run=False)
        assert time.process_time() - began_s < 1, i
        found[result] += 1
        if run_every and result == "loaded" and i % run_every == 0:
            mutants.outcome(seed)  # whatever its numbers are, they stay in bounds
    return found


@pytest.mark.parametrize("kind", HOW_MANY)
def test_mutants_load_or_are_one_line(kind, tmp_path):
    found = tried(kind, range(HOW_MANY[kind] // 5), tmp_path)
    assert 0 < found["refused"] < HOW_MANY[kind] // 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", mutants.SEEDS)
def test_many_more_mutants_load_or_are_one_line(kind, tmp_path):
    n = HOW_MANY.get(kind, OTHERS)
    found = tried(kind, range(HOW_MANY.get(kind, 0) // 5, n), tmp_path, run_every=n // 6)
    assert found["loaded"] + found["run"] > 0


def test_a_damaged_tokenizer_beside_a_model_counts_as_refused(tmp_path):
    seed = mutants.SEEDS["llama2.c tokenizer"](tmp_path)
    seed.damaged.write_bytes(seed.content[:40])
    assert mutants.outcome(seed, run=False) == "refused"


# ---------------------------------------------------------------- mistakes by name


def text_of(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("content, said", [
    (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 1234\n", "is a Git LFS pointer"),
    (b"", "is empty"), (bytes(4096), "zero bytes"),
])  # fmt: skip
def test_what_is_downloaded_by_mistake_has_its_own_line(content, said, tmp_path):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(UserError) as error:
        pikojax.load(tmp_path / "m.gguf")
    assert said in text_of(error)
    seed = mutants.SEEDS["safetensors"](tmp_path)
    for damaged in (seed.damaged, seed.opened / "config.json"):
        whole = damaged.read_bytes()
        damaged.write_bytes(content)
        with pytest.raises(UserError) as error:
            pikojax.load(seed.opened)
        assert said in text_of(error)
        damaged.write_bytes(whole)
    seed = mutants.SEEDS["llama2.c tokenizer"](tmp_path)
    seed.damaged.write_bytes(content)
    with pytest.raises(UserError) as error:
        _ = pikojax.load(seed.opened, ready=False).tokenizer
    assert said in text_of(error)
    seed = mutants.SEEDS["safetensors"](tmp_path / "b")
    (seed.opened / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        _ = pikojax.load(seed.opened, ready=False).tokenizer
    assert said in text_of(error)


@pytest.mark.parametrize("kind", ("gguf", "safetensors", "llama2.c"))
def test_a_download_that_broke_off_says_so(kind, tmp_path):
    seed = mutants.SEEDS[kind](tmp_path)
    whole = seed.content
    for n in (len(whole) - 1, len(whole) // 2, len(whole) - 4):
        seed.damaged.write_bytes(whole[:n])
        with pytest.raises(UserError, match="cut short"):
            pikojax.load(seed.opened)


@pytest.mark.parametrize("kind", ("config.json", "tokenizer.json, BPE", "vocab.json", "safetensors", "gguf"))
def test_a_key_that_stands_twice_is_refused_by_name(kind, tmp_path):
    seed = mutants.SEEDS[kind](tmp_path)
    whole = seed.content
    if kind == "gguf":
        head = test_gguf.entry("general.architecture", 8, test_gguf.text("llama"))
        twice, said = test_gguf.built((head, head)), "the key general.architecture stands there twice"
    else:
        name = {"config.json": "hidden_size", "tokenizer.json, BPE": "version", "vocab.json": "<s>", "safetensors": "lm_head.weight"}[kind]
        at = whole.index(b"{")
        twice, said = whole[: at + 1] + b'"%s": 0, ' % name.encode() + whole[at + 1 :], "twice"
        if kind == "safetensors":
            twice = (len(twice) - len(whole) + int.from_bytes(whole[:8], "little")).to_bytes(8, "little") + twice[8:]
        else:
            said = f"the key '{name}' twice"
    seed.damaged.write_bytes(twice)
    with pytest.raises(UserError, match=said):
        (pikojax.load if seed.is_model else mutants.load_tokenizer)(seed.opened)


@pytest.mark.parametrize("kind", ("config.json", "tokenizer.json, BPE", "vocab.json"))
def test_json_that_is_nested_without_end_or_cut_short_says_so(kind, tmp_path):
    seed = mutants.SEEDS[kind](tmp_path)
    whole = seed.content
    for content, said in ((b'{"model":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"), (whole[: len(whole) // 2], "cut short"), (b"{wrong}", "is not JSON")):
        seed.damaged.write_bytes(content)
        with pytest.raises(UserError, match=said):
            (pikojax.load if seed.is_model else mutants.load_tokenizer)(seed.opened)


def test_the_command_refuses_in_one_line_too(tmp_path, capsys):
    file = tmp_path / "m.gguf"
    file.write_bytes(test_gguf.built(n_tensors=1 << 63))
    for command in (["info"], ["generate"], ["eval", "--text", str(file)], ["convert", "-o", str(tmp_path / "x.gguf")]):
        assert main([command[0], str(file), *command[1:]]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize("name", ("vocab.txt", "tiny.tiktoken", "tokenizer.model"))
def test_no_vocabulary_is_read_beyond_a_limit(name, tmp_path):
    kind = {"vocab.txt": "vocab.txt", "tiny.tiktoken": "tiktoken", "tokenizer.model": "tokenizer.model"}[name]
    seed = mutants.SEEDS[kind](tmp_path)
    with open(seed.opened, "r+b") as file:
        file.truncate(1 << 40)  # zeros that take no room
    with pytest.raises(UserError, match="larger than 64 MB"):
        mutants.load_tokenizer(seed.opened)


def test_a_tensor_s_numbers_may_be_any(tmp_path):
    """Not a number, infinite, or the largest there is: logits come out, of the right shape."""
    seed = mutants.SEEDS["gguf packed"](tmp_path)
    whole = bytearray(seed.content)
    at = len(whole) - 4000
    whole[at:] = np.random.default_rng(0).integers(0, 256, len(whole) - at, np.uint8).tobytes()
    seed.damaged.write_bytes(whole)
    assert mutants.outcome(seed) == "run"
