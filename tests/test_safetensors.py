"""safetensors files: what they say is read; what they claim and cannot be is one line, whatever was damaged."""

import json
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from pikojax.config import UserError
from pikojax.formats import huggingface, safetensors_file

WEIGHTS = np.arange(6, dtype="<f4")


def entry(shape=(2, 3), offsets=(0, 24), dtype="F32", **more) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


HEADER = {"__metadata__": {"format": "pt"}, "a": entry(), "b": entry((2,), (24, 28), "BF16"), "c": entry((), (28, 29), "BOOL")}


def built(
    header=HEADER, data: bytes = WEIGHTS.tobytes() + b"\x80\x3f\x00\x40\x01", length: int | None = None, width: int = 0
) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode().ljust(width)
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.fixture
def write(tmp_path):
    def write(data: bytes) -> Path:
        file = tmp_path / "model.safetensors"
        file.write_bytes(data)
        return file

    return write


@pytest.mark.parametrize("width", (0, 640, 1152))  # the latter begin as pickles do
def test_what_is_written_is_read(write, width):
    opened = safetensors_file.read(write(built(width=width)))
    assert opened.metadata == {"format": "pt"} and np.array_equal(opened.tensor("a"), WEIGHTS.reshape(2, 3))
    assert opened.tensor("b").tolist() == [1, 2] and opened.tensor("c").shape == () and opened.tensor("c")


def of(**entries) -> bytes:
    return built(entries)


WRONG = {
    "empty": (b"", "is empty"),
    "page": (b"<!DOCTYPE html><html>", "web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "zip": (b"PK\x03\x04abcdefgh", "zip archive"),
    "pickle": (b"\x80\x02}q\x00abcdefgh", "pickle"),
    "zeros": (bytes(512), "zero bytes"),
    "short": (b"abc", "cut short"),
    "length": (built(length=1 << 62), "4,611,686,018,427,387,904 bytes"),
    "no length": (built(length=0), "a header of 0 bytes"),
    "no JSON": (built(b"{hello}"), "no JSON"),
    "no UTF-8": (built(b'{"\xff": 1}'), "no JSON"),
    "no object": (built(b"[]"), "no JSON object"),
    "deep": (built(b"[" * 90_000), "nested too deep"),
    "lists": (built(b"[" + b"[]," * (1 << 19) + b"[]]"), "524,290 lists and objects"),
    "objects": (built(b"[" + b"{}," * (1 << 19) + b"{}]"), "524,290 lists and objects"),
    "numbers": (built(b"[" + b"1.5," * (1 << 19) + b"0]"), "524,288 commas"),
    "digits": (built(b'{"a": ' + b"9" * 5000 + b"}"), "no JSON"),
    "metadata": (built({"__metadata__": 5}), "metadata"),
    "twice": (built(b'{"a": 1, "a": 2}'), "the key a stands there twice"),
    "name": (of(**{"a\nb": entry()}), "cannot be printed"),
    "entry": (of(a=5), "a lacks dtype"),
    "lacks": (of(a={"dtype": "F32"}), "a lacks dtype"),
    "type": (of(a=entry(dtype="F4")), "'F4'"),
    "type of a list": (of(a=entry(dtype=["F32"])), "is of type"),
    "shape": (of(a=entry() | {"shape": "23"}), "whole numbers"),
    "shape of fractions": (of(a=entry((2.0, 3))), "whole numbers"),
    "shape of truth": (of(a=entry((True, 6))), "whole numbers"),
    "negative": (of(a=entry((-2, -3))), "whole numbers"),
    "dimensions": (of(a=entry((1,) * 9)), "whole numbers"),
    "offsets": (of(a=entry(offsets=(0, 24, 24))), "whole numbers"),
    "backwards": (of(a=entry(offsets=(24, 0))), "has -24 bytes"),
    "overflow": (of(a=entry((1 << 40, 1 << 40))), "so large"),
    "giant beside nothing": (of(a=entry((0, 1 << 61), (0, 0))), "so large"),
    "giants beside nothing": (of(a=entry((0, *[1 << 40] * 7), (0, 0))), "so large"),
    "fewer": (of(a=entry((2, 2))), "its shape"),
    "hole": (of(a=entry(offsets=(4, 28))), "overlap or leave a hole"),
    "overlap": (of(a=entry(), b=entry()), "overlap or leave a hole"),
    "behind": (of(a=entry((200,), (0, 800))), "it is cut short or damaged"),
    "left over": (of(a=entry()), "the file at"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_is_one_line(write, what):
    data, part = WRONG[what]
    file = write(data)
    tracemalloc.start()
    with pytest.raises(UserError) as caught:
        safetensors_file.read(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert part in str(caught.value) and str(file) in str(caught.value) and "\n" not in str(caught.value) and peak < 6 << 20


def mutant(data: bytes, rng: random.Random) -> bytes:
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, kind = rng.randrange(len(data)), rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + 1] = rng.choice((b"0", b"9", b"-", b"1e9", b"[", b"]", b"{}", b"null", b"9" * 18, b"\n", b" "))
        elif kind == 2:
            del data[at : at + rng.randrange(1, 40)]
        elif kind == 3:
            data[at:at] = data[rng.randrange(len(data)) :][: rng.randrange(1, 40)]
        else:
            data[:8] = struct.pack("<Q", rng.choice((0, 2, 100, 1 << 31, 1 << 63, (1 << 64) - 1, len(data) - 8)))
        if len(data) < 2:
            break
    return bytes(data)


def test_mutants_load_whole_or_are_refused(write):
    rng, whole, n_read = random.Random(0), built(), 0
    tracemalloc.start()
    for _ in range(400):  # test_hostile.py tries more, and does not watch memory
        file = write(mutant(whole, rng))
        try:
            opened = safetensors_file.read(file)
            for name, info in opened.tensors.items():
                assert opened.tensor(name).shape == info.shape
            n_read += 1
        except UserError as error:
            assert "\n" not in str(error)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 5 < n_read < 300 and peak < 6 << 20  # both ways were taken


def test_a_giant_json_is_not_read(tmp_path):
    file = tmp_path / "config.json"
    with open(file, "wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(UserError, match="too large"):
        huggingface.read_json(file)
