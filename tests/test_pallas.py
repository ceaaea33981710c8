"""The Pallas kernels without an accelerator: interpreted on small shapes against their references, and lowered for CUDA and TPU.

On a machine with an NVIDIA GPU the tests marked `gpu` run them for real.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.export import DisabledSafetyCheck, export

from pikojax.kernels import decode_attention_gpu, matmul_gpu, matmul_hopper, matmul_tpu, mosaic
from pikojax.kernels.decode_attention import reference
from pikojax.kernels.kv_formats import OF_CACHE, quantize_kv
from pikojax.qtensor import FORMATS, dequantize, quantize

OWN = [name for name, known in FORMATS.items() if not known.gguf and name != "nf4"]
INT8 = [name for name in OWN if name.startswith("int8")]
KERNELS = {
    "hopper": functools.partial(matmul_hopper.matmul, sm_count=2, interpret=True),
    "triton": functools.partial(matmul_gpu.matmul, sm_count=2, interpret=True),
    "tpu": functools.partial(matmul_tpu.matmul, interpret=True),
}
PREPARE = {"hopper": matmul_hopper.prepare, "triton": lambda w: w, "tpu": matmul_tpu.prepare}
FAST = {("hopper", "int4a_g64", 1), ("triton", "int4a_g64", 5), ("tpu", "int8_g32", 5)}


def nmse(got, wanted) -> float:
    got, wanted = (np.asarray(x, np.float64) for x in (got, wanted))
    return float(((got - wanted) ** 2).sum() / (wanted**2).sum())


def weights(format: str, K: int, N: int, stack: tuple[int, ...] = ()):
    return quantize(jax.random.normal(jax.random.key(3), (*stack, K, N)), format)


def in_float64(x, w):
    return np.asarray(x, np.float64) @ np.asarray(dequantize(w), np.float64)


def cases():
    shapes = [(1, 172, 20), (5, 384, 200), (16, 256, 128), (70, 300, 200)]  # rows, inputs, outputs
    for kernel in KERNELS:
        for format in FORMATS if kernel == "triton" else OWN:
            for shape in shapes:
                yield pytest.param(kernel, format, shape, marks=[] if (kernel, format, shape[0]) in FAST else pytest.mark.exhaustive)


@pytest.mark.parametrize("kernel, format, shape", list(cases()))
def test_a_kernel_multiplies_as_dequantized_weights_do(kernel, format, shape):
    M, K, N = shape
    w, x = weights(format, K, N), jax.random.normal(jax.random.key(4), (M, K))
    y = KERNELS[kernel](x, PREPARE[kernel](w))
    assert y.shape == (M, N) and y.dtype == jnp.float32
    assert nmse(y, in_float64(x, w)) < 1e-9


@pytest.mark.exhaustive
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rows", [2, 70])
def test_a_layer_of_a_stack_in_bfloat16_inside_jit(kernel, rows):
    w, x = weights("int4_g32", 256, 136, (3,)), jax.random.normal(jax.random.key(4), (1, rows, 256)).astype(jnp.bfloat16)
    y = jax.jit(KERNELS[kernel])(x, PREPARE[kernel](w), jnp.int32(1))
    assert y.shape == (1, rows, 136) and y.dtype == jnp.bfloat16
    # bfloat16 keeps 8 bits of the result, and on two of the three kernels of the scaled weights
    assert nmse(y[0], in_float64(x[0], jax.tree.map(lambda leaf: leaf[1], w))) < 1e-5


@pytest.mark.exhaustive
@pytest.mark.parametrize("format, rows", [(format, rows) for format in INT8 for rows in (1, 70)])
def test_integer_products_differ_from_exact_ones_by_the_rounding_of_x_alone(format, rows):
    w, x = weights(format, 300, 136), jax.random.normal(jax.random.key(4), (rows, 300))
    q, scales = matmul_hopper._rounded_rows(x)
    y = KERNELS["hopper"](x, matmul_hopper.prepare(w), activations="int8")
    assert nmse(y, in_float64(np.asarray(q, np.float64) * np.asarray(scales)[:, None], w)) < 1e-9
    assert 0 < nmse(y, in_float64(x, w)) < 5e-4


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_rows_are_no_work(kernel):
    assert KERNELS[kernel](jnp.zeros((2, 0, 64)), weights("int8", 64, 32)).shape == (2, 0, 32)


@pytest.mark.exhaustive
def test_what_stands_beside_a_row_changes_nothing_in_it_on_hopper():
    w, x = matmul_hopper.prepare(weights("int4_g64", 300, 136)), jax.random.normal(jax.random.key(4), (8, 300))
    all_rows = KERNELS["hopper"](x, w)
    assert np.array_equal(KERNELS["hopper"](x[2:3], w)[0], all_rows[2])


# ---------------------------------------------------------------- decode attention


def attention_case(cache: str, dtype, T: int, window, S: int, paged: bool):
    B, G, R, C, L, block = 2, 2, 3, 64, 2, 32
    keys = jax.random.split(jax.random.key(0), 4)
    n_blocks = -(-S // block)
    shape = (L, B * n_blocks + 1, G, block, C) if paged else (L, B, G, S, C)
    k, v = jax.random.normal(keys[1], shape), jax.random.normal(keys[2], shape)
    k, v = (
        quantize_kv(x, format) if cache in OF_CACHE else x.astype(cache)
        for x, format in zip((k, v), OF_CACHE.get(cache, (cache, cache)), strict=True)
    )
    table = jax.random.permutation(keys[3], B * n_blocks + 1)[: B * n_blocks].reshape(B, n_blocks) if paged else None
    q = jax.random.normal(keys[0], (B, T, G * R, C)).astype(dtype)
    lengths = jnp.asarray([S - 3, T + 1 if S > T else T], jnp.int32)
    return (q, k, v, lengths), {"layer": jnp.int32(1), "window": window, "block_table": table}


def situations():
    several = [
        (jnp.float32, 3, 9, 64, True),
        (jnp.float32, 1, None, 100, False),
        (jnp.bfloat16, 16, 70, 200, False),
        (jnp.float32, 2, None, 16, False),
    ]
    for cache in ("float32", "bfloat16", *OF_CACHE):
        for at, situation in enumerate(several):
            yield pytest.param(cache, *situation, marks=[] if (cache, at) == ("int8", 0) else pytest.mark.exhaustive)


@pytest.mark.parametrize("cache, dtype, T, window, S, paged", list(situations()))
def test_decode_attention_agrees_with_its_reference(cache, dtype, T, window, S, paged):
    arguments, options = attention_case(cache, dtype, T, window, S, paged)
    got = decode_attention_gpu.decode_attention(*arguments, **options, sm_count=4, interpret=True)
    wanted = reference(*arguments, **options)
    assert nmse(got, wanted) < (1e-9 if dtype == jnp.float32 else 2e-5)


@pytest.mark.exhaustive
def test_an_empty_row_attends_to_nothing_and_tiles_behind_the_filled_slots_are_not_read():
    (q, k, v, _), options = attention_case("float32", jnp.float32, 1, None, 200, False)
    lengths = jnp.asarray([0, 30], jnp.int32)
    wanted = reference(q, k, v, lengths, **options)
    k, v = (x.at[:, :, :, decode_attention_gpu.TILE_S :].set(jnp.nan) for x in (k, v))
    got = decode_attention_gpu.decode_attention(q, k, v, lengths, **options, sm_count=1, interpret=True)
    assert bool(jnp.all(got[0] == 0)) and nmse(got[1], wanted[1]) < 1e-9


# ---------------------------------------------------------------- lowering: no device is needed, and no compiler of one is run


def lowered(platform: str, f, *arguments) -> str:
    checks = [DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")]
    with jax.sharding.use_abstract_mesh(card()):
        return export(jax.jit(f), platforms=[platform], disabled_checks=checks)(*arguments).mlir_module()


def card():
    """An H100 that is not there: Triton's lowering asks what it lowers for."""
    try:
        from jax.sharding import AbstractDevice
    except ImportError:  # until jax 0.10
        from jax._src.mesh import AbstractDevice

    device = AbstractDevice("NVIDIA H100 80GB HBM3", 132, "cuda")
    return jax.sharding.AbstractMesh((1,), ("device",), axis_types=(jax.sharding.AxisType.Auto,), abstract_device=device)


