"""Fused attention against attention in float64: what it computes, what it must not see, and the same bits however it is cut."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sanitized

from pikojax.config import UserError
from pikojax.kernels import flash_attention as flash
from pikojax.kernels import prefill_attention as prefill
from pikojax.kernels.attention import causal_attention
from pikojax.native import build, cpu

needs_compiler = pytest.mark.skipif(build.find_compiler()[0] is None, reason=f"{build.find_compiler()[1]}")
alone = pytest.mark.skipif(jax.device_count() > 1 or jax.default_backend() != "cpu", reason="the native kernel is for one CPU")
pytestmark = [needs_compiler, alone]


@pytest.fixture
def path(request, monkeypatch):
    if not cpu.PATHS[request.param] <= cpu.features():
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv("PIKOJAX_CPU", request.param)
    return request.param


def arrays(B, T, S, H, G, C, seed=0):
    draw = np.random.default_rng(seed).standard_normal
    return [draw(shape).astype(np.float32) for shape in ((B, T, H, C), (B, S, G, C), (B, S, G, C), (B, T, H, C))]


def exact(q, k, v, d_o=None, *, segments=None, offset=0, window=None):
    """o, and with d_o also dq, dk and dv, in float64 by the formulas."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    (B, T, H, C), (S, G) = q.shape, k.shape[1:3]
    wide_k, wide_v = np.repeat(k, H // G, 2), np.repeat(v, H // G, 2)
    position = np.broadcast_to(np.asarray(offset).reshape(-1, 1) + np.arange(T), (B, T))[:, :, None]
    seen = np.arange(S) <= position
    if window is not None:
        seen &= np.arange(S) > position - window
    if segments is not None:
        seen &= segments[:, :, None] == segments[:, None, :]
    s = np.where(seen[:, None], np.einsum("BTHC,BSHC->BHTS", q, wide_k) * C**-0.5, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True, initial=-1e300)) * seen[:, None]
    p /= np.maximum(p.sum(-1, keepdims=True), 1e-300)
    o = np.einsum("BHTS,BSHC->BTHC", p, wide_v)
    if d_o is None:
        return o
    dp = np.einsum("BTHC,BSHC->BHTS", d_o, wide_v)
    ds = p * (dp - (dp * p).sum(-1, keepdims=True)) * C**-0.5
    to_group = [np.einsum("BHTS,BTHC->BSHC", x, y).reshape(B, S, G, H // G, C).sum(3) for x, y in ((ds, q), (p, d_o))]
    return o, np.einsum("BHTS,BSHC->BTHC", ds, wide_k), *to_group


def assert_near(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max(initial=0) <= 1e-5 * max(np.abs(b).max(initial=0), 1.0)


def forward_and_back(q, k, v, d_o, **how):
    def run(q, k, v, d_o):
        o, pull = jax.vjp(lambda *qkv: flash.flash_attention(*qkv, **how), q, k, v)
        return o, *pull(d_o)

    return jax.jit(run)(q, k, v, d_o)


def same_bits(a, b):
    return np.array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))


# ---------------------------------------------------------------- what it computes

SHAPES = [(2, 256, 3, 3, 64), (1, 1, 2, 2, 16), (2, 67, 4, 2, 80), (1, 130, 6, 1, 17), (1, 65, 5, 5, 1), (1, 90, 2, 1, 256)]


@pytest.mark.parametrize("B, T, H, G, C", SHAPES)
@pytest.mark.parametrize("path", ["avx512", *(pytest.param(path, marks=pytest.mark.exhaustive) for path in cpu.PATHS if path != "avx512")], indirect=True)
def test_every_path_is_attention_with_its_gradients(path, B, T, H, G, C):
    x = arrays(B, T, T, H, G, C)
    assert flash.why_not(*x[:3]) is None
    assert_near(forward_and_back(*x), exact(*x))


@pytest.mark.parametrize("path", cpu.PATHS, indirect=True)
def test_documents_stay_apart(path):
    x = arrays(2, 150, 150, 4, 2, 24)
    segments = np.cumsum(np.random.default_rng(1).random((2, 150)) < 0.03, 1).astype(np.int32)
    segments[1] = segments[1, ::-1]  # any numbers will do, falling too
    assert_near(forward_and_back(*x, segments_BT=jnp.asarray(segments)), exact(*x, segments=segments))


@pytest.mark.parametrize("window", [1, 5, 64, 100])
def test_a_window_hides_what_lies_further_back(window):
    x = arrays(2, 150, 150, 2, 1, 32)
    assert_near(forward_and_back(*x, window=window), exact(*x, window=window))


def test_queries_may_stand_anywhere_and_keys_lie_either_way():
    q, k, v, d_o = arrays(3, 7, 200, 4, 2, 48)
    offset = np.array([0, 100, 193], np.int32)
    wanted = exact(q, k, v, d_o, offset=offset)
    assert_near(forward_and_back(q, k, v, d_o, offset_B=jnp.asarray(offset)), wanted)
    turned = [x.transpose(0, 2, 1, 3) for x in (k, v)]
    o, dq, dk, dv = forward_and_back(q, *turned, d_o, offset_B=jnp.asarray(offset), head_major=True)
    assert_near((o, dq, dk.transpose(0, 2, 1, 3), dv.transpose(0, 2, 1, 3)), wanted)


def test_a_long_context_and_scores_far_apart():
    q, k, v, d_o = arrays(1, 700, 700, 2, 1, 64)
    q *= 5  # weights from nearly 1 down to nothing
    assert_near(forward_and_back(q, k, v, d_o), exact(q, k, v, d_o))


def test_nothing_in_is_nothing_out():
    q, k, v, d_o = arrays(2, 0, 5, 2, 1, 8)
    o, dq, dk, dv = forward_and_back(q, k, v, d_o)
    assert o.shape == dq.shape == q.shape and not np.any(dk) and not np.any(dv)
    q, k, v, d_o = arrays(2, 3, 0, 2, 1, 8)
    assert not np.any(forward_and_back(q, k, v, d_o)[0])  # a query that sees nothing gets zeros


def test_causal_attention_asks_for_it_and_the_environment_turns_it_off(monkeypatch):
    x = arrays(2, 20, 20, 4, 2, 16)
    text = jax.jit(lambda *qkv: causal_attention(*qkv)).lower(*x[:3]).as_text()
    assert "pikojax_flash_forward" in text and "20x20" not in text
    monkeypatch.setenv("PIKOJAX_KERNELS", "reference")
    assert flash.why_not(*x[:3]) == "PIKOJAX_KERNELS=reference"
    monkeypatch.setenv("PIKOJAX_KERNELS", "pallas")
    assert flash.why_not(*x[:3]) == "PIKOJAX_KERNELS=pallas"
    text = jax.jit(lambda *qkv: causal_attention(*qkv)).lower(*x[:3]).as_text()
    assert "pikojax_flash_forward" not in text
    out, pull = jax.vjp(causal_attention, *x[:3])
    assert_near((out, *pull(x[3])), exact(*x))
    monkeypatch.setenv("PIKOJAX_KERNELS", "auto")
    half = [v.astype(jnp.bfloat16) for v in x[:3]]
    assert "float32" in flash.why_not(*half)
    assert causal_attention(*half).dtype == jnp.bfloat16


def test_what_does_not_fit_is_refused():
    q, k, v, _ = arrays(2, 4, 6, 2, 2, 8)
    with pytest.raises(UserError, match="got window=0, wanted at least 1"):
        flash.flash_attention(q, k, v, window=0)
    with pytest.raises(jax.errors.JaxRuntimeError, match="k and v alike"):  # as many numbers, in another order
        jax.block_until_ready(flash.flash_attention(q, k, v.transpose(0, 2, 1, 3)))


# ---------------------------------------------------------------- the same bits


@pytest.mark.parametrize("window", [None, 90])
def test_chunks_give_the_bits_of_the_whole(window):
    q, k, v, _ = arrays(2, 333, 333, 4, 2, 40)
    whole = prefill.prefill_attention(q, k, v, window=window)
    pieces, start = [], 0
    for n in (1, 63, 64, 5, 130, 70):
        offset = jnp.full((2,), start, jnp.int32)
        pieces.append(prefill.prefill_attention(q[:, start : start + n], k, v, offset_B=offset, window=window))
        start += n
    assert start == 333 and same_bits(np.concatenate(pieces, 1), whole)


def test_rows_do_not_depend_on_rows_beside_them():
    q, k, v, _ = arrays(4, 100, 100, 6, 2, 64)
    whole = flash.flash_attention(q, k, v)
    assert same_bits(flash.flash_attention(q[2:3], k[2:3], v[2:3]), whole[2:3])
    assert same_bits(flash.flash_attention(q[:, :, :3], k[:, :, :1], v[:, :, :1]), whole[:, :, :3])


@pytest.mark.parametrize("path", cpu.PATHS, indirect=True)
def test_later_tokens_change_no_bit_before_them(path):
    q, k, v, _ = arrays(1, 140, 140, 2, 2, 32)
    before = flash.flash_attention(q, k, v)
    for t in (1, 64, 100, 139):
        later = [x.copy() for x in (q, k, v)]
        for x in later:
            x[:, t:] = 1e3
        assert same_bits(flash.flash_attention(*later)[:, :t], before[:, :t])
        assert not same_bits(flash.flash_attention(*later)[:, t:], before[:, t:])
        beyond = [x.copy() for x in (k, v)]
        for x in beyond:
            x[:, t:] = np.nan  # slots of a cache that nothing was written to
        assert same_bits(prefill.prefill_attention(q[:, :t], *beyond), before[:, :t])


def test_the_number_of_threads_changes_no_bit():
    code = """
import hashlib, jax, numpy as np
import sys; sys.path.append('tests')
from test_flash import arrays, forward_and_back
out = forward_and_back(*arrays(3, 200, 200, 4, 2, 40))
print(hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in out)).hexdigest())
"""
    root = os.path.dirname(os.path.dirname(__file__))
    paths = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    seen = set()
    for threads in ("1", "2", "5"):
        environ = {**os.environ, "PJRT_NPROC": threads, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
        seen.add(subprocess.run([sys.executable, "-c", code], env=environ, check=True, capture_output=True, text=True).stdout)
    assert len(seen) == 1


# ---------------------------------------------------------------- inside JAX


def test_it_works_under_scan_vmap_and_checkpoint():
    q, k, v, d_o = arrays(6, 70, 70, 4, 2, 16)
    wanted = forward_and_back(q, k, v, d_o)
    twos = [x.reshape(3, 2, *x.shape[1:]) for x in (q, k, v, d_o)]
    segments = jnp.zeros((3, 2, 70), jnp.int32)

    def pulled(attend):
        def run(q, k, v, d_o, segments):
            o, pull = jax.vjp(lambda *qkv: attend(*qkv, segments), q, k, v)
            return o, *pull(d_o)

        return run

    def attend(q, k, v, segments):
        return flash.flash_attention(q, k, v, segments_BT=segments)

    mapped = jax.jit(jax.vmap(pulled(attend)))(*twos, segments)
    scanned = jax.jit(lambda *x: jax.lax.scan(lambda c, y: (c, pulled(attend)(*y)), 0, x)[1])(*twos, segments)
    saved = jax.jit(jax.vmap(pulled(jax.checkpoint(attend))))(*twos, segments)
    for outs in (mapped, scanned, saved):
        assert all(same_bits(a.reshape(b.shape), b) for a, b in zip(outs, wanted, strict=True))


# ---------------------------------------------------------------- prefill without native code


@pytest.mark.parametrize("window, head_major", [(None, False), (70, True)])
def test_the_reference_of_prefill_is_attention_too(window, head_major):
    q, k, v, _ = arrays(2, 9, 600, 4, 2, 16)
    offset = np.array([3, 591], np.int32)
    turned = [x.transpose(0, 2, 1, 3) if head_major else x for x in (k, v)]
    got = prefill.reference(q, *turned, offset_B=jnp.asarray(offset), window=window, head_major=head_major)
    assert_near([got], [exact(q, k, v, offset=offset, window=window)])
    assert prefill.reference(q[:, :0], k, v).shape == (2, 0, 4, 16)
    assert not np.any(prefill.reference(q, k[:, :0], v[:, :0]))
    half = prefill.reference(*(jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)), offset_B=jnp.asarray(offset))
    assert half.dtype == jnp.bfloat16
    v[:, 595:] = np.nan  # unwritten slots
    wanted = prefill.reference(q, k, v, offset_B=jnp.asarray(offset - 20))
    assert np.isfinite(wanted).all()


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_prefill_never_holds_all_scores(kernels, monkeypatch):
    monkeypatch.setenv("PIKOJAX_KERNELS", kernels)
    T, H, C = 8192, 4, 64
    x = [jax.ShapeDtypeStruct((1, T, H, C), jnp.float32)] * 3
    memory = jax.jit(lambda *qkv: prefill.prefill_attention(*qkv)).lower(*x).compile().memory_analysis()
    assert memory.temp_size_in_bytes < T * T * 4 * H / 8


# ---------------------------------------------------------------- under the sanitizers


@pytest.mark.exhaustive
@pytest.mark.parametrize("path", cpu.PATHS, indirect=True)
@pytest.mark.parametrize("sanitizer", sanitized.SANITIZERS)
def test_odd_shapes_run_clean_under_the_sanitizers(path, sanitizer, tmp_path):
    alone, together = (sanitized.run("flash_check.cc", path, sanitizer, tmp_path, threads) for threads in ("1", "3"))
    assert alone == together and alone.count("\n") == 10
