"""Encoding and decoding, beside the industry's libraries: run.py [--peer-python PYTHON] [--quick]

PYTHON is an interpreter with tokenizers, tiktoken and sentencepiece. Every turn is a fresh process (once.py) that opens one vocabulary and
encodes the same file; sides take turns, ROUNDS times over, and must give the same ids. What takes long is done less often: `wanted` says
what. `--quick` trains small vocabularies on 1 MB instead of reading PIKOJAX_DATA.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import ROOT, Rows

from corpus import documents, translations

HERE = Path(__file__).parent
DATA = Path(os.environ.get("PIKOJAX_DATA") or ROOT.parent / "shared" / "data")
ROUNDS, CORPUS_BYTES, LONG_BYTES, TURN_LIMIT_S = 3, 21_000_000, 25_000_000, 60
VOCABULARIES = {  # file → whose it is
    "cl100k_base.tiktoken": "tiktoken", "pile_tokenizer.json": "tokenizers", "gpt2.json": "tokenizers", "llama2.json": "tokenizers",
    "llama2.model": "sentencepiece", "fineweb_wordpiece.json": "tokenizers", "bert_base_cased.json": "tokenizers", "fineweb_unigram.json": "tokenizers",
}  # fmt: skip


def mixed(n_bytes: int) -> tuple[list[bytes], float]:
    """Documents, no two alike: novels and odd texts, a quarter in many languages, the rest code and English; and the share of bytes in a
    document of which a tenth or more is no ASCII."""
    texts = [file.read_bytes() for file in sorted((DATA / "text").glob("*.txt"))] if n_bytes > 10_000_000 else []
    size = sum(map(len, texts))
    known = {hashlib.sha256(text).digest() for text in texts}
    for source, until in ((translations(), size + n_bytes // 4), (documents(), n_bytes)):
        for text in source:
            if size >= until:
                break
            if (digest := hashlib.sha256(text).digest()) not in known:
                known.add(digest)
                texts.append(text)
                size += len(text)
    texts.sort(key=lambda text: hashlib.sha256(text).digest())
    many = sum(len(text) for text in texts if 10 * sum(map((127).__lt__, text)) > len(text))
    return texts, many / size


def write_texts(folder: Path, quick: bool) -> tuple[dict[str, Path], dict]:
    """The mixture, and long strings of its characters without white space: all of them, and letters only (one word to most vocabularies)."""
    texts, share = mixed(1_000_000 if quick else CORPUS_BYTES)
    whole = b" ".join(texts).decode()
    long_bytes = 500_000 if quick else LONG_BYTES
    contents = {"mixed": b"\0".join(texts)}
    for name, chars in (("no spaces", "".join(whole.split())), ("one word", "".join(filter(str.isalpha, whole)))):
        data = chars.encode()
        data *= -(-long_bytes // len(data))  # the mixture without its spaces is shorter than 25 MB: it begins anew
        contents[name] = data[:long_bytes].decode(errors="ignore").encode()
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    about = {"corpus": hashlib.sha256(contents["mixed"]).hexdigest()[:8], "documents": len(texts), "multilingual": share}
    return {name: folder / name for name in contents}, about


def turn(python: str, library: str, vocabulary: Path, text: Path, threads: int) -> dict:
    command = [python, str(HERE / "once.py"), library, str(vocabulary), str(text), str(threads)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=None if library == "pikojax" else TURN_LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"over_s": TURN_LIMIT_S}  # a result
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def floor(text: Path) -> dict:
    """What any encoder must at least do: read the bytes once, and see that they are UTF-8; and take them out of a str."""
    from pikojax.native.bandwidth import read_bandwidth_gb_per_s

    data, times_s = text.read_bytes(), []
    for _ in range(3):
        times_s.append(time.perf_counter())
        string = data.decode()
        times_s.append(time.perf_counter())
        string.encode()
        times_s.append(time.perf_counter())
    scan, copy = ([len(data) / 1e6 / (times_s[i + 1] - times_s[i]) for i in range(first, 9, 3)] for first in (0, 1))
    return {"read_gb_per_s": read_bandwidth_gb_per_s(1), "utf8_check_mb_per_s": sorted(scan)[1], "utf8_copy_mb_per_s": sorted(copy)[1]}


def wanted(library: str, number: int, text: str, threads: int, vocabulary: str) -> bool:
    """All sides in every round on the mixture; Hugging Face, who needs minutes, in two, and on one long string, one vocabulary a kind."""
    if text == "mixed":
        rounds = {"pikojax": ROUNDS, "tokenizers": 3 - threads}.get(library, ROUNDS if threads == 1 else 1)
        return number < rounds
    a_kind = ("pile_tokenizer.json", "fineweb_wordpiece.json", "fineweb_unigram.json")
    return number == 0 and (library != "tokenizers" or text == "no spaces" and vocabulary in a_kind)


def vocabularies(quick: bool, folder: Path, text: Path) -> dict[Path, str]:
    if not quick:
        return {DATA / "tokenizers" / name: peer for name, peer in VOCABULARIES.items()}
    from pikojax.text.train import train_files

    return {train_files(algorithm, [text], 1000).save(folder / f"{algorithm}.json"): "tokenizers" for algorithm in ("bpe", "wordpiece", "unigram")}


def main(quick: bool, python: str | None) -> None:
    rows = Rows(HERE / "results.jsonl", quick)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts, about = write_texts(folder, quick)
        files = vocabularies(quick, folder, texts["mixed"])
        for number in range(1 if quick else ROUNDS):
            if not rows.has(round=number, text="floor", corpus=about["corpus"]):
                rows.append(round=number, text="floor", **about, **floor(texts["mixed"]))
            for text, threads in (("mixed", 1), ("mixed", 2), ("no spaces", 1), ("one word", 1)):
                for vocabulary, peer in files.items():
                    for library in filter(lambda side: wanted(side, number, text, threads, vocabulary.name), (peer, "pikojax")):
                        if library != "pikojax" and (python is None or quick):
                            continue
                        key = {"round": number, "text": text, "threads": threads, "vocabulary": vocabulary.name, "library": library}
                        if not rows.has(**key, corpus=about["corpus"]):
                            found = turn(sys.executable if library == "pikojax" else python, library, vocabulary, texts[text], threads)
                            rows.append(**key, mb=texts[text].stat().st_size / 1e6, **about, **found)
        same_ids(rows.rows)


def same_ids(rows: list[dict]) -> None:
    """A speed of wrong ids is worth nothing."""
    found: dict[tuple, set] = {}
    for row in rows:
        for what in ("ids", "decoded"):
            if what in row:
                found.setdefault((what, row["vocabulary"], row["text"], row["corpus"]), set()).add(row[what])
    differ = [key for key, each in found.items() if len(each) > 1]
    print("the same ids and texts on both sides, everywhere" if not differ else f"DIFFERENT ids or texts: {differ}", file=sys.stderr)
    if differ:
        raise SystemExit(1)


if __name__ == "__main__":
    words = sys.argv[1:]
    main("--quick" in words, words[words.index("--peer-python") + 1] if "--peer-python" in words else None)
