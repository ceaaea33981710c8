"""Likelihood of a text: the same figures as by hand, every token foretold once; the command around it."""

import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import test_llama

from pikojax.cli import eval
from pikojax.cli.main import main
from pikojax.config import UserError
from pikojax.formats import huggingface
from pikojax.models import llama
from pikojax.train.likelihood import measure, windows

STORIES = Path(os.environ.get("PIKOJAX_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data") / "stories260k"


@pytest.mark.parametrize("n, context, bos", [(10, 4, None), (10, 4, 99), (9, 4, None), (8, 4, 99), (2, 4, None), (1, 4, 99), (3, 2, None), (50, 7, 99)])
def test_every_token_is_foretold_once_by_what_stands_before_it(n, context, bos):
    ids = np.arange(n, dtype=np.int32)
    inputs, targets, counted = windows(ids, bos, context)
    assert inputs.shape == targets.shape == counted.shape and inputs.shape[1] <= context
    assert targets[counted].tolist() == list(range(0 if bos is not None else 1, n))
    first = np.zeros_like(counted)
    first[:, 0] = bos is not None
    assert (inputs[counted & ~first] == targets[counted & ~first] - 1).all() and (inputs[first] == bos).all()


def test_figures_are_those_worked_out_by_hand(tmp_path):
    cfg, params = huggingface.read(test_llama.write_folder(tmp_path / "m", "llama"))
    other = jax.tree.map(lambda leaf: leaf * np.float32(1.1), params)
    ids = np.random.default_rng(0).integers(1, 48, 31)
    q, p = (SimpleNamespace(model=llama.MODEL, config=cfg, params=each) for each in (params, other))

    def log_probabilities(params):
        rows = []
        for at in range(0, 31, 12):
            tokens = np.concatenate([[0], ids[at : at + 12]])[:-1].astype(np.int32)
            rows.append(np.asarray(llama.forward(cfg, params, tokens[None])[0].logits[0], np.float64))
        logits = np.concatenate(rows)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    log_q, log_p = log_probabilities(params), log_probabilities(other)
    nats = -log_q[np.arange(31), ids]
    found = measure(q, ids, 62, bos=0, context=12, against=p)
    expected = {
        "tokens": 31, "nats_per_token": nats.mean(), "nats_per_token_error": nats.std(ddof=1) / np.sqrt(31), "perplexity": np.exp(nats.mean()),
        "bits_per_byte": nats.sum() / np.log(2) / 62, "kl_mean": (np.exp(log_p) * (log_p - log_q)).sum(-1).mean(),
        "same_top_rate": (log_q.argmax(-1) == log_p.argmax(-1)).mean(), "nats_above": (nats + log_p[np.arange(31), ids]).mean(),
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4) and found["kl_mean"] > 1e-3
    alone, itself = measure(q, ids, 62, bos=0, context=12), measure(q, ids, 62, bos=0, context=12, against=q)
    assert alone["perplexity"] == pytest.approx(expected["perplexity"], rel=1e-4) and "kl_mean" not in alone
    assert itself["kl_mean"] == pytest.approx(0, abs=1e-6) and itself["same_top_rate"] == 1 and itself["nats_above"] == 0


def test_too_little_text_is_one_line():
    for ids, bos, context in (([], 0, 8), ([1], None, 8), ([1, 2], None, 1)):
        with pytest.raises(UserError):
            measure(None, np.array(ids), 1, bos=bos, context=context)


def test_one_token_has_no_error_and_none_is_shown():
    one = {"tokens": 1, "bytes": 2, "context": 8, "perplexity": 3.0, "perplexity_error": math.nan, "bits_per_byte": 1.0, "bits_per_byte_error": math.nan}
    assert eval.lines(one)[1:] == ["perplexity     3.0000", "bits per byte  1.0000"]
    two = one | {"perplexity_error": 0.5, "nats_above": 0.1, "nats_above_error": 0.01} | dict.fromkeys(("kl_mean", "kl_mean_error", "same_top_rate", "same_top_rate_error"), 0.5)
    assert eval.lines(two)[1::2] == ["perplexity     3.0000 ± 0.5000", "KL divergence  0.500000 ± 0.500000 nats a token", "nats above     +0.100000 ± 0.010000 a token"]


def test_eval_of_a_model_packed_and_not(tmp_path, capsys):
    if not (STORIES / "stories260K.bin").is_file():
        pytest.skip(f"no {STORIES}")
    model, packed, text = str(STORIES / "stories260K.bin"), str(tmp_path / "m.gguf"), tmp_path / "t.txt"
    text.write_text((STORIES / "expected_greedy_200.txt").read_text() * 3)
    assert main(["convert", model, "-o", packed, "--type", "q4_0"]) == 0
    capsys.readouterr()
    assert main(["eval", packed, "--text", str(text), "--against", model, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert 1 < told["perplexity"] < 10 and told["bytes"] == len(text.read_bytes()) and 500 < told["tokens"] <= 620
    assert 1e-4 < told["kl_mean"] < 0.5 and 0.7 < told["same_top_rate"] < 1 and told["kl_mean_error"] > 0
    words = tmp_path / "bad.txt"
    words.write_bytes(b"a\xff")
    for more, part in (([str(words)], "not UTF-8"), (["none.txt"], "cannot read"), ([str(text), "--context", "9999"], "not from 2 to 512"), ([str(text), "--max-tokens", "1"], "--max-tokens 1")):
        assert main(["eval", model, "--text", *more]) == 2
        error = capsys.readouterr().err
        assert part in error and error.count("\n") == 1


def test_bytes_of_the_first_token_count_where_it_is_foretold(tmp_path, capsys):
    """Without a token to begin with nothing foretells the first one, and bits are not divided by its bytes; nor by those that --max-tokens leaves out."""
    folder, text = test_llama.write_folder(tmp_path / "hf", "llama"), tmp_path / "t.txt"
    begin = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
             "special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}}}  # fmt: skip
    model = {"type": "BPE", "vocab": {char: i for i, char in enumerate("abcé<>s")}, "merges": []}
    added = [{"id": 7, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}]
    text.write_text("éabc")
    for template, more, wanted in ((begin, [], (4, 5)), (None, [], (3, 3)), (begin, ["--max-tokens", "3"], (3, 4)), (None, ["--max-tokens", "3"], (2, 2))):
        tree = {"version": "1.0", "added_tokens": added, "post_processor": template, "decoder": {"type": "Fuse"}, "model": model}
        (folder / "tokenizer.json").write_text(json.dumps(tree))
        assert main(["eval", str(folder), "--text", str(text), "--json", *more]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["tokens"], told["bytes"]) == wanted
