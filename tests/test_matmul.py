"""Products with quantized weights: against float64, against the equation itself, bit for bit whatever stands beside, on every path."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sanitized

from pikojax.config import UserError
from pikojax.kernels import dispatch, lookup, matmul, prepare, prepare_tree, rows16
from pikojax.kernels.matmul import matmul_each, reference
from pikojax.native import build, cpu
from pikojax.qtensor import FORMATS, dequantize, quantize
from pikojax.qtensor import lookup as canonical_lookup

ROOT = Path(__file__).resolve().parent.parent
needs_compiler = pytest.mark.skipif(build.find_compiler()[0] is None, reason=f"{build.find_compiler()[1]}")
pytestmark = needs_compiler
FEW = ("int8", "q4_0", "q6_k")  # the others are compared in the slow half
EACH = [pytest.param(name, marks=() if name in FEW else pytest.mark.exhaustive) for name in FORMATS]
SHAPES = [(0, 300, 50), (1, 300, 50), (70, 300, 50), (3, 300, 19)]


@pytest.fixture(autouse=True)
def native(monkeypatch):
    monkeypatch.delenv("PIKOJAX_KERNELS", raising=False)


def made(format: str, M: int, K: int, N: int):
    w = quantized(format, K)
    leaves = jax.tree.map(lambda leaf: leaf[:N], w)
    return jax.random.normal(jax.random.key(1), (M, K)), dataclasses.replace(leaves, shape=(K, N))


@functools.cache
def quantized(format: str, K: int):
    """50 outputs, of which a test takes as many as it needs: quantizing takes longer than all that is tested here."""
    return quantize(jax.random.normal(jax.random.key(9), (K, 50)), format)


def exact(x, w):
    return np.asarray(x, np.float64) @ np.asarray(dequantize(w), np.float64)


def nmse(found, wanted) -> float:
    return float(np.sum((np.asarray(found, np.float64) - wanted) ** 2) / np.sum(wanted**2)) if wanted.size else 0.0


def as_int8(x):
    """x as the kernel sees it: the equation of native/matmul_activations.h, in numpy."""
    x = np.asarray(x)
    M, K = x.shape
    groups = np.pad(x, ((0, 0), (0, -K % 32))).reshape(M, -(-K // 32), 32)
    amax = np.abs(groups).max(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(amax > 0, np.rint(groups * (np.float32(127) / amax)), 0)
    return (q.astype(np.float64) * (amax * np.float32(1 / 127))).reshape(M, -(-K // 32) * 32)[:, :K]


# ---------------------------------------------------------------- right


@pytest.mark.parametrize("format", EACH)
def test_tiles_hold_the_same_weights(format):
    for K, N in ((300, 50), (300, 19)):
        _, w = made(format, 1, K, N)
        tiles = prepare(w)
        assert tiles.data.shape == (-(-N // 16), rows16.tile_bytes(w)) and rows16.canonical_bytes(w) == w.n_bytes
        assert np.array_equal(np.asarray(rows16.rows(tiles)).T, np.asarray(dequantize(w)))
        ids = jnp.asarray([[0, N - 1], [N // 2, N + 3]])
        assert np.array_equal(lookup(tiles, ids), canonical_lookup(w, ids))


@pytest.mark.parametrize("format", EACH)
def test_the_product_is_that_of_the_equation(path, format):
    for M, K, N in SHAPES:
        x, w = made(format, M, K, N)
        p = prepare(w)
        found = np.asarray(matmul(x, p))
        assert found.shape == (M, N) and p.layout == "rows16"
        assert nmse(found, exact(x, w)) <= 5e-4
        if format != "nf4":  # its sixteen values are rounded to eight bits
            assert nmse(found, as_int8(x) @ np.asarray(dequantize(w), np.float64)) <= 1e-12


@pytest.mark.parametrize(
    "format", ["int8", pytest.param("q4_0", marks=pytest.mark.exhaustive), pytest.param("q6_k", marks=pytest.mark.exhaustive)]
)
def test_a_very_long_sum(format):
    x, w = made(format, 3, 65_536 + 32, 5)
    assert nmse(matmul(x, prepare(w)), as_int8(x) @ np.asarray(dequantize(w), np.float64)) <= 1e-10


@pytest.mark.parametrize("format", EACH)
def test_the_reference_is_exact_from_either_layout(format, monkeypatch):
    x, w = made(format, 5, 300, 19)
    for each in (w, prepare(w)):
        assert nmse(reference(x, each), exact(x, w)) <= 1e-12
    monkeypatch.setenv("PIKOJAX_KERNELS", "reference")
    assert nmse(matmul(x, prepare(w)), exact(x, w)) <= 1e-12 and prepare(w) is w


@pytest.mark.parametrize("format", ["int8", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in FORMATS if name != "int8")])
def test_tiny_shapes(format):
    for M, K, N in ((1, 1, 1), (5, 31, 16), (2, 65, 17)):
        x, w = made(format, M, K, N)
        found = matmul(x, prepare(w))
        wanted = exact(x, w)
        assert (
            found.shape == (M, N)
            and np.abs(found - wanted).max() <= 0.05 * np.abs(as_int8(np.abs(x)) @ np.abs(np.asarray(dequantize(w)))).max()
        )


@pytest.mark.parametrize("format", ("q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k", "q8_0", "nf4"))
def test_sums_of_the_largest_codes_do_not_overflow(path, format):
    p = prepare(made(format, 1, 256, 48)[1])
    blocks = 256 // rows16.block_weights(p)
    tiles = np.array(p.data).reshape(3, blocks, -1)
    tiles[..., sum(count * rows16.TILE * width for count, width in rows16.heads(format)) :] = 255
    p = dataclasses.replace(p, data=jnp.asarray(tiles.reshape(p.data.shape)))
    x = np.ones((10, 256), np.float32) * np.where(np.arange(10) % 2, 1, -1)[:, None].astype(np.float32)  # 127 or −127 as int8
    wanted = x.astype(np.float64) @ np.asarray(rows16.rows(p), np.float64).T
    for rows in (2, 10):
        assert nmse(matmul(jnp.asarray(x[:rows]), p), wanted[:rows]) <= 1e-12


def test_extreme_activations():
    _, w = made("q8_0", 1, 64, 16)
    p = prepare(w)
    rows = np.zeros((5, 64), np.float32)
    rows[1, 3], rows[2, 40], rows[3, :], rows[4, :] = np.nan, np.inf, 1e-38, 3e38
    found = np.asarray(matmul(jnp.asarray(rows), p))
    assert (found[0] == 0).all() and np.isnan(found[1:3]).all() and np.abs(found[3]).max() < 1e-30
    assert np.isfinite(found[4]).all() or np.isinf(exact(rows[4:], w).astype(np.float32)).any()


# ---------------------------------------------------------------- the same bits


@pytest.mark.parametrize("format", EACH)
def test_a_row_has_the_same_bits_whatever_stands_beside_it(path, format):
    x, w = made(format, 512, 300, 50)
    p = prepare(w)
    whole = np.asarray(matmul(x, p))
    for start, rows in ((0, 1), (7, 1), (100, 2), (3, 5), (50, 8), (9, 9), (60, 67), (511, 1)):
        assert np.array_equal(np.asarray(matmul(x[start : start + rows], p)), whole[start : start + rows])


def test_threads_do_not_change_a_bit():
    code = """
