"""What a run leaves to read: metrics.jsonl (one object a line), samples.txt, TensorBoard events where asked for.

A training line has step loss lr grad_norm tokens seconds tokens_per_s, an evaluation's step val_loss val_bits_per_byte
val_tokens tokens seconds. Each is written in one piece; a half line that a kill left is passed over. A resumed run first drops
what lies beyond its checkpoint, so every step stands once.

The events file is written here: a record is length, checksum, protocol buffer, checksum, and TensorBoard itself is only
needed to look at it.
"""

import json
import math
import os
import re
import struct
import time
from pathlib import Path

from pikojax.config import UserError
from pikojax.formats import run as runs

_SAMPLE = re.compile(r"^=== step (\d+) ===$", re.MULTILINE)


class Log:
    """The files of one run, open for appending after `step`, which is 0 for a new one."""

    def __init__(self, run: Path, step: int = 0, tensorboard: bool = False):
        self.run = run
        _cut_metrics(run / runs.METRICS, step)
        _cut_samples(run / runs.SAMPLES, step)
        self._events = _open_events(run / runs.EVENTS, step) if tensorboard else None
        self._file = self._open(run / runs.METRICS)

    def write(self, facts: dict) -> None:
        plain = {key: value if not isinstance(value, float) or math.isfinite(value) else None for key, value in facts.items()}
        self._append(self._file, (json.dumps(plain) + "\n").encode())
        if self._events is not None:
            scalars = {k: float(v) for k, v in facts.items() if k not in ("step", "tokens", "seconds") and isinstance(v, (int, float))}
            self._append(self._events, _record(_event(facts["step"], scalars)))

    def sample(self, step: int, text: str) -> None:
        file = self._open(self.run / runs.SAMPLES)
        try:
            self._append(file, f"=== step {step} ===\n{text}\n\n".encode("utf-8", "replace"))
        finally:
            os.close(file)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        for file in (self._file, self._events):
            if file is not None:
                os.close(file)
        self._file = self._events = None

    def _open(self, path: Path) -> int:
        try:
            return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}); mend the folder, then use --resume {self.run}") from None

    def _append(self, file: int, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(file, data) :]
        except OSError as error:
            raise UserError(f"cannot write the metrics of {self.run} ({error.strerror}); make room, then use --resume {self.run}") from None


def read(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl, without a half one."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [facts for line in text.splitlines() if (facts := _parse(line)) is not None]


def _parse(line: str) -> dict | None:
    try:
        facts = json.loads(line)
    except ValueError:
        return None
    return facts if isinstance(facts, dict) and isinstance(facts.get("step"), int) else None


def _cut_metrics(path: Path, step: int) -> None:
    if path.exists():
        kept = [facts for facts in read(path) if facts["step"] <= step]
        runs.write_atomically(path, "".join(json.dumps(facts) + "\n" for facts in kept))


def _cut_samples(path: Path, step: int) -> None:
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    later = next((match.start() for match in _SAMPLE.finditer(text) if int(match[1]) > step), None)
    if later is not None:
        runs.write_atomically(path, text[:later])


# ---------------------------------------------------------------- TensorBoard's file


def _open_events(folder: Path, step: int) -> int:
    path = folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
    try:
        folder.mkdir(exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        version = struct.pack("<Bd", 0x09, time.time()) + _bytes(3, b"brain.Event:2")
        # Session log "start": TensorBoard then drops what earlier files hold from this step on.
        started = struct.pack("<Bd", 0x09, time.time()) + b"\x10" + _varint(step + 1) + _bytes(7, b"\x08\x01")
        os.write(file, _record(version) + _record(started))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); mend the folder or set train.tensorboard=false") from None
    return file


def _event(step: int, scalars: dict[str, float]) -> bytes:
    values = b"".join(_bytes(1, _bytes(1, tag.encode()) + struct.pack("<Bf", 0x15, value)) for tag, value in scalars.items())
    return struct.pack("<Bd", 0x09, time.time()) + b"\x10" + _varint(step) + _bytes(5, values)


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out) + bytes([n])


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    """CRC-32C, rotated and shifted, as TensorFlow's record files have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC = [_crc_of(byte) for byte in range(256)]
