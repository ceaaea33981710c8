"""The native float32 product: right in every order on every path, the same bits whatever stands beside a row, and a layer's gradient."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sanitized

from pikojax.kernels import product as products
from pikojax.models import layers
from pikojax.native import build, cpu

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.skipif(build.find_compiler()[0] is None, reason="no C++ compiler here"),
    pytest.mark.skipif(jax.default_backend() != "cpu" or jax.device_count() > 1, reason="one CPU device is what it is for"),
]
ORDERS = {"NN": (False, False), "NT": (False, True), "TN": (True, False), "TT": (True, True)}
SHAPES = [
    (0, 3, 4),
    (3, 0, 4),
    (3, 4, 0),
    (1, 1, 1),
    (1, 1, 700),
    (7, 5, 3),
    (8, 48, 192),
    (9, 49, 193),
    (130, 100, 385),
    (600, 800, 50),
    (1000, 40, 800),  # several packings of A a block, and steps of each
]


@pytest.fixture(autouse=True)
def native(monkeypatch):
    monkeypatch.delenv("PIKOJAX_KERNELS", raising=False)


@pytest.fixture(params=cpu.PATHS)
def path(request, monkeypatch):
    if not cpu.PATHS[request.param] <= cpu.features():
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv("PIKOJAX_CPU", request.param)
    return request.param


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_close(got, left, right):
    """Within K rounding errors of the sum of magnitudes, the bound that holds for any order of addition."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    bound = (left.shape[1] + 1) * 2.0**-24 * (np.abs(left) @ np.abs(right))
    assert got.shape == bound.shape and got.dtype == np.float32
    assert (np.abs(np.asarray(got) - left @ right) <= bound).all()


# ---------------------------------------------------------------- the product


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_every_order_and_path_is_the_product(path, shape, order):
    M, N, K = shape
    left, right = normal(1, M, K), normal(2, K, N)
    left_transposed, right_transposed = ORDERS[order]
    call = lambda a, b: products.gemm(a, b, left_transposed=left_transposed, right_transposed=right_transposed)  # noqa: E731
    lowered = jax.jit(call).lower(left.T.copy() if left_transposed else left, right.T.copy() if right_transposed else right)
    assert f"pikojax_gemm_{path}" in lowered.as_text()
    assert_close(call(left.T.copy() if left_transposed else left, right.T.copy() if right_transposed else right), left, right)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    x, w = normal(1, 700, 389), normal(2, 389, 131)
    whole = np.asarray(products.gemm(x, w))
    for rows in (slice(0, 1), slice(3, 8), slice(100, 612), slice(699, 700)):
        assert (np.asarray(products.gemm(x[rows], w)) == whole[rows]).all()
    assert (np.asarray(products.gemm(x, w[:, 50:53])) == whole[:, 50:53]).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 700, 1), (7, 5, 3), (9, 49, 193), (3, 1000, 512), (64, 300, 385), (130, 257, 1000), (5, 513, 170)], ids=lambda shape: "x".join(map(str, shape)))
def test_few_rows_have_the_bits_of_many(path, shape):
    M, N, K = shape
    x, w = normal(1, M, K), normal(2, K, N)
    for transposed in (False, True):
        got = np.asarray(products.few_rows(x, w.T.copy() if transposed else w, transposed))
        assert (got == np.asarray(products.gemm(x, w))).all()
    whole = np.concatenate([x, normal(3, 200, K)])
    assert (np.asarray(jax.jit(products.product)(whole, w))[:M] == np.asarray(jax.jit(products.product)(x, w))).all()


def test_few_rows_are_differentiated_as_the_reference():
    x, w, g = normal(1, 5, 40), normal(2, 40, 30), normal(3, 5, 30)
    for got, wanted in zip(jax.vjp(products.product, x, w)[1](g), jax.vjp(products.reference, x, w)[1](g), strict=True):
        assert (np.asarray(got) == np.asarray(wanted)).all()


