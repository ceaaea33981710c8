"""How fast decode attention reads its cache, beside how fast the memory can be read at all, and how exact it is.

    GB/s = bytes of the filled slots (scales included) ÷ seconds a call;   NMSE = Σ(o − exact)² / Σ exact²

A call's cache must not lie in the processor's own caches, so one stack holds as many layers as fill memory far larger than those,
and each call reads the next. All calls of a pass run inside one compiled loop; XLA's way reads the same layers as separate arrays,
since it would copy a slice of a stack first.

Leaves out: GPUs, whole models.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import require
from pikojax.kernels import dispatch
from pikojax.kernels.decode_attention import MASKED, MOST_ROWS, decode_attention, reference
from pikojax.kernels.kv_formats import FORMATS, OF_CACHE, QuantizedKV, dequantize_kv, quantize_kv
from pikojax.native import cpu
from pikojax.native.bandwidth import default_buffer_bytes, read_bandwidth_gb_per_s

FLOATS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
CACHES = (*FLOATS, *OF_CACHE)
PASSES, UNROLLED = 7, 16
READINGS = 3  # of the bandwidth, before each pass
DISTINCT_LAYERS = 2  # so many are drawn and quantized; the others repeat them


def measure(
    cache: str,
    slots: int,
    rows: int,
    heads: int,
    kv_heads: int,
    width: int,
    threads: int | None = None,
    buffer_bytes: int | None = None,
) -> dict:
    """One batch row with `slots` filled, the last `rows` of them by the new tokens."""
    for name, value in (("slots", slots), ("rows", rows), ("heads", heads), ("kv-heads", kv_heads), ("width", width)):
        require(value >= 1, f"--{name} {value}; give 1 or more")
    require(heads % kv_heads == 0, f"--heads {heads} is no multiple of --kv-heads {kv_heads}; change one of them")
    require(rows <= min(slots, MOST_ROWS), f"--rows {rows}; give at most {min(slots, MOST_ROWS)}: each has a slot, and more than {MOST_ROWS} are a prompt")
    require(cache in CACHES, f"--cache {cache}; choose from {', '.join(CACHES)}")
    threads = cpu.cores() if threads is None else threads
    buffer_bytes = default_buffer_bytes() if buffer_bytes is None else buffer_bytes
    keys, values, cache_bytes = filled_stacks(cache, slots, kv_heads, width, buffer_bytes)
    q_BTHC = random_queries(rows, heads, width)
    one_pass = stack_pass(q_BTHC, keys, values, slots)
    bandwidths, seconds = [], []
    for _ in range(PASSES):
        bandwidths.append(read_bandwidth_gb_per_s(threads, buffer_bytes, READINGS))
        seconds.append(one_pass())
    call_s = statistics.median(seconds)
    return {
        "cache": cache,
        "slots": slots,
        "rows": rows,
        "heads": heads,
        "kv_heads": kv_heads,
        "width": width,
        "kernel": dispatch.choose("decode_attention", q_BTHC, keys, values),
        "threads": threads,
        "gb_per_s": cache_bytes / call_s / 1e9,
        "gop_per_s": 4 * rows * heads * slots * width / call_s / 1e9,
        "read_bandwidth_gb_per_s": statistics.median(bandwidths),
        # each pass with the reading just before it: the machine's bandwidth may drift from pass to pass
        "of_bandwidth": statistics.median(cache_bytes / s / 1e9 / b for s, b in zip(seconds, bandwidths, strict=True)),
        **errors(cache, slots, rows, heads, kv_heads, width),
        "call_s": call_s,
        "fastest_call_s": min(seconds),
        "slowest_call_s": max(seconds),
        "cache_bytes": cache_bytes,
    }


def random_queries(rows: int, heads: int, width: int):
    return jnp.asarray(np.random.default_rng(2).standard_normal((1, rows, heads, width), np.float32))


def filled_stacks(cache: str, slots: int, kv_heads: int, width: int, buffer_bytes: int):
    """Keys, values [L, 1, G, S, C] that together fill `buffer_bytes`, and the bytes of one layer of both."""
    rng = np.random.default_rng(0)
    few = [rng.standard_normal((DISTINCT_LAYERS, 1, kv_heads, slots, width), np.float32) for _ in range(2)]
    few = [jax.jit(in_format, static_argnums=1)(x, format) for x, format in zip(few, formats(cache), strict=True)]
    cache_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(few)) // DISTINCT_LAYERS
    repeats = -(-buffer_bytes // (cache_bytes * DISTINCT_LAYERS))
    keys, values = jax.tree.map(lambda leaf: jnp.tile(leaf, (repeats, *[1] * (leaf.ndim - 1))), few)
    return keys, values, cache_bytes


def formats(cache: str) -> tuple[str, str]:
    return OF_CACHE.get(cache, (cache, cache))


def in_format(x, format: str):
    return quantize_kv(x, format) if format in FORMATS else x.astype(FLOATS[format])


def stack_pass(q_BTHC, keys, values, slots: int):
    """A function that attends to every layer once and gives the seconds a call took; compiled and warm."""
    n_layers = jax.tree.leaves(keys)[0].shape[0]
    length_B = jnp.asarray([slots], jnp.int32)

    @jax.jit
    def all_layers(q_BTHC, keys, values):
        def one(layer, o_BTHC):  # the query hangs on the call before it, so that no two run at once
            return decode_attention(q_BTHC + 1e-6 * o_BTHC, keys, values, length_B, layer=layer)

        return jax.lax.fori_loop(0, n_layers, one, q_BTHC)

    return _timed(lambda: all_layers(q_BTHC, keys, values), n_layers)


def xla_pass(q_BTHC, slots: int, kv_heads: int, head_major: bool, buffer_bytes: int):
    """The same of plain float32 attention, as XLA compiles it, over caches [1, G, S, C] or [1, S, G, C]."""
    width = q_BTHC.shape[-1]
    shape = (1, kv_heads, slots, width) if head_major else (1, slots, kv_heads, width)
    n_caches = -(-buffer_bytes // (2 * 4 * slots * kv_heads * width))
    n_caches = n_caches if n_caches < UNROLLED else n_caches // UNROLLED * UNROLLED
    pattern = jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
    caches = [(pattern + 0.001 * i, pattern - 0.001 * i) for i in range(n_caches)]
    length_B = jnp.asarray([slots], jnp.int32)
    attend = reference if head_major else _slot_major

    @jax.jit
    def some(q_BTHC, caches):
        o_BTHC = q_BTHC
        for k, v in caches:
            o_BTHC = attend(q_BTHC + 1e-6 * o_BTHC, k, v, length_B)
        return o_BTHC

    return _timed(lambda: [some(q_BTHC, caches[i : i + UNROLLED]) for i in range(0, n_caches, UNROLLED)], n_caches)


def _slot_major(q_BTHC, k_BSGC, v_BSGC, length_B):
    B, T, H, C = q_BTHC.shape
    S, G = k_BSGC.shape[1:3]
    q_BTGRC = q_BTHC.reshape(B, T, G, H // G, C) * C**-0.5
    scores_BGRTS = jnp.einsum("btgrc,bsgc->bgrts", q_BTGRC, k_BSGC)
    position_BT = length_B[:, None] - T + jnp.arange(T)[None, :]
    seen_BTS = jnp.arange(S)[None, None, :] <= position_BT[:, :, None]
    p_BGRTS = jax.nn.softmax(jnp.where(seen_BTS[:, None, None], scores_BGRTS, MASKED), axis=-1)
    return jnp.einsum("bgrts,bsgc->btgrc", p_BGRTS, v_BSGC).reshape(B, T, H, C)


def _timed(run, n_calls: int):
    def seconds_a_call() -> float:
        begin_s = time.perf_counter()
        jax.block_until_ready(run())
        return (time.perf_counter() - begin_s) / n_calls

    seconds_a_call()  # compiles
    return seconds_a_call


def errors(cache: str, slots: int, rows: int, heads: int, kv_heads: int, width: int) -> dict:
    """`nmse` against exact attention over what was to be stored, `nmse_kernel` over what was stored."""
    rng = np.random.default_rng(1)
    k_BGSC, v_BGSC = (rng.standard_normal((1, kv_heads, slots, width), np.float32) for _ in range(2))
    q_BTHC = random_queries(rows, heads, width)
    keys, values = (in_format(jnp.asarray(x), format) for x, format in zip((k_BGSC, v_BGSC), formats(cache), strict=True))
    out_BTHC = np.asarray(jax.jit(decode_attention)(q_BTHC, keys, values, jnp.asarray([slots], jnp.int32)), np.float64)
    stored = [dequantize_kv(x, width) if isinstance(x, QuantizedKV) else x for x in (keys, values)]
    exact_BTHC, of_stored_BTHC = (
        exact_attention(np.asarray(q_BTHC), *map(np.asarray, pair)) for pair in ((k_BGSC, v_BGSC), stored)
    )
    return {"nmse": nmse(out_BTHC, exact_BTHC), "nmse_kernel": nmse(out_BTHC, of_stored_BTHC)}


def exact_attention(q_BTHC, k_BGSC, v_BGSC):
    """In float64, one batch row, all slots filled."""
    (_, T, H, C), (_, G, S, _) = q_BTHC.shape, k_BGSC.shape
    out_BTHC = np.zeros(q_BTHC.shape, np.float64)
    for head in range(H):
        k_SC, v_SC = (x[0, head * G // H].astype(np.float64) for x in (k_BGSC, v_BGSC))
        scores_TS = q_BTHC[0, :, head].astype(np.float64) @ k_SC.T / C**0.5
        scores_TS[np.arange(S)[None, :] > S - T + np.arange(T)[:, None]] = -np.inf
        p_TS = np.exp(scores_TS - scores_TS.max(axis=1, keepdims=True))
        out_BTHC[0, :, head] = p_TS / p_TS.sum(axis=1, keepdims=True) @ v_SC
    return out_BTHC


def nmse(got, exact) -> float:
    return float(np.sum(np.square(got - exact)) / np.sum(np.square(exact)))
