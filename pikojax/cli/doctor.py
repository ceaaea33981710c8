"""`pikojax doctor`: what this machine offers, what pikojax found of it, and what to mend.

A part that is broken (JAX that does not start, a cache that others can write) is a fact to report, never a traceback.
Leaves out: whether a GPU's driver fits, beyond what JAX itself says, and anything that would need the network.
"""

import argparse
import os
import platform
import sys
from collections import Counter
from pathlib import Path

import pikojax
from pikojax import plugins

HELP = "what is installed, what works and how fast memory is read"

# extra → the distributions it brings, each with the module to look for
EXTRAS = {
    "plot": {"matplotlib": "matplotlib"},
    "text": {"jinja2": "jinja2", "regex": "regex", "llguidance": "llguidance"},
    "hub": {"huggingface_hub": "huggingface_hub", "datasets": "datasets", "pyarrow": "pyarrow"},
    "serve": {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus-client": "prometheus_client"},
    "gpu": {"nvidia-ml-py": "pynvml"},
}
OTHERS = {"tensorboard": "tensorboard"}  # used where it is installed; no extra brings it
PACKAGES = ("jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "safetensors", "rich")
TELLING_FEATURES = (
    "sse42 avx avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512vnni avx512bf16 avxvnni amxint8 amxbf16 "
    "asimd asimddp i8mm sve bf16"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-measure", action="store_true", help="leave out the memory bandwidth (a second or two)")


def run(args: argparse.Namespace) -> dict:
    found = facts(measure=not args.no_measure, threads=args.threads)
    if not args.json:
        _show(found)
    return found


def facts(measure: bool = True, threads: int | None = None) -> dict:
    """All that doctor knows, ready for JSON. With `measure` it takes one or two seconds more."""
    found = {
        "pikojax": pikojax.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "jax": _version("jax"),
        "packages": {name: _version(name) for name in PACKAGES},
        **_devices(),
        **_tried("cpu", _cpu),
        "memory": _memory(),
        **_tried("compiler", _compiler),
        **_tried("native", _native),
        **_tried("kernels", _kernels),
        **_tried("caches", _caches),
        "extras": {extra: _presence(parts) for extra, parts in EXTRAS.items()},
        "others": _presence(OTHERS),
        **_tried("plugins", plugins.listed),
        **_bandwidth(measure, threads),
    }
    return found | {"to_fix": _to_fix(found)}


# ---------------------------------------------------------------- collecting


def _tried(key: str, collect) -> dict:
    """{key: collect()}; if that fails, an empty value and the reason in one line."""
    try:
        return {key: collect()}
    except Exception as error:  # a diagnosis must outlive whatever it diagnoses
        return {key: {}, f"{key}_error": _one_line(error)}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _version(distribution: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> dict:
    try:
        import jax

        counts = Counter((device.platform, device.device_kind, _device_memory_bytes(device)) for device in jax.local_devices())
    except Exception as error:
        return {"devices": [], "devices_error": _one_line(error)}
    listed = [{"platform": what, "kind": kind, "memory_bytes": size, "count": n} for (what, kind, size), n in counts.items()]
    return {"devices": listed, "devices_error": None}


def _device_memory_bytes(device) -> int | None:
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except Exception:  # CPU devices keep no statistics, and each version says so in its own way
        return None


def _cpu() -> dict:
    from pikojax.native import cpu

    telling = [name for name in TELLING_FEATURES.split() if name in cpu.features()]
    cache_bytes = cpu.last_level_cache_bytes()
    return {"model": cpu.model(), "cores": cpu.cores(), "features": telling, "last_level_cache_bytes": cache_bytes}


def _memory() -> dict:
    """What the machine has and what is free, within the limit that a container sets."""
    total = available = None
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):  # macOS has no /proc
        pass
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())  # "max" is no number: no limit
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return {"total_bytes": total, "available_bytes": available}
    free = max(limit - used, 0)
    return {"total_bytes": min(total or limit, limit), "available_bytes": free if available is None else min(available, free)}


def _compiler() -> dict:
    from pikojax.native.build import find_compiler

    compiler, why_not = find_compiler()
    command, version = (" ".join(compiler.command), compiler.version) if compiler else (None, None)
    return {"command": command, "version": version, "why_not": why_not}


def _native() -> dict:
    """Each native library and the path that serves it, or "none: why"."""
    from pikojax.native.build import LIBRARIES, status

    found = {}
    for name in LIBRARIES:
        try:
            found[name] = status(name)
        except Exception as error:
            found[name] = f"none: {_one_line(error)}"
    return found


def _kernels() -> list[dict]:
    """Each operation that has several kernels, the one that runs here, and why."""
    from pikojax.kernels import dispatch

    return dispatch.listed()


def _caches() -> list[dict]:
    from pikojax.config import UserError, cache_dir

    found = []
    for folder in sorted(folder for folder in cache_dir("native").parent.iterdir() if folder.is_dir()):
        try:
            cache_dir(folder.name)
            trouble = None
        except UserError as error:
            trouble = _one_line(error)
        size = _folder_bytes(folder)
        found.append({"name": folder.name, "path": str(folder), "bytes": size, "private": trouble is None, "trouble": trouble})
    return found


def _folder_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:  # another process removed it meanwhile
                continue
    return total


def _presence(parts: dict[str, str]) -> dict[str, str | None]:
    """Version by distribution, None where it is missing. Found, not imported: some take seconds to import."""
    from importlib.util import find_spec

    return {name: (_version(name) or "present") if find_spec(module) else None for name, module in parts.items()}


def _bandwidth(measure: bool, threads: int | None) -> dict:
    """Native or numpy, and from inside a jitted function, which also shows that native kernels can be called from JAX."""
    found = {"read_bandwidth_gb_per_s": None, "read_bandwidth_by": None, "read_bandwidth_in_jit_gb_per_s": None}
    if not measure:
        return found
    try:
        from pikojax.native import bandwidth
        from pikojax.native.build import library

        found["read_bandwidth_by"] = "native" if library("bandwidth") else "numpy"
        found["read_bandwidth_gb_per_s"] = bandwidth.read_bandwidth_gb_per_s(threads)
        found["read_bandwidth_in_jit_gb_per_s"] = bandwidth.read_bandwidth_in_jit_gb_per_s()
    except Exception as error:
        found["read_bandwidth_error"] = _one_line(error)
    return found


def _to_fix(found: dict) -> list[str]:
    """What a person can mend. A missing extra is a choice, so it does not count."""
    fixes = []
    if found["devices_error"]:
        fixes.append(f"JAX does not start: {found['devices_error']}")
    elif Path("/proc/driver/nvidia/version").exists() and all(device["platform"] == "cpu" for device in found["devices"]):
        fixes.append("an NVIDIA GPU is here and JAX does not use it: pip install 'pikojax[gpu]'")
    missing = [name for name, version in found["packages"].items() if version is None and name != "rich"]  # rich only decorates
    if missing:
        fixes.append(f"missing packages: pip install {' '.join(missing)}")
    failed = [key for key, value in found.items() if key.endswith("_error") and key != "devices_error" and value]
    fixes += [f"{key.removesuffix('_error')}: {found[key]}" for key in failed]
    why_not = dict.fromkeys(how.removeprefix("none: ") for how in found["native"].values() if how.startswith("none: "))
    fixes += [f"no native code: {why}" for why in why_not]
    fixes += [f"plug-in {p['name']}: {p['trouble']}; mend or uninstall {p['package']}" for p in found["plugins"] if p["trouble"]]
    return fixes + [cache["trouble"] for cache in found["caches"] if cache["trouble"]]


# ---------------------------------------------------------------- showing


def _show(found: dict) -> None:
    """Two aligned columns, in colour where rich is installed and someone looks, and last what to fix."""
    rows = _rows(found)
    verdict = "to fix: " + "; ".join(found["to_fix"]) if found["to_fix"] else "nothing to fix"
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        decorated = False
    else:
        decorated = sys.stdout.isatty()  # in a file or a pipe a table folded to 80 columns is no help
    if not decorated:
        width = max(len(label) for label, _ in rows)
        print("\n".join(f"{label:<{width}}  {value}" for label, value in rows))
        print(verdict)
        return
    table = Table.grid(padding=(0, 2))
    for label, value in rows:
        table.add_row(Text(label, style="bold"), Text(value))  # Text, not str: "pikojax[plot]" would be taken for markup
    console = Console()
    console.print(table)
    console.print(Text(verdict, style="yellow" if found["to_fix"] else "green"))


def _rows(found: dict) -> list[tuple[str, str]]:
    versions = {"jax": found["jax"]} | found["packages"]
    return [
        ("pikojax", found["pikojax"]),
        ("Python", f"{found['python']} on {found['system']}"),
        ("packages", ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())),
        *_machine_rows(found),
        *(("native", f"{name}: {how}") for name, how in found["native"].items()),
        *(("kernel", f"{k['op']}: {k['kernel']} ({k['reason']})") for k in found["kernels"]),
        *(("cache", f"{c['path']}: {_size(c['bytes'])}, {c['trouble'] or 'private'}") for c in found["caches"]),
        *((f"extra {extra}", _extra(extra, parts)) for extra, parts in found["extras"].items()),
        *((name, version or f"absent: pip install {name}") for name, version in found["others"].items()),
        *(("plug-in", _plugin(each)) for each in found["plugins"]),
    ]


def _machine_rows(found: dict) -> list[tuple[str, str]]:
    cpu, memory, compiler, rows = found["cpu"], found["memory"], found["compiler"], []
    for device in found["devices"]:
        size = f", {_size(device['memory_bytes'])}" if device["memory_bytes"] else ""
        rows.append(("device", f"{device['count']} × {device['platform']} {device['kind']}{size}"))
    if not found["devices"]:
        rows.append(("device", f"none: {found['devices_error']}"))
    if cpu:
        rows.append(("CPU", f"{cpu['model']}, {cpu['cores']} cores usable"))
        rows.append(("features", " ".join(cpu["features"]) or "baseline only"))
    rows.append(("memory", f"{_size(memory['total_bytes'])}, {_size(memory['available_bytes'])} available"))
    if found["read_bandwidth_gb_per_s"]:
        by = "" if found["read_bandwidth_by"] == "native" else " (by numpy)"
        in_jit = found["read_bandwidth_in_jit_gb_per_s"]
        inside = f", {in_jit:.1f} GB/s inside jit" if in_jit else ""
        rows.append(("memory reads", f"{found['read_bandwidth_gb_per_s']:.1f} GB/s{by}{inside}"))
    if compiler:
        works = f"{compiler['command']}: {compiler['version']}"
        rows.append(("compiler", works if compiler["command"] else f"none: {compiler['why_not']}"))
    return rows


def _extra(extra: str, parts: dict[str, str | None]) -> str:
    present = ", ".join(f"{name} {version}" for name, version in parts.items() if version) or "absent"
    missing = ", ".join(name for name, version in parts.items() if version is None)
    return f"{present}; missing {missing}: pip install 'pikojax[{extra}]'" if missing else present


def _plugin(point: dict) -> str:
    said = f"{point['group']}: {point['name']} = {point['value']}, of {point['package']} {point['version']}"
    return said + (f": {point['trouble']}" if point["trouble"] else "")


def _size(n_bytes: int | None) -> str:
    if n_bytes is None:
        return "unknown"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes} bytes"
