"""`pikojax chat`: a conversation survives what goes wrong with one message of it, and an answer ends where the model's files say.

The model is a table: "\\n" is followed by "a", "b", <|im_end|>, and that, where it does not end the answer, by "c", "c", …
"""

import io
import json
import signal
from pathlib import Path

import jax.numpy as jnp
import pytest

from pikojax.cli import main
from pikojax.config import GPTConfig
from pikojax.formats import load
from pikojax.models import cache as kv
from pikojax.models.layers import Model, Output
from pikojax.text.char import CharTokenizer
from pikojax.text.chat import Templates

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENIZER = CharTokenizer([*SPECIALS, *"\n abcdefghijklmnopqrstuvwxyz:AU"], SPECIALS)
CFG = GPTConfig(d_model=16, n_layers=1, n_heads=2, vocab_size=TOKENIZER.vocab_size, context=96)
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{{ '<|im_start|>assistant\n' }}"


def forward(cfg, params, tokens_BT, cache=None):
    logits_BTV = params["table"][tokens_BT]
    return Output(logits_BTV, logits_BTV, {}), None if cache is None else kv.advance(cache, tokens_BT.shape[1])


TABLE = Model(GPTConfig, None, forward, lambda cfg, batch, slots, dtype=jnp.float32: kv.new_cache(1, batch, slots, 1, 1, dtype), None)


def table(begin="a"):
    follows = {"\n": begin, "a": "b", "b": "<|im_end|>", "<|im_end|>": "c", "c": "c", ":": "a"}
    rows = [TOKENIZER.ids[follows.get(token, "c")] for token in TOKENIZER.tokens]
    return {"table": 9 * jnp.eye(CFG.vocab_size)[jnp.asarray(rows)], "blocks": ()}


@pytest.fixture
def chat(monkeypatch, capsys):
    """`pikojax chat MODEL …` with these lines on stdin. → exit code, stdout, stderr"""

    def loaded(path):
        templates = Templates({"default": CHATML}, {}) if str(path) != "plain" else None
        return load.Loaded(Path(path), "huggingface", TABLE, CFG, table("c" if str(path) == "endless" else "a"), framed=False, _tokenizer=lambda: TOKENIZER, _templates=lambda: templates)

    monkeypatch.setattr(load, "load", loaded)

    def call(*words, lines=b"", model="model"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
        code = main.main(["chat", model, "--max-tokens", "6", "--temperature", "0", *words])
        return code, *capsys.readouterr()

    return call


def turns(*texts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def test_a_line_is_answered_up_to_the_end_of_the_turn(chat):
    assert chat(lines=b"hi\nand\n/exit\nmore\n")[:2] == (0, "ab\nab\n")
    code, out, err = chat("--json", "--system", "be kind", lines=b"hi\r\n\n/reset\nnew\n")
    assert code == 0 and err == "ab\nab\n" and out.count("\n") == 1
    assert json.loads(out) == {"messages": [{"role": "system", "content": "be kind"}, *turns("new", "ab")]}


def test_a_model_without_a_template_is_stopped_by_the_end_of_the_turn_too(chat):
    assert chat(lines=b"hi\n", model="plain")[1] == "ab\n"


def test_a_message_that_cannot_be_answered_is_told_and_the_conversation_goes_on(chat):
    code, out, err = chat("--json", lines=b"hi\n" + b"x" * 200 + b"\nfine\xff\n\xc3\nQ\nand\n")
    told = [line for line in err.splitlines() if line.startswith("pikojax: ")]
    assert code == 0 and json.loads(out)["messages"] == turns("hi", "ab", "and", "ab")
    assert len(told) == 4 and "the context holds 96" in told[0] and "not UTF-8 (byte 4)" in told[1] and "'Q'" in told[3]


def test_the_oldest_turns_go_when_the_context_is_full(chat, monkeypatch):
    from pikojax.cli import chat as verb

    seen, encoded = [], verb._encoded
    monkeypatch.setattr(verb, "_encoded", lambda loaded, messages: seen.append([m["content"] for m in messages[::2]]) or encoded(loaded, messages))
    assert chat(lines=b"one\ntwo\nthree\n")[:2] == (0, "ab\nab\nab\n")
    assert seen[0] == ["one"] and seen[-1][-1] == "three" and "one" not in seen[-1]


def interrupting(monkeypatch, number: int, at: int):
    """The signal comes while the piece with that number is made."""
    from pikojax.infer.engine import Engine

    step, steps = Engine.step, []

    def one(self):
        steps.append(number)
        if len(steps) == at:
            signal.raise_signal(number)
        return step(self)

    monkeypatch.setattr(Engine, "step", one)


def test_ctrl_c_ends_the_answer_alone_and_the_engine_goes_on(chat, monkeypatch):
    interrupting(monkeypatch, signal.SIGINT, 1)
    code, out, _ = chat("--json", "--max-tokens", "72", lines=b"hi\nand\n", model="endless")  # more than one step writes
    first, second = json.loads(out)["messages"][1::2]
    assert code == 0 and len(first["content"]) < 72 and second["content"] == "c" * 72


def test_ctrl_c_between_answers_and_sigterm_leave_with_the_conversation(chat, monkeypatch):
    from pikojax.cli import chat as verb

    lines = iter(["hi\n"])

    def next_line():
        if (line := next(lines, None)) is None:
            raise KeyboardInterrupt
        return line

    with monkeypatch.context() as patch:
        patch.setattr(verb, "next_line", next_line)
        code, out, _ = chat("--json")
    assert code == 130 and json.loads(out)["messages"] == turns("hi", "ab")
    interrupting(monkeypatch, signal.SIGTERM, 1)
    code, out, _ = chat("--json", lines=b"hi\nand\n")
    assert code == 130 and json.loads(out)["messages"] == []
