"""The native build: right results on every path, one build for two processes, and nothing loaded that is not whole and ours."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pikojax.config import UserError
from pikojax.native import bandwidth, build, cpu

ROOT = Path(__file__).resolve().parent.parent
needs_compiler = pytest.mark.skipif(build.find_compiler()[0] is None, reason=f"{build.find_compiler()[1]}")
TINY = 'extern "C" __attribute__((visibility("default"))) int answer() { return ANSWER; }\n'


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def path(request, monkeypatch, shared_cache):
    """Forces a code path, or skips where the processor cannot run it."""
    if not cpu.PATHS[request.param] <= cpu.features():
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv("PIKOJAX_CPU", request.param)
    monkeypatch.setenv("PIKOJAX_CACHE", str(shared_cache))
    return request.param


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A library that compiles in a blink, in a cache of its own; gives the folder of its source."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "tiny.cc").write_text('#include "answer.h"\n' + TINY)
    (sources / "answer.h").write_text("#define ANSWER 41\n")
    monkeypatch.setitem(build.LIBRARIES, "tiny", ("tiny.cc",))
    monkeypatch.setenv("PIKOJAX_CACHE", str(tmp_path / "cache"))
    return sources


def python(code: str, **environ) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# ---------------------------------------------------------------- the functions


@needs_compiler
@pytest.mark.parametrize("path", cpu.PATHS, indirect=True)
def test_every_path_reads_the_whole_buffer(path):
    loaded = build.library("bandwidth")
    assert build.status("bandwidth") == path
    n_words = 1_000_003  # no multiple of any vector, nor of the threads
    for threads in (1, 2, 3):
        rate, checksum = bandwidth._native_passes(loaded, threads, n_words * 4, passes=2)
        assert rate > 0
        assert checksum == 2 * int(np.arange(n_words, dtype=np.uint64).sum()) % 2**32


@needs_compiler
@pytest.mark.parametrize("path", cpu.PATHS, indirect=True)
@pytest.mark.parametrize("n_words", [0, 1, 63, 2**18 + 3, 3_000_001])
def test_a_native_sum_inside_jit_is_exact_on_every_path(path, n_words):
    import jax

    from pikojax.native import ffi

    words = np.random.default_rng(n_words).integers(0, 2**32, n_words, dtype=np.uint32)
    lowered = jax.jit(lambda words: ffi.read_sum(words)).lower(words)  # a new function: jit would find the last path's trace
    assert f"pikojax_read_sum_{path}" in lowered.as_text()  # the native target, not the reference
    assert int(lowered.compile()(words)) == int(words.sum(dtype=np.uint64)) % 2**32


@needs_compiler
def test_the_paths_are_different_code(shared_cache, monkeypatch):
    monkeypatch.setenv("PIKOJAX_CACHE", str(shared_cache))
    files = [build.build("bandwidth", path).file for path in cpu.PATHS]  # compiling for another processor is harmless
    assert len({file.read_bytes() for file in files}) == len(cpu.PATHS)


def test_a_meter_that_skips_words_fails_rather_than_looking_fast(monkeypatch):
    half = sum(range(500)) * bandwidth.PASSES
    monkeypatch.setattr(bandwidth, "library", lambda name: object())
    monkeypatch.setattr(bandwidth, "_native_passes", lambda *args: (99.0, half))
    with pytest.raises(RuntimeError, match="read"):
        bandwidth.read_bandwidth_gb_per_s(threads=1, buffer_bytes=4000)
    monkeypatch.setattr(bandwidth, "_native_passes", lambda *args: (99.0, sum(range(1000)) * bandwidth.PASSES))
    assert bandwidth.read_bandwidth_gb_per_s(threads=1, buffer_bytes=4000) == 99.0


# ---------------------------------------------------------------- the choice of path


def test_the_processor_decides_and_pikojax_cpu_overrides(monkeypatch):
    monkeypatch.delenv("PIKOJAX_CPU", raising=False)
    monkeypatch.setattr(cpu, "features", lambda: cpu.PATHS["avx512"])
    assert cpu.chosen_path() == "avx512"
    monkeypatch.setattr(cpu, "features", lambda: cpu.PATHS["avx2"] | {"avx512f"})  # AVX-512 without VNNI does not do
    assert cpu.chosen_path() == "avx2"
    monkeypatch.setattr(cpu, "features", lambda: frozenset({"asimd"}))
    assert cpu.chosen_path() == "portable"
    monkeypatch.setattr(cpu, "features", lambda: cpu.PATHS["avx512"])
    monkeypatch.setenv("PIKOJAX_CPU", "portable")
    assert cpu.chosen_path() == "portable"


@pytest.mark.parametrize(("forced", "says"), [("avx513", "avx512, avx2, portable"), ("avx512", "avx512vnni")])
def test_a_path_that_cannot_be_had_is_one_line(monkeypatch, forced, says):
    monkeypatch.setattr(cpu, "features", lambda: cpu.PATHS["avx2"])
    monkeypatch.setenv("PIKOJAX_CPU", forced)
    with pytest.raises(UserError, match=says) as caught:
        build.library("bandwidth")
    assert "\n" not in str(caught.value) and forced in str(caught.value)


# ---------------------------------------------------------------- the cache


@needs_compiler
def test_two_processes_at_once_compile_once(tmp_path):
    log = tmp_path / "log"
    slow = tmp_path / "slow-c++"  # slow enough that the second process comes while the first compiles
    command = " ".join(build.find_compiler()[0].command)
    slow.write_text(f'#!/bin/sh\n[ "$1" = --version ] || {{ echo run >> {log}; sleep 1; }}\nexec {command} "$@"\n')
    slow.chmod(0o700)
    code = """
