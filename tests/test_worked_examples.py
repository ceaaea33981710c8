"""What the README of experiments/piko_tokenizer shows step by step is what the toolkit's code does."""

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent / "experiments" / "piko_tokenizer"


@pytest.mark.parametrize("name", ["Characters and words", "Byte-pair encoding", "WordPiece", "Unigram"])
def test_the_worked_example_is_true(name):
    if not HERE.is_dir():
        pytest.skip(f"{HERE} is missing: this is no checkout")
    spec = importlib.util.spec_from_file_location("worked", HERE / "worked.py")
    worked = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worked)
    section = (HERE / "README.md").read_text(encoding="utf-8").split(f"### {name}\n")[1].split("\n#")[0]
    shown = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    assert shown == list(worked.EXAMPLES[name]())
