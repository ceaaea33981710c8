"""safetensors files: what they say is read; what they claim and cannot be is one line, whatever was damaged."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from pikojax.config import UserError
from pikojax.formats import safetensors_file

WEIGHTS = np.arange(6, dtype="<f4")


def entry(shape=(2, 3), offsets=(0, 24), dtype="F32", **more) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


HEADER = {"__metadata__": {"format": "pt"}, "a": entry(), "b": entry((2,), (24, 28), "BF16"), "c": entry((), (28, 29), "BOOL")}


def built(header=HEADER, data: bytes = WEIGHTS.tobytes() + b"\x80\x3f\x00\x40\x01", length: int | None = None, width: int = 0) -> bytes:
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
