"""Decode attention: each format and shape against float64, rows that depend on nothing beside them, and slots that are never copied."""

import functools
import importlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sanitized

from pikojax.config import GPTConfig, UserError
from pikojax.infer import decode
from pikojax.infer.sampling import make_settings
from pikojax.kernels import kv_formats
from pikojax.models import catalog
from pikojax.native import build, cpu

attention = importlib.import_module("pikojax.kernels.decode_attention")  # the package's attribute of that name is the function
needs_native = pytest.mark.skipif(attention.why_not_here() is not None, reason=str(attention.why_not_here()))
FORMATS = {name: (name, name) for name in ("float32", "bfloat16", "int8", "int8_g32")} | {"int4": ("int4_rotated", "int4")}
LIMIT = {"float32": 1e-10, "bfloat16": 1e-10, "int8": 5e-4, "int8_g32": 5e-4, "int4": 5e-4}

SHAPES = {  # T, H, G, C, S, window
    "one row of grouped heads": (1, 8, 2, 64, 333, None),
    "one kv head for all": (5, 7, 1, 80, 129, None),
    "a kv head each, sixteen rows": (16, 3, 3, 32, 65, None),
    "two splits": (2, 4, 2, 64, 2100, None),
    "wide, a window": (3, 4, 1, 128, 300, 70),
    "no power of two, a window below a tile": (4, 6, 2, 96, 200, 5),
    "narrow and odd": (2, 2, 2, 6, 70, None),
    "a single slot": (1, 2, 1, 33, 1, None),
}


def draw(B, T, H, G, C, S, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape).astype(np.float32) for shape in ((B, T, H, C), (B, G, S, C), (B, G, S, C)))


def stored(x, format: str):
    return kv_formats.quantize_kv(jnp.asarray(x), format) if format in kv_formats.FORMATS else jnp.asarray(x).astype(format)


def as_floats(cache, width: int):
    is_quantized = isinstance(cache, kv_formats.QuantizedKV)
    return np.asarray(kv_formats.dequantize_kv(cache, width) if is_quantized else cache.astype(jnp.float32), np.float64)


