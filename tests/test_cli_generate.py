"""`pikojax generate` and `chat`: what they print where, and their mistakes in one line."""

import io
import json
from pathlib import Path

import pytest
from test_decode import GPT, TOKENIZER, loud, write

from pikojax.infer.request import Generation


@pytest.fixture
def command(monkeypatch, capsys):
    """`pikojax generate RUN …` on a run that is not read from disk. → exit code, stdout, stderr"""
    from pikojax.cli import main
    from pikojax.formats import load

    cfg, params = loud("modern")
    loaded = lambda path: load.Loaded(Path(path), "run", GPT, cfg, params, _tokenizer=lambda: None if path == "tokens" else TOKENIZER)
    monkeypatch.setattr(load, "load", loaded)

    def call(*words, stdin=b""):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main.main(["generate", *words])
        return code, *capsys.readouterr()

    return call


def test_generate_prints_what_follows_the_prompt_and_json_says_the_rest(command):
    expected = write("a cat", max_tokens=12, seed=3)
    code, out, _ = command("run", "--prompt", "a cat", "--max-tokens", "12", "--seed", "3")
    assert code == 0 and out == expected.text + "\n"
    for words, stdin in ((["a cat"], b""), (["-"], b"a cat\n"), (["--prompt", "-"], b"a cat")):
        code, out, err = command("run", *words, "--max-tokens", "12", "--seed", "3", "--json", stdin=stdin)
        told = json.loads(out)
        assert code == 0 and told["text"] == expected.text and told["ids"] == expected.ids and expected.text in err
        assert told["prompt_tokens"] == 5 and told["stopped"] == "max_tokens" and told.keys() >= {"tokens_per_s", "first_token_s"}


def test_generate_without_a_prompt_starts_a_text_of_its_own(command):
    assert command("run", "--max-tokens", "8")[:2] == (0, write("", max_tokens=8).text + "\n")


def test_generate_tells_mistakes_in_one_line(command):
    for words, wanted in (
        (["run", "a", "--prompt", "b"], "two prompts"),
        (["run", "a", "--top-p", "2"], "top_p = 2.0"),
        (["run", "a" * 25], "the context holds 24"),
        (["tokens", "a"], "has no tokenizer"),
        (["run", "-"], "not UTF-8"),
        (["run", "a", "--max-tokens", "0"], "max_tokens = 0"),
    ):
        code, out, err = command(*words, stdin=b"a\xff")
        assert code == 2 and wanted in err and err.count("\n") == 1 and out == ""


def test_generate_tells_mistakes_in_its_options_in_one_line(command, tmp_path):
    deep, schema = tmp_path / "deep.json", tmp_path / "schema.json"
    deep.write_text("[" * 100_000)
    schema.write_text("{}")
    for words, wanted in (
        (["tokens", "--prompt-ids", "1 2", "--uncertainty"], "or leave out --uncertainty"),
        (["run", "--prompt-ids", "9" * 5000], "give whole numbers"),
        (["run", "--prompt-ids", "1 ٣"], "give whole numbers"),
        (["run", "--prompt-ids", ""], "give whole numbers"),
        (["run", "--prompt-ids", "1 999"], "token 999 is none of the model's"),
        (["run", "a", "--json-schema", str(deep)], "nested too deep"),
        (["run", "a", "--regex", "a+", "--choices", "a,b"], "got regex and choices"),
        (["run", "a", "--json-schema", str(schema), "--choices", "a,b"], "got json_schema and choices"),
        (["run", "a", "--logprobs", "2"], "give --json too"),
    ):
        code, out, err = command(*words)
        assert code == 2 and wanted in err and err.count("\n") == 1 and out == "", (words, err)


def test_a_models_control_characters_do_not_reach_a_terminal(command, monkeypatch):
    from pikojax.cli import generate as verb

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    class Handle(list):
        def result(self):
            return Generation("", [], "eos", 1, 0.0, None)

    engine = type("Engine", (), {"submit": lambda self, prompt, **options: Handle(["a\x1b[2Jb\n"])})()
    monkeypatch.setattr(verb, "opened", lambda args, needs_tokenizer: (None, engine))
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    import argparse

    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    verb.run(parser.parse_args(["run", "hi "]))
    assert terminal.getvalue() == "hi a\\x1b[2Jb\n\n"


@pytest.mark.slow
def test_generate_by_ids_with_choices_and_guesses(command):
    plain = json.loads(command("run", "--prompt-ids", "1 2 3", "--max-tokens", "9", "--temperature", "0", "--json")[1])
    guessed = json.loads(command("run", "--prompt-ids", "1,2,3", "--max-tokens", "9", "--temperature", "0", "--speculative", "lookup", "--json")[1])
    assert plain["ids"] == guessed["ids"] and plain["accepted_per_round"] is None and guessed["accepted_per_round"] >= 1
    assert command("run", "so ", "--choices", "yes,no", "--seed", "4")[1] in ("yes\n", "no\n")
    code, out, _ = command("run", "so ", "--uncertainty", "--max-tokens", "5", "--json")
    assert code == 0 and len(json.loads(out)["confidence"]) == 5


def test_chat_remembers_and_leaves_out_the_oldest_turns(command, monkeypatch):
    from pikojax.cli import chat, main

    seen = []
    turn = chat.turn
    monkeypatch.setattr(chat, "turn", lambda loaded, messages, most: seen.append([m["content"] for m in messages]) or turn(loaded, messages, 10_000))
    monkeypatch.setattr(chat, "_encoded", lambda loaded, messages: ([len(messages)] * 3, {}))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"hi\n\nagain\n/reset\nnew\n")))
    assert main.main(["chat", "run", "--max-tokens", "4", "--json"]) == 0
    assert [m[::2] for m in seen] == [["hi"], ["hi", "again"], ["new"]]
    monkeypatch.setattr(chat, "_encoded", lambda loaded, messages: ([1] * len(messages), {}))
    told = [{"role": role, "content": ""} for role in ("system", "user", "assistant", "user", "assistant", "user")]
    assert [len(turn(None, told, most)[0]) for most in (6, 5, 3, 1)] == [6, 4, 2, 2]
