"""torch's own quantized products on a GPU: torch_gpu_matmul.py K N → one JSON line a case. A kernel that is not there is a line with its error.

Weights are of three layers, taken in turn; calls are captured in a CUDA graph, since a launch from Python takes longer than they do.
"""

import json
import statistics
import sys

import torch

K, N = int(sys.argv[1]), int(sys.argv[2])
LAYERS, CALLS, ROUNDS = 3, 24, 7


def timed(calls) -> dict:
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(CALLS):
            calls[i % LAYERS]()
    us = []
    for _ in range(ROUNDS + 2):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        us.append(1e3 * start.elapsed_time(end) / CALLS)
    us = us[2:]
    return {"us": statistics.median(us), "us_least": min(us), "us_most": max(us)}


def bfloat16(M: int):
    x, weights = (
        torch.randn(M, K, device="cuda", dtype=torch.bfloat16),
        torch.randn(LAYERS, N, K, device="cuda", dtype=torch.bfloat16),
    )
    return [lambda w=w: torch.nn.functional.linear(x, w) for w in weights], 2 * K * N


def int4(M: int):
    x = torch.randn(M, K, device="cuda", dtype=torch.bfloat16)
    packed = [
        torch.ops.aten._convert_weight_to_int4pack(torch.randint(0, 256, (N, K // 2), device="cuda", dtype=torch.uint8), 8)
        for _ in range(LAYERS)
    ]
    scales = torch.rand(K // 128, N, 2, device="cuda", dtype=torch.bfloat16)
    return [lambda w=w: torch.ops.aten._weight_int4pack_mm(x, w, 128, scales) for w in packed], K * N // 2 + 4 * N * K // 128


def int8(M: int):
    x = torch.randn(M, K, device="cuda", dtype=torch.bfloat16)
    weights = torch.randint(-127, 128, (LAYERS, N, K), device="cuda", dtype=torch.int8)
    scales = torch.rand(N, device="cuda", dtype=torch.bfloat16)
    return [lambda w=w: torch.ops.aten._weight_int8pack_mm(x, w, scales) for w in weights], K * N


def int8_integers(M: int):
    x = torch.randint(-127, 128, (max(M, 32), K), device="cuda", dtype=torch.int8)
    weights = torch.randint(-127, 128, (LAYERS, N, K), device="cuda", dtype=torch.int8)
    return [lambda w=w: torch._int_mm(x, w.T) for w in weights], K * N


for make, format in ((int4, "int4_g128"), (int8, "int8"), (bfloat16, "bfloat16"), (int8_integers, "int8×int8")):
    for M in (1, 4, 8, 16, 4096):
        row = {"format": format, "rows": M}
        try:
            calls, n_bytes = make(M)
            row |= timed(calls)
            row["peer"] = f"torch {torch.__version__}"
            row |= {"gb_per_s": n_bytes / row["us"] / 1e3, "tflop_per_s": 2 * M * K * N / row["us"] / 1e6}
        except Exception as error:
            row["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        print(json.dumps(row), flush=True)
        torch.cuda.empty_cache()
