"""Compile the C++ beside this file on first use, keep the result in a private cache, and load it.

    library("bandwidth")  →  ctypes.CDLL, or None where there is no compiler: the caller then takes its pure path

The file name in the cache is NAME-PATH-KEY-DIGEST.so. KEY hashes all that decides what the compiler makes (sources and headers,
flags, compiler, jaxlib, processor), so a change of any of them builds anew. DIGEST hashes the file itself and is checked before
each load: loading a truncated library does not raise, it kills the process. A digest is no defence against a person, though, who
would simply name their file right: whoever can write in this folder runs code as this user. So a library is loaded only from a
folder and a file that this user owns and no one else can write.

Leaves out: cross-compiling, incremental builds (a library is one compiler call of seconds), and Windows outside WSL.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from pikojax.config import UserError, cache_dir
from pikojax.native import cpu

LIBRARIES = {name: (f"{name}.cc",) for name in ("attention", "bandwidth", "flash", "gemm", "matmul", "peak", "read_sum", "text")}
LIBRARIES["gemm"] = ("gemm.cc", "rows.cc", "norm.cc")
LIBRARIES["text_train"] = ("text_train_count.cc", "text_train_bpe.cc", "text_train_unigram.cc")
SOURCES = Path(__file__).parent

COMMON_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-Wall")
COMMON_FLAGS += ("-ffp-contract=off",)  # a·b + c is rounded as written: bits must not depend on what a loop was unrolled into
AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c")
PATH_FLAGS = {
    # without the last flag compilers stay at 256 bits, from the days when 512 slowed the clock
    "avx512": (*AVX2_FLAGS, *"-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mprefer-vector-width=512".split()),
    "avx2": AVX2_FLAGS,
    "portable": (),
}
COMPILE_LIMIT_S = 300
CACHE_LIMIT_BYTES = 256 << 20


class Compiler(NamedTuple):
    command: tuple[str, ...]
    version: str  # the first line of --version


class Build(NamedTuple):
    path: str  # avx512, avx2 or portable
    file: Path | None
    why_not: str | None


def library(name: str, sources_dir: Path = SOURCES) -> ctypes.CDLL | None:
    """The library `name`, built if need be. None, with one line on stderr, where it cannot be had."""
    return _loaded(name, cpu.chosen_path(), sources_dir)[0]


def status(name: str, sources_dir: Path = SOURCES) -> str:
    """The path that serves `name`, or "none: …" with the reason."""
    path = cpu.chosen_path()
    why_not = _loaded(name, path, sources_dir)[1]
    return path if why_not is None else f"none: {why_not}"


@functools.lru_cache(maxsize=None)
def _loaded(name: str, path: str, sources_dir: Path) -> tuple[ctypes.CDLL | None, str | None]:
    built = build(name, path, sources_dir)
    why_not = built.why_not
    if built.file is not None:
        try:
            return ctypes.CDLL(str(built.file)), None
        except OSError as error:  # a cache mounted noexec, a library of another system
            why_not = f"the built library does not load ({error}); set PIKOJAX_CACHE to a folder that allows it"
    _say_once(f"pikojax: no native code, the pure path serves: {why_not}")
    return None, why_not


def build(name: str, path: str, sources_dir: Path = SOURCES) -> Build:
    """Find or make the library's file. Only a cache that others can write raises; all else is a `why_not`."""
    if os.name == "nt":
        raise UserError("native code builds on Linux and macOS only; on Windows install and run pikojax inside WSL")
    compiler, why_not = find_compiler()
    if compiler is None:
        return Build(path, None, why_not)
    sources = [sources_dir / source for source in LIBRARIES[name]]
    flags = (*COMMON_FLAGS, *PATH_FLAGS[path])
    stem = f"{name}-{path}-{build_key(sources, flags, compiler)}"
    cache = cache_dir("native")  # refuses a folder that another user owns or can write
    file = _intact(cache, stem)
    if file is None:
        with _locked(cache / f"{name}.lock"):  # a second process waits here and finds the first one's file
            file = _intact(cache, stem)
            if file is None:
                file, why_not = _compile(cache, stem, sources, flags, compiler)
                _prune(cache, keep=file)
    return Build(path, file, why_not)


