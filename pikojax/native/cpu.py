"""What this processor is: model, vector features, usable cores, last-level cache, and the code path they allow.

A path is one way of compiling every kernel: `avx512` (x86-64 with VNNI), `avx2`, or `portable` (the compiler's baseline: SSE2 on
x86-64, NEON on 64-bit Arm). `PIKOJAX_CPU` forces one, so that each can be tested on a machine that has the best.

Leaves out: mixed cores (big and little count alike), run-time changes of affinity, and anything the operating system hides.
"""

import functools
import os
import platform
import subprocess
from pathlib import Path

from pikojax.config import UserError

# Best first. Names as in `features()`: lower case without "_" and ".", which makes Linux's and macOS's spellings agree.
PATHS = {
    "avx512": frozenset("avx512f avx512bw avx512dq avx512vl avx512vnni avx2 fma f16c".split()),
    "avx2": frozenset("avx2 fma f16c".split()),
    "portable": frozenset(),
}


def chosen_path() -> str:
    """The path named by `PIKOJAX_CPU`, else the best that this processor can run."""
    forced = os.environ.get("PIKOJAX_CPU", "").strip().lower()
    if not forced:
        return next(path for path, needed in PATHS.items() if needed <= features())
    if forced not in PATHS:
        raise UserError(f"PIKOJAX_CPU={forced}: wanted one of {', '.join(PATHS)}; unset it to let the processor decide")
    missing = sorted(PATHS[forced] - features())
    if missing:  # running it anyway would end in an illegal instruction, which no one can catch
        raise UserError(f"PIKOJAX_CPU={forced} needs {' '.join(missing)}, which this processor lacks; unset it or use portable")
    return forced


@functools.lru_cache(maxsize=1)
def features() -> frozenset[str]:
    """Instruction sets that the processor has and the operating system has switched on."""
    if platform.system() == "Darwin":
        text = " ".join(_sysctl(name) for name in ("machdep.cpu.features", "machdep.cpu.leaf7_features"))
    else:
        text = _cpuinfo("flags") or _cpuinfo("Features")  # x86 says flags, Arm says Features
    return frozenset(text.lower().replace("_", "").replace(".", "").split())


@functools.lru_cache(maxsize=1)
def model() -> str:
    if platform.system() == "Darwin":
        name = _sysctl("machdep.cpu.brand_string")
    else:
        arm = " ".join(filter(None, (_cpuinfo("CPU implementer"), _cpuinfo("CPU part"))))  # Arm kernels give numbers, no name
        name = _cpuinfo("model name") or arm
    return name or platform.processor() or "unknown"


def cores() -> int:
    """Cores that this process may use, which in a container or under taskset are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.lru_cache(maxsize=1)
def last_level_cache_bytes() -> int | None:
    """All last-level caches together (a big server has one for every few cores), or None where nothing tells."""
    if platform.system() == "Darwin":
        size = _sysctl("hw.l3cachesize") or _sysctl("hw.perflevel0.l2cachesize") or _sysctl("hw.l2cachesize")
        return int(size) if size.isdigit() else None
    sizes = {}  # keyed by who shares it, so that each cache counts once
    for index in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level, size = int((index / "level").read_text()), (index / "size").read_text().strip()
            if size.endswith("K"):
                sizes[level, (index / "shared_cpu_list").read_text()] = int(size[:-1]) * 1024
        except (OSError, ValueError):
            continue
    last = max((level for level, _ in sizes), default=None)
    return sum(size for (level, _), size in sizes.items() if level == last) or None


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")


def _sysctl(name: str) -> str:
    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
