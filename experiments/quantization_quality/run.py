"""What each format costs a model trained here, by each method, beside llama.cpp's quantization: run.py [--model RUN] [--peer-python PYTHON] [--seconds N] [--quick]

RUN is a run folder of config.toml; without it the model is trained first (20 minutes). PYTHON is an interpreter with llama-cpp-python; without
it the other side is left out. After N seconds it stops, and goes on where it stopped when called again. All files, ours and llama.cpp's, are measured by the same code, on stories that no training and no calibration has seen.
"""

import contextlib
import functools
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import ROOT, Rows

from pikojax.cli.main import main as pikojax
from pikojax.config import load_config

HERE = Path(__file__).parent
OWN = ("int4_g32", "nf4", "int4a_g32", "int8_g32")
FORMATS = ("q4_0", "q4_k", "q5_k", "q6_k", "q8_0", "q4_1", "q4_k_m", "int4_g32", "nf4", "q5_0", "q5_1", "int4a_g32", "int8_g32")
FEW_BITS = ("q4_0", "q4_1", "q4_k", "q4_k_m", "q5_0", "q5_1", "q5_k", "q6_k", "int4_g32", "int4a_g32", "nf4")  # with feedback, too
WEIGHED = ("q4_0", "q4_k")  # with an importance alone
HELD_OUT_SEED, CALIBRATION_SEED = 1, 2  # the model learns stories of seed 0
TOKENS = 8_000  # that are foretold
CALIBRATION_TOKENS = 8_192
AMOUNTS = (1_024, 32_768)  # of calibration, besides, for q4_0
QUICK = ["d_model=32", "n_layers=1", "n_heads=2", "n_kv_heads=1", "d_hidden=64", "context=32", "tokenizer.vocab_size=400", "train.steps=4", "eval_interval=4"]
QUICK += ["batch_size=4", "stories_mb=0.1", "val_fraction=0.2", "sample_tokens=0"]


def trained(folder: Path, overrides: list[str]) -> Path:
    from pikojax.data import open_dataset, resolve_vocab
    from pikojax.train import loop

    config = load_config(HERE / "config.toml", [*overrides, f"run.dir={folder}"])
    dataset = open_dataset(config)
    loop.train(resolve_vocab(config, dataset), dataset)
    return folder


def command(*words) -> dict:
    """What a verb reports."""
    said, besides = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(besides):
        failed = pikojax([*map(str, words), "--json"])
    if failed:
        raise SystemExit(f"pikojax {' '.join(map(str, words))} failed:\n{besides.getvalue()}")
    return json.loads(said.getvalue().splitlines()[-1])


class Work:
    """The model as float32, and texts."""

    def __init__(self, folder: Path, model: str, tokens: int):
        from pikojax.data.stories import stories
        from pikojax.formats.load import load

        self.folder, self.floats = folder, folder / "float32.gguf"
        self.calibration = folder / "calibration.txt"
        self.calibration.write_text("\n".join(stories(CALIBRATION_SEED, n_bytes=700_000)), encoding="utf-8")
        command("convert", model, "-o", self.floats, "--type", "f32")
        self.reference = load(self.floats)
        tok = self.reference.tokenizer
        texts, ids = [], []
        for text in stories(HELD_OUT_SEED, n_bytes=1_000_000):
            if len(ids) >= tokens:
                break
            texts.append(text)
            ids += [*([] if tok.eos_id is None else [tok.eos_id]), *tok.encode(text, add_special_tokens=False).tolist()]
        self.ids, self.n_bytes = ids, sum(len(text.encode()) for text in texts)

    def quality(self, path: Path, parameters: int) -> dict:
        from pikojax.formats.describe import describe
        from pikojax.formats.load import load
        from pikojax.train.likelihood import measure

        loaded = load(path)
        against = None if path == self.floats else self.reference
        found = measure(loaded, self.ids, self.n_bytes, bos=None, context=loaded.config.context, against=against)
        size = sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size
        del loaded
        n_bytes = describe(load(path, ready=False).params)["bytes"]
        return {"file_bytes": size, "bits_per_weight": 8 * n_bytes / parameters} | {k: v for k, v in found.items() if k not in ("bytes", "context")}