def test_the_number_of_threads_changes_no_bit():
    code = """
import hashlib, numpy as np
from pikojax.kernels import product as products
x, w = (np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in ((900, 500), (500, 700)))
print(hashlib.sha256(np.asarray(products.gemm(x, w)).tobytes()).hexdigest())
"""
    found = set()
    for threads in ("1", "2", "5"):
        env = os.environ | {"PJRT_NPROC": threads, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        found.add(subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1


def test_infinities_and_nans_come_through():
    x, w = np.ones((64, 3), np.float32), np.ones((3, 50), np.float32)
    x[5, 1], x[6, 2] = np.inf, np.nan
    y = np.asarray(products.gemm(x, w))
    assert np.isinf(y[5]).all() and np.isnan(y[6]).all() and np.isfinite(np.delete(y, (5, 6), axis=0)).all()


# ---------------------------------------------------------------- as a layer


def is_native(function, *args) -> bool:
    return "pikojax_gemm" in jax.jit(lambda *args: function(*args)).lower(*args).as_text()


@pytest.mark.parametrize("transposed", [False, True])
def test_the_gradient_of_a_layer_is_that_of_the_reference(transposed):
    x, w, g = normal(1, 4, 50, 96), normal(2, *((300, 96) if transposed else (96, 300))), normal(3, 4, 50, 300)

    def both(linear):
        y, vjp = jax.vjp(linear, x, w)
        return y, *vjp(g)

    native = lambda x, w: layers.linear(x, w, transposed=transposed)  # noqa: E731
    plain = lambda x, w: jnp.einsum("btk,nk->btn" if transposed else "btk,kn->btn", x, w)  # noqa: E731
    text = jax.jit(lambda: both(native)).lower().as_text()
    assert text.count("pikojax_gemm") >= 3 and "dot_general" not in text and "stablehlo.transpose" not in text
    for got, wanted in zip(both(native), both(plain), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_it_runs_under_scan_vmap_and_remat():
    x, w = normal(1, 200, 160), normal(2, 3, 160, 160) * 0.1

    def loss(w):
        return jnp.sum(jnp.square(jax.lax.scan(jax.checkpoint(lambda x, w: (products.product(x, w), None)), x, w)[0]))

    def plain(w):
        return jnp.sum(jnp.square(x @ w[0] @ w[1] @ w[2]))

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(w), jax.grad(plain)(w), rtol=1e-3, atol=1e-3)
    of_batch = jax.jit(jax.vmap(products.product, in_axes=(None, 0)))
    np.testing.assert_allclose(of_batch(x, w), np.stack([x @ each for each in w]), rtol=1e-4, atol=1e-4)
    assert is_native(jax.vmap(products.product, in_axes=(None, 0)), x, w)


def test_who_takes_the_native_product(monkeypatch):
    x, w = jnp.ones((256, 256)), jnp.ones((256, 256))
    assert is_native(products.product, x, w)
    assert not is_native(products.product, x[:8], w)  # too few rows
    assert "pikojax_rows" in jax.jit(products.product).lower(x[:8], w).as_text()
    assert not is_native(products.product, x[:, :4], w[:4])  # too little arithmetic
    assert not is_native(products.product, x.astype(jnp.bfloat16), w.astype(jnp.bfloat16))
    assert not is_native(
        lambda x, w: products.product(x, w, out_dtype=jnp.float32), x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    )
    for wish in ("reference", "pallas"):
        monkeypatch.setenv("PIKOJAX_KERNELS", wish)
        assert not is_native(products.product, x, w)


# ---------------------------------------------------------------- by itself


@pytest.mark.exhaustive
@pytest.mark.parametrize("path", cpu.PATHS, indirect=True)
@pytest.mark.parametrize("sanitizer", sanitized.SANITIZERS)
def test_sanitizers_find_nothing(path, sanitizer, tmp_path):
    assert sanitized.run("gemm_check.cc", path, sanitizer, tmp_path) == "ok 76\n"
