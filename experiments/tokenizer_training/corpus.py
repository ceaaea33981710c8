"""Real text in plenty: Python sources and documents of what is installed here, no document twice.

The order is by the digest of the content, so that kinds and packages mix and the cut at N MB is no choice of ours. The first 2 MB
are held out. Machines differ in what is installed, so a corpus is made once and its size stands in every row.
"""

import hashlib
import os
import site
import sysconfig
from pathlib import Path

HELD_OUT_BYTES, FILE_BYTES = 2 << 20, 16 << 20
SUFFIXES = {".py", ".pyi", ".md", ".rst", ".txt", ".html", ".json", ".c", ".h", ".hpp", ".cc", ".cpp", ".js", ".css", ".toml", ".tcl"}


def write_corpus(folder: Path, megabytes: int) -> tuple[list[Path], Path]:
    """Files of some 16 MB that hold `megabytes`, as far as the machine has that much, and the held-out file."""
    folder.mkdir(parents=True, exist_ok=True)
    held_out, files = folder / "held_out.txt", sorted(folder.glob("train-*.txt"))
    if files:
        return files, held_out
    texts = _documents(megabytes * 1_000_000 + HELD_OUT_BYTES)
    held_out.write_bytes(_take(texts, HELD_OUT_BYTES))
    left = megabytes * 1_000_000
    while left > 0 and (data := _take(texts, min(left, FILE_BYTES))):
        files.append(folder / f"train-{len(files):02}.txt")
        files[-1].write_bytes(data)
        left -= len(data)
    return files, held_out


def _documents(enough_bytes: int):
    """Documents in the order of their digests."""
    known = {}
    for root in _roots():
        for path, _, names in sorted(os.walk(root)):
            for name in sorted(names):
                file = Path(path) / name
                if file.suffix not in SUFFIXES or file.is_symlink() or not 200 < file.stat().st_size < 1_000_000:
                    continue
                data = file.read_bytes()
                known.setdefault(hashlib.sha256(data).hexdigest(), file)
    for _, file in sorted(known.items()):
        data = file.read_bytes()
        if _is_text(data):
            yield data if data.endswith(b"\n") else data + b"\n"


def _roots() -> list[Path]:
    data = Path(os.environ.get("PIKOJAX_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data") / "text"
    places = [
        data,
        *site.getsitepackages(),
        sysconfig.get_path("stdlib"),
        "/usr/lib/python3",
        "/usr/share/doc",
        "/usr/include",
        "/usr/share/perl",
    ]
    return [Path(place) for place in places if Path(place).is_dir()]


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def _take(texts, wanted: int) -> bytes:
    parts, size = [], 0
    while size < wanted and (text := next(texts, None)) is not None:
        parts.append(text)
        size += len(text)
    return b"".join(parts)
