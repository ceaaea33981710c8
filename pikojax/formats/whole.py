"""Files and folders that appear whole under their name or not at all: written beside it, brought to the disk, renamed.

    with whole_file(path) as file: file.write(…)          with whole_folder(path, replace=True) as beside: (beside / "a").write_text(…)

What stood there before stays until the new one is complete, and comes back if the renaming fails. Whatever goes wrong inside, nothing is left beside.

    with made_whole(path, force, "config.json") as beside:    a model's folder: another is replaced with `force` alone, and nothing else is

Leaves out: run folders, which grow (`run.py`).
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pikojax.config import UserError, require

MODEL_FILES = (".json", ".safetensors", ".model", ".txt", ".jinja", ".md", ".tiktoken")  # all that is replaced with a model folder
REMEDY = "give a writable place with space on its disk"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    beside = path.with_name(f".{path.name[:100]}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); {REMEDY}") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """`replace`: a folder that is there goes away."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name[:100]}.", dir=folder.parent))
        try:
            os.chmod(beside, 0o755)
            yield beside
            for file in [*beside.rglob("*"), beside]:
                _sync(file)
            _rename(beside, folder, replace)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}); {REMEDY}") from None


@contextlib.contextmanager
def made_whole(folder: Path, force: bool, marker: str) -> Iterator[Path]:
    refuse_taken(folder, force, marker)
    with whole_folder(folder, force) as beside:
        yield beside


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


def _rename(beside: Path, folder: Path, replace: bool) -> None:
    """What was there before is put aside first and removed last."""
    if replace and folder.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name[:100]}.old.", dir=folder.parent))
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
