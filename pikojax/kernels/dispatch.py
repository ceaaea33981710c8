"""Which kernel runs an operation: the only place that chooses, by device and by what the operands allow.

    PIKOJAX_KERNELS = auto         (or unset) the best that can run here
                      reference    plain jnp, always right
                      native       C++, on the CPU;  pallas: on GPU and TPU
                      NAME         of a plug-in: an object with `matmul(x, w, layer)`, `decode_attention(…)` or both

A kernel that was asked for, or would be the best here, and cannot run, says why, once, on stderr; then the reference serves. What is
compiled stays as it was chosen: set the variable before the first call.

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

GROUP = "pikojax.kernels"
WISHES = ("auto", "reference", "native", "pallas")


class Kernel(NamedTuple):
    """`module` has the functions `run(*operands)`, `why_not(*operands)` and `why_not_here()`, both a reason or None."""

    name: str
    platforms: tuple[str, ...]
    module: str
    run: str
    why_not: str = "why_not"
    why_not_here: str = "why_not_here"


# The best first. Beside these each operation has its reference, in the same module.
KERNELS: dict[str, tuple[Kernel, ...]] = {
    "matmul": (Kernel("native", ("cpu",), "pikojax.kernels.matmul", "native"),),
    "decode_attention": (Kernel("native", ("cpu",), "pikojax.kernels.decode_attention", "native"),),
}
REFERENCES = {op: (f"pikojax.kernels.{op}", "reference") for op in KERNELS}


def choose(op: str, *operands) -> str:
    """The name of the kernel that runs `op` with these operands: one of `KERNELS`, "reference", or a plug-in."""
    wish = wished()
    if wish not in WISHES:
        if hasattr(_plug_in(wish), op):
            return wish
        _say_once(f"pikojax: the plug-in {wish!r} brings no {op}; the best that is built in serves")
        wish = "auto"
    if wish == "reference":
        return wish
    fitting = _fitting(op, wish)
    reasons = []
    for kernel in fitting:
        reason = _function(kernel.module, kernel.why_not)(*operands)
        if reason is None:
            return kernel.name
        reasons.append(reason)
    if wish != "auto" and not fitting:
        reasons.append(f"there is no {wish} one for {jax.default_backend()}")
    if reasons:
        _say_once(f"pikojax: {op} runs by its reference, which is slow: {'; '.join(dict.fromkeys(reasons))}")
    return "reference"


def function(op: str, name: str) -> Callable:
    """What `choose` has named."""
    if name == "reference":
        return _function(*REFERENCES[op])
    for kernel in KERNELS[op]:
        if kernel.name == name and jax.default_backend() in kernel.platforms:
            return _function(kernel.module, kernel.run)
    return getattr(_plug_in(name), op)


def best_here(op: str) -> str:
    """The kernel that `op` has here if its operands allow it: what weights are prepared for."""
    wish = wished()
    if wish not in WISHES:
        return wish
    found = (kernel.name for kernel in _fitting(op, wish) if _function(kernel.module, kernel.why_not_here)() is None)
    return next(found, "reference")


def listed() -> list[dict[str, str]]:
    """For each operation what would run here, and why not something better. Loads no plug-in."""
    wish = wished()
    rows = []
    for op in KERNELS:
        reasons = [f"{k.name}: {why}" for k in _fitting(op, wish) if (why := _function(k.module, k.why_not_here)())]
        if wish in ("reference", "auto"):
            best = "reference" if wish == "reference" else best_here(op)
            reason = (
                "PIKOJAX_KERNELS=reference" if wish == best else "; ".join(reasons) or f"the best for {jax.default_backend()}"
            )
        else:
            best = best_here(op)
            reason = "; ".join(reasons) or f"PIKOJAX_KERNELS={wish}"
        rows.append({"op": op, "kernel": best, "reason": reason})
    return rows


def wished() -> str:
    """What `PIKOJAX_KERNELS` says."""
    wish = os.environ.get("PIKOJAX_KERNELS", "").strip() or "auto"
    if wish not in WISHES:
        known = (*WISHES, *plugins.names(GROUP))
        require(wish in known, f"PIKOJAX_KERNELS={wish} names no kernels; choose from {', '.join(known)}")
    return wish


def _fitting(op: str, wish: str) -> list[Kernel]:
    platform = jax.default_backend()
    return [kernel for kernel in KERNELS[op] if platform in kernel.platforms and wish in ("auto", kernel.name)]


def _plug_in(name: str):
    return plugins.load(GROUP, name)


def _function(module: str, name: str) -> Callable:
    return getattr(importlib.import_module(module), name)


@functools.lru_cache(maxsize=None)
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
