"""Where text comes from: the built-in stories, text files, JSONL, Parquet, a Hugging Face dataset. One document at a time.

    documents(config.data) → str, str, …

A text file is one document, a folder of .txt files a document a file; a line of JSONL or a row of a table is a document,
its column chosen by `text_field`, else "text", else "story", else the only column that holds text. An empty or null
one is skipped. `data.source = "hf"` reads a dataset by name, as `data.path = SimpleStories/SimpleStories` (its column is
`story`). Nothing is read whole that can be read in parts.

Leaves out: compressed files, HTML, remote paths, mixtures of sources.
"""

import difflib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pikojax.config import DataConfig, UserError, require, user_path

SUFFIXES = {"jsonl": (".jsonl", ".ndjson"), "parquet": (".parquet",), "bin": (".bin",), "shards": (".npy",)}  # else text
FOLDER_FILES = {"shards": "shard_*.npy", "bin": "*.bin", "parquet": "*.parquet", "jsonl": "*.jsonl", "text": "*.txt"}
USUAL_FIELDS = ("text", "story")


class Source(NamedTuple):
    kind: str  # stories text jsonl parquet hf shards bin
    files: tuple[Path, ...]  # none for stories and hf


def find(data: DataConfig) -> Source:
    """What `data.source` and `data.path` mean: `auto` goes by the file's name, or by what the folder holds."""
    if data.path is None:
        require(data.source in ("auto", "stories"), f"data.source = {data.source!r} needs data.path; {_example(data.source)}")
        return Source("stories", ())
    require(data.source != "stories", f"data.source = 'stories' makes its own text, got data.path = {data.path!r}; remove one of the two")
    if data.source == "hf":
        return Source("hf", ())
    path = user_path(data.path, "data.path")
    if not path.exists():
        hint = "; for a Hugging Face dataset add data.source=hf" if data.path.count("/") == 1 and not path.suffix else ""
        raise UserError(f"no file or folder {data.path!r}; give data.path one that exists{hint}")
    kind, files = _in_folder(path, data.source) if path.is_dir() else _one_file(path, data.source)
    for file in files:
        require(os.access(file, os.R_OK), f"cannot read {file} (permission denied); make it readable")
        require(file.stat().st_size > 0, f"{file} is empty; give a file with something in it")
    return Source(kind, tuple(files))


def documents(data: DataConfig) -> Iterator[str]:
    source = find(data)
    if source.kind == "stories":
        from pikojax.data.stories import stories

        return stories(data.stories_seed, n_bytes=int(data.stories_mb * 1e6))
    if source.kind == "hf":
        return _hf(data)
    read = {"text": _text, "jsonl": _jsonl, "parquet": _parquet}.get(source.kind)
    require(read is not None, f"{data.path!r} holds tokens, not text; it has no documents")
    return (text for file in source.files for text in read(file, data) if text)


def _one_file(path: Path, source: str) -> tuple[str, list[Path]]:
    kind = next((kind for kind, suffixes in SUFFIXES.items() if path.suffix.lower() in suffixes), "text")
    return (kind if source == "auto" else source), [path]


def _in_folder(folder: Path, source: str) -> tuple[str, list[Path]]:
    for kind in FOLDER_FILES if source == "auto" else (source,):
        files = sorted(folder.glob(FOLDER_FILES[kind]))
        if kind == "bin" and files:
            files = _bin_pair(folder, files)
        if files:
            return kind, files
    wanted = " or ".join(FOLDER_FILES.values()) if source == "auto" else FOLDER_FILES[source]
    raise UserError(f"the folder {folder} has no {wanted}; give a folder that has, or a file")


def _bin_pair(folder: Path, files: list[Path]) -> list[Path]:
    pair = [next((file for file in files if file.name.partition(".")[0] == split), None) for split in ("train", "val")]
    if None in pair:
        require(len(files) == 1, f"the folder {folder} has {len(files)} .bin files; wanted train.bin and val.bin, or give one file")
        return files
    return pair


