"""Which kernel runs an operation: the only place that chooses, by device and by what the operands allow.

    PIKOJAX_KERNELS = auto         (or unset) the best that can run here
                      reference    plain jnp, always right
                      native       C++, on the CPU;  pallas: on GPU and TPU (and what XLA fuses where Pallas cannot)
                      NAME         of a plug-in: an object with `matmul(x, w, layer)`, `decode_attention(…)` or both

A kernel that was asked for, or would be the best here, and cannot take the operands, says why, once, on stderr; then the next best serves,
the reference last. What is compiled stays as it was chosen: set the variable before the first call.

Leaves out: measuring (no kernel is tried out to see which is faster), and choosing by the number of rows (kernels do that themselves).
"""

import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

import jax

from pikojax import plugins
from pikojax.config import require
from pikojax.native import build

GROUP = "pikojax.kernels"
WISHES = ("auto", "reference", "native", "pallas")


class Kernel(NamedTuple):
    """`module` has the functions `run(*operands)`, `why_not(*operands)` and `why_not_here(weights=None)`, both a reason or None. The latter
    is asked what no call at all could change: the device, and of given weights their format."""

    name: str
    wish: str  # the value of PIKOJAX_KERNELS that asks for it, besides "auto"
    platforms: tuple[str, ...]
    module: str
    run: str
    why_not: str = "why_not"
    why_not_here: str = "why_not_here"


# The best first. Beside these each operation has its reference, in the same module.
KERNELS: dict[str, tuple[Kernel, ...]] = {
    "matmul": (
        Kernel("native", "native", ("cpu",), "pikojax.kernels.matmul", "native"),
        Kernel("hopper", "pallas", ("gpu",), "pikojax.kernels.matmul_hopper", "run", "why_not_run"),
        Kernel("gpu", "pallas", ("gpu",), "pikojax.kernels.matmul_gpu", "run", "why_not_run"),
        Kernel("tpu", "pallas", ("tpu",), "pikojax.kernels.matmul_tpu", "run", "why_not_run"),
    ),
    "decode_attention": (
        Kernel("native", "native", ("cpu",), "pikojax.kernels.decode_attention", "native"),
        Kernel("triton", "pallas", ("gpu",), "pikojax.kernels.decode_attention_gpu", "run", "why_not_run"),
    ),
}
# Operations with one native kernel, which decide by `why_not_native` and by their operands whether they call it.
NATIVE_OR_NOT = {"product": "gemm", "norm": "gemm", "flash_attention": "flash"}  # op → library
REFERENCES = {op: (f"pikojax.kernels.{op}", "reference") for op in KERNELS}


def choose(op: str, *operands) -> str:
    """The name of the kernel that runs `op` with these operands: one of `KERNELS`, "reference", or a plug-in."""
    wish = _brought(op)
    if wish not in WISHES or wish == "reference":
        return wish
    nowhere, refused = [], []  # reasons that hold for the device, of which `listed` tells, and those that hold for these operands
    for kernel in _fitting(op, wish):
        reason = _function(kernel.module, kernel.why_not_here)()
        if reason is not None:
            nowhere.append(reason)
            continue
        reason = _function(kernel.module, kernel.why_not)(*operands)
        if reason is None:
            if refused:
                _say_once(f"pikojax: {op} runs by its kernel {kernel.name!r}: {'; '.join(refused)}")
            return kernel.name
        refused.append(reason)
    reasons = dict.fromkeys(nowhere + refused or [_none_for(wish)])
    _say_once(f"pikojax: {op} runs by its reference, which is slow: {'; '.join(reasons)}")
    return "reference"


def function(op: str, name: str) -> Callable:
    """What `choose` has named."""
    if name == "reference":
        return _function(*REFERENCES[op])
    for kernel in KERNELS[op]:
        if kernel.name == name and jax.default_backend() in kernel.platforms:
            return _function(kernel.module, kernel.run)
    return getattr(_plug_in(name), op)


def best_here(op: str, weights=None) -> str:
    """The kernel that `op` has here if its operands allow it: what `weights` are prepared for."""
    wish = _brought(op)
    return wish if wish not in WISHES else _best_of(op, wish, weights)


class Card(NamedTuple):
    """The accelerator that programs are traced for."""

    platform: str
    capability: tuple[int, int] | None  # NVIDIA's compute capability
    cores: int  # multiprocessors


