"""A cache's formats: what each keeps of keys and values, and new slots written where they belong, in place."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_decode_attention import CFG, GPT, needs_native, nmse, stored

from pikojax.config import UserError
from pikojax.kernels import kv_formats, kv_write


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize("format, most", [("int8", 1.5e-4), ("int8_g32", 1e-4), ("int4", 1.5e-2), ("int4_rotated", 1.5e-2)])
@pytest.mark.parametrize("width", [64, 80, 6, 33])
def test_formats_keep_what_they_promise(format, most, width):
    x = np.random.default_rng(0).standard_normal((2, 3, 50, width)).astype(np.float32)
    x[0, 0, 0] = 0
    back = np.asarray(kv_formats.dequantize_kv(kv_formats.quantize_kv(jnp.asarray(x), format), width))
    assert nmse(back, x) < most
    np.testing.assert_array_equal(back[0, 0, 0], 0)
    assert np.all(np.asarray(kv_formats.quantize_kv(jnp.asarray(x), format).scales) >= 0)


def test_a_rotation_saves_keys_with_an_outlier_channel():
    x = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32)
    x[:, 5] *= 30
    error = {f: nmse(kv_formats.dequantize_kv(kv_formats.quantize_kv(jnp.asarray(x), f)), x) for f in ("int4", "int4_rotated")}
    ordinary = np.delete(np.arange(64), 5)
    left = np.asarray(kv_formats.dequantize_kv(kv_formats.quantize_kv(jnp.asarray(x), "int4")))[:, ordinary]
    assert nmse(left, x[:, ordinary]) > 0.1  # unrotated, the neighbours of the outlier are lost
    assert error["int4_rotated"] < 0.02


@pytest.mark.parametrize("width", [1, 6, 64, 80, 96])
def test_the_rotation_is_its_own_inverse(width):
    h = kv_formats.hadamard(width).astype(np.float64)
    np.testing.assert_allclose(h @ h, np.eye(width), atol=1e-6)
    np.testing.assert_array_equal(h, h.T)


@pytest.mark.parametrize("dtype, said", [("int9", "int9, wanted one of float32, bfloat16"), ("int4_rotated", "int4_rotated"), (jnp.int32, "int32")])
def test_a_cache_in_another_format_is_refused(dtype, said):
    with pytest.raises(UserError, match=f"got a cache in {said}"):
        GPT.new_cache(CFG, 1, 8, dtype)


# ---------------------------------------------------------------- writing

WRITTEN = ("float32", "bfloat16", *kv_formats.FORMATS)


@pytest.mark.parametrize("how", [kv_write.reference, pytest.param(kv_write.native, marks=needs_native)])
@pytest.mark.parametrize("format", WRITTEN)
@pytest.mark.parametrize("width", [64, 33])
def test_new_slots_land_where_each_row_ends_and_nowhere_else(how, format, width):
    """The last row has room for three of its four."""
    shape, new_BTGC = (2, 3, 2, 20, width), np.random.default_rng(0).standard_normal((3, 4, 2, width)).astype(np.float32)
    new_BTGC[0, 1], starts = 0, (0, 5, 17)
    cache = jax.jit(how)(kv_formats.zeros(shape, format), jnp.int32(1), jnp.asarray(new_BTGC), jnp.asarray(starts, jnp.int32))
    want = stored(new_BTGC.transpose(0, 2, 1, 3), format)
    for got, new in zip(jax.tree.leaves(cache), jax.tree.leaves(want), strict=True):
        expected = np.zeros(got.shape, got.dtype)
        for row, start in enumerate(starts):
            expected[1, row, :, start : start + 4] = np.asarray(new)[row][:, : 20 - start]
        if format == "int4_rotated":  # sums in another order
            assert np.mean(np.asarray(got) != expected) < 0.02
        else:
            np.testing.assert_array_equal(got, expected)


@needs_native
def test_what_is_no_number_is_not_hidden():
    new_BTGC = jnp.ones((1, 1, 2, 64)).at[0, 0, 1, 5].set(jnp.nan)
    scales = kv_write.native(kv_formats.zeros((1, 1, 2, 4, 64), "int8"), jnp.int32(0), new_BTGC, jnp.zeros(1, jnp.int32)).scales
    np.testing.assert_array_equal(np.isnan(np.asarray(scales[0, 0, :, 0, 0])), [False, True])


@pytest.mark.parametrize("how", [kv_write.reference, pytest.param(kv_write.native, marks=needs_native)])
@pytest.mark.parametrize("format", ["float32", "int8", "int4"])
def test_into_a_pool_slots_go_by_the_block_table(how, format):
    """7 tokens from slot 6 on, blocks of 4: the row's blocks 1, 2 and 3. The other row's run beyond its last block."""
    new_BTGC = np.random.default_rng(1).standard_normal((2, 7, 2, 64)).astype(np.float32)
    table_BN, starts = np.asarray([[5, 0, 3, 6], [1, 2, 4, 7]], np.int32), np.asarray([6, 14], np.int32)
    pool = jax.jit(how)(kv_formats.zeros((3, 8, 2, 4, 64), format), jnp.int32(2), jnp.asarray(new_BTGC), starts, table_BN)
    whole = jax.jit(how)(kv_formats.zeros((3, 2, 2, 16, 64), format), jnp.int32(2), jnp.asarray(new_BTGC), starts)
    for paged, straight in zip(jax.tree.leaves(pool), jax.tree.leaves(whole), strict=True):
        paged, straight = np.asarray(paged), np.asarray(straight)
        for row in range(2):
            found = paged[:, table_BN[row]].swapaxes(1, 2).reshape(3, 2, 16, -1)
            np.testing.assert_array_equal(found, straight[:, row])
        assert np.any(straight[2, 0, :, 6:13]) and not np.any(straight[:2])


@needs_native
def test_a_write_is_in_place_inside_a_loop():
    def loop(cache, new_BTGC):
        def body(i, cache):
            return kv_write.kv_write(cache, 0, new_BTGC, jnp.full((1,), i, jnp.int32))

        return jax.lax.fori_loop(0, 5, body, cache)

    cache = kv_formats.zeros((2, 1, 2, 16, 64), "int8")
    text = jax.jit(loop, donate_argnums=0).lower(cache, jnp.ones((1, 1, 2, 64))).compile().as_text()
    assert "pikojax_kv_write" in text and not re.findall(r"s8\[2,1,2,16,64\]\S* copy\(", text)