def ours(work: Work, format: str, method: str, tokens: int, extra=()) -> Path:
    out = work.folder / f"{format}-{method}{'.gguf' if format.startswith('q') else ''}"
    calibration = [] if method == "nearest" else ["--calibrate", work.calibration, "--method", method, "--tokens", tokens]
    command("quantize", work.floats, "-o", out, "--format", format.removesuffix("_m"), "--force", *calibration, *extra)
    return out


def theirs(work: Work, python: str, format: str, importance: Path | None) -> tuple[Path, dict]:
    out = work.folder / f"llama.cpp-{format}.gguf"
    script = ROOT / "experiments" / "peers" / "llama_cpp_quantize.py"
    words = [python, str(script), str(work.floats), str(out), format, *([str(importance)] if importance else [])]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return out, json.loads(done.stdout.strip().splitlines()[-1])


def arrays_of(file: Path, folder: Path) -> Path:
    """An importance file as the peer's script reads it."""
    import numpy as np

    from pikojax.formats import gguf

    opened, out = gguf.read(file), folder / "importance.npz"
    np.savez(out, **{name.removesuffix(".in_sum2"): opened.tensor(name).reshape(-1) for name in opened.tensors if name.endswith(".in_sum2")})
    return out


def same_types(file: Path) -> list[str]:
    """--keep for every matrix that llama.cpp's mix has in another type."""
    from pikojax.formats.load import load
    from pikojax.qtensor import QTensor
    from pikojax.quant.pack import leaves_of

    return [word for path, leaf in leaves_of(load(file, ready=False).params).items() if isinstance(leaf, QTensor) for word in ("--keep", f"{path}={leaf.format}")]


def main(quick: bool, model: str | None, python: str | None, limit_s: float) -> None:
    rows, began_s = Rows(HERE / "results.jsonl", quick), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model or trained(folder / "run", QUICK if quick else [])
        tokens, calibration = (300, 200) if quick else (TOKENS, CALIBRATION_TOKENS)
        work = Work(folder, model, tokens)
        n = command("info", work.floats)["parameters"]

        def once(measure, **key) -> None:
            if not rows.has(**key) and time.monotonic() - began_s < limit_s:
                path, facts = measure()
                rows.append(**key, **facts, **work.quality(path, n))

        def mine(format: str, method: str, amount: int = calibration, extra=tuple) -> None:
            told = {} if method == "nearest" else {"calibration_tokens": amount}
            once(lambda: (ours(work, format, method, amount, extra()), {}), side="pikojax", format=format, method=method, **told)

        @functools.cache
        def importance() -> Path:
            command("quantize", work.floats, "-o", folder / "any.gguf", "--format", "q4_0", "--calibrate", work.calibration, "--method", "importance",
                    "--tokens", calibration, "--save-importance", folder / "importance.gguf")  # fmt: skip
            return arrays_of(folder / "importance.gguf", folder)

        def peers(format: str) -> None:
            for method in ("nearest",) if format == "q8_0" else ("nearest", "importance"):
                told = {} if method == "nearest" else {"calibration_tokens": calibration}
                once(lambda: theirs(work, python, format, importance() if told else None), side="llama.cpp", format=format, method=method, **told)

        once(lambda: (work.floats, {"parameters": n}), side="pikojax", format="float32", method="nearest")
        for format in ("q4_0", "int4_g32") if quick else FORMATS:
            if format == "q4_k_m" and python is None:
                continue
            extra = functools.cache(lambda: same_types(theirs(work, python, "q4_k_m", None)[0]) if format == "q4_k_m" else ())
            mine(format, "nearest", extra=extra)
            for method, some in (("feedback", FEW_BITS), ("importance", WEIGHED)):
                if format in some and not (quick and format == "q4_0"):
                    mine(format, method, extra=extra)
            if python is not None and format not in OWN:
                peers(format)
            for amount in AMOUNTS if format == "q4_0" and not quick else ():
                mine(format, "feedback", amount)


if __name__ == "__main__":
    words = sys.argv[1:]
    option = lambda flag: words[words.index(flag) + 1] if flag in words else None
    main("--quick" in words, option("--model"), option("--peer-python"), float(option("--seconds") or "inf"))
