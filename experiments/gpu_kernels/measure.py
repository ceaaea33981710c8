"""What run.py measures on a GPU: each function makes its operands, checks the result, times it, and returns a row.

Weights and caches stand in stacks of several layers, far larger than the second-level cache, and every call takes another layer. Calls
of a few rows run in one compiled loop: a launch from Python would take longer than they do.
"""

import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.kernels import decode_attention_gpu, matmul_gpu, matmul_hopper
from pikojax.kernels.decode_attention import reference
from pikojax.kernels.kv_formats import OF_CACHE, quantize_kv
from pikojax.qtensor import FORMATS, QTensor, dequantize

LAYERS, CALLS, ROUNDS = 3, 24, 7
device = jax.devices()[0]
capability = tuple(int(part) for part in device.compute_capability.split("."))
sm_count = device.core_count


def size() -> tuple[int, int]:
    """K, N of a weight: as of a 70B model where it fits, else of an 8B one."""
    roomy = (device.memory_stats() or {}).get("bytes_limit", 0) > 20e9
    return (8192, 28672) if roomy else (4096, 14336)


def timed(call, repeats: int = 1) -> dict:
    """Seconds a call, of ROUNDS runs after two to warm up: median, least, most. `call` makes `repeats` calls."""
    for _ in range(2):
        jax.block_until_ready(call())
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append((time.perf_counter() - start) / repeats)
    return {"us": 1e6 * statistics.median(seconds), "us_least": 1e6 * min(seconds), "us_most": 1e6 * max(seconds)}


def looped(f, x, operands) -> dict:
    """f(x, operands, layer) CALLS times in one compiled loop, layer after layer; each result is added up, so none can be left out."""

    def run(x, operands):
        def body(total, i):
            return total + f(x, operands, i % LAYERS).astype(jnp.float32), None

        like = jax.eval_shape(f, x, operands, jnp.int32(0))
        return jax.lax.scan(body, jnp.zeros(like.shape, jnp.float32), jnp.arange(CALLS, dtype=jnp.int32))[0]

    run = jax.jit(run)
    return timed(lambda: run(x, operands), CALLS)


def one_by_one(f, x, operands) -> dict:
    """For calls of milliseconds: from Python, ahead of the device."""
    f = jax.jit(f)
    layers = [jnp.int32(i % LAYERS) for i in range(6)]
    return timed(lambda: [f(x, operands, layer) for layer in layers], len(layers))


def copy() -> dict:
    """A copy of 1 GiB on the device: bytes read and written."""
    x = jnp.zeros((2**28,), jnp.float32)
    move = jax.jit(lambda x: x + 1.0)
    row = timed(lambda: move(x))
    return row | {"gb_per_s": 2 * x.nbytes / row["us"] / 1e3, "device_memory": (device.memory_stats() or {}).get("bytes_limit")}


def rates(row: dict, n_bytes: int, M: int, K: int, N: int) -> dict:
    return row | {"gb_per_s": n_bytes / row["us"] / 1e3, "tflop_per_s": 2 * M * K * N / row["us"] / 1e6}


def operand(M: int, K: int):
    return jax.random.normal(jax.random.key(1), (M, K)).astype(jnp.bfloat16)


def plain(M: int, K: int, N: int) -> dict:
    """jnp's product with bfloat16 weights."""
    w = jax.random.normal(jax.random.key(0), (LAYERS, K, N), jnp.bfloat16)
    run = one_by_one if M > 64 else looped
    row = run(lambda x, w, layer: x @ jax.lax.dynamic_index_in_dim(w, layer, keepdims=False), operand(M, K), w)
    return rates(row, w.nbytes // LAYERS, M, K, N)


# ---------------------------------------------------------------- matmul


def random_weights(K: int, N: int, format: str) -> QTensor:
    """Canonical and random: searching for the best scales of billions of weights is not what is measured."""
    known, keys = FORMATS[format], jax.random.split(jax.random.key(2), 3)
    bytes_of_row = K * known.block_bytes // known.block_weights
    low, high, dtype = (-127, 128, jnp.int8) if format.startswith("int8") else (0, 256, jnp.uint8)
    data = jax.random.randint(keys[0], (LAYERS, N, bytes_of_row), low, high, jnp.int32).astype(dtype)
    groups = K // known.group if known.group else 1
    scales = jax.random.uniform(keys[1], (LAYERS, N, groups), jnp.float32, 0.5, 1.5) / 64
    mins = -8 * scales if known.asymmetric else None
    dtype = jnp.float16 if known.group else jnp.float32
    return QTensor(data, scales.astype(dtype), None if mins is None else mins.astype(dtype), format, (K, N))


def widened(x, w, layer):
    """The whole weight dequantized to bfloat16, then XLA's product: what a kernel for many rows must beat."""
    w = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False), w)
    return jnp.dot(x, dequantize(w, jnp.bfloat16))