import hashlib, sys
from pikojax.cli.startup import prepare as start
start(int(sys.argv[1]))
import jax
from pikojax.kernels import matmul, prepare
from pikojax.qtensor import quantize
w = prepare(quantize(jax.random.normal(jax.random.key(0), (320, 3000)), "q4_0"))
print(hashlib.sha256(b"".join(bytes(memoryview(jax.device_get(matmul(jax.random.normal(jax.random.key(1), (m, 320)), w)))) for m in (1, 70))).hexdigest())
"""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = {
        subprocess.run([sys.executable, "-c", code, n], env=environ, capture_output=True, text=True, check=True).stdout
        for n in "13"
    }
    assert len(found) == 1


# ---------------------------------------------------------------- inside JAX


def test_it_works_in_jit_scan_while_vmap_and_with_layers():
    x, w = made("q4_0", 6, 96, 40)
    p = prepare(w)
    y = np.asarray(matmul(x, p))
    stack = prepare(quantize(jax.random.normal(jax.random.key(5), (3, 96, 40)), "q4_0"))
    layers = [np.asarray(matmul(x, jax.tree.map(lambda leaf: leaf[i], stack))) for i in range(3)]
    assert np.array_equal(jax.jit(matmul)(x, p), y)
    assert np.array_equal(jax.lax.scan(lambda c, row: (c, matmul(row, p)), 0, x)[1], y)
    assert np.array_equal(jax.lax.scan(lambda c, i: (c, matmul(x, stack, i)), 0, jnp.arange(3))[1], layers)
    assert np.array_equal(
        jax.jit(lambda: jax.lax.fori_loop(0, 3, lambda i, _: matmul(x, stack, i), jnp.zeros((6, 40))))(), layers[2]
    )
    assert np.array_equal(jax.vmap(matmul, (0, None))(x.reshape(2, 3, 96), p), y.reshape(2, 3, 40))
    assert np.array_equal(jax.vmap(matmul, (None, 0))(x, stack), layers)
    assert np.array_equal(jax.vmap(matmul, (None, None, 0))(x, stack, jnp.arange(3)), layers)
    assert np.array_equal(matmul(x, stack, 7), layers[2]) and np.array_equal(matmul(x, stack, jnp.asarray(-4)), layers[0])
    for empty in ((2, 0, 96), (0, 2, 96)):
        assert jax.vmap(lambda x: matmul(x, stack, 0))(jnp.zeros(empty)).shape == (*empty[:2], 40)
    plain = jnp.arange(12.0).reshape(3, 4, 1)
    for layer, same in ((-1, 2), (-3, 0), (-9, 0)):  # from the end, in plain stacks too
        assert np.array_equal(matmul(x, stack, layer), layers[same])
        assert np.array_equal(matmul(jnp.ones((1, 4)), plain, layer), jnp.ones((1, 4)) @ plain[same])
    assert matmul(x.reshape(2, 3, 96), p).shape == (2, 3, 40) and matmul(x[0], p).shape == (40,)
    assert matmul(x.astype(jnp.bfloat16), p).dtype == jnp.bfloat16
    plain = jnp.ones((2, 96, 40))
    assert np.array_equal(matmul(x, plain, 1), matmul(x, plain[1]))


def test_a_layer_is_not_copied():
    x, w = made("q4_0", 1, 64, 64)
    stack = prepare(quantize(jnp.zeros((50, 64, 64)), "q4_0"))
    loop = jax.jit(lambda x, stack: jax.lax.fori_loop(0, 50, lambda i, _: matmul(x, stack, i), jnp.zeros((1, 64))))
    compiled = loop.lower(x, stack).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < stack.data[0].nbytes
    assert not [
        line for line in compiled.as_text().splitlines() if "u8[" in line and ("copy(" in line or "dynamic-slice" in line)
    ]


def test_the_gradient_is_that_of_the_reference():
    x, w = made("q5_k", 4, 300, 19)
    p = prepare(w)

    def loss(x, w):
        return jnp.sum(jnp.sin(matmul(x, w)))

    wanted = np.cos(np.asarray(matmul(x, p))) @ np.asarray(dequantize(w)).T
    assert nmse(jax.grad(loss)(x, p), wanted) < 1e-10
    assert nmse(jax.vmap(jax.grad(loss), (0, None))(x[:, None], p)[:, 0], wanted) < 1e-10
    stack = prepare(quantize(jnp.stack([dequantize(w)] * 2), "q5_k"))
    by_layer = jax.jit(jax.grad(lambda x, i: jnp.sum(matmul(x, stack, i))))(x, 1)
    assert nmse(by_layer, np.tile(np.asarray(rows16.rows(stack))[1].sum(0), (4, 1))) < 1e-10


def test_a_tree_is_prepared_once_and_plain_leaves_stay():
    _, w = made("nf4", 1, 64, 16)
    tree = prepare_tree({"a": {"kernel": w, "scale": jnp.ones(3)}, "b": [w]})
    assert tree["a"]["kernel"].layout == "rows16" and tree["a"]["scale"].shape == (3,)
    assert prepare(tree["b"][0]) is tree["b"][0]


def test_several_weights_of_one_x_are_one_operation_with_the_same_bits():
    x, w = made("q4_0", 5, 300, 50)
    _, small = made("q4_0", 5, 300, 19)
    _, other = made("q6_k", 5, 300, 50)
    plain = jax.random.normal(jax.random.key(3), (300, 7))
    ws = (prepare(w), prepare(other), plain, prepare(small))
    run = jax.jit(lambda x, ws: matmul_each(x, ws))
    assert run.lower(x, ws).as_text().count("custom_call @pikojax_matmul") == 2, "an operation a format"
    for M in (5, 1, 0):
        outs = run(x[:M], ws)
        assert [out.shape for out in outs] == [(M, 50), (M, 50), (M, 7), (M, 19)]
        for out, weights in zip(outs, ws, strict=True):
            np.testing.assert_array_equal(out, jax.jit(matmul)(x[:M], weights))
    many = jax.random.normal(jax.random.key(4), (200, 300))  # several blocks of rows, and an odd number of tiles of the first
    for out, weights in zip(run(many, ws[:1] + ws[3:]), ws[:1] + ws[3:], strict=True):
        np.testing.assert_array_equal(out, jax.jit(matmul)(many, weights))
    total = lambda x: sum(jnp.sum(out**2) for out in matmul_each(x, ws))
    one_by_one = lambda x: sum(jnp.sum(matmul(x, weights) ** 2) for weights in ws)
    np.testing.assert_allclose(jax.grad(total)(x), jax.grad(one_by_one)(x), rtol=1e-4, atol=1e-3)
    batch = jax.random.normal(jax.random.key(5), (3, 5, 300))
    for out, weights in zip(jax.vmap(lambda x: matmul_each(x, ws))(batch), ws, strict=True):
        np.testing.assert_array_equal(out, jax.vmap(lambda x: matmul(x, weights))(batch))


def test_several_stacks_are_read_at_one_layer():
    x, first = made("q4_0", 3, 300, 50)
    second = dataclasses.replace(first, data=first.data[::-1])
    narrow = made("q4_0", 3, 300, 19)[1]
    stack = lambda *ws: prepare(jax.tree.map(lambda *leaves: jnp.stack(leaves), *ws))
    wide, thin = stack(first, second), stack(narrow, narrow)
    one = jax.jit(lambda layer: matmul_each(x, (wide, thin), layer))
    for layer in (0, 1, -1, 5):
        for out, weights in zip(one(layer), (wide, thin), strict=True):
            np.testing.assert_array_equal(out, jax.jit(matmul)(x, weights, layer))
    assert not np.array_equal(one(0)[0], one(1)[0])
    for out, weights in zip(jax.vmap(lambda layer: matmul_each(x, (wide, thin), layer))(jnp.asarray([1, 0])), (wide, thin), strict=True):
        np.testing.assert_array_equal(out, [jax.jit(matmul)(x, weights, 1), jax.jit(matmul)(x, weights, 0)])


def test_under_a_mesh_inside_shard_map():
    code = """