def shapes_of(prepare, format: str, K: int, N: int):
    return jax.eval_shape(lambda x: prepare(quantize(x, format)), jax.ShapeDtypeStruct((2, K, N), jnp.float32))


def lowerings():
    fast = {
        ("hopper", "int4a_g32", 1),
        ("hopper", "int4a_g32", 4096),
        ("triton", "int4a_g32", 1),
        ("tpu", "int4a_g32", 1),
        ("tpu", "int8", 4096),
    }
    for format in OWN:
        for rows in (1, 16, 4096):
            for kernel, platform in (("hopper", "cuda"), ("triton", "cuda"), ("tpu", "tpu")):
                if kernel != "triton" or rows <= matmul_gpu.FEW_ROWS:
                    marks = [] if (kernel, format, rows) in fast else pytest.mark.exhaustive
                    yield pytest.param(kernel, platform, format, rows, marks=marks)


CALLS = {"hopper": "mosaic_gpu", "triton": "triton", "tpu": "tpu_custom_call"}
FOR_DEVICES = {"hopper": matmul_hopper.matmul, "triton": matmul_gpu.matmul, "tpu": matmul_tpu.matmul}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float32, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("kernel, platform, format, rows", list(lowerings()))
def test_a_kernel_lowers(kernel, platform, format, rows, dtype):
    w = shapes_of(PREPARE[kernel], format, 11008, 4096)  # 43 blocks of 256: parts of unequal length
    x, layer = jax.ShapeDtypeStruct((rows, 11008), dtype), jax.ShapeDtypeStruct((), jnp.int32)
    assert CALLS[kernel] in lowered(platform, FOR_DEVICES[kernel], x, w, layer)


