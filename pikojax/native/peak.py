"""How fast this processor multiplies 8-bit integers, in a loop that never leaves the registers.

    GOP/s = multiplications and additions ÷ seconds;  a product of many rows [M, K] · [K, N] takes at least 2·M·K·N ÷ that

Leaves out: floats, and accelerators (AMX, GPUs).
"""

import ctypes

from pikojax.native import cpu
from pikojax.native.build import library


def int8_gop_per_s(threads: int | None = None, passes: int = 5) -> float | None:
    """The median of a few passes; None without native code."""
    loaded = library("peak")
    if loaded is None:
        return None
    meter = loaded.pikojax_int8_peak
    meter.restype, meter.argtypes = ctypes.c_double, (ctypes.c_int, ctypes.c_int)
    return meter(cpu.cores() if threads is None else threads, passes) or None
