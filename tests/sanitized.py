"""Compiles a stand-alone C++ program of tests/native under a sanitizer and runs it."""

import subprocess
from pathlib import Path

import pytest

from pikojax.native import build

SANITIZERS = ("address,undefined", "thread")


def run(source: str, path: str, sanitizer: str, folder: Path, *arguments: str) -> str:
    """What the program printed. Any finding of the sanitizer ends it with a failure."""
    program = folder / Path(source).stem
    flags = [
        "-std=c++17",
        "-O1",
        "-g",
        "-w",
        "-pthread",
        "-ffp-contract=off",
        f"-fsanitize={sanitizer}",
        "-fno-sanitize-recover=all",
    ]
    file = Path(__file__).parent / "native" / source
    command = [
        *build.find_compiler()[0].command,
        *flags,
        *build.PATH_FLAGS[path],
        f"-I{build.SOURCES}",
        str(file),
        "-o",
        str(program),
    ]
    compiled = subprocess.run(command, capture_output=True, text=True)
    if "cannot find" in compiled.stderr or "unsupported option" in compiled.stderr:
        pytest.skip("this compiler has no such sanitizer")
    assert compiled.returncode == 0, compiled.stderr
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