def card() -> Card:
    device = jax.devices()[0]
    major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")  # AMD's are no numbers
    capability = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
    return Card(jax.default_backend(), capability, getattr(device, "core_count", None) or 1)


def mesh_of(*operands):
    """The mesh of several devices over which the operands may lie; None on one device, and inside `shard_map`, where each has its own."""
    meshes = (jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(operands))
    several = (mesh for mesh in meshes if not mesh.empty and mesh.size > 1 and set(mesh.manual_axes) != set(mesh.axis_names))
    return next(several, None)


def splits_freely(mesh) -> bool:
    """Whether a kernel may be put into a `shard_map` of its own over the whole mesh: not where some axes are in one already, or explicit."""
    return not mesh.manual_axes and all(type == jax.sharding.AxisType.Auto for type in mesh.axis_types)


def why_not_on_mesh(*operands) -> str | None:
    if mesh_of(*operands) is None:
        return None
    return "a kernel is opaque to the partitioner, and the operands lie on a mesh of several devices; call it inside shard_map"


def why_not_native(library: str) -> str | None:
    """Why an operation that has one native kernel cannot call it here, whatever its operands; None: it can, on a mesh in `shard_map`."""
    if wished() in ("reference", "pallas"):
        return f"PIKOJAX_KERNELS={wished()}"
    if jax.default_backend() != "cpu":
        return f"the native kernel is for the CPU, not for {jax.default_backend()}"
    status = build.status(library)
    return status.removeprefix("none: ") if status.startswith("none: ") else None


def listed() -> list[dict[str, str]]:
    """For each operation what would run here, and why not something better. Loads no plug-in."""
    wish, rows = wished(), []
    for op in KERNELS:
        fitting = _fitting(op, wish)
        reasons = [f"{k.name}: {why}" for k in fitting if (why := _function(k.module, k.why_not_here)())]
        if wish not in WISHES:
            best, reason = wish, f"PIKOJAX_KERNELS={wish}; the best that is built in, if it brings no {op}"
        elif wish == "reference":
            best, reason = wish, "PIKOJAX_KERNELS=reference"
        elif not fitting:
            best, reason = "reference", _none_for(wish)
        else:
            chosen = f"the best for {jax.default_backend()}" if wish == "auto" else f"PIKOJAX_KERNELS={wish}"
            best, reason = _best_of(op, wish), "; ".join(reasons) or chosen
        rows.append({"op": op, "kernel": best, "reason": reason})
    for op, library in NATIVE_OR_NOT.items():
        why = why_not_native(library)
        rows.append({"op": op, "kernel": "reference" if why else "native", "reason": why or "the best for cpu"})
    return rows


def wished() -> str:
    """What `PIKOJAX_KERNELS` says."""
    wish = os.environ.get("PIKOJAX_KERNELS", "").strip() or "auto"
    if wish not in WISHES:
        known = (*WISHES, *plugins.names(GROUP))
        require(wish in known, f"PIKOJAX_KERNELS={wish} names no kernels; choose from {', '.join(known)}")
    return wish


def _brought(op: str) -> str:
    """What is wished for `op`: "auto" where the plug-in that is asked for lacks it."""
    wish = wished()
    if wish in WISHES or hasattr(_plug_in(wish), op):
        return wish
    _say_once(f"pikojax: the plug-in {wish!r} brings no {op}; the best that is built in serves")
    return "auto"


def _best_of(op: str, wish: str, weights=None) -> str:
    asked = () if weights is None else (weights,)
    found = (kernel.name for kernel in _fitting(op, wish) if _function(kernel.module, kernel.why_not_here)(*asked) is None)
    return next(found, "reference")


def _none_for(wish: str) -> str:
    return f"there is no {'kernel' if wish == 'auto' else wish + ' one'} for {jax.default_backend()}"


def _fitting(op: str, wish: str) -> list[Kernel]:
    platform = jax.default_backend()
    return [kernel for kernel in KERNELS[op] if platform in kernel.platforms and wish in ("auto", kernel.wish)]


def _plug_in(name: str):
    return plugins.load(GROUP, name)


def _function(module: str, name: str) -> Callable:
    return getattr(importlib.import_module(module), name)


@functools.lru_cache(maxsize=None)
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
