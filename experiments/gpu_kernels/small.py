"""One small case a kernel for machines without a GPU: interpreted, and lowered for CUDA."""

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.kernels import decode_attention_gpu, matmul_gpu, matmul_hopper
from pikojax.kernels.decode_attention import reference
from pikojax.kernels.kv_formats import quantize_kv
from pikojax.qtensor import dequantize, quantize

K, N = 256, 128


def nmse(got, wanted) -> float:
    got, wanted = (np.asarray(x, np.float64) for x in (got, wanted))
    return float(((got - wanted) ** 2).sum() / (wanted**2).sum())


def operands():
    keys = jax.random.split(jax.random.key(0), 4)
    w, x = quantize(jax.random.normal(keys[0], (K, N)), "int4_g64"), jax.random.normal(keys[1], (2, K))
    cache = [quantize_kv(jax.random.normal(key, (1, 2, 64, 64)), "int8") for key in keys[2:]]
    return w, x, (jax.random.normal(keys[1], (1, 1, 4, 64)), *cache, jnp.asarray([50], jnp.int32))


def interpreted():
    w, x, attention = operands()
    wanted = x @ dequantize(w)
    yield "hopper int4", nmse(matmul_hopper.matmul(x, w, sm_count=1, interpret=True), wanted)
    yield "triton int4", nmse(matmul_gpu.matmul(x, w, sm_count=1, interpret=True), wanted)
    got = decode_attention_gpu.decode_attention(*attention, sm_count=1, interpret=True)
    yield "decode attention int8", nmse(got, reference(*attention))


def lowered():
    w, x, _ = operands()
    for format in ("int8", "int4_g128"):
        w = matmul_hopper.prepare(quantize(jnp.ones((K, N)), format))
        for rows in (1, 4096):
            jax.export.export(jax.jit(matmul_hopper.matmul), platforms=["cuda"])(jax.ShapeDtypeStruct((rows, K), jnp.bfloat16), w)
            yield f"hopper {format}, {rows} rows"
