"""How fast this machine's memory can be read: by a native loop, and from inside a jitted function.

    GB/s = bytes ÷ seconds of the median pass;  decode cannot beat  GB/s ÷ GB of weights  tokens per second

The median, because single passes err both ways on a machine shared with others. Every pass's sum is checked: a reading that
skipped part of the buffer must fail, not pass for speed.

Leaves out: device memory of a GPU, writes, latency.
"""

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor

from pikojax.config import require
from pikojax.native import cpu
from pikojax.native.build import library

PASSES = 11
CACHE_MULTIPLE = 16  # caches do not forget in order: at a small multiple part of the buffer is still there on the next pass
LEAST_BYTES, MOST_BYTES = 256 << 20, 1 << 30


def read_bandwidth_gb_per_s(threads: int | None = None, buffer_bytes: int | None = None, passes: int = PASSES) -> float:
    """The median of a few passes over a buffer far larger than the caches. Without native code numpy reads."""
    threads = cpu.cores() if threads is None else threads
    buffer_bytes = default_buffer_bytes() if buffer_bytes is None else buffer_bytes
    require(threads >= 1, f"got threads={threads}, wanted at least 1; leave it out to use every core")
    require(buffer_bytes >= 4, f"got buffer_bytes={buffer_bytes}, wanted at least one word of 4 bytes")
    loaded = library("bandwidth")
    if loaded is None:
        return _numpy_gb_per_s(threads, buffer_bytes)
    rate, checksum = _native_passes(loaded, threads, buffer_bytes, passes)
    if rate == 0:  # the memory could not be had; numpy's error will say so if it cannot either
        return _numpy_gb_per_s(threads, buffer_bytes)
    _check_sum(checksum, passes * _sum_below(buffer_bytes // 4))
    return rate


def default_buffer_bytes() -> int:
    return min(max(CACHE_MULTIPLE * (cpu.last_level_cache_bytes() or 0), LEAST_BYTES), MOST_BYTES)


def read_bandwidth_in_jit_gb_per_s(buffer_bytes: int | None = None) -> float:
    """The same from inside a jitted function on the CPU backend, on XLA's threads: what a native kernel can hope for."""
    import jax
    import jax.numpy as jnp

    from pikojax.native.ffi import read_sum

    n_words = (default_buffer_bytes() if buffer_bytes is None else buffer_bytes) // 4
    with jax.default_device(jax.devices("cpu")[0]):
        words = jnp.arange(n_words, dtype=jnp.uint32)
        total = jax.jit(read_sum)
        total(words).block_until_ready()  # compiles
        seconds = []
        for _ in range(PASSES):
            begin_s = time.perf_counter()
            read = total(words).block_until_ready()
            seconds.append(time.perf_counter() - begin_s)
            _check_sum(int(read), _sum_below(n_words))
    return n_words * 4 / _median(seconds) / 1e9


def _native_passes(loaded: ctypes.CDLL, threads: int, buffer_bytes: int, passes: int) -> tuple[float, int]:
    meter = loaded.pikojax_read_bandwidth
    meter.restype = ctypes.c_double
    meter.argtypes = (ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_uint32))
    checksum = ctypes.c_uint32()
    return meter(buffer_bytes, threads, passes, ctypes.byref(checksum)), checksum.value


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _sum_below(n_words: int) -> int:
    return n_words * (n_words - 1) // 2  # word i of the buffer holds i


def _check_sum(read: int, written: int) -> None:
    if read != written % 2**32:
        raise RuntimeError(f"the meter read {read:#x}, not the {written % 2**32:#x} it wrote: bad memory or a miscompiled loop")


def _numpy_gb_per_s(threads: int, buffer_bytes: int) -> float:
    import numpy as np

    words = np.ones(buffer_bytes // 4, np.uint32)  # ones: pages of zeros that nobody wrote may all be the same page
    parts = np.array_split(words, threads)
    seconds = []
    with ThreadPoolExecutor(threads) as pool:  # numpy lets go of the interpreter lock while it reads
        for _ in range(PASSES):
            begin_s = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))
            seconds.append(time.perf_counter() - begin_s)
    return words.nbytes / _median(seconds) / 1e9
