"""What `pikojax bench decode` and its relatives count and time, on a model that a blink makes."""

import json
import subprocess
import sys

import jax
import pytest
import tiny

from pikojax.cli.main import main
from pikojax.config import UserError
from pikojax.infer import measure_decode as m
from pikojax.infer import sizes
from pikojax.infer.engine import Engine, EngineConfig
from pikojax.models import catalog
from pikojax.text.char import CharTokenizer

CONTEXT = 64


@pytest.fixture(scope="module")
def plain():
    cfg = tiny.config(dict(context=CONTEXT, tie=False)).model
    return Engine(catalog["gpt"], cfg, catalog["gpt"].init(cfg, jax.random.key(0)), None, EngineConfig(slots=1, remember=False))


def test_a_pass_writes_what_was_asked_for_and_its_parts_make_the_whole(plain):
    ids = m.random_ids(20, plain.cfg.vocab_size)
    assert len(ids) == 20 and set(ids) <= set(range(plain.cfg.vocab_size)) and ids == m.random_ids(20, plain.cfg.vocab_size)
    found = m.one_pass(plain, ids, 8)
    assert len(found["ids"]) == 8 and found["first_token_s"] > 0 and found["decode_s"] > 0
    told = m.described(plain, [{**found, "first_token_s": 0.5, "decode_s": 2.0}], [1e-3], 20, 8)
    assert told["decode_tokens_per_s"] == 3.5 and told["prefill_tokens_per_s"] == 40
    assert told["of_bandwidth"] == pytest.approx(3.5 * (told["weight_bytes"] + told["cache_bytes_read_per_token"]) / 1e6)


def test_bytes_are_those_that_a_step_reads(plain):
    cfg, params = plain.cfg, plain.params
    everything = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    looked_up = params["embed"].nbytes + params["positions"].nbytes
    assert sizes.weight_bytes(params) == everything - looked_up, "a row of each is looked up, the rest is not read"
    tied = {name: part for name, part in params.items() if name != "head"}
    assert sizes.weight_bytes(tied) == everything - looked_up - params["head"].nbytes + params["embed"].nbytes, "the table is the head"
    one_slot = 2 * cfg.n_layers * cfg.d_model * 4  # keys and values, as many heads as queries have, float32
    assert m.cache_bytes_read(plain, 24.5) == pytest.approx(24.5 * one_slot, abs=1)


def test_a_drafter_beside_plain_decoding_writes_the_same(plain):
    told = m.drafter_beside_plain(plain, m.with_drafter(plain, "lookup"), [1, 2, 3, 1, 2, 3, 1, 2], 30, passes=1)
    assert told["same_text"] and told["tokens"] == 30 and told["accepted_per_round"] >= 1
    assert told["speedup"] == pytest.approx(told["decode_tokens_per_s"] / told["plain_tokens_per_s"])


def test_lengths_that_do_not_fit_are_one_line(plain):
    with pytest.raises(UserError, match="60 [+] 8 tokens are 68, the model holds 64"):
        m.check_length(plain, 60, 8)
    with pytest.raises(UserError, match="1 to write"):
        m.check_length(plain, 60, 1)
    drafting = m.with_drafter(plain, "lookup")
    for n_prompt in (64, 63):  # room for one token, which needs no round; and for two
        with pytest.raises(UserError, match=f"{n_prompt} [+] 3 tokens are {n_prompt + 3}, the model holds 64"):
            m.drafter_beside_plain(plain, drafting, [1] * n_prompt, 3, passes=1)
    with pytest.raises(UserError, match="1 to write"):
        m.drafter_beside_plain(plain, drafting, [1], 1, passes=1)
    with pytest.raises(UserError, match="no tokenizer"):
        m.drafter_beside_plain(plain, drafting, "abc", 3, passes=1)


def test_sides_come_in_turn_and_ratios_are_of_medians(monkeypatch):
    calls, rates = [], {"pikojax": iter([30.0, 10.0, 20.0]), "llama.cpp": iter([8.0, 12.0, 10.0])}

    def turn(side, *_):
        calls.append(side)
        rate = next(rates[side])
        return {"decode_tokens_per_s": rate, "prefill_tokens_per_s": 2 * rate, "weight_bytes": 7}

    monkeypatch.setattr(m, "turn", turn)
    told = m.compare("model", "llama.cpp", "python", 4, 4, 2, rounds=3)
    assert calls == ["pikojax", "llama.cpp"] * 3
    assert told["decode_tokens_per_s"] == 20 and told["against"]["decode_tokens_per_s"] == 10
    assert told["decode_ratio"] == told["prefill_ratio"] == 2 and told["weight_bytes"] == 7


