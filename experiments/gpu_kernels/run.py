"""Quantized kernels on one GPU against the bandwidth of a copy and the rate of a bf16 product, all in one run: run.py [--quick]

Needs a Python with JAX's CUDA plug-in; with torch beside it (CUDA), its kernels are measured too. A kernel that fails is a row with its
error. Every case is checked against dequantized weights before it is timed. Rows that stand in results.jsonl are not measured again.
Without a GPU `--quick` interprets one small case a kernel and lowers it for CUDA, and says so; no row is kept.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch wants memory too, in its own process
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import ROOT, Rows

HERE = Path(__file__).parent
BUDGET_S = 440  # no case begins after this; what is left out a second run takes up
FORMATS = ("int4_g128", "int8", "int4_g32", "int4a_g64", "int8_g128")
ROWS = (1, 16, 4096, 4, 8)  # what matters most comes first: the budget may run out
CACHES = ("bfloat16", "int8", "int4")


def guarded(rows: Rows, started: float, measure, **key) -> None:
    if rows.has(**key):
        return
    if time.monotonic() - started > BUDGET_S:
        print(f"left out for want of time: {key}")
        return
    begun = time.monotonic()
    try:
        row = measure()
    except Exception as error:  # one kernel that does not compile must not take the others with it
        said = " ".join(f"{type(error).__name__}: {error}".split())
        row = {"error": said[:500]}
    rows.append(**key, **row, seconds=round(time.monotonic() - begun, 2))


def on_a_gpu(rows: Rows, quick: bool) -> None:
    import measure

    started = time.monotonic()
    K, N = (1024, 2048) if quick else measure.size()
    n_rows, formats, caches = (ROWS[:2], FORMATS[:1], CACHES[:1]) if quick else (ROWS, FORMATS, CACHES)
    guarded(rows, started, measure.copy, part="copy")
    for M in n_rows:
        guarded(rows, started, lambda: measure.plain(M, K, N), part="matmul", kernel="jnp", format="bfloat16", rows=M, K=K, N=N)
    for format in formats:
        for M in n_rows:
            for kernel in measure.KERNELS:
                if measure.why_not(kernel, M, K, N, format) is None:
                    key = {"part": "matmul", "kernel": kernel, "format": format, "rows": M, "K": K, "N": N}
                    guarded(rows, started, lambda: measure.matmul(kernel, M, K, N, format), **key)
    for C in (128, 64):
        for B, T in ((1, 1), (8, 1), (1, 4)):
            for cache in caches:
                for kernel in ("triton", "reference"):
                    key = {"part": "attention", "kernel": kernel, "format": cache, "batch": B, "rows": T, "width": C}
                    guarded(rows, started, lambda: measure.attention(kernel, cache, B, T, C, 512 if quick else 4096), **key)
    peer(rows, K, N, BUDGET_S + 30 - (time.monotonic() - started))


def peer(rows: Rows, K: int, N: int, left_s: float) -> None:
    """torch's kernels, in a process of their own."""
    if rows.has(kernel="torch") or left_s < 20:
        return
    command = [sys.executable, str(ROOT / "experiments/peers/torch_gpu_matmul.py"), str(K), str(N)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=left_s)
        lines, said = done.stdout, done.stderr
    except subprocess.TimeoutExpired as stopped:
        lines, said = (stopped.stdout or b"").decode(), f"stopped after {left_s:.0f} s"
    found = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    for row in found or [{"format": "all", "error": said.strip()[-300:]}]:
        rows.append(part="matmul", kernel="torch", K=K, N=N, **row)


def without_a_gpu(found: str) -> None:
    """What can be known here: that the kernels compute the right thing when interpreted, and that they lower."""
    import small

    print(f"there is no GPU here, but {found}: nothing is measured; the kernels are interpreted and lowered instead")
    for name, nmse in small.interpreted():
        print(f"interpreted {name}: NMSE {nmse:.1e}")
        assert nmse < 1e-5
    for name in small.lowered():
        print(f"lowered for CUDA: {name}")


def main(quick: bool) -> None:
    import jax

    gpu, found = jax.default_backend() == "gpu", jax.devices()[0].device_kind
    if gpu:
        on_a_gpu(Rows(HERE / "results.jsonl", quick), quick)
    elif quick:
        without_a_gpu(found)
    else:
        raise SystemExit(f"this experiment needs a GPU, JAX finds {found}")


if __name__ == "__main__":
    main("--quick" in sys.argv)