def exact(q_BTHC, k_BGSC, v_BGSC, length_B, window=None, scale=None, softcap=None):
    """By the definition, row for row, in float64."""
    (B, T, H, C), G = q_BTHC.shape, k_BGSC.shape[1]
    out = np.zeros((B, T, H, C))
    for b, t, h in np.ndindex(B, T, H):
        end = length_B[b] - T + t + 1
        seen = slice(max(0, end - window) if window else 0, max(0, end))
        scores_S = k_BGSC[b, h * G // H, seen] @ q_BTHC[b, t, h].astype(np.float64) * (C**-0.5 if scale is None else scale)
        if softcap is not None:
            scores_S = softcap * np.tanh(scores_S / softcap)
        if scores_S.size:
            p_S = np.exp(scores_S - scores_S.max())
            out[b, t, h] = p_S @ v_BGSC[b, h * G // H, seen] / p_S.sum()
    return out


def nmse(got, want):
    return np.sum(np.square(np.asarray(got, np.float64) - want)) / np.sum(np.square(want))


def jitted(attend, **static):
    """A new function each time: jit would find the trace of another path."""
    return jax.jit(lambda *arrays, **traced: attend(*arrays, **traced, **static))


# ---------------------------------------------------------------- right


@needs_native
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_format_and_shape_is_the_definition(path, name, shape):
    T, H, G, C, S, window = SHAPES[shape]
    q_BTHC, *pair = draw(3, T, H, G, C, S)
    keys, values = (stored(x, format) for x, format in zip(pair, FORMATS[name], strict=True))
    length_B = np.asarray([S, min(S, T), S // 2], np.int32)
    want = exact(q_BTHC, as_floats(keys, C), as_floats(values, C), length_B, window)
    lowered = jitted(attention.decode_attention, window=window).lower(q_BTHC, keys, values, length_B)
    assert f"pikojax_decode_attention_{path}" in lowered.as_text()  # the native target, not the reference
    assert nmse(lowered.compile()(q_BTHC, keys, values, length_B), want) < LIMIT[name]


@needs_native
@pytest.mark.parametrize("how", ["native", "reference"])
@pytest.mark.parametrize("name", FORMATS)
def test_scores_are_held_below_a_cap(path, name, how):
    """Scores of up to 9, some of them 60 times that: a cap of 2 bends nearly all of them."""
    q_BTHC, *pair = draw(2, 3, 6, 2, 64, 150)
    q_BTHC = 3 * q_BTHC
    q_BTHC[:, :, 1] *= 60
    keys, values = (stored(x, format) for x, format in zip(pair, FORMATS[name], strict=True))
    length_B = np.asarray([150, 71], np.int32)
    got = jitted(getattr(attention, how), softcap=2.0, window=100)(q_BTHC, keys, values, length_B)
    assert nmse(got, exact(q_BTHC, as_floats(keys, 64), as_floats(values, 64), length_B, 100, softcap=2.0)) < (LIMIT[name] if how == "native" else 1e-10)


def test_what_nobody_sees_may_be_no_number():
    q_BTHC, *pair = draw(1, 1, 2, 1, 8, 20)
    want = attention.reference(q_BTHC, *pair, jnp.asarray([9]))
    for x in pair:
        x[:, :, 9:] = np.nan
    assert np.array_equal(attention.reference(q_BTHC, *pair, jnp.asarray([9])), want)


@needs_native
@pytest.mark.parametrize("name, limit", [("int8", 1e-2), ("int8_g32", 1e-3)])
def test_a_channel_that_stands_out_costs_little(path, name, limit):
    """No more than it would cost in a key: a query has as many scales. The limits are the docstring's of the kernel."""
    q_BTHC, *pair = draw(1, 1, 4, 1, 128, 200)
    q_BTHC[..., 5] *= 30
    keys, values = (stored(x, format) for x, format in zip(pair, FORMATS[name], strict=True))
    want = exact(q_BTHC, as_floats(keys, 128), as_floats(values, 128), [200])
    assert nmse(jitted(attention.native)(q_BTHC, keys, values, np.asarray([200], np.int32)), want) < limit


@needs_native
@pytest.mark.parametrize("cap", [50.0, 1e6])
def test_a_cap_that_hardly_holds_changes_nothing(path, cap):
    q_BTHC, *pair = draw(1, 1, 4, 1, 64, 100)
    want = exact(q_BTHC, *pair, [100], softcap=cap)
    assert nmse(jitted(attention.native, softcap=cap)(q_BTHC, *pair, np.asarray([100], np.int32)), want) < 1e-10


@needs_native
@pytest.mark.parametrize("name", [name for name in FORMATS if "int" in name])
def test_the_greatest_products_do_not_overflow(path, name):
    """Every code is its format's greatest or least, all of a slot alike, and queries and weights are as even as they can be."""
    rng = np.random.default_rng(0)
    q_BTHC = np.full((1, 2, 4, 64), 0.02, np.float32) * rng.choice([-1, 1], (1, 2, 4, 1))
    pair = [np.broadcast_to(rng.choice([-1, 1], (1, 1, 200, 1)), (1, 1, 200, 64)).astype(np.float32) for _ in range(2)]
    keys, values = (stored(x, format) for x, format in zip(pair, FORMATS[name], strict=True))
    length_B = np.asarray([200], np.int32)
    want = exact(q_BTHC, as_floats(keys, 64), as_floats(values, 64), length_B)
    assert nmse(jitted(attention.native)(q_BTHC.astype(np.float32), keys, values, length_B), want) < LIMIT[name]


@needs_native
@pytest.mark.parametrize("of_keys, of_values", [("float32", "int8"), ("int4_rotated", "bfloat16"), ("int8", "int4"), ("int8_g32", "int8")])
def test_keys_and_values_may_differ_in_format(path, of_keys, of_values):
    q_BTHC, *pair = draw(2, 3, 4, 2, 64, 150)
    keys, values = (stored(x, format) for x, format in zip(pair, (of_keys, of_values), strict=True))
    length_B = np.asarray([150, 71], np.int32)
    want = exact(q_BTHC, as_floats(keys, 64), as_floats(values, 64), length_B)
    assert nmse(jitted(attention.native)(q_BTHC, keys, values, length_B), want) < LIMIT["int8"]


@pytest.mark.parametrize("name", FORMATS)
def test_the_reference_is_the_definition(name):
    q_BTHC, *pair = draw(3, 4, 6, 2, 80, 50)
    keys, values = (stored(x, format) for x, format in zip(pair, FORMATS[name], strict=True))
    length_B = np.asarray([50, 3, 20], np.int32)
    want = exact(q_BTHC, as_floats(keys, 80), as_floats(values, 80), length_B, 9, 0.3)
    got = jitted(attention.reference, window=9, scale=0.3)(q_BTHC, keys, values, length_B)
    assert nmse(got, want) < 1e-10
    np.testing.assert_array_equal(got[1, 0], 0)  # length 3 with 4 rows: the first one stands before slot 0


@needs_native
@pytest.mark.parametrize("name", FORMATS)
def test_what_sees_nothing_gets_zeros_and_what_is_not_filled_is_not_read(path, name):
    q_BTHC, *pair = draw(4, 3, 4, 2, 64, 150)
    length_B = np.asarray([0, 1, 2, 100], np.int32)
    attend = jitted(attention.native)
    keys, values = (stored(x, format) for x, format in zip(pair, FORMATS[name], strict=True))
    whole = np.asarray(attend(q_BTHC, keys, values, length_B))

    def spoil(leaf):  # NaN, or the worst that bytes can say
        beyond = jnp.arange(150)[None, None, :, None] >= length_B[:, None, None, None]
        return jnp.where(
            beyond, jnp.asarray(jnp.nan if leaf.dtype in (jnp.float32, jnp.bfloat16, jnp.float16) else 127, leaf.dtype), leaf
        )

    spoiled = np.asarray(attend(q_BTHC, *jax.tree.map(spoil, (keys, values)), length_B))
    np.testing.assert_array_equal(spoiled, whole)
    np.testing.assert_array_equal(whole[0], 0)
    np.testing.assert_array_equal(whole[1, :2], 0)
    assert np.all(np.any(whole[1:, 2] != 0, axis=-1))


@needs_native
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", FORMATS)
def test_a_query_that_is_no_number_gives_none_and_leaves_its_neighbours_alone(path, name, bad):
    q_BTHC, *pair = draw(3, 2, 4, 2, 64, 150)
    keys, values = (stored(x, format) for x, format in zip(pair, FORMATS[name], strict=True))
    length_B = np.asarray([150, 100, 1], np.int32)
    attend = jitted(attention.native)
    want = np.array(attend(q_BTHC, keys, values, length_B))
    for b in range(3):
        q_BTHC[b, 1, 2, 40] = bad
        want[b, 1, 2] = np.nan
    q_BTHC[2, 0, 1, 0] = bad  # sees nothing: zeros all the same
    np.testing.assert_array_equal(attend(q_BTHC, keys, values, length_B), want)


@needs_native
@pytest.mark.parametrize("of_keys", [True, False])
@pytest.mark.parametrize("name", [name for name in FORMATS if "int" in name])
def test_a_cached_scale_that_is_no_number_is_not_lost(path, name, of_keys):
    q_BTHC, *pair = draw(2, 3, 4, 2, 64, 150)
    cache = [stored(x, format) for x, format in zip(pair, FORMATS[name], strict=True)]
    spoiled = cache[1 - of_keys]
    cache[1 - of_keys] = replace(spoiled, scales=spoiled.scales.at[:, 1, 99, :1].set(jnp.nan))
    length_B = np.asarray([101, 150], np.int32)  # slot 99 is seen by the last two rows of the first, and by all of the second
    got, want = (jitted(kernel)(q_BTHC, *cache, length_B) for kernel in (attention.native, attention.reference))
    assert np.isnan(got[0, 1:, 2:]).any(-1).all() and not np.isnan(got[:, :, :2]).any()
    for rows in (got[0, 1:], want[0, 1:]), (got[1], want[1]):  # a row that does not see it may multiply it by 0, which is NaN too
        np.testing.assert_array_equal(*map(np.isnan, rows))


@needs_native
def test_wrong_lengths_layers_and_blocks_read_nothing_astray(path):
    q_BTHC, k_BGSC, v_BGSC = draw(2, 1, 2, 1, 32, 40)
    k, v = jnp.asarray(k_BGSC)[None], jnp.asarray(v_BGSC)[None]
    attend = jitted(attention.native)
    full = attend(q_BTHC, k, v, np.asarray([40, 40], np.int32), layer=0)
    np.testing.assert_array_equal(attend(q_BTHC, k, v, np.asarray([10**6, 41], np.int32), layer=9), full)
    table_BN = np.asarray([[10**6], [-5]], np.int32)
    np.testing.assert_array_equal(attend(q_BTHC, k, v, np.asarray([40, 0], np.int32), layer=-3, block_table=table_BN)[1], 0)


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_layers_count_from_the_end_and_what_is_beyond_means_the_nearest(kernels, monkeypatch):
    monkeypatch.setenv("PIKOJAX_KERNELS", kernels)
    q_BTHC, k_BGSC, v_BGSC = draw(2, 1, 2, 1, 32, 40)
    k, v = (jnp.stack([x, x[:, :, ::-1], 2 * x]) for x in (k_BGSC, v_BGSC))
    attend = lambda length, layer, **more: np.asarray(  # noqa: E731
        jitted(attention.decode_attention, window=30)(q_BTHC, k, v, np.asarray(length, np.int32), layer=layer, **more)
    )
    each = [attend([40, 9], i) for i in range(3)]
    for layer, same in ((-1, 2), (-3, 0), (-4, 0), (-99, 0), (3, 2), (10**6, 2)):
        np.testing.assert_array_equal(attend([40, 9], layer), each[same])
    np.testing.assert_array_equal(attend([45, 9], 0), each[0])
    assert not attend([-5, 0], 0).any()
    pooled = lambda *blocks: attend([40, 40], 1, block_table=np.asarray(blocks, np.int32)[:, None])  # noqa: E731
    np.testing.assert_array_equal(pooled(-7, 10**6), pooled(0, 1))


def test_the_front_end_refuses_what_no_kernel_could_serve():
    q_BTHC, k_BGSC, v_BGSC = map(jnp.asarray, draw(1, 1, 3, 2, 32, 8))
    length_B = np.asarray([8], np.int32)
    rotated = stored(v_BGSC, "int4_rotated")
    for refused, said in (
        (lambda: attention.decode_attention(q_BTHC, k_BGSC, v_BGSC, length_B), "got 3 query heads over 2 kv heads"),
        (lambda: attention.decode_attention(q_BTHC[:, :, :2], rotated, rotated, length_B), "got values in int4_rotated, wanted int4"),
        (lambda: attention.decode_attention(q_BTHC[:, :, :2], k_BGSC, v_BGSC, length_B, window=0), "got window=0, wanted at least 1"),
        (lambda: attention.decode_attention(q_BTHC[:, :, :2], k_BGSC, v_BGSC, length_B, softcap=0.0), "got softcap=0.0, wanted a value above 0"),
    ):
        with pytest.raises(UserError, match=said):
            refused()


# ---------------------------------------------------------------- independent rows


@needs_native
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("window", [None, 50])
def test_a_row_has_the_same_bits_alone_in_a_batch_and_among_other_tokens(path, name, window):
    B, T, S = 3, 37, 2200  # three pieces of work, the last one in part
    q_BTHC, *pair = draw(B, T, 6, 2, 64, S, seed=1)
    keys, values = (stored(x, format) for x, format in zip(pair, FORMATS[name], strict=True))
    length_B = np.asarray([S, 70, 2055], np.int32)
    attend = jitted(attention.native, window=window)
    together = np.asarray(attend(q_BTHC, keys, values, length_B))
    for t in (0, 5, 15, 16, 36):
        alone = attend(q_BTHC[:, t : t + 1], keys, values, length_B - T + t + 1)
        np.testing.assert_array_equal(np.asarray(alone)[:, 0].view(np.int32), together[:, t].view(np.int32))
    five = attend(q_BTHC[:, 4:9], keys, values, length_B - T + 9)
    np.testing.assert_array_equal(np.asarray(five).view(np.int32), together[:, 4:9].view(np.int32))
    for b in range(B):
        solo = attend(q_BTHC[b : b + 1], *jax.tree.map(lambda leaf, b=b: leaf[b : b + 1], (keys, values)), length_B[b : b + 1])
        np.testing.assert_array_equal(np.asarray(solo)[0].view(np.int32), together[b].view(np.int32))


@pytest.mark.parametrize("attend", [attention.reference, pytest.param(attention.native, marks=needs_native)])
def test_new_tokens_beyond_the_end_leave_the_others_as_they_are(attend):
    """20 slots, 5 tokens from slot 17 on: two have none."""
    q_BTHC, k_BGSC, v_BGSC = draw(1, 5, 4, 2, 16, 20)
    five = jitted(attend)(q_BTHC, k_BGSC, v_BGSC, np.asarray([22], np.int32))
    three = jitted(attend)(q_BTHC[:, :3], k_BGSC, v_BGSC, np.asarray([20], np.int32))
    np.testing.assert_allclose(five[:, :3], three, rtol=1e-6)


@needs_native
@pytest.mark.parametrize("block", [16, 64, 7])
@pytest.mark.parametrize("name", FORMATS)
def test_a_permuted_block_table_changes_no_bit(path, name, block):
    B, n_blocks, G = 2, 90 // block + 1, 2
    S = n_blocks * block
    q_BTHC, *pair = draw(B, 2, 4, G, 64, S, seed=2)
    table_BN = np.random.default_rng(0).permutation(B * n_blocks + 3)[: B * n_blocks].reshape(B, n_blocks).astype(np.int32)

    def pool(leaf):  # [B, G, S, X] → [P, G, block, X]
        leaf = np.asarray(leaf)
        made = np.full((B * n_blocks + 3, G, block, leaf.shape[-1]), 100, leaf.dtype)
        made[table_BN.reshape(-1)] = (
            leaf.reshape(B, G, n_blocks, block, -1).transpose(0, 2, 1, 3, 4).reshape(-1, G, block, leaf.shape[-1])
        )
        return jnp.asarray(made)

    in_order = tuple(stored(x, format) for x, format in zip(pair, FORMATS[name], strict=True))
    length_B = np.asarray([S, S - 11], np.int32)
    for attend in (attention.native, attention.reference):
        whole = jitted(attend)(q_BTHC, *in_order, length_B)
        paged = jitted(attend)(q_BTHC, *jax.tree.map(pool, in_order), length_B, block_table=table_BN)
        np.testing.assert_array_equal(np.asarray(paged), np.asarray(whole))


# ---------------------------------------------------------------- inside programs


@needs_native
@pytest.mark.parametrize("name", ["float32", "int8", "int4"])
def test_a_traced_layer_of_a_stack_inside_scan_and_vmap(name):
    q_BTHC, *pair = draw(2, 1, 4, 2, 64, 40)
    stacks = tuple(stored(np.stack([x, 2 * x, x[:, :, ::-1]]), format) for x, format in zip(pair, FORMATS[name], strict=True))
    length_B = np.asarray([40, 13], np.int32)
    attend = functools.partial(attention.decode_attention, q_BTHC)
    each = [attend(*jax.tree.map(lambda leaf, i=i: leaf[i], stacks), length_B) for i in range(3)]

    scanned = jax.jit(
        lambda stacks: jax.lax.scan(lambda _, i: (None, attend(*stacks, length_B, layer=i)), None, jnp.arange(3))[1]
    )
    np.testing.assert_array_equal(scanned(stacks), np.stack(each))
    mapped = jax.jit(jax.vmap(lambda keys, values: attend(keys, values, length_B)))
    np.testing.assert_array_equal(mapped(*stacks), np.stack(each))
    assert not np.array_equal(each[0], each[1]) and not np.array_equal(each[0], each[2])


def test_what_cannot_be_native_says_why_and_the_reference_serves(monkeypatch):
    q_BTHC, k_BGSC, v_BGSC = map(jnp.asarray, draw(1, 1, 2, 1, 8, 20))
    k_BGSC = k_BGSC.astype(jnp.float16)
    assert "float16" in attention.why_not(q_BTHC, k_BGSC, v_BGSC)
    length_B = np.asarray([20], np.int32)
    np.testing.assert_array_equal(
        attention.decode_attention(q_BTHC, k_BGSC, v_BGSC, length_B), attention.reference(q_BTHC, k_BGSC, v_BGSC, length_B)
    )
    monkeypatch.setattr(build, "status", lambda name: "none: no C++ compiler")
    assert attention.why_not(q_BTHC, v_BGSC, v_BGSC) == "no C++ compiler"


# ---------------------------------------------------------------- in a model

GPT = catalog["gpt"]
CFG = GPTConfig(d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, d_hidden=64, vocab_size=50, context=4096)


@functools.cache
def loud_params():
    shapes = jax.eval_shape(lambda: GPT.init(CFG, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return decode.ready(jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), jnp.float32), shapes))


@needs_native
@pytest.mark.parametrize("dtype", [jnp.float32, "int8", "int4"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_decode_step_copies_no_layer_of_the_cache(dtype, batch):
    cache = GPT.new_cache(CFG, batch, CFG.context, dtype)
    rows = [jnp.zeros(batch, kind) for kind in (jnp.int32, jnp.int32, bool)]
    settings, key_B = make_settings(batch, 50, 0.0), jax.random.split(jax.random.key(0), batch)
    args = (loud_params(), None, decode.State(cache, *rows), settings, key_B, np.zeros(0, np.int32), np.full(batch, 4, np.int32), np.int32(4))
    compiled = decode.decode.lower(decode.How(GPT.forward, CFG), *args).compile()
    smallest_layer = min(leaf.nbytes for leaf in jax.tree.leaves(cache) if leaf.ndim == 5 and leaf.shape[-1] > 1) // CFG.n_layers
    assert compiled.memory_analysis().temp_size_in_bytes < smallest_layer // 2
    whole = [line for line in compiled.as_text().splitlines() if f",{CFG.context}," in line.split(" = ")[-1].split("(")[0]]
    assert not [line for line in whole if " copy(" in line or " slice(" in line or " dynamic-slice(" in line], whole


@pytest.mark.parametrize("dtype, most", [("int8", 2e-3), pytest.param("float32", 1e-9, marks=pytest.mark.slow), *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in (("int8_g32", 2e-3), ("int4", 0.2)))])
def test_a_quantized_cache_gives_nearly_the_full_forward(dtype, most):
    tokens_BT = np.random.default_rng(0).integers(0, 50, (2, 40)).astype(np.int32)
    want = np.asarray(GPT.forward(CFG, loud_params(), tokens_BT)[0].logits, np.float64)
    cache, parts, forward = GPT.new_cache(CFG, 2, 64, dtype), [], jax.jit(GPT.forward, static_argnums=0)
    for start, width in ((0, 24), (24, 8), (32, 8)):  # by the reference, then by the kernel
        out, cache = forward(CFG, loud_params(), tokens_BT[:, start : start + width], cache)
        parts.append(np.asarray(out.logits))
    assert nmse(np.concatenate(parts, axis=1), want) < most


# ---------------------------------------------------------------- under sanitizers


@pytest.mark.exhaustive
@pytest.mark.skipif(build.find_compiler()[0] is None, reason="no C++ compiler")
@pytest.mark.parametrize("path", cpu.PATHS, indirect=True)
@pytest.mark.parametrize("sanitizer", sanitized.SANITIZERS)
def test_odd_shapes_run_clean_under_the_sanitizers(path, sanitizer, tmp_path):
    assert "worst error" in sanitized.run("attention_check.cc", path, sanitizer, tmp_path)
