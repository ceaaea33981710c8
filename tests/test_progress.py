"""What a person sees while it trains: a live bar on a terminal, plain lines now and then elsewhere, no control character of a model's."""

import io
import sys
import time

import pytest

from pikojax.cli import progress

EVENTS = [
    ("start", {"parameters": 1_250_000, "device": "cpu", "run": "runs/x", "step": 0, "steps": 40}),
    ("step", {"step": 10, "loss": 3.25, "tokens_per_s": 1234.0, "eta_s": 75.0}),
    ("unheard-of", {"x": 1}),
    ("eval", {"step": 20, "val_loss": 2.5, "val_bits_per_byte": 1.25}),
    ("sample", {"step": 20, "text": "Once\x1b[31m red\u202e"}),
    ("checkpoint", {"step": 20, "path": "p"}),
    ("notice", {"text": "by the way"}),
    ("stopping", {"signal": "SIGINT", "step": 21}),
    ("done", {"steps": 40, "seconds": 61.0, "val_loss": 2.25, "run": "runs/x", "stopped": "time"}),
]
TOLD = ["1.25 M parameters", "validation loss 2.500", "1.250 bits per byte", "Once\\x1b[31m red\\u202e", "by the way", "SIGINT", "40 steps in 1:01"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_progress_tells_all_that_matters(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    with progress.show() as report:
        for event, fields in EVENTS:
            report(event, fields)
            if event == "step" and stream is Terminal:
                time.sleep(0.3)  # the bar redraws five times a second
    text = sys.stderr.getvalue()
    for part in (*TOLD, "loss 3.250", "1,234 tokens/s", "1:15 left"):
        assert part in text, part
    assert "\x1b[31m red" not in text and "\u202e" not in text


def test_without_rich_plain_lines_serve(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.show() as report:
        for event, fields in EVENTS:
            report(event, fields)
    assert "\x1b" not in sys.stderr.getvalue() and "step 10/40, loss 3.250, 1,234 tokens/s, 1:15 left" in sys.stderr.getvalue()


def test_plain_lines_come_now_and_then(monkeypatch, capsys):
    now_s = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s[0])
    with progress.show() as report:
        for step in range(1, 51):
            now_s[0] += 1.0
            report("step", {"step": step, "loss": 1.0})
    assert capsys.readouterr().err.count("\n") == 5
