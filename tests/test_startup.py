"""How a process begins: threads, device and compile cache before JAX, memory settings before Python, once, and left to no child."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pikojax.cli import startup

ROOT = Path(__file__).parent.parent
CODE = """
import os, sys
print("start", os.getpid())
from pikojax.cli import startup
startup.keep_memory()
print(os.environ.get("GLIBC_TUNABLES", "none"), "hugetlb" in open("/proc/self/environ").read(), sys.argv[1:])
"""


def started(**environ: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("GLIBC_TUNABLES", startup._RESTARTED)}
    command = [sys.executable, "-X", "dev", "-c", CODE, "a b", "--flag"]
    done = subprocess.run(command, env={**clean, "PYTHONPATH": str(ROOT), **environ}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_is_kept_after_one_new_start_of_the_same_process():
    first, second, told = started()
    assert first == second, "the same process, and started twice"
    assert told == "none True ['a b', '--flag']", "set for the process, not for its children"
    assert started(GLIBC_TUNABLES="glibc.rtld.optional_static_tls=512")[-1].startswith("glibc.rtld.optional_static_tls=512 True")


def test_memory_is_left_alone_where_somebody_else_decides():
    assert started(PIKOJAX_KEEP_MEMORY="0")[1:] == ["none False ['a b', '--flag']"]
    assert len(started(GLIBC_TUNABLES="glibc.malloc.arena_max=4")) == 2


def test_no_new_start_inside_another_program(monkeypatch):
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("this process would be gone"))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    startup.keep_memory()  # JAX is loaded here
    monkeypatch.setitem(sys.modules, "IPython", sys)
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    startup.keep_memory()


@pytest.fixture
def clean(monkeypatch):
    """No environment variable left behind, and no compile cache."""
    for name in ("PJRT_NPROC", "JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIKOJAX_COMPILE_CACHE", "0")


def test_threads_and_device_reach_jax_before_it_starts(clean):
    code = (
        "from pikojax.cli.startup import prepare; prepare(threads=3, device='cpu')\n"
        "import os, jax; jax.numpy.zeros(4).block_until_ready()\n"
        "names = [open(f'/proc/self/task/{t}/comm').read().strip() for t in os.listdir('/proc/self/task')]\n"
        "print(names.count('tf_XLAEigen'), jax.default_backend())"
    )
    if not Path("/proc/self/task").exists():
        pytest.skip("threads are counted in /proc, which this system lacks")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout.split() == ["3", "cpu"], done.stderr


def test_compiled_programs_are_kept_in_a_private_folder_of_this_machine(clean, tmp_path, monkeypatch):
    monkeypatch.setenv("PIKOJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIKOJAX_COMPILE_CACHE", "1")
    startup.prepare()
    folder = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    assert folder.parent == tmp_path / "cache" / "jax" and folder.stat().st_mode & 0o777 == 0o700
    import jaxlib

    assert jaxlib.__version__ in folder.name
    monkeypatch.setattr("pikojax.native.cpu.features", lambda: frozenset({"other"}))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    startup.prepare()
    assert Path(os.environ["JAX_COMPILATION_CACHE_DIR"]) != folder, "another processor, another folder"
    startup.prepare()


def test_the_compile_cache_can_be_off_or_elsewhere_and_is_never_needed(clean, monkeypatch, capsys):
    startup.prepare()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    monkeypatch.setenv("PIKOJAX_COMPILE_CACHE", "1")
    monkeypatch.setenv("PIKOJAX_CACHE", "/dev/null/x")
    startup.prepare()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ and "PIKOJAX_CACHE" in capsys.readouterr().err
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    startup.prepare()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "mine"


def test_the_compile_cache_drops_the_longest_unused_beyond_its_limit(tmp_path):
    for age, name in enumerate(("new/a", "new/b", "old/c", "old/d")):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(100))
        os.utime(file, (1e9 - age, 1e9 - age))
    startup.prune(tmp_path, 250)
    assert sorted(file.name for file in tmp_path.rglob("?")) == ["a", "b"]
