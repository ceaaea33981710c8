"""What must be settled before JAX is imported: threads, device, how memory is kept, and the folder in which compiled programs are kept.

    from pikojax.cli.startup import prepare
    prepare()          # then import jax: the second start of a program costs tenths of a second instead of seconds

All of it goes through environment variables that JAX and XLA read when they start, so it costs no import and child processes
inherit it. XLA sizes its CPU pool by `PJRT_NPROC` where that is set, else by the cores the process may use; a core mask
(`sched_setaffinity`) would bind the data threads to the same cores and does not exist on macOS. What is in the environment
already stays, except where a flag says otherwise.

The compile cache holds programs that are loaded and run: it lies in a private folder, and is keyed by jaxlib and processor,
because code compiled for one CPU may be illegal on another. `PIKOJAX_COMPILE_CACHE=0` turns it off.

Leaves out: the size of pools other than XLA's (the native kernels run in XLA's; NumPy's BLAS is not used for anything long).
"""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path

from pikojax.config import UserError, cache_dir, require

CACHE_LIMIT_BYTES = 2 << 30
KEEP_MEMORY = ":".join(f"glibc.malloc.{setting}" for setting in ("hugetlb=1", "arena_max=1", "mmap_max=0", f"trim_threshold={1 << 40}"))
_RESTARTED = "PIKOJAX_RESTARTED_WITH"  # between the two starts of keep_memory: what GLIBC_TUNABLES was


def prepare(threads: int | None = None, device: str | None = None) -> None:
    """Set up the environment. Call it before anything imports JAX."""
    if threads is not None:
        require(threads >= 1, f"--threads {threads}; give 1 or more")
        os.environ["PJRT_NPROC"] = str(threads)
    if device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif device is not None:  # JAX's own choice is the accelerator; naming "gpu" would demand both CUDA and ROCm of it
        os.environ.pop("JAX_PLATFORMS", None)
    if os.environ.get("PIKOJAX_COMPILE_CACHE", "1").strip().lower() not in ("0", "off", "false", "no"):
        _keep_compiled_programs()


def keep_memory() -> None:
    """Start this process anew with a C library that keeps freed memory, in pages of 2 MB; the second time, do nothing.

    XLA's CPU back end takes the working memory of every step from the system and gives it back: for a 10M model hundreds of MB that
    Linux clears again, page by page. One heap (`arena_max`), because the pieces of a thread's own heap are too small for it. The C
    library reads these settings before Python runs; children do not inherit them.
    """
    if (before := os.environ.pop(_RESTARTED, None)) is not None:
        os.environ.pop("GLIBC_TUNABLES", None)
        if before:
            os.environ["GLIBC_TUNABLES"] = before
        return
    before = os.environ.get("GLIBC_TUNABLES", "")
    wanted = os.environ.get("PIKOJAX_KEEP_MEMORY", "1").strip().lower() not in ("0", "off", "false", "no")
    alone = "jax" not in sys.modules and "IPython" not in sys.modules  # not inside a program of somebody else's
    if not wanted or not alone or "glibc.malloc" in before or platform.libc_ver()[0] != "glibc":
        return
    tunables = ":".join(filter(None, [before, KEEP_MEMORY]))
    sys.stdout.flush()
    with contextlib.suppress(OSError):  # then without
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, _RESTARTED: before, "GLIBC_TUNABLES": tunables})


def check_device(device: str) -> None:
    """One line, instead of JAX's traceback, where the device that was asked for is not there."""
    import jax

    remedy = {
        "cpu": "reinstall jax and jaxlib",
        "gpu": "check the driver and run: pip install 'pikojax[gpu]', or leave --device out",
        "tpu": "on a TPU machine run: pip install 'jax[tpu]', or leave --device out",
    }[device]
    try:
        found = jax.default_backend()
    except RuntimeError as error:
        raise UserError(f"--device {device}: JAX does not start ({' '.join(str(error).split())[:160]}); {remedy}") from None
    require(found == device, f"--device {device}: JAX finds only {found} here; {remedy}")


def _keep_compiled_programs() -> None:
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return  # the user keeps them elsewhere
    try:
        root = cache_dir("jax")
        folder = root / _machine_key()
        folder.mkdir(mode=0o700, exist_ok=True)
    except (UserError, OSError) as error:
        print(f"pikojax: programs are compiled anew each time: {error}", file=sys.stderr)
        return
    prune(root, CACHE_LIMIT_BYTES)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def _machine_key() -> str:
    from pikojax.native import cpu

    try:
        jaxlib = importlib.metadata.version("jaxlib")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("jaxlib is not installed; run: pip install pikojax") from None
    digest = hashlib.sha256(repr((cpu.model(), sorted(cpu.features()))).encode()).hexdigest()[:12]
    return f"jaxlib-{jaxlib}-{digest}"


def prune(root: Path, limit_bytes: int) -> None:
    """Drop what was longest unused beyond the limit. JAX's own limit would need another package and a lock on each read."""
    entries = []
    for file in root.glob("*/*"):
        with contextlib.suppress(OSError):  # another process may be pruning too
            info = file.stat()
            entries.append((max(info.st_atime, info.st_mtime), info.st_size, file))
    used_bytes = 0
    for _, size_bytes, file in sorted(entries, reverse=True):
        used_bytes += size_bytes
        if used_bytes > limit_bytes:
            with contextlib.suppress(OSError):
                shutil.rmtree(file) if file.is_dir() else file.unlink()
