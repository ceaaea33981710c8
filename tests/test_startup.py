"""How a process begins: memory settings that the C library must see before Python runs, once, and left to no child."""

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