@pytest.mark.parametrize("format", ["int8", *(pytest.param(f, marks=pytest.mark.exhaustive) for f in INT8[1:])])
@pytest.mark.parametrize("rows", [1, pytest.param(4096, marks=pytest.mark.exhaustive)])
def test_integer_products_lower(format, rows):
    w, x = shapes_of(matmul_hopper.prepare, format, 4096, 4096), jax.ShapeDtypeStruct((rows, 4096), jnp.bfloat16)
    multiply = functools.partial(matmul_hopper.matmul, activations="int8", layer=0)
    assert "mosaic_gpu" in lowered("cuda", multiply, x, w)


@pytest.mark.parametrize("cache", ["int4", *(pytest.param(c, marks=pytest.mark.exhaustive) for c in ("float32", "bfloat16", "int8"))])
@pytest.mark.parametrize("paged", [True, pytest.param(False, marks=pytest.mark.exhaustive)])
def test_decode_attention_lowers(cache, paged):
    arguments, options = jax.eval_shape(lambda: attention_case(cache, jnp.bfloat16, 4, None, 256, paged))

    def attend(arguments, options):
        return decode_attention_gpu.decode_attention(*arguments, **options | {"window": 50})

    module = lowered("cuda", attend, arguments, options)
    assert "triton" in module


# ---------------------------------------------------------------- what lowering does not show