def build_key(sources: list[Path], flags: tuple[str, ...], compiler: Compiler) -> str:
    """A hash of all that decides what the compiler makes of these sources."""
    headers = sorted(sources[0].parent.glob("*.h"))
    facts = {
        "files": [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in (*sources, *headers)],
        "flags": flags,
        "compiler": (os.path.realpath(shutil.which(compiler.command[0]) or ""), compiler),
        "jaxlib": _jaxlib_version(),  # a library built against newer XLA headers fails in an older jaxlib
        "cpu": (platform.system(), platform.machine(), cpu.model(), sorted(cpu.features())),
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def find_compiler() -> tuple[Compiler | None, str | None]:
    """(compiler, None) or (None, why not). A `CXX` that does not run is not quietly replaced by another compiler."""
    wish = os.environ.get("CXX", "").strip()
    try:
        commands = [tuple(shlex.split(wish))] if wish else [("c++",), ("g++",), ("clang++",)]
    except ValueError:  # an open quote
        commands = []
    for command in commands:
        version = _version_line(command)
        if version is not None:
            return Compiler(command, version), None
    if wish:
        return None, f"CXX={wish} does not run; unset CXX or set it to a C++17 compiler"
    return None, "no C++ compiler (looked for c++, g++, clang++); install one, or set CXX"


def _version_line(command: tuple[str, ...]) -> str | None:
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, errors="replace", timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None


def _jaxlib_version() -> str:
    try:
        return importlib.metadata.version("jaxlib")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _xla_headers() -> tuple[str, ...]:
    """Where jax.ffi.include_dir() points, found without importing jax: the meter must work where jax does not start."""
    spec = importlib.util.find_spec("jaxlib")
    folders = spec.submodule_search_locations if spec else None
    return ("-isystem", str(Path(folders[0]) / "include")) if folders else ()


def _intact(cache: Path, stem: str) -> Path | None:
    """The library of this stem if it is private and whole. Anything else of that name is thrown away."""
    for file in sorted(cache.glob(f"{stem}-*.so")):
        with contextlib.suppress(OSError):
            info = file.lstat()  # not stat: a link could lead to someone else's file
            private = stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o022
            if private and file.stem == f"{stem}-{_digest(file)}":
                os.utime(file)  # the least recently used goes first when the cache is full
                return file
            file.unlink()
    return None


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:32]


def _compile(
    cache: Path, stem: str, sources: list[Path], flags: tuple[str, ...], compiler: Compiler
) -> tuple[Path | None, str | None]:
    """Compile in a private folder inside the cache and move the result into place in one step."""
    try:
        with tempfile.TemporaryDirectory(prefix="build-", dir=cache) as folder:
            made = Path(folder) / "library.so"
            environ = {**os.environ, "TMPDIR": folder, "LC_ALL": "C"}
            command = [*compiler.command, *flags, *_xla_headers(), *map(str, sources), "-o", str(made)]
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=COMPILE_LIMIT_S, env=environ
            )
            if done.returncode != 0:
                return None, f"{shlex.join(compiler.command)} failed on {sources[0].name}: {_first_error(done.stderr)}"
            made.chmod(0o700)
            with made.open("rb") as opened:
                os.fsync(opened.fileno())
            file = cache / f"{stem}-{_digest(made)}.so"
            os.replace(made, file)
            return file, None
    except subprocess.TimeoutExpired:
        return None, f"{shlex.join(compiler.command)} took over {COMPILE_LIMIT_S} s on {sources[0].name}"
    except OSError as error:
        return None, f"cannot build in {cache} ({error.strerror}); free some space or set PIKOJAX_CACHE"


def _first_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["no message"]
    return next((line for line in lines if "error:" in line), lines[0])


@contextlib.contextmanager
def _locked(path: Path):
    """One builder at a time. Where the file system has no locks two may build at once, which wastes time and breaks nothing."""
    import fcntl  # absent on Windows

    with path.open("w") as opened:
        with contextlib.suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _prune(cache: Path, keep: Path | None) -> None:
    """Drop the least recently used libraries beyond the limit. One that is loaded somewhere lives on until its process ends."""
    used_bytes = 0
    for file in sorted(cache.glob("*.so"), key=_last_used_s, reverse=True):
        with contextlib.suppress(OSError):
            used_bytes += file.lstat().st_size
            if used_bytes > CACHE_LIMIT_BYTES and file != keep:
                file.unlink()


def _last_used_s(file: Path) -> float:
    try:
        return file.lstat().st_mtime
    except OSError:  # another process pruned it meanwhile
        return 0.0


@functools.lru_cache(maxsize=None)
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
