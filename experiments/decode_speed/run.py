"""How fast is a prompt read and a text written, beside llama.cpp and transformers on the same file?

    run.py --peer-python PYTHON [--models FOLDER] [--seconds N] [--quick]

PYTHON is an interpreter with llama-cpp-python, torch, transformers and accelerate. Every turn is a fresh process that warms up and then
times one request; in each round all sides of a file come in turn. The files are made of random weights, in FOLDER, where they are not
there yet. Each machine has rows of its own. With `--seconds` no turn is begun after so long: call again to go on.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import random_gguf
from bench_models import file_of
from trials import Rows, device

from pikojax.config import LlamaConfig, cache_dir
from pikojax.infer import measure_decode

HERE = Path(__file__).parent
ROUNDS, THREADS, TOKENS = 3, 2, 64
BOTH, ALL = ("pikojax", "llama.cpp"), ("pikojax", "llama.cpp", "transformers")
TINY = LlamaConfig(d_model=64, n_layers=1, n_heads=2, n_kv_heads=1, d_hidden=64, vocab_size=300, context=64, tie=False)
CASES = [("1.1B q4_0", 512, BOTH), ("1.1B q8_0", 512, BOTH), ("13M q8_0", 512, ALL), ("1.1B q4_0", 4032, BOTH)]


def main(quick: bool, python: str | None, folder: Path, limit_s: float) -> None:
    rows, began_s = Rows(HERE / "results.jsonl", quick), time.monotonic()
    if quick:
        with tempfile.TemporaryDirectory() as here:
            random_gguf.write(Path(here) / "tiny.gguf", "q8_0", TINY)
            rows.append(round=0, model="tiny", side="pikojax", **measure_decode.measure(Path(here) / "tiny.gguf", 20, 8, passes=1))
        return
    if python is None:
        raise SystemExit("give --peer-python PYTHON, an interpreter that has llama-cpp-python, torch, transformers and accelerate")
    for number in range(ROUNDS):
        for model, prompt_tokens, sides in CASES:
            for side in sides:
                key = {"round": number, "model": model, "prompt_tokens": prompt_tokens, "side": side}
                if rows.has(**key, device=device()):
                    continue
                if time.monotonic() - began_s > limit_s:
                    return
                found = measure_decode.turn(side, python, file_of(model, folder), prompt_tokens, TOKENS, THREADS)
                rows.append(**key | found)


def after(word: str) -> str | None:
    return sys.argv[sys.argv.index(word) + 1] if word in sys.argv else None


if __name__ == "__main__":
    main("--quick" in sys.argv, after("--peer-python"), Path(after("--models") or cache_dir("models")), float(after("--seconds") or "inf"))