from pikojax.native import bandwidth, build
print(bandwidth._native_passes(build.library("bandwidth"), 2, 4000, 1)[1])
"""
    both = [python(code, CXX=str(slow), PIKOJAX_CACHE=str(tmp_path / "cache")) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out.strip(), err) == (0, str(sum(range(1000))), "")
    assert log.read_text().split() == ["run"]
    assert sorted(file.suffix for file in (tmp_path / "cache" / "native").iterdir()) == [".lock", ".so"]


@needs_compiler
def test_without_locks_two_builders_still_leave_a_whole_library(tiny):
    file = build.build("tiny", "portable", tiny).file
    inode = file.stat().st_ino
    flags = (*build.COMMON_FLAGS, *build.PATH_FLAGS["portable"])
    stem = file.stem.rpartition("-")[0]
    again, why_not = build._compile(file.parent, stem, [tiny / "tiny.cc"], flags, build.find_compiler()[0])
    assert why_not is None and again.stat().st_ino != inode  # put in place whole, by renaming, never written over
    assert build._intact(file.parent, stem) is not None


@needs_compiler
@pytest.mark.parametrize("harm", ["truncated", "altered", "writable by others", "a link"])
def test_a_file_that_is_not_whole_and_ours_is_built_anew(tiny, tmp_path, harm):
    file = build.build("tiny", "portable", tiny).file
    whole = file.read_bytes()
    if harm == "truncated":
        file.write_bytes(whole[: len(whole) // 2])
    elif harm == "altered":
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif harm == "writable by others":
        file.chmod(0o777)
    else:
        elsewhere = tmp_path / "elsewhere.so"
        file.rename(elsewhere)
        file.symlink_to(elsewhere)
    again = build.build("tiny", "portable", tiny).file
    assert not again.is_symlink() and again.stat().st_mode & 0o777 == 0o700
    assert again.stem.endswith(build._digest(again))
    assert build.library("tiny", tiny).answer() == 41


@needs_compiler
def test_an_intact_file_is_not_built_again(tiny, monkeypatch):
    first = build.build("tiny", "portable", tiny).file
    monkeypatch.setattr(build, "_compile", lambda *args: pytest.fail("compiled again"))
    assert build.build("tiny", "portable", tiny).file == first


@needs_compiler
def test_a_cache_that_others_can_write_is_refused(tiny, tmp_path):
    build.build("tiny", "portable", tiny)
    (tmp_path / "cache" / "native").chmod(0o777)
    with pytest.raises(UserError, match="chmod 700"):
        build.library("tiny", tiny)


@needs_compiler
def test_the_key_covers_all_that_decides_the_code(tiny, monkeypatch):
    sources, flags, compiler = [tiny / "tiny.cc"], ("-O3",), build.find_compiler()[0]

    def key(flags=flags, compiler=compiler):
        return build.build_key(sources, flags, compiler)

    first = key()
    assert key() == first
    others = [key(flags=("-O2",)), key(compiler=compiler._replace(version="another 1.0"))]
    with monkeypatch.context() as patch:
        patch.setattr(build, "_jaxlib_version", lambda: "0.0.1")
        others.append(key())
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "features", lambda: frozenset({"sse2"}))
        others.append(key())
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "model", lambda: "another")
        others.append(key())
    (tiny / "answer.h").write_text("#define ANSWER 42\n")
    others.append(key())
    (tiny / "tiny.cc").write_text(TINY)
    others.append(key())
    assert len({first, *others}) == 8


@needs_compiler
def test_the_longest_unused_libraries_go_first(tiny, monkeypatch):
    old = build.build("tiny", "portable", tiny).file
    os.utime(old, (1, 1))
    monkeypatch.setattr(build, "CACHE_LIMIT_BYTES", old.stat().st_size * 3 // 2)
    (tiny / "answer.h").write_text("#define ANSWER 42\n")
    new = build.build("tiny", "portable", tiny).file
    assert new.exists() and not old.exists()


# ---------------------------------------------------------------- without a compiler


@pytest.mark.parametrize("environ", [{"CXX": "/nonexistent", "PATH": ""}, {"CXX": "", "PATH": ""}])
def test_without_a_compiler_the_pure_path_serves_with_one_line(tmp_path, environ):
    code = """
from pikojax.native.bandwidth import read_bandwidth_gb_per_s
from pikojax.native.build import status
print(read_bandwidth_gb_per_s(buffer_bytes=1 << 20) > 0, read_bandwidth_gb_per_s(buffer_bytes=1 << 20) > 0, status("bandwidth"))
import jax, numpy as np
from pikojax.native.ffi import read_sum
print(int(jax.jit(read_sum)(np.arange(1000, dtype=np.uint32))))
"""
    process = python(code, PIKOJAX_CACHE=str(tmp_path), JAX_PLATFORMS="cpu", **environ)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.startswith("True True none: ") and out.split()[-1] == str(sum(range(1000)))
    (line,) = err.splitlines()
    assert "no native code" in line and (environ["CXX"] or "looked for c++") in line


@needs_compiler
def test_a_compile_error_is_one_line(tiny, capfd):
    (tiny / "tiny.cc").write_text("int answer() { return what; }\n")
    assert build.library("tiny", tiny) is None
    assert "error:" in build.status("tiny", tiny) and "what" in build.status("tiny", tiny)
    (line,) = capfd.readouterr().err.splitlines()
    assert "tiny.cc" in line and "the pure path serves" in line
    assert not list((Path(os.environ["PIKOJAX_CACHE"]) / "native").glob("*.so"))
