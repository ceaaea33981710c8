"""Training tokenizers, beside the industry's trainers: run.py [--peer-python PYTHON] [--corpus FOLDER] [--quick]

PYTHON is an interpreter with tokenizers and sentencepiece. Every turn is a fresh process (train_once.py) that trains one vocabulary
on the same files with two threads; sides take turns, ROUNDS times over. Unigram reads the first file only (17 MB): its peers would take
minutes each over the rest. Of a Unigram vocabulary the bits per byte of held-out text are computed here, for all sides by the same code.
"""

import collections
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import ROOT, Rows

from corpus import write_corpus

HERE = Path(__file__).parent
ROUNDS, VOCAB_SIZE, CORPUS_MB = 2, 32_000, 100
SIDES = {  # what is trained → who trains it
    "bpe": ("tokenizers", "pikojax", "pikojax 1 thread"),
    "wordpiece": ("tokenizers", "pikojax"),
    "unigram": ("sentencepiece", "pikojax", "tokenizers", "pikojax by script"),
}


def train(python: str, algorithm: str, side: str, files: list[Path], vocab_size: int, out: Path) -> dict:
    library, _, variant = side.partition(" ")
    threads = "1" if variant == "1 thread" else "2"
    command = [python, str(HERE / "train_once.py"), library, algorithm, str(vocab_size), str(out), variant, *map(str, files)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "RAYON_NUM_THREADS": threads, "PIKOJAX_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=out.parent)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def bits_per_byte(pieces: list[list], held_out: Path) -> float:
    """Of the likeliest cut of each word, with the scores made a distribution; an unknown character costs the rarest piece and 10 nats."""
    from pikojax.text.unigram_trainer import best_cut
    from pikojax.text.word_counts import count_files
    from pikojax.text.word_splitters import metaspace

    words = {word.decode(): count for word, count in count_files([held_out], metaspace()).items()}
    scores = {piece: score for piece, score in pieces if score < 0}
    log_sum = math.log(sum(map(math.exp, scores.values())))
    scores = {piece: score - log_sum for piece, score in scores.items()}
    unknown = min(scores.values()) - 10
    total = 0.0
    for word, count in words.items():
        missing = {char: unknown for char in set(word) if char not in scores}
        table = collections.ChainMap(scores, missing) if missing else scores
        total -= count * best_cut(word, table, 16)[0]
    return total / math.log(2) / sum(len(word.encode()) * count for word, count in words.items())


def main(quick: bool, python: str | None, folder: Path | None) -> None:
    rows = Rows(HERE / "results.jsonl", quick)
    scratch = Path(tempfile.mkdtemp())
    wanted_mb, vocab_size, rounds = (1, 2000, 1) if quick else (CORPUS_MB, VOCAB_SIZE, ROUNDS)
    files, held_out = write_corpus(folder or scratch, wanted_mb)
    for algorithm in SIDES:  # compiles what is compiled on first use
        train(sys.executable, algorithm, "pikojax", [held_out], 1000, scratch / "first.json")
    for number in range(rounds):
        for algorithm, sides in SIDES.items():
            read = files[:1] if algorithm == "unigram" else files
            corpus_mb = sum(file.stat().st_size for file in read) / 1e6
            for side in sides:
                ours = side.startswith("pikojax")
                if rows.has(round=number, algorithm=algorithm, side=side) or not (ours or python):
                    continue
                out = scratch / f"{algorithm}-{side.replace(' ', '-')}.json"
                found = train(sys.executable if ours else python, algorithm, side, read, vocab_size, out)
                if algorithm == "unigram":
                    found["bits_per_byte"] = bits_per_byte(json.loads(out.read_text()), held_out)
                rows.append(round=number, algorithm=algorithm, side=side, corpus_mb=corpus_mb, wanted=vocab_size, **found)


if __name__ == "__main__":
    words = sys.argv[1:]
    option = {name: words[words.index(name) + 1] for name in ("--peer-python", "--corpus") if name in words}
    main("--quick" in words, option.get("--peer-python"), Path(option["--corpus"]) if "--corpus" in option else None)
