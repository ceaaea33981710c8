"""GGUF files: what they say is read; what they claim and cannot be is one line, whatever was damaged."""

import os
import random
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from pikojax.config import UserError
from pikojax.formats import gguf
from pikojax.text import gguf_vocab

DATA = Path(os.environ.get("PIKOJAX_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, kind: int, data: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + data


def array(kind: int, items: list[bytes]) -> bytes:
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def tensor(name: str, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, offset)


WEIGHTS = np.arange(64, dtype="<f4")
KEYS = (
    entry("general.architecture", 8, text("llama")), entry("a.u8", 0, b"\x07"), entry("a.i16", 3, struct.pack("<h", -2)),
    entry("a.u64", 10, struct.pack("<Q", 1 << 40)), entry("a.i64", 11, struct.pack("<q", -5)), entry("a.f32", 6, struct.pack("<f", 0.5)),
    entry("a.f64", 12, struct.pack("<d", 0.1)), entry("a.bool", 7, b"\x01"),
    entry("words", 9, array(8, [text("né"), text(""), text("x" * 300)])), entry("scores", 9, array(6, [struct.pack("<f", x) for x in (1, -2)])),
    entry("flags", 9, array(7, [b"\x01", b"\0"])),
    entry("tokenizer.ggml.model", 8, text("llama")), entry("tokenizer.ggml.tokens", 9, array(8, [text("<unk>"), text("<s>"), text("a")])),
    entry("tokenizer.ggml.scores", 9, array(6, [struct.pack("<f", x) for x in (0, 0, -1)])),
    entry("tokenizer.ggml.token_type", 9, array(5, [struct.pack("<i", x) for x in (2, 3, 1)])),
    entry("tokenizer.ggml.precompiled_charsmap", 9, array(0, [b"\0"] * 8)), entry("tokenizer.ggml.bos_token_id", 4, struct.pack("<I", 1)),
    entry("tokenizer.ggml.add_eos_token", 7, b"\0"),
)  # fmt: skip
TENSORS = (tensor("f", (32, 2), 0, 0), tensor("q", (64,), 8, 256), tensor("h", (4,), 1, 352), tensor("b", (2,), 30, 384))


def built(keys=KEYS, tensors=TENSORS, n_keys=None, n_tensors=None, version=3, data_bytes=400, alignment=32) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys)
    head += b"".join(keys) + b"".join(tensors)
    head += bytes(-len(head) % alignment)
    data = WEIGHTS.tobytes() + struct.pack("<e", 2) + bytes(range(32)) + struct.pack("<e", -1) + bytes(32) + bytes(28)
    data += np.arange(4, dtype="<f2").tobytes() + bytes(24) + b"\x80\x3f\x00\x40"
    return head + data.ljust(data_bytes, b"\0")


@pytest.fixture
def write(tmp_path):
    def write(data: bytes) -> Path:
        file = tmp_path / "model.gguf"
        file.write_bytes(data)
        return file

    return write


@pytest.mark.parametrize("version", (2, 3))
def test_what_is_written_is_read(write, version):
    opened = gguf.read(write(built(version=version)))
    found = opened.metadata
    assert found["general.architecture"] == "llama" and (found["a.u8"], found["a.i16"], found["a.u64"], found["a.i64"]) == (7, -2, 1 << 40, -5)
    assert found["a.f32"] == 0.5 and found["a.f64"] == 0.1 and found["a.bool"] is True
    assert list(found["words"]) == ["né", "", "x" * 300] and found["words"][-1] == "x" * 300 and found["words"][:2] == ["né", ""]
    assert found["scores"].tolist() == [1, -2] and found["flags"].tolist() == [True, False]
    assert opened.tensors["f"].shape == (2, 32) and np.array_equal(opened.tensor("f"), WEIGHTS.reshape(2, 32))
    assert opened.tensor("h").tolist() == [0, 1, 2, 3] and opened.tensor("b").tolist() == [1, 2]
    assert opened.tensors["q"][1:3] == ((64,), "q8_0") and opened.bytes_of("q")[2:34].tolist() == list(range(32))
    with pytest.raises(IndexError):
        found["words"][3]
    with pytest.raises(TypeError, match="packed"):
        opened.tensor("q")


def test_tensors_may_be_aligned_otherwise(write):
    keys = (*KEYS, entry("general.alignment", 4, struct.pack("<I", 64)))
    opened = gguf.read(write(built(keys, (tensor("f", (32, 2), 0, 0),), alignment=64)))
    assert opened.tensors["f"].offset % 64 == 0 and np.array_equal(opened.tensor("f").ravel(), WEIGHTS)


WRONG = {
    "empty": (b"", "is empty"),
    "page": (b"<!DOCTYPE html><html>", "web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "zip": (b"PK\x03\x04abc", "zip archive"),
    "pickle": (b"\x80\x02}q\x00", "pickle"),
    "zeros": (bytes(512), "zero bytes"),
    "old": (b"tjgg\x03\0\0\0", "before GGUF"),
    "text": (b"hello there", "no GGUF file"),
    "head alone": (b"GGUF", "cut short"),
    "version 1": (built(version=1), "version 1"),
    "other order": (built(version=3 << 24), "big-endian"),
    "tensors": (built(n_tensors=1 << 63), "9,223,372,036,854,775,808 tensors"),
    "keys": (built(n_keys=1 << 63), "9,223,372,036,854,775,808 keys"),
    "twice": (built((KEYS[0], KEYS[0])), "general.architecture stands there twice"),
    "tensor twice": (built(tensors=(TENSORS[0], TENSORS[0])), "tensor f stands there twice"),
    "overlap": (built(tensors=(TENSORS[0], tensor("q", (32,), 8, 224))), "tensors f and q overlap"),
    "behind": (built(tensors=(tensor("f", (1 << 40,), 0, 0),)), "ends at byte"),
    "overflow": (built(tensors=(tensor("f", (1 << 62, 1 << 62, 4, 4), 0, 0),)), "ends at byte"),
    "offset": (built(tensors=(tensor("f", (4,), 0, (1 << 64) - 32),)), "ends at byte"),
    "unaligned": (built(tensors=(tensor("f", (4,), 0, 8),)), "multiple of 32"),
    "blocks": (built(tensors=(tensor("q", (33,), 8, 0),)), "blocks of 32"),
    "no weights": (built(tensors=(tensor("q", (0, 32), 0, 0),)), "do not make up"),
    "dimensions": (built(tensors=(tensor("q", (1,) * 5, 0, 0),)), "5 dimensions"),
    "unread": (built(tensors=(tensor("q", (256,), 10, 0),)), "Q2_K, which is not read"),
    "type": (built(tensors=(tensor("q", (256,), 99, 0),)), "type 99"),
    "value": (built((entry("k", 13, b""),)), "type 13"),
    "string": (built((entry("k", 8, struct.pack("<Q", 1 << 62)),)), "cut short"),
    "strings": (built((entry("k", 9, struct.pack("<IQ", 8, 1 << 61)),)), "strings"),
    "a string": (built((entry("k", 9, array(8, [struct.pack("<Q", 1 << 40)])),)), "string 0"),
    "numbers": (built((entry("k", 9, struct.pack("<IQ", 6, 1 << 62)),)), "cut short"),
    "arrays": (built((entry("k", 9, struct.pack("<IQ", 9, 1)),)), "array of arrays"),
    "no name": (built((entry("", 0, b"\0"),)), "0 bytes long"),
    "alignment": (built((entry("general.alignment", 4, struct.pack("<I", 48)),)), "power of two"),
    "alignment 0": (built((entry("general.alignment", 4, struct.pack("<I", 0)),)), "power of two"),
    "alignment of text": (built((entry("general.alignment", 8, text("32")),)), "power of two"),
    "name": (built((text("k").replace(b"k", b"\xff") + struct.pack("<I", 0) + b"\0",)), "not UTF-8"),
    "long": (built((entry("k", 8, text("a" * (5 << 20))),)), "longer than"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_is_one_line(write, what):
    data, part = WRONG[what]
    file = write(data)
    tracemalloc.start()
    began_s = time.perf_counter()
    with pytest.raises(UserError) as caught:
        gguf.read(file)
    assert time.perf_counter() - began_s < 1 and tracemalloc.get_traced_memory()[1] < 2 * len(data) + (16 << 20)
    tracemalloc.stop()
    assert part in str(caught.value) and str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        gguf.read(tmp_path / "none.gguf")


def use(opened: gguf.GGUF) -> None:
    """Everything that may be read of a file that was accepted."""
    for value in opened.metadata.values():
        if isinstance(value, gguf.Strings):
            list(value)
    for name, info in opened.tensors.items():
        assert opened.bytes_of(name).size == info.n_bytes
        opened.bytes_of(name).sum()
    try:
        gguf_vocab.tree(opened.metadata, "model.gguf")
    except UserError as error:
        assert "\n" not in str(error)


def mutant(data: bytes, rng: random.Random) -> bytes:
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        if len(data) < 2:
            break
        at = rng.randrange(len(data))
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 255, 1 << 31, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)))
        elif kind == 2:
            del data[at : at + rng.randrange(1, 40)]
        elif kind == 3:
            data[at:at] = data[rng.randrange(len(data)) :][: rng.randrange(1, 40)]
        else:
            del data[max(at, 1) :]
    return bytes(data)


def test_mutants_load_whole_or_are_refused(write):
    rng, whole, n_read = random.Random(0), built(), 0
    for i in range(500):  # test_hostile.py tries thousands
        file = write(mutant(whole, rng))
        try:
            use(gguf.read(file))
            n_read += 1
        except UserError as error:
            assert "\n" not in str(error)
    assert 20 < n_read < 400  # both ways were taken


@pytest.mark.parametrize("name", ("gpt-2", "llama-spm"))
def test_published_vocabularies_open(name):
    file = DATA / "gguf" / f"ggml-vocab-{name}.gguf"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    found = gguf.read(file).metadata
    assert len(found["tokenizer.ggml.tokens"]) in (50257, 32000) and found["general.architecture"] in ("gpt2", "llama")


# ---------------------------------------------------------------- a model in several files


def in_parts(folder: Path, change=lambda i, keys, tensors: None, n: int = 3) -> Path:
    """Each tensor of `built` in a file of its own."""
    for i in range(n):
        keys, tensors = [*(KEYS if i == 0 else ()), entry("split.no", 2, struct.pack("<H", i)), entry("split.count", 2, struct.pack("<H", n))], [TENSORS[i]]
        change(i, keys, tensors)
        (folder / f"m-{i + 1:05}-of-{n:05}.gguf").write_bytes(built(keys, tensors))
    return folder / f"m-00002-of-{n:05}.gguf"


def test_a_model_in_several_files_is_one(tmp_path):
    opened = gguf.read_whole(in_parts(tmp_path))
    assert opened.path.name == "m-00001-of-00003.gguf" and opened.metadata["general.architecture"] == "llama" and "split.no" not in opened.metadata
    assert np.array_equal(opened.tensor("f"), WEIGHTS.reshape(2, 32)) and opened.tensor("h").tolist() == [0, 1, 2, 3] and opened.tensors["q"].part == 1


@pytest.mark.parametrize("change, said", [
    (lambda i, keys, tensors: keys.__setitem__(-1, entry("split.count", 2, struct.pack("<H", 4))) if i == 2 else None, "says that it is part 2 of 4"),
    (lambda i, keys, tensors: keys.__setitem__(-2, entry("split.no", 2, struct.pack("<H", 0))) if i == 2 else None, "says that it is part 0 of 3"),
    (lambda i, keys, tensors: tensors.__setitem__(0, TENSORS[0]), "has the tensor f of a part before it"),
    (lambda i, keys, tensors: keys.append(entry("split.tensors.count", 4, struct.pack("<I", 5))) if i == 0 else None, "have 3 tensors, they say 5"),
])  # fmt: skip
def test_parts_that_do_not_fit_are_one_line(change, said, tmp_path):
    with pytest.raises(UserError) as caught:
        gguf.read_whole(in_parts(tmp_path, change))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_part_that_is_missing_or_renamed_is_named(tmp_path):
    given = in_parts(tmp_path)
    (tmp_path / "m-00003-of-00003.gguf").unlink()
    with pytest.raises(UserError, match="cannot read .*m-00003-of-00003.gguf"):
        gguf.read_whole(given)
    with pytest.raises(UserError, match="is one of 3 parts of a model; give them their names back"):
        gguf.read_whole(given.rename(tmp_path / "m.gguf"))
