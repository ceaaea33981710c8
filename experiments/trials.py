"""What the experiments share: rows of results that are appended and never measured twice, and one training run as a trial.

A script has variants; `Rows` knows which (variant, seed, …) stand in results.jsonl already, so an interrupted experiment goes on
where it stopped. Each row says on what device, with which versions and at which commit it was measured.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pikojax.cli.startup import prepare  # noqa: E402
from pikojax.config import Config, UserError, load_config, to_toml  # noqa: E402

prepare()


class Rows:
    def __init__(self, path: Path, quick: bool):
        """With `quick`, rows go to a temporary file: a smoke test must not touch what is committed."""
        self.path = Path(tempfile.mkdtemp()) / "results.jsonl" if quick else path
        self.config = config_digest(path.with_name("config.toml"))
        self.rows = read(self.path)
        if any(row.get("config", self.config) != self.config for row in self.rows):
            raise SystemExit(f"{self.path} holds rows of another config.toml; move it away to measure anew")

    def has(self, **key) -> bool:
        return any(all(row.get(k) == v for k, v in key.items()) for row in self.rows)

    def append(self, **row) -> dict:
        row |= {"device": device(), "versions": versions(), "commit": commit(), "date": time.strftime("%Y-%m-%d"), "config": self.config}
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        shown = {k: v for k, v in row.items() if isinstance(v, (int, float, str, bool)) and k not in ("device", "commit", "date", "config")}
        print(json.dumps(shown), flush=True)
        return row


def config_digest(path: Path) -> str | None:
    """Of all settings that the config stands for, its base's among them: rows of different ones must not mix."""
    return hashlib.sha256(to_toml(load_config(path)).encode()).hexdigest()[:8] if path.is_file() else None


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def run_trial(config: Config, sample: bool = False) -> dict:
    """Trains in a throw-away run folder: the loop's result, its validation curve and, if asked, its samples."""
    from pikojax.cli.train import sampler
    from pikojax.data import open_dataset, resolve_vocab
    from pikojax.train import loop

    dataset = open_dataset(config)
    config = resolve_vocab(config, dataset)
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, dir=str(Path(folder) / "run")))
        try:
            result = loop.train(config, dataset, sample=sampler(config, dataset.tokenizer) if sample else None)
        except UserError as error:  # a loss that explodes is a result
            result = {"diverged": str(error)}
        lines = read(Path(folder) / "run" / "metrics.jsonl")
        samples = Path(folder) / "run" / "samples.txt"
        result["samples"] = samples.read_text() if samples.is_file() else ""
    keys = ("step", "tokens", "seconds", "val_loss", "val_bits_per_byte")
    result["curve"] = [[line.get(key) for key in keys] for line in lines if "val_loss" in line]
    return {k: v for k, v in result.items() if k != "run"}


def finished(result: dict) -> dict:
    """The parts of a trial that a row keeps."""
    keys = ("val_loss", "val_bits_per_byte", "parameters", "steps", "seconds", "tokens_per_s", "diverged", "curve")
    return {key: result[key] for key in keys if key in result}


def device() -> str:
    import jax

    first = jax.devices()[0]
    if first.platform != "cpu":
        return first.device_kind
    from pikojax.native import cpu

    return f"{cpu.model()}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


def versions() -> dict:
    found = {"python": platform.python_version()}
    for name in ("jax", "flax", "optax"):
        found[name] = importlib.metadata.version(name)
    return found


def commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "pikojax", "configs", "experiments/**/*.py", "experiments/**/*.toml")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+changes" if changed else "")


def data_file(name: str) -> Path:
    """Text that is not shipped: `PIKOJAX_DATA/text/NAME`, by default ../shared/data beside the project."""
    path = Path(os.environ.get("PIKOJAX_DATA") or ROOT.parent / "shared" / "data") / "text" / name
    if not path.is_file():
        raise SystemExit(f"{path} is missing: set PIKOJAX_DATA to a folder that holds text/{name}")
    return path
