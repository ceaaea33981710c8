"""Sources: each gives its documents, and each mistake is one line that names the place and the remedy."""

import builtins
import json
import sys
import types

import pytest

from pikojax.config import DataConfig, UserError
from pikojax.data import documents
from pikojax.data.sources import find


def read(path, **settings):
    return list(documents(DataConfig(path=str(path), **settings)))


def refused(path, says, **settings):
    with pytest.raises(UserError) as error:
        read(path, **settings)
    message = str(error.value)
    assert says in message and "\n" not in message, message
    return message


def write_jsonl(file, *records):
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.fixture
def write_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: Parquet is not tested")
    import pyarrow
    import pyarrow.parquet

    def write(columns, name="a.parquet"):
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / name)
        return tmp_path / name

    return write


def test_a_text_file_is_one_document_to_the_byte(tmp_path):
    (tmp_path / "a.txt").write_bytes("né\r\n\r\nzwei\n".encode())
    assert read(tmp_path / "a.txt") == ["né\r\n\r\nzwei\n"]


def test_a_folder_of_text_is_a_document_a_file(tmp_path):
    for name, text in (("b.txt", "second"), ("a.txt", "first"), ("c.md", "no")):
        (tmp_path / name).write_text(text)
    assert read(tmp_path) == ["first", "second"]


def test_jsonl_columns(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", {"id": 1, "title": "t", "story": "one"}, {"story": None}, {"story": "two\nlines"}, {"story": ""})
    with open(file, "a") as out:
        out.write("\n  \n")  # blank lines do no harm
    assert read(file) == ["one", "two\nlines"]
    assert read(write_jsonl(tmp_path / "b.jsonl", {"story": "s", "text": "t", "body": "b"})) == ["t"]
    assert read(tmp_path / "b.jsonl", text_field="body") == ["b"]
    assert read(write_jsonl(tmp_path / "c.ndjson", {"n": 1, "body": "only"})) == ["only"]


def test_jsonl_mistakes_name_file_and_line(tmp_path):
    file = tmp_path / "a.jsonl"
    good = b'{"text": "x"}\n'
    for line, says in (
        (b"{text: 1}", "a.jsonl, line 2 is not JSON (Expecting property name"),
        (b"[1]", "a.jsonl, line 2 is no JSON object but '[1]'"),
        (b'{"text": 3}', "a.jsonl, line 2: 'text' is '3', wanted text"),
        (b'{"test": "x"}', "a.jsonl, line 2 has no column 'text'; did you mean 'test'?"),
        (b'{"text": "\xff"}', "a.jsonl, line 2 is not JSON (invalid start byte)"),
        (b'{"text": "\\ud800"}', "a.jsonl, line 2: 'text' holds half a surrogate pair"),
        (b"[" * 100_000, "a.jsonl, line 2 is not JSON"),
    ):
        file.write_bytes(good + line + b"\n")
        refused(file, says)


def test_which_column_is_meant_is_asked_for(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", {"body": "b", "title": "t", "n": 1})
    refused(file, "several columns with text; set data.text_field to one of: body, title")
    refused(file, "has no column 'boddy'; did you mean 'body'?", text_field="boddy")
    refused(file, "has no column 'xyz'; it has: body, title, n", text_field="xyz")
    refused(write_jsonl(file, {"n": 1}), "line 1 has no column that holds text")


def test_parquet_columns(write_parquet, tmp_path):
    file = write_parquet({"n": [1, 2, 3], "story": ["one", None, "two"]})
    assert read(file) == ["one", "two"]
    write_parquet({"story": ["three"]}, "b.parquet")
    assert read(tmp_path) == ["one", "two", "three"]


def test_parquet_mistakes(write_parquet, tmp_path):
    file = write_parquet({"n": [1], "body": ["b"], "title": ["t"]})
    refused(file, "several columns with text; set data.text_field to one of: body, title")
    refused(file, "has no column 'tittle'; did you mean 'title'?", text_field="tittle")
    refused(file, "the column 'n' holds int64, wanted text", text_field="n")
    refused(write_parquet({"n": [1]}), "has no column that holds text")
    file.write_bytes(b"no parquet at all")
    refused(file, "cannot read " + str(file) + " as Parquet")


def without(monkeypatch, module):
    real = builtins.__import__

    def import_(name, *rest, **named):
        if name.split(".")[0] == module:
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", import_)


def test_a_missing_library_names_the_extra(monkeypatch, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"x")
    without(monkeypatch, "pyarrow")
    refused(tmp_path / "a.parquet", "pip install 'pikojax[hub]'")
    without(monkeypatch, "datasets")
    refused("SimpleStories/SimpleStories", "pip install 'pikojax[hub]'", source="hf")


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for `datasets`: what it was asked for, and what it answers."""
    fake = types.SimpleNamespace(rows=[], asked=None, fails=None)

    def load_dataset(name, *, split, streaming):
        fake.asked = (name, split, streaming)
        if fake.fails:
            raise fake.fails
        return iter(fake.rows)

    fake.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return fake


def test_a_hugging_face_dataset_is_streamed(hub):
    hub.rows = [{"story": "one", "topic": "x"}, {"story": "", "topic": "y"}, {"story": "two", "topic": "z"}]
    assert read("SimpleStories/SimpleStories", source="hf") == ["one", "two"]
    assert hub.asked == ("SimpleStories/SimpleStories", "train", True)
    assert read("SimpleStories/SimpleStories", source="hf", text_field="topic", hf_split="test") == ["x", "y", "z"]
    refused("SimpleStories/SimpleStories", "row 0 has no column 'stori'; did you mean 'story'?", source="hf", text_field="stori")


def test_a_dataset_that_cannot_be_had_is_one_line(hub):
    hub.fails = ConnectionError("Couldn't reach the Hub\nlong\ntraceback")
    refused("a/b", "cannot read the dataset 'a/b' (split 'train'): ConnectionError: Couldn't reach the Hub; check its name", source="hf")


def test_what_path_means(tmp_path):
    assert find(DataConfig()).kind == "stories"
    for name, kind in (("a.txt", "text"), ("a.JSONL", "jsonl"), ("a.parquet", "parquet"), ("a.bin", "bin"), ("a.npy", "shards"), ("noext", "text")):
        (tmp_path / name).write_text("x")
        assert find(DataConfig(path=str(tmp_path / name))).kind == kind
    assert find(DataConfig(path=str(tmp_path / "a.bin"), source="text")).kind == "text"


def test_mistakes_about_the_path(tmp_path):
    refused(tmp_path / "no.txt", "no file or folder")
    assert "data.source=hf" not in refused(tmp_path / "no.txt", "no file or folder")
    refused("SimpleStories/SimpleStories", "for a Hugging Face dataset add data.source=hf")
    refused(tmp_path, "has no shard_*.npy or *.bin or *.parquet or *.jsonl or *.txt")
    refused(tmp_path, "has no *.jsonl", source="jsonl")
    (tmp_path / "a.txt").touch()
    refused(tmp_path / "a.txt", "a.txt is empty")
    refused(tmp_path, "a.txt is empty")
    refused(tmp_path, "makes its own text", source="stories")
    (tmp_path / "a.txt").write_bytes(b"ab\xffcd")
    refused(tmp_path / "a.txt", "is not UTF-8 text (byte 2)")
    for source in ("hf", "text", "shards"):
        with pytest.raises(UserError, match="needs data.path"):
            list(documents(DataConfig(source=source)))