KERNELS = {
    "hopper": functools.partial(matmul_hopper.matmul, sm_count=sm_count),
    "hopper int8×int8": functools.partial(matmul_hopper.matmul, sm_count=sm_count, activations="int8"),
    "triton": functools.partial(matmul_gpu.matmul, sm_count=sm_count, capability=capability),
    "fusion": functools.partial(matmul_gpu.matmul, capability=None),
    "widened": widened,
}


def why_not(kernel: str, M: int, K: int, N: int, format: str) -> str | None:
    if kernel.startswith("hopper"):
        integers = kernel.endswith("int8") and not format.startswith("int8")
        return "needs int8 weights" if integers else matmul_hopper.why_not("gpu", capability, (M, K, N), format)
    if kernel == "triton":
        return matmul_gpu.why_not_triton("gpu", capability, (M, K, N), format)
    return None


def matmul(kernel: str, M: int, K: int, N: int, format: str) -> dict:
    w, x, f = random_weights(K, N, format), operand(M, K), KERNELS[kernel]
    packed_bytes = w.n_bytes // LAYERS
    ends = jnp.concatenate([jnp.arange(128), jnp.arange(N - 128, N)])  # outputs that are checked, of layer 1
    some = jax.tree.map(lambda leaf: leaf[1, ends], w)
    some = dequantize(QTensor(some.data, some.scales, some.mins, format, (K, len(ends))))
    wanted = np.asarray(jnp.dot(x[:32].astype(jnp.float32), some, precision="highest"), np.float64)
    if kernel.startswith("hopper"):
        w = jax.block_until_ready(jax.jit(matmul_hopper.prepare)(w))
    got = np.asarray(jax.jit(f)(x, w, jnp.int32(1))[:32, ends].astype(jnp.float32), np.float64)
    nmse = float(((got - wanted) ** 2).sum() / (wanted**2).sum())
    if not nmse < 5e-4:
        raise ArithmeticError(f"wrong: NMSE {nmse:.2e} against dequantized weights")
    row = (one_by_one if M > 64 else looped)(f, x, w)
    return rates(row, packed_bytes, M, K, N) | {"nmse": nmse}


# ---------------------------------------------------------------- decode attention


def attention(kernel: str, cache: str, B: int, T: int, C: int, filled: int) -> dict:
    H, G = 32, 8
    keys = jax.random.split(jax.random.key(5), 3)
    layers = LAYERS if B > 1 else 8 * LAYERS
    k, v = (jax.random.normal(key, (layers, B, G, filled + 64, C), jnp.bfloat16) for key in keys[:2])
    if cache in OF_CACHE:
        k, v = (jax.jit(functools.partial(quantize_kv, format=f))(x) for x, f in zip((k, v), OF_CACHE[cache], strict=True))
    lengths = jnp.full((B,), filled, jnp.int32)
    q = jax.random.normal(keys[2], (B, T, H, C), jnp.bfloat16)

    def f(q, cache, layer, attend=None):
        ours = functools.partial(decode_attention_gpu.decode_attention, sm_count=sm_count)
        attend = attend or (ours if kernel == "triton" else reference)
        return attend(q, *cache, lengths, layer=layer)

    got, wanted = (
        np.asarray(jax.jit(functools.partial(f, attend=a))(q, (k, v), jnp.int32(1)), np.float64)
        for a in (None, reference)
    )
    nmse = float(((got - wanted) ** 2).sum() / (wanted**2).sum())
    if not nmse < 5e-4:
        raise ArithmeticError(f"wrong: NMSE {nmse:.2e} against the reference")
    n_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves((k, v))) // layers * filled // (filled + 64)
    row = looped(lambda q, cache, i: f(q, cache, i), q, (k, v))
    return row | {"gb_per_s": n_bytes / row["us"] / 1e3, "nmse": nmse, "slots": filled}
