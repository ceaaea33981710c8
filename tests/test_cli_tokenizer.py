"""`pikojax tokenizer`: each action from end to end, in pipes, and every mistake in one line."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pikojax.cli import progress
from pikojax.cli.main import main
from pikojax.config import UserError
from pikojax.text import load, train_char, train_word

ROOT = Path(__file__).parent.parent
PROSE = "Once, Tim said: “Don't go!”\nMia ran 2 times.\n\n  The end — né.\n" * 20
EOS = "<|endoftext|>"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIKOJAX_COMPILE_CACHE", "0")
    for name in ("PJRT_NPROC", "JAX_PLATFORMS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / "prose.txt").write_text(PROSE)
    train_char([PROSE], [EOS]).save(tmp_path / "char.json")
    return tmp_path


def pipe(*args: str, data: bytes = b"", code: int = 0, **environ) -> bytes:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PIKOJAX_COMPILE_CACHE": "0", **environ}
    done = subprocess.run([sys.executable, "-m", "pikojax", "tokenizer", *args], input=data, capture_output=True, env=environ, timeout=120)
    assert done.returncode == code, done.stderr.decode()
    return done.stdout


def feed(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def result(capsys, *args: str) -> dict:
    assert main(["tokenizer", *args, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


# ---------------------------------------------------------------- encode and decode


def test_a_line_of_ids_for_each_line_and_back_again(here):
    tok, text = load("char.json"), f"Tim\n\nran{EOS} né.\nis"
    ids = pipe("encode", "char.json", data=text.encode())
    assert ids.decode() == "".join(" ".join(map(str, tok.encode(line).tolist())) + "\n" for line in text.split("\n"))
    assert pipe("decode", "char.json", data=ids).decode() == text + "\n"
    assert pipe("decode", "char.json", "--no-special", data=ids).decode() == text.replace(EOS, "") + "\n"
    assert pipe("encode", "char.json", "--text", "prose.txt").count(b"\n") == PROSE.count("\n")
    assert pipe("decode", "char.json", data=pipe("encode", "char.json", "--text", "prose.txt")).decode() == PROSE, "a file comes back"


def test_encode_whole_plain_and_as_json(here, capsys, monkeypatch):
    tok = load("char.json")
    feed(monkeypatch, f"a\nn{EOS}".encode())
    assert result(capsys, "encode", "char.json", "--whole") == {"ids": [tok.encode(f"a\nn{EOS}").tolist()], "tokens": 4}
    train_char([PROSE + EOS], [EOS]).save("more.json")
    feed(monkeypatch, EOS.encode())
    assert result(capsys, "encode", "more.json", "--plain")["tokens"] == len(EOS)
    feed(monkeypatch, EOS.encode())
    assert result(capsys, "encode", "more.json")["tokens"] == 1
    feed(monkeypatch, b"1 2\n3")
    assert result(capsys, "decode", "more.json") == {"text": load("more.json").decode([1, 2]) + "\n" + load("more.json").decode([3]), "tokens": 3}


def test_decode_gives_text_as_the_ids_come_and_no_half_characters(here):
    chars = [chr(c) for c in range(256, 512)]
    byte_tokens = {f"<0x{b:02X}>": b for b in range(256)}
    tree = {
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "byte_fallback": True, "vocab": byte_tokens | {c: 256 + i for i, c in enumerate(chars)}, "merges": []},
    }
    (here / "bytes.json").write_text(json.dumps(tree))
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PIKOJAX_COMPILE_CACHE": "0"}
    with subprocess.Popen([sys.executable, "-m", "pikojax", "tokenizer", "decode", "bytes.json"], stdin=-1, stdout=-1, env=environ) as process:
        process.stdin.write(b"256 195 ")
        process.stdin.flush()
        assert os.read(process.stdout.fileno(), 100).decode() == chars[0], "before the input ends"
        process.stdin.write(b"169 257 ")
        process.stdin.flush()
        assert os.read(process.stdout.fileno(), 100).decode() == "é" + chars[1]
        process.stdin.close()
        assert process.stdout.read() == b"" and process.wait() == 0


def test_a_terminal_is_not_driven_by_what_is_decoded(here, capsys, monkeypatch):
    train_char(["\x1b[31m a"]).save("evil.json")
    feed(monkeypatch, " ".join(map(str, load("evil.json").encode("\x1b[31m a").tolist())).encode())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["tokenizer", "decode", "evil.json"]) == 0
    assert capsys.readouterr().out == "\\x1b[31m a"
    assert main(["tokenizer", "info", "evil.json"]) == 0 and "\x1b" not in capsys.readouterr().out
    ids = b" ".join(b"%d" % i for i in load("evil.json").encode("\x1b[31m a"))
    assert pipe("decode", "evil.json", data=ids) == b"\x1b[31m a", "a pipe gets the text as it is"


def test_a_reader_that_goes_away_is_no_error(here):
    (here / "long.txt").write_text(PROSE * 200)
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PIKOJAX_COMPILE_CACHE": "0"}
    command = [sys.executable, "-m", "pikojax", "tokenizer", "encode", "char.json", "--text", "long.txt"]
    with subprocess.Popen(command, stdout=-1, stderr=-1, env=environ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 0


# ---------------------------------------------------------------- train


@pytest.mark.parametrize("algorithm", ["bpe", "wordpiece", "unigram", "char", "word"])
def test_each_algorithm_trains_saves_and_loads(algorithm, here, capsys):
    size = [] if algorithm == "char" else ["--vocab-size", {"bpe": "300", "wordpiece": "80", "unigram": "60", "word": "30"}[algorithm]]
    found = result(capsys, "train", "--algorithm", algorithm, *size, "--text", "prose.txt", "-o", "out.json", "--special", EOS, "<|x|>")
    tok = load("out.json")
    assert found["seconds"] > 0 and found["peak_rss_bytes"] > 10_000_000 and found["algorithm"] == algorithm
    assert found["vocab_size"] == tok.vocab_size and (not size or tok.vocab_size <= int(size[1])) and {EOS, "<|x|>"} <= set(tok.specials)
    if algorithm not in ("wordpiece", "unigram"):  # these change the text before they learn it
        assert tok.decode(tok.encode(" Tim said")) == " Tim said"
    before = Path("out.json").read_bytes()
    assert main(["tokenizer", "train", "--algorithm", "char", "--text", "prose.txt", "-o", "out.json"]) == 2
    assert "--force" in capsys.readouterr().err and Path("out.json").read_bytes() == before
    assert main(["tokenizer", "train", "--algorithm", "char", "--text", "prose.txt", "-o", "out.json", "--force"]) == 0
    assert Path("out.json").read_bytes() != before or algorithm == "char"


def test_the_same_text_gives_the_same_tokenizer(here, capsys):
    files = []
    for name in ("a.json", "b.json"):
        assert main(["tokenizer", "train", "--algorithm", "bpe", "--vocab-size", "300", "--text", "prose.txt", "prose.txt", "-o", name]) == 0
        files.append(Path(name).read_bytes())
    assert files[0] == files[1]


# ---------------------------------------------------------------- info, bench, view


def test_info_tells_the_vocabulary_and_the_fertility(here, capsys):
    train_word([PROSE], 30, ["<unk>", EOS]).save("word.json")
    found = result(capsys, "info", "word.json", "--text", "prose.txt")
    tok, text = load("word.json"), found["text"]
    assert (found["kind"], found["vocab_size"], found["specials"]) == ("wordlevel", 24, {"<unk>": 0, EOS: 1})
    longest = found["longest_tokens"][0]
    assert longest["token"] == max(tok.tokens[2:], key=len) and longest["text"] == tok.decode([longest["id"]]) and len(found["longest_tokens"]) == 10
    assert text["bytes"] == len(PROSE.encode()) and text["words"] == len(PROSE.split()) and text["tokens"] == len(tok.encode(PROSE))
    assert text["tokens_per_word"] == pytest.approx(text["tokens"] / text["words"]) and text["comes_back_exactly"] is True
    assert main(["tokenizer", "info", "word.json"]) == 0
    out = capsys.readouterr().out
    assert "vocab size      24" in out and "longest tokens" in out


def test_bench_measures_encoding_and_decoding(here, capsys):
    for threads in ("1", "2"):
        found = result(capsys, "bench", "char.json", "--text", "prose.txt", "prose.txt", "--threads", threads, "--passes", "2")
        assert found["encode_mb_per_s"] > 0 and found["decode_mb_per_s"] > 0 and found["passes"] == 2
        assert found["tokens"] == 2 * len(PROSE) and found["bytes"] == 2 * len(PROSE.encode()) and found["threads"] == int(threads)


def test_view_shows_tokens_in_the_terminal_and_as_a_page(here, capsys, monkeypatch):
    feed(monkeypatch, "né <b>".replace("<b>", "go!").encode())
    assert main(["tokenizer", "view", "char.json"]) == 0
    assert capsys.readouterr().out == "n▏é▏ ▏g▏o▏!▏\n"
    found = result(capsys, "view", "char.json", "--text", "prose.txt", "-o", "page.html")
    page = Path("page.html").read_text()
    assert found["page"] == "page.html" and len(found["tokens"]) == len(PROSE) and page.startswith("<!doctype html>") and "<h1>char.json</h1>" in page
    assert main(["tokenizer", "view", "char.json", "--text", "prose.txt", "-o", "page.html"]) == 2
    assert "page.html exists" in capsys.readouterr().err


# ---------------------------------------------------------------- progress


def test_progress_is_a_plain_line_now_and_then(monkeypatch, capsys):
    now_s = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s[0])
    with progress.bar() as report:
        for megabytes in range(0, 31):
            report("count", megabytes * 10**6, 60 * 10**6)
            now_s[0] += 1.0
        report("merge", 5, None)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["count 10.0 of 60.0 MB, 1.0 MB/s, 0:50 left", "count 20.0 of 60.0 MB, 1.0 MB/s, 0:40 left", "count 30.0 of 60.0 MB, 1.0 MB/s, 0:30 left"]


def test_progress_is_a_live_bar_in_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with progress.bar() as report:
        for done in (10**6, 2 * 10**6):
            report("count", done, 4 * 10**6)
            time.sleep(0.6)
    assert "count 2.0 of 4.0 MB" in sys.stderr.getvalue() and "MB/s" in sys.stderr.getvalue() and " left" in sys.stderr.getvalue()


def test_an_interrupt_writes_nothing_and_is_exit_130(here, monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("pikojax.text.train.train_files", interrupted)
    assert main(["tokenizer", "train", "--algorithm", "char", "--text", "prose.txt", "-o", "x.json"]) == 130
    assert not Path("x.json").exists() and capsys.readouterr().err == "pikojax: interrupted\n"


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "args, part",
    [
        (["trian"], "choose from"),
        ([], "ACTION"),
        (["encode"], "needs a tokenizer"),
        (["encode", "nowhere.json"], "nowhere.json"),
        (["encode", "prose.txt"], "prose.txt"),
        (["encode", "char.json", "--text", "nowhere.txt"], "there is no nowhere.txt"),
        (["encode", "char.json", "--text", "latin.txt"], "latin.txt is not UTF-8"),
        (["encode", "char.json", "--vocab-size", "3"], "--vocab-size is not for encode, it belongs to: train"),
        (["encode", "char.json", "--text", "other.txt"], "'ß'"),
        (["info", "char.json", "--text", "empty.txt"], "the text is empty"),
        (["bench", "char.json"], "bench needs text"),
        (["bench", "char.json", "--text", "prose.txt", "--passes", "0"], "--passes 0"),
        (["bench", "char.json", "--text", "empty.txt"], "the text is empty"),
        (["bench", "char.json", "--text", "latin.txt"], "latin.txt is not UTF-8"),
        (["train"], "--algorithm is missing; choose one of: bpe, wordpiece"),
        (["train", "--algorithm", "magic", "--text", "prose.txt", "-o", "x.json"], "--algorithm magic; choose one of"),
        (["train", "prose.txt", "--algorithm", "char"], "wanted --text prose.txt"),
        (["train", "--algorithm", "char"], "give --text"),
        (["train", "--algorithm", "char", "--text", "prose.txt"], "-o OUT.json"),
        (["train", "--algorithm", "char", "--text", "prose.txt", "-o", "no/such/x.json"], "there is no folder no/such"),
        (["train", "--algorithm", "char", "--text", "empty.txt", "-o", "x.json"], "the text is empty"),
        (["train", "--algorithm", "char", "--vocab-size", "9", "--text", "prose.txt", "-o", "x.json"], "leave it out"),
        (["train", "--algorithm", "word", "--vocab-size", "1", "--text", "prose.txt", "-o", "x.json"], "raise it"),
        (["train", "--algorithm", "word", "--pattern", "gpt2", "--text", "prose.txt", "-o", "x.json"], "is for bpe"),
        (["train", "--algorithm", "bpe", "--vocab-size", "9", "--text", "prose.txt", "-o", "x.json"], "raise it"),
        (["train", "--algorithm", "bpe", "--text", "empty.txt", "-o", "x.json"], "the text is empty"),
        (["train", "--algorithm", "bpe", "--pattern", "nope", "--text", "prose.txt", "-o", "x.json"], "no pattern is called 'nope'"),
        (["view", "char.json", "--text", "prose.txt", "-o", "no/such/x.html"], "there is no folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_2(args, part, here, capsys):
    (here / "empty.txt").write_text("")
    (here / "latin.txt").write_bytes(b"caf\xe9 " * 9)
    (here / "other.txt").write_text("ß")
    assert main(["tokenizer", *args]) == 2
    out, err = capsys.readouterr()
    assert part in err and err.count("\n") == 1 and err.startswith("pikojax: ") and not out, err
    assert not (here / "x.json").exists()


@pytest.mark.parametrize("data", [b"1 two", b"-1", b"1.5", b"9" * 300, b"\xff\xfe", b"99999"])
def test_what_is_no_id_is_told(data, here, capsys, monkeypatch):
    feed(monkeypatch, data)
    assert main(["tokenizer", "decode", "char.json"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and ("wanted token ids" in err or "id 99999 is not in" in err)


def test_speed_times_no_building(monkeypatch):
    from pikojax.text import measure, train_char
    from pikojax.text.tokenizer import Tokenizer

    events, decode = [], Tokenizer.decode
    monkeypatch.setattr(Tokenizer, "decode", lambda self, ids: events.append(len(ids)) or decode(self, ids))
    measure.speed(lambda: train_char(["Hello"]), ["Hello" * 100], passes=1)
    assert len(events) == 2 and events[0] >= 256 and events[1] == 500


@pytest.mark.parametrize("algorithm", ("bpe", "wordpiece", "unigram", "char", "word"))
@pytest.mark.parametrize("data", (b"caf\xe9 x\n", b"end \xc3", b"a" * (4 << 20) + b"\xff"))
def test_no_algorithm_trains_on_bytes_that_are_no_utf8(tmp_path, algorithm, data):
    from pikojax.text.train import train_files

    (tmp_path / "good.txt").write_text("aé" * 100)
    (tmp_path / "latin.txt").write_bytes(data)
    with pytest.raises(UserError, match="latin.txt is not UTF-8; convert it"):
        train_files(algorithm, [tmp_path])
