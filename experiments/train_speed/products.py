"""The products with weights of a LightLLM step, alone: products.py pikojax|XLA|torch prints one line of JSON, FLOP/s and the seconds they need.

Each of a layer's four weights, forward and both derivatives, timed one by one; a step has six of each and the head's. This is the
floor of a step that has no better product than its framework's.
"""

import json
import statistics
import sys
import time
from pathlib import Path

ROWS, LAYERS, REPEATS = (8, 256), 6, 15
WEIGHTS = {(384, 1152): LAYERS, (384, 384): LAYERS, (384, 1536): LAYERS, (1536, 384): LAYERS, (384, 65): 1}  # [K, N] → how many


def median_s(call) -> float:
    for _ in range(3):
        call()
    seconds = []
    for _ in range(REPEATS):
        begin_s = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin_s)
    return statistics.median(seconds)


def xla_calls(k: int, n: int) -> list:
    import jax
    import jax.numpy as jnp

    x, w, g = (jax.random.normal(jax.random.key(0), shape) for shape in ((*ROWS, k), (k, n), (*ROWS, n)))
    products = [("btk,kn->btn", x, w), ("btn,kn->btk", g, w), ("btk,btn->kn", x, g)]
    compiled = [(jax.jit(lambda a, b, how=how: jnp.einsum(how, a, b)), a, b) for how, a, b in products]
    return [lambda f=f, a=a, b=b: f(a, b).block_until_ready() for f, a, b in compiled]


def our_calls(k: int, n: int) -> list:
    import jax

    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from pikojax.kernels.product import gemm

    m = ROWS[0] * ROWS[1]
    x, w, g = (jax.random.normal(jax.random.key(0), shape) for shape in ((m, k), (k, n), (m, n)))
    products = [(x, w, {}), (g, w, {"right_transposed": True}), (x, g, {"left_transposed": True})]
    compiled = [(jax.jit(lambda a, b, how=how: gemm(a, b, **how)), a, b) for a, b, how in products]
    return [lambda f=f, a=a, b=b: f(a, b).block_until_ready() for f, a, b in compiled]


def torch_calls(k: int, n: int) -> list:
    import torch

    torch.set_num_threads(2)
    m = ROWS[0] * ROWS[1]
    x, w, g = torch.randn(m, k), torch.randn(n, k), torch.randn(m, n)
    return [lambda: x @ w.T, lambda: g @ w, lambda: g.T @ x]


def main(calls) -> None:
    seconds = sum(count * sum(map(median_s, calls(*weight))) for weight, count in WEIGHTS.items())
    flop = sum(count * 6 * ROWS[0] * ROWS[1] * k * n for (k, n), count in WEIGHTS.items())
    print(json.dumps({"products_s": seconds, "gflop_per_s": flop / seconds / 1e9}))


if __name__ == "__main__":
    main({"pikojax": our_calls, "XLA": xla_calls, "torch": torch_calls}[sys.argv[1]])