def test_a_peer_that_is_missing_is_one_line(tmp_path):
    with pytest.raises(UserError, match="--peer-python"):
        m.compare("model", "llama.cpp", None, 4, 4, 2)
    with pytest.raises(UserError, match="choose from llama.cpp, transformers"):
        m.compare("model", "vllm", sys.executable, 4, 4, 2)
    with pytest.raises(UserError, match="does not start"):
        m.turn("llama.cpp", str(tmp_path / "none"), "model", 4, 4, 2)
    with pytest.raises(UserError, match="llama_cpp|none.gguf"):  # the module is missing, or the file
        m.turn("llama.cpp", sys.executable, str(tmp_path / "none.gguf"), 4, 4, 2)


def test_the_peers_script_needs_nothing_of_this_project():
    script = m.__file__.replace("measure_decode", "peer_decode")
    code = f"import runpy, sys; runpy.run_path({script!r}); print([n for n in sys.modules if n.startswith(('pikojax', 'jax', 'numpy'))])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "words, said",
    [
        (["decode"], "got 0 models"),
        (["speculative", "model"], "needs --speculative"),
        (["speculative", "model", "--speculative", "lookup"], "needs --prompt"),
        (["decode", "model", "--against", "llama.cpp", "--speculative", "lookup"], "leave --speculative out"),
        (["decode", "model", "--passes", "0"], "passes = 0"),
        (["decode", "model", "--passes", "0", "--against", "llama.cpp", "--peer-python", sys.executable], "passes = 0"),
        (["decode", "model", "--peer-python", sys.executable], "--peer-python is for a peer"),
        (["decode", "model", "--prompt", "a"], "bench decode takes no --prompt; it takes --prompt-tokens, --tokens,"),
        (["speculative", "model", "--speculative", "lookup", "--prompt", "a", "--against", "llama.cpp"], "takes no --against"),
        (["attention", "--kv-heads", "8", "--format", "q4_0"], "bench attention takes no --format"),
        (["matmul", "--steps", "8"], "bench matmul takes no --steps"),
    ],
)
def test_mistakes_are_one_line(words, said, capsys):
    assert main(["bench", *words]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_what_is_said_reaches_the_measure_and_the_rest_is_the_verbs_own(monkeypatch):
    asked = {}
    told = dict.fromkeys("decode_tokens_per_s prefill_tokens_per_s first_token_s peak_rss_bytes".split(), 1.0) | {"of_bandwidth": None}
    monkeypatch.setattr(m, "measure", lambda path, *rest: asked.update(rest=rest) or told)
    for words, wanted in ((["decode"], (512, 64)), (["prefill"], (512, 2)), (["decode", "--tokens", "0", "--prompt-tokens", "0"], (0, 0))):
        assert main(["bench", words[0], "model", *words[1:]]) == 0
        assert (*asked["rest"][:2], *asked["rest"][3:]) == (*wanted, 3, "off")


def test_bench_speculative_tells_the_pair(monkeypatch, capsys):
    cfg = tiny.config(dict(context=CONTEXT, tie=False)).model
    tokenizer = CharTokenizer("abcdefghijklm")
    engine = lambda path: Engine(catalog["gpt"], cfg, catalog["gpt"].init(cfg, jax.random.key(0)), tokenizer, EngineConfig(slots=1, remember=False))
    monkeypatch.setattr(m, "open_engine", engine)
    assert main(["bench", "speculative", "model", "--prompt", "abcabcab", "--speculative", "lookup", "--tokens", "12", "--passes", "1", "--json"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["same_text"] and told["tokens"] == 12 and told["accepted_per_round"] >= 1 and told["speculative"] == "lookup"
    assert told["speedup"] == pytest.approx(told["decode_tokens_per_s"] / told["plain_tokens_per_s"])
    assert "the same text" in said.err and f"{told['speedup']:.2f}×" in said.err
    assert main(["bench", "speculative", "model", "--prompt", "abcabcab" * 8, "--speculative", "lookup", "--tokens", "2", "--passes", "1"]) == 2
    assert "64 + 2 tokens are 66, the model holds 64; give a shorter prompt, or fewer --tokens" in capsys.readouterr().err


@pytest.mark.exhaustive
def test_the_verb_reports_what_it_promises(tmp_path):
    made = [sys.executable, "-m", "pikojax", "quickstart", "--dir", str(tmp_path / "run"), "train.steps=2", "data.stories_mb=0.2"]
    subprocess.run(made, check=True, capture_output=True)
    words = ["bench", "decode", str(tmp_path / "run"), *"--prompt-tokens 20 --tokens 8 --passes 1 --threads 1 --json".split()]
    done = subprocess.run([sys.executable, "-m", "pikojax", *words], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    names = "decode_tokens_per_s prefill_tokens_per_s first_token_s peak_rss_bytes weight_bytes cache_bytes_read_per_token".split()
    assert all(told[name] > 0 for name in (*names, "read_bandwidth_gb_per_s")) and 0 < told["of_bandwidth"] < 1.5
