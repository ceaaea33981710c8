"""A model's folder, written whole or not at all: filled under another name, brought to the disk, renamed.

    with made_whole(folder, force, "config.json") as beside:
        (beside / "config.json").write_text(…)

A folder that is there already is replaced only with `force`, and only if it holds a model (its marker, and weights) or nothing.

Leaves out: run folders, which grow (`run.py`).
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pikojax.config import UserError, require

MODEL_FILES = (".json", ".safetensors", ".model", ".txt", ".jinja", ".md", ".tiktoken")  # all that is replaced with a model folder


@contextlib.contextmanager
def made_whole(folder: Path, force: bool, marker: str) -> Iterator[Path]:
    refuse_taken(folder, force, marker)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            os.chmod(beside, 0o755)
            yield beside
            for file in [*beside.iterdir(), beside]:
                _sync(file)
            _rename(beside, folder, force)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}); choose another place") from None


def refuse_taken(folder: Path, force: bool, marker: str) -> None:
    if not os.path.lexists(folder):
        return
    require(folder.is_dir() and not folder.is_symlink(), f"{folder} exists and is no folder; give another name")
    entries = list(folder.iterdir())
    model = any(entry.name == marker for entry in entries) and any(entry.suffix == ".safetensors" for entry in entries)
    ours = not entries or model and all(entry.is_file() and entry.suffix in MODEL_FILES for entry in entries)
    require(ours, f"{folder} holds something else than a model; give another name")
    require(force, f"{folder} exists; force replaces it")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _rename(beside: Path, folder: Path, force: bool) -> None:
    """What was there before is put aside first and removed last."""
    if force and folder.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
        try:
            os.rename(folder, aside)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        try:
            os.rename(beside, folder)
        except BaseException:  # Ctrl-C too
            os.rename(aside, folder)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.rename(beside, folder)
    _sync(folder.parent)
