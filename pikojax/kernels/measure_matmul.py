"""How fast a quantized product is, and how far from exact.

    GB/s = bytes of weights and scales, as the format has them ÷ seconds       GOP/s = 2 · M · K · N ÷ seconds
    NMSE = Σ (y − y₆₄)² ÷ Σ y₆₄²,   y₆₄ = x · dequantize(w) in float64

The product runs inside one jitted loop over a stack of weights that is far larger than the caches, so each call reads from memory.
The read bandwidth is measured before each pass, in the same process and with as many threads. Medians.

Leaves out: quantization itself, and gradients.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import require
from pikojax.kernels import dispatch, rows16
from pikojax.kernels.matmul import matmul, prepare
from pikojax.native import cpu
from pikojax.native.bandwidth import read_bandwidth_gb_per_s
from pikojax.qtensor import FORMATS, dequantize, quantize

STACK_BYTES = 1 << 30
PASSES, MOST_PASS_S = 5, 0.3
READINGS = 3  # of the bandwidth, before each pass
AT_ONCE = 4  # products in one call of XLA's, whose way from Python costs more than a small product
DISTINCT_OUTPUTS = 128  # so many columns are drawn and quantized; the others repeat them


def measure(format: str, rows: int, k: int, n: int, threads: int | None = None, stack_bytes: int = STACK_BYTES) -> dict:
    known = ("float32", *FORMATS)
    require(format in known, f"format {format!r} is unknown; choose from {', '.join(known)}")
    for name, value in (("rows", rows), ("k", k), ("n", n)):
        require(value >= 1, f"got {name}={value}; give 1 or more")
    threads = cpu.cores() if threads is None else threads
    once, weight_bytes, nmse, kernel = (_float32 if format == "float32" else _quantized)(format, rows, k, n, stack_bytes)
    calls = AT_ONCE
    once(calls)  # compiles
    calls = max(1, min(-(-stack_bytes // weight_bytes), int(calls * MOST_PASS_S / _seconds(once, calls))) // AT_ONCE) * AT_ONCE
    buffer_bytes = None if stack_bytes >= STACK_BYTES else 16 * stack_bytes  # a small stack is a trial run
    bandwidths, seconds = [], []
    for _ in range(PASSES):
        bandwidths.append(read_bandwidth_gb_per_s(threads, buffer_bytes, READINGS))
        seconds.append(_seconds(once, calls) / calls)
    call_s = statistics.median(seconds)
    bandwidth = statistics.median(bandwidths)
    return {
        "format": format,
        "rows": rows,
        "k": k,
        "n": n,
        "kernel": kernel,
        "threads": threads,
        "gb_per_s": weight_bytes / call_s / 1e9,
        "gop_per_s": 2.0 * rows * k * n / call_s / 1e9,
        "read_bandwidth_gb_per_s": bandwidth,
        # each pass with the reading just before it: the machine's bandwidth may drift from pass to pass
        "of_bandwidth": statistics.median(weight_bytes / s / 1e9 / b for s, b in zip(seconds, bandwidths, strict=True)),
        "nmse": nmse,
        "call_s": call_s,
        "fastest_call_s": min(seconds),
        "weight_bytes": weight_bytes,
    }


def _seconds(once, calls: int) -> float:
    begin_s = time.perf_counter()
    once(calls)
    return time.perf_counter() - begin_s


def _drawn(rows: int, k: int, n: int):
    x_key, w_key = jax.random.split(jax.random.key(0))
    w_KN = jax.random.normal(w_key, (k, min(n, DISTINCT_OUTPUTS))) * k**-0.5
    return jax.random.normal(x_key, (rows, k)), w_KN, np.arange(n) % w_KN.shape[1]


def _quantized(format: str, rows: int, k: int, n: int, stack_bytes: int):
    x, w_KN, columns = _drawn(rows, k, n)
    few = quantize(w_KN, format)
    exact = np.asarray(x, np.float64) @ np.asarray(dequantize(few), np.float64)
    w = jax.tree.map(lambda leaf: leaf[columns], few)
    weight_bytes = rows16.canonical_bytes(few) * n // few.shape[1]
    w = prepare(type(w)(w.data, w.scales, w.mins, w.format, (k, n)))
    nmse = _nmse(jax.jit(matmul)(x, w), exact[:, columns])
    layers = max(2, -(-stack_bytes // weight_bytes))
    stacked = jax.tree.map(lambda leaf: jnp.tile(leaf[None], (layers, *[1] * leaf.ndim)), w)

    @jax.jit
    def loop(x, stacked, calls):
        return jax.lax.fori_loop(0, calls, lambda i, _: matmul(x, stacked, i % layers), jnp.zeros((rows, n), jnp.float32))

    return lambda calls: loop(x, stacked, calls).block_until_ready(), weight_bytes, nmse, dispatch.choose("matmul", x, w, None)


def _float32(format: str, rows: int, k: int, n: int, stack_bytes: int):
    """XLA's own, over separate arrays: a loop over a stack would copy each weight before it is read."""
    x, w_KN, columns = _drawn(rows, k, n)
    w = w_KN[:, columns]
    nmse = _nmse(jax.jit(matmul)(x, w), (np.asarray(x, np.float64) @ np.asarray(w_KN, np.float64))[:, columns])
    groups = [[w + 0.0 for _ in range(AT_ONCE)] for _ in range(max(1, -(-stack_bytes // (AT_ONCE * w.nbytes))))]
    products = jax.jit(lambda x, weights: [matmul(x, w) for w in weights])

    def once(calls):
        for i in range(calls // AT_ONCE):
            jax.block_until_ready(products(x, groups[i % len(groups)]))

    return once, w.nbytes, nmse, "XLA"


def _nmse(found, exact) -> float:
    return float(np.sum(np.square(np.asarray(found, np.float64) - exact)) / max(float(np.sum(np.square(exact))), 1e-300))