def _example(source: str) -> str:
    examples = {"hf": "as data.path=SimpleStories/SimpleStories", "shards": "a folder with shard_*.npy"}
    return examples.get(source, "give a file or a folder")


# ---------------------------------------------------------------- readers


def _text(file: Path, data: DataConfig) -> Iterator[str]:
    """A file is a document. (`prepare` reads a single one in pieces; of a folder's files each is held in memory while it is read.)"""
    try:
        yield file.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise not_utf8(file, error.start) from None


def not_utf8(file: Path, at: int) -> UserError:
    return UserError(f"{file} is not UTF-8 text (byte {at}); convert it, or set data.source to what it is")


def _jsonl(file: Path, data: DataConfig) -> Iterator[str]:
    field = data.text_field
    try:
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    where = f"{file}, line {number}"
                    record = _json_object(line, where)
                    field = field or _text_column(_string_keys(record), where)
                    yield _value(record, field, where)
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror})") from None


def _json_object(line: bytes, where: str) -> dict:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8
        reason = getattr(error, "msg", None) or getattr(error, "reason", None) or "too deep"
        raise UserError(f"{where} is not JSON ({reason}); each line must be one JSON object") from None
    require(isinstance(record, dict), f"{where} is no JSON object but {str(record)[:40]!r}; each line must be one, as {{\"text\": …}}")
    return record


def _parquet(file: Path, data: DataConfig) -> Iterator[str | None]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("reading Parquet needs pyarrow; run: pip install 'pikojax[hub]'") from None
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            types = {column.name: column.type for column in table.schema_arrow}
            strings = [name for name, kind in types.items() if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)]
            if data.text_field is not None:
                require(data.text_field in types, _no_column(data.text_field, list(types), file))
                require(data.text_field in strings, f"{file}: the column {data.text_field!r} holds {types[data.text_field]}, wanted text")
            field = data.text_field or _text_column(strings, file)
            for batch in table.iter_batches(batch_size=1024, columns=[field]):
                yield from batch.column(0).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"cannot read {file} as Parquet ({_first_line(error)})") from None


def _hf(data: DataConfig) -> Iterator[str]:
    try:
        import datasets
    except ImportError:
        raise UserError("a Hugging Face dataset needs `datasets`; run: pip install 'pikojax[hub]'") from None
    name = f"the dataset {data.path!r} (split {data.hf_split!r})"
    try:
        rows, field = datasets.load_dataset(data.path, split=data.hf_split, streaming=True), data.text_field
        for number, row in enumerate(rows):
            field = field or _text_column(_string_keys(row), name)
            if text := _value(row, field, f"{name}, row {number}"):
                yield text
    except UserError:
        raise
    except Exception as error:  # the library raises dozens of types for a wrong name, no network, a login …
        raise UserError(f"cannot read {name}: {type(error).__name__}: {_first_line(error)}; check its name and the network") from None


# ---------------------------------------------------------------- columns


def _string_keys(record: dict) -> list[str]:
    return [key for key, value in record.items() if isinstance(value, str)]


def _text_column(strings: list[str], where) -> str:
    found = next((field for field in USUAL_FIELDS if field in strings), None)
    if found is None:
        require(bool(strings), f"{where} has no column that holds text; give data.text_field or another file")
        require(len(strings) == 1, f"{where} has several columns with text; set data.text_field to one of: {', '.join(strings)}")
    return found or strings[0]


def _value(record: dict, field: str, where: str) -> str:
    require(field in record, _no_column(field, list(record), where))
    value = record[field]
    require(value is None or isinstance(value, str), f"{where}: {field!r} is {str(value)[:40]!r}, wanted text")
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: {field!r} holds half a surrogate pair, which is no Unicode text; mend the line") from None
    return value or ""


def _no_column(field: str, known: list[str], where) -> str:
    close = difflib.get_close_matches(field, known, 1, 0.4)
    hint = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(known) or 'none'}"
    return f"{where} has no column {field!r}; {hint}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "no reason given").splitlines()[0][:160]