@pytest.mark.parametrize("format", OWN)
def test_plans_for_hopper_keep_within_shared_memory_and_what_the_copy_engine_takes(format):
    for K, N in ((172, 100), (4096, 4096), (11008, 4096), (8192, 28672)):
        w = shapes_of(matmul_hopper.prepare, format, K, N)
        bits = 4 if w.data.dtype == jnp.int4 else 8
        assert w.data.shape[-1] * bits // 8 % 16 == 0 and 4 * w.scales.shape[-1] % 16 == 0, "rows start at 16 bytes"
        for M in (1, 8, 9, 32, 33, 65, 4096):
            for x_bits in (16, 8) if bits == 8 else (16,):
                plan = matmul_hopper.plan_for(M, w, x_bits, 132)
                assert plan.shared_bytes <= mosaic.SHARED_BYTES and plan.stages >= 2
                assert plan.unit * bits // 8 in (32, 64, 128) and plan.x_row_bytes in (32, 64, 128), (
                    "a swizzle is 32, 64 or 128 bytes"
                )
                boxes = [plan.warpgroups * plan.tile_n, plan.unit, plan.tile_m, plan.x_row_bytes * 8 // x_bits]
                assert max(boxes) <= 256, "a box of the copy engine is at most 256 a side"
                registers = (
                    2 * plan.tile_n * plan.tile_m // 128 + plan.tile_n * plan.unit // 256
                )  # sums, a product, widened weights
                assert registers <= 200, "a thread has 255 registers, and needs some for itself"


@pytest.mark.parametrize("format", ["int4_g32", "q6_k", *(pytest.param(f, marks=pytest.mark.exhaustive) for f in FORMATS)])
@pytest.mark.parametrize("rows", [1, pytest.param(16, marks=pytest.mark.exhaustive)])
def test_fusion_widens_no_weight_in_memory(format, rows):
    """As far as XLA's CPU back end shows: neither floats nor unpacked bytes, only the scales that some blocks hold as two bytes."""
    K, N = 1024, 768
    w = jax.eval_shape(lambda x: quantize(x, format), jax.ShapeDtypeStruct((K, N), jnp.float32))
    compiled = jax.jit(matmul_gpu.by_fusion).lower(jax.ShapeDtypeStruct((rows, K), jnp.float32), w).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < K * N / 4


def test_many_rows_widen_a_slice_of_the_weight_at_a_time(monkeypatch):
    monkeypatch.setattr(matmul_gpu, "SLICE_BYTES", 100 * 300 * 4)
    w, x = weights("int8", 300, 250), jax.random.normal(jax.random.key(4), (20, 300))
    assert nmse(matmul_gpu.by_fusion(x, w), in_float64(x, w)) < 1e-9  # two whole slices, and one that reaches back


def test_each_says_why_it_cannot():
    shape = (1, 4096, 4096)
    assert matmul_hopper.why_not("gpu", (9, 0), shape, "int4_g32") is None
    assert "not 'cpu'" in matmul_hopper.why_not("cpu", None, shape, "int4_g32")
    assert "8.6" in matmul_hopper.why_not("gpu", (8, 6), shape, "int4_g32")
    assert "'q4_0'" in matmul_hopper.why_not("gpu", (9, 0), shape, "q4_0")
    assert matmul_gpu.why_not("gpu", (7, 5), shape, "q4_0") is None, "never a refusal on a GPU"
    assert "8.0" in matmul_gpu.why_not_triton("gpu", (7, 5), shape, "int8")
    assert "not 172 and 4096" in matmul_gpu.why_not_triton("gpu", (8, 0), (1, 172, 4096), "int8")
    assert matmul_tpu.why_not("tpu", None, shape, "int8") is None
    assert "not 'gpu'" in matmul_tpu.why_not("gpu", (9, 0), shape, "int8")
    assert decode_attention_gpu.why_not("gpu", (8, 6), (1, 128, 4096), "int8") is None
    assert "80" in decode_attention_gpu.why_not("gpu", (8, 6), (1, 80, 4096), "int8")
    assert "17" in decode_attention_gpu.why_not("gpu", (8, 6), (17, 64, 4096), "int8")


# ---------------------------------------------------------------- on a card


def capability() -> tuple[int, int]:
    major, minor = jax.devices()[0].compute_capability.split(".")
    return int(major), int(minor)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["hopper", "triton"])
@pytest.mark.parametrize("format", OWN)
@pytest.mark.parametrize("rows", [1, 16, 70, 300])
def test_a_kernel_runs(kernel, format, rows):
    shape = (rows, 1408, 1000)
    why = matmul_hopper.why_not("gpu", capability(), shape, format) if kernel == "hopper" else None
    if why:
        pytest.skip(why)
    w, x = weights(format, 1408, 1000), jax.random.normal(jax.random.key(4), (rows, 1408))
    sm_count = jax.devices()[0].core_count
    extra = {} if kernel == "hopper" else {"capability": capability()}
    y = jax.jit(functools.partial(FOR_DEVICES[kernel], sm_count=sm_count, **extra))(x, PREPARE[kernel](w))
    assert nmse(y, in_float64(x, w)) < 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize("format", INT8)
@pytest.mark.parametrize("rows", [1, 70])
def test_integer_products_run(format, rows):
    why = matmul_hopper.why_not("gpu", capability(), (rows, 1408, 1000), format)
    if why:
        pytest.skip(why)
    w, x = weights(format, 1408, 1000), jax.random.normal(jax.random.key(4), (rows, 1408))
    multiply = functools.partial(matmul_hopper.matmul, activations="int8", sm_count=jax.devices()[0].core_count)
    assert nmse(jax.jit(multiply)(x, matmul_hopper.prepare(w)), in_float64(x, w)) < 5e-4


@pytest.mark.gpu
@pytest.mark.parametrize("cache, dtype, T, window, S, paged", [p.values for p in situations()])
def test_decode_attention_runs(cache, dtype, T, window, S, paged):
    why = decode_attention_gpu.why_not("gpu", capability(), (T, 64, S), OF_CACHE[cache][0] if cache in OF_CACHE else cache)
    if why:
        pytest.skip(why)
    arguments, options = attention_case(cache, dtype, T, window, S, paged)
    got = decode_attention_gpu.decode_attention(*arguments, **options, sm_count=jax.devices()[0].core_count)
    with jax.default_matmul_precision("highest"):
        wanted = reference(*arguments, **options)
    assert nmse(got, wanted) < 2e-5