import dataclasses, jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from pikojax.kernels import matmul, prepare
from pikojax.qtensor import quantize
w = prepare(quantize(jax.random.normal(jax.random.key(0), (96, 64)), "q4_0"))
x = jax.random.normal(jax.random.key(1), (6, 96))
mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
spec = lambda s: jax.tree.map(lambda _: s, w)
by_rows = jax.jit(jax.shard_map(matmul, mesh=mesh, in_specs=(P("d"), spec(P())), out_specs=P("d"), check_vma=False))
column = lambda x, w: matmul(x, dataclasses.replace(w, shape=(96, 32)))
by_columns = jax.jit(jax.shard_map(column, mesh=mesh, in_specs=(P(), spec(P("d"))), out_specs=P(None, "d"), check_vma=False))
assert len(jax.devices()) == 2
y = np.asarray(matmul(x, w))
assert np.array_equal(by_rows(x, w), y) and np.array_equal(by_columns(x, w), y)
"""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


# ---------------------------------------------------------------- mistakes, and the choice


def test_shapes_that_do_not_fit_are_one_line():
    x, w = made("q4_0", 2, 64, 16)
    p = prepare(w)
    stack = prepare(quantize(jnp.zeros((2, 64, 16)), "q4_0"))
    for call in (lambda: matmul(x[:, :63], p), lambda: matmul(x, stack), lambda: matmul(x, p, 0), lambda: rows16.pack(p)):
        with pytest.raises(UserError) as caught:
            call()
        assert "\n" not in str(caught.value)
    for wrong in ((64, 17), (96, 16), (64, 400)):  # sizes that the operation itself checks
        with pytest.raises(jax.errors.JaxRuntimeError, match="prepare it anew"):
            matmul(jnp.zeros((2, wrong[0])), dataclasses.replace(p, shape=wrong)).block_until_ready()


def test_canonical_weights_are_multiplied_by_the_reference_and_it_says_so_once(capsys):
    dispatch._say_once.cache_clear()
    x, w = made("q4_0", 2, 64, 16)
    for _ in range(2):
        assert nmse(matmul(x, w), exact(x, w)) < 1e-12
    said = capsys.readouterr().err
    assert said.count("pikojax: matmul runs by its reference") == 1 and "prepare them once" in said


def test_pikojax_kernels_decides(monkeypatch, capsys):
    dispatch._say_once.cache_clear()
    x, w = made("q4_0", 2, 64, 16)
    p = prepare(w)
    assert dispatch.choose("matmul", x, p, None) == "native"
    assert {(row["op"], row["kernel"], row["reason"]) for row in dispatch.listed()} == {
        (op, "native", "the best for cpu") for op in ("matmul", "decode_attention", "product", "norm", "flash_attention")
    }
    for wish, chosen in (("native", "native"), ("reference", "reference"), ("pallas", "reference"), ("auto", "native")):
        monkeypatch.setenv("PIKOJAX_KERNELS", wish)
        assert dispatch.choose("matmul", x, p, None) == chosen
    assert "there is no pallas one for cpu" in capsys.readouterr().err
    for wish, reason in (("pallas", "there is no pallas one for abacus"), ("auto", "there is no kernel for abacus")):
        with monkeypatch.context() as patch:
            patch.setenv("PIKOJAX_KERNELS", wish)
            patch.setattr(jax, "default_backend", lambda: "abacus")
            assert dispatch.choose("matmul", x, p, None) == "reference" and reason in capsys.readouterr().err
            assert dispatch.listed()[0] == {"op": "matmul", "kernel": "reference", "reason": reason}
    monkeypatch.setenv("PIKOJAX_KERNELS", "nativ")
    with pytest.raises(UserError, match="PIKOJAX_KERNELS=nativ names no kernels; choose from auto, reference, native, pallas"):
        matmul(x, p)


# ---------------------------------------------------------------- sanitizers


@pytest.mark.exhaustive
@pytest.mark.parametrize("path", cpu.PATHS)
@pytest.mark.parametrize("sanitizer", sanitized.SANITIZERS)
def test_sanitizers_find_nothing(path, sanitizer, tmp_path):
    if not cpu.PATHS[path] <= cpu.features():
        pytest.skip(f"this processor has no {path}")
    assert sanitized.run("matmul_check.cc", path, sanitizer, tmp_path) == "ok\n"


# ---------------------------------------------------------------- the meter


def test_bench_matmul_tells_speed_error_and_bandwidth(monkeypatch, capsys):
    from pikojax.cli.main import main
    from pikojax.kernels import measure_matmul

    monkeypatch.setattr(measure_matmul, "measure", functools.partial(measure_matmul.measure, stack_bytes=1 << 20))
    for format, kernel, limit in (("q4_0", "native", 5e-4), ("float32", "XLA", 1e-10)):
        assert main(["bench", "matmul", "--format", format, "--rows", "3", "--k", "96", "--n", "40", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["format"], found["rows"], found["k"], found["n"], found["kernel"]) == (format, 3, 96, 40, kernel)
        assert (
            0 < found["nmse"] < limit and found["gb_per_s"] > 0 and found["read_bandwidth_gb_per_s"] > 0 and found["threads"] >= 1
        )
        assert found["gop_per_s"] * found["call_s"] == pytest.approx(2 * 3 * 96 * 40 / 1e9)
    assert (
        main(["bench", "matmul", "--format", "q9", "--json"])
        == main(["bench", "matmul", "--rows", "0"])
        == main(["bench", "matmul", "x=1"])
        == 2
    )


def test_the_peak_is_measured():
    from pikojax.native.peak import int8_gop_per_s

    assert int8_gop_per_s(1, passes=1) > 1
