"""A cache of prepared data: folders named by a hash of what they depend on, whole or not there at all.

    entry(key, build) → the folder of `key`; `build(folder)` fills a new one beside it, which is renamed into place

Two processes may build the same entry: the first to finish stays. `meta.json` holds the size of each file and a checksum (of
the first and last 32 MB), so that a damaged entry is noticed and built again. The entries longest unused go when all
together exceed 10 GB; one that is mapped by a running process stays readable to it.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pikojax.config import UserError, cache_dir

CAP_BYTES = 10 * 10**9
CHECK_BYTES = 32 * 2**20
ABANDONED_S = 24 * 3600  # an unfinished folder this old belongs to a process that was killed


class Entry(NamedTuple):
    folder: Path
    facts: dict  # what `build` returned


def entry(key: dict, build: Callable[[Path], dict]) -> Entry:
    root = cache_dir("data")
    folder = root / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    facts = _read(folder)
    if facts is None:
        facts = _make(root, folder, build)
        _trim(root, keep=folder)
    try:
        os.utime(folder)  # used now
    except OSError:
        pass  # only its place in the queue is lost
    return Entry(folder, facts)


def fingerprint(file: Path) -> list:
    """Tells one state of a file from another without reading it."""
    info = file.stat()
    return [str(file.resolve()), info.st_size, info.st_mtime_ns]


def digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror}); give one that exists") from None


def _read(folder: Path) -> dict | None:
    """The facts of an undamaged entry."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        return meta["facts"] if meta["files"] == _checksums(folder) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make(root: Path, folder: Path, build: Callable[[Path], dict]) -> dict:
    try:
        work = Path(tempfile.mkdtemp(prefix="making-", dir=root))
        try:
            facts = build(work)
            meta = json.dumps({"facts": facts, "files": _checksums(work)})
            with open(work / "meta.json", "w") as file:
                file.write(meta)
                file.flush()
                os.fsync(file.fileno())
            if _read(folder) is None:
                if folder.exists():  # damaged: out of the way in one step, so that nobody meets half of it
                    os.rename(folder, work / "damaged")
                _rename_into_place(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(folder / "damaged", ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write prepared data into {root} ({error.strerror}); free space or set PIKOJAX_CACHE to another folder") from None
    return facts


def _rename_into_place(work: Path, folder: Path) -> None:
    try:
        os.rename(work, folder)
    except OSError:
        if _read(folder) is None:  # else another process was first, with the same content
            raise


def _checksums(folder: Path) -> dict:
    out = {}
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name != "meta.json":
            size = file.stat().st_size
            with open(file, "rb") as raw:
                crc = zlib.crc32(raw.read(CHECK_BYTES))
                raw.seek(max(raw.tell(), size - CHECK_BYTES))
                out[file.name] = [size, zlib.crc32(raw.read(CHECK_BYTES), crc)]
    return out


def _trim(root: Path, keep: Path) -> None:
    """Remove what is longest unused beyond the cap, and what a killed process left."""
    entries, total = [], 0
    for folder in root.iterdir():
        try:
            modified_s = folder.stat().st_mtime
            if folder.name.startswith("making-"):
                if time.time() - modified_s > ABANDONED_S:
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            size = sum(file.stat().st_size for file in folder.iterdir())
        except OSError:
            continue  # another process is at it
        entries.append((modified_s, folder, size))
        total += size
    for _, folder, size in sorted(entries):
        if total > CAP_BYTES and folder != keep:
            shutil.rmtree(folder, ignore_errors=True)
            total -= size
