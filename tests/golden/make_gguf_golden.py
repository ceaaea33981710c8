"""Makes gguf_blocks.npz: what GGUF's blocks mean and how others fill them.

    python tests/golden/make_gguf_golden.py [LIBGGML]          (needs gguf)

`FORMAT/bytes` → `FORMAT/floats`: random blocks and their weights by the `gguf` package. `weights` → `FORMAT/quantized`: the simple
formats as that package fills them. `FORMAT/error`: the root mean square error with which the reference quantizers of llama.cpp
(quantize_row_q4_K_ref …) quantize `weights`, which needs a shared library built from its ggml-quants.c and ggml.c.
"""

import ctypes
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, quants

SIMPLE = {"q8_0": (32, 34), "q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q5_1": (32, 24)}
K_BLOCKS = {"q4_k": (256, 144), "q5_k": (256, 176), "q6_k": (256, 210)}


def reference_error(library, weights, name: str) -> float:
    block_weights, block_bytes = K_BLOCKS[name]
    data = np.empty((len(weights), weights.shape[1] // block_weights * block_bytes), np.uint8)
    address = lambda array: array.ctypes.data_as(ctypes.c_void_p)
    quantize = getattr(library, f"quantize_row_{name.replace('k', 'K')}_ref")
    quantize.restype = None
    quantize(address(weights), address(data), ctypes.c_int64(weights.size))
    back = quants.dequantize(data, GGMLQuantizationType[name.replace("q", "Q").replace("k", "K")])
    return float(np.sqrt(np.mean((back.astype(np.float64) - weights) ** 2)))


def main(library: str | None) -> None:
    rng = np.random.default_rng(0)
    weights = np.concatenate(
        [rng.standard_normal((2, 1024)), rng.laplace(size=(2, 1024)), 0.02 * rng.standard_t(4, (2, 1024)) + 0.01]
    )
    weights = weights.astype(np.float16).astype(np.float32)  # small in the file
    found = {"weights": weights.astype(np.float16)}
    for name, (block_weights, block_bytes) in (SIMPLE | K_BLOCKS).items():
        kind = GGMLQuantizationType[name.replace("q", "Q").replace("k", "K")]
        while True:  # random bytes may be a scale that is not finite
            data = rng.integers(0, 256, (2, 3 * block_bytes)).astype(np.uint8)
            with np.errstate(all="ignore"):
                floats = quants.dequantize(data, kind)
            if np.isfinite(floats).all():
                break
        found |= {f"{name}/bytes": data, f"{name}/floats": floats}
        if name in SIMPLE:
            found[f"{name}/quantized"] = quants.quantize(weights, kind)
        elif library is not None:
            found[f"{name}/error"] = reference_error(ctypes.CDLL(library, mode=1), weights, name)
    np.savez_compressed(Path(__file__).with_name("gguf_blocks.npz"), **found)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
