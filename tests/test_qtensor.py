"""Quantized matrices: how far they may be off, by theory; what stacks, padding, lookup and jit must not change; GGUF's blocks bit for bit."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pikojax.config import UserError
from pikojax.qtensor import FORMATS, QTensor, dequantize, lookup, quantize

GOLDEN = np.load(Path(__file__).parent / "golden" / "gguf_blocks.npz")
SIMPLE = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1")
K_BLOCKS = ("q4_k", "q5_k", "q6_k")
ROUNDING = 2.0**-11  # of a float16 scale
TINY = (
    2.0**-25
)  # half of float16's smallest number: a scale below is zero; times the largest q (and scale of a scale), all is lost


def bounds(format: str, blocks: np.ndarray) -> tuple[float, np.ndarray]:
    """(power, bound): the power mean of the errors in a block (inf: the largest, 2: root mean square) stays below the bound.

    Half a step where nothing is cut off, and what float16 makes of scales and minimums. Searched scales are at least as good, in
    the mean, as the step that cuts nothing off; only their mean is bounded. A k-block's scale is off by half of 1/63 (1/128 for
    q6_k) of the largest, times the largest q; its minimum likewise.
    """
    low, high = blocks.min(-1), blocks.max(-1)
    amax, spread = np.maximum(-low, high), high - low
    span = np.maximum(high, 0) - np.minimum(low, 0)
    kind = format.split("_g")[0]
    power, bound = {
        "int8": (np.inf, amax / 127 * (0.5 + 127 * ROUNDING)),
        "q8_0": (np.inf, amax / 127 * (0.5 + 127 * ROUNDING)),
        "int4": (2, amax / 7 * (0.5 + 8 * ROUNDING)),
        "int4a": (2, spread / 15 * (0.5 + 15 * ROUNDING) + amax * ROUNDING),
        "nf4": (np.inf, amax * (0.1520 + ROUNDING)),  # half of the widest gap, between −1 and −0.696
        "q4_0": (np.inf, amax / 8 * (1.0 + 8 * ROUNDING)),  # the far end is cut off by a whole step
        "q5_0": (np.inf, amax / 16 * (1.0 + 16 * ROUNDING)),
        "q4_1": (np.inf, spread / 15 * (0.5 + 15 * ROUNDING) + amax * ROUNDING),
        "q5_1": (np.inf, spread / 31 * (0.5 + 31 * ROUNDING) + amax * ROUNDING),
        "q4_k": (2, span / 15 * (0.5 + 15 / 126) + span / 126),
        "q5_k": (2, span / 31 * (0.5 + 31 / 126) + span / 126),
        "q6_k": (2, amax / 31 * (0.5 + 32 / 256)),
    }[kind]
    return power, bound * 1.001 + TINY * {"q4_k": 63 * 16, "q5_k": 63 * 32, "q6_k": 128 * 32}.get(kind, 128 + 1)


def check_round_trip(w: np.ndarray, format: str) -> None:
    q = quantize(w, format)
    back = np.asarray(dequantize(q))
    assert back.shape == w.shape and back.dtype == np.float32
    K, block = w.shape[-2], FORMATS[format].block_weights if FORMATS[format].group else w.shape[-2]
    padding = [(0, 0)] * (w.ndim - 1) + [(0, -K % block)]
    rows, errors = (np.pad(np.swapaxes(x, -1, -2), padding).reshape(-1, block) for x in (w, back - w))
    power, bound = bounds(format, rows)
    off = np.abs(errors).max(-1) if power == np.inf else np.sqrt((errors.astype(np.float64) ** 2).mean(-1))
    assert (off <= bound).all(), (format, float((off / bound).max()))


SPECIAL = {
    "zeros": lambda w: w * 0,
    "one value": lambda w: w * 0 + 3.7,
    "above zero": lambda w: np.abs(w) + 1,
    "large": lambda w: w * 1e3,
    "tiny": lambda w: w * 1e-6,
    "sparse": lambda w: w * (w > 1.2),
    "one outlier a column": lambda w: np.where(np.arange(w.shape[-2])[:, None] == w.shape[-2] // 2, 60 * w, w),
}
SHAPES = [(172, 5), (2, 64, 3), (1, 1), (33, 0), (2, 1, 300, 7), (512, 2)]


def weights(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("format", FORMATS)
def test_what_comes_back_is_as_near_as_theory_says(format):
    for change in SPECIAL.values():
        check_round_trip(change(weights((172, 5))), format)


@pytest.mark.exhaustive
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("format", FORMATS)
@given(
    seed=st.integers(0, 2**32 - 1), special=st.sampled_from([None, *SPECIAL]), scale=st.floats(1e-3, 10.0)
)  # float16 scales hold what "large" makes of that
@settings(max_examples=8, deadline=None)
def test_every_format_holds_its_bound_on_odd_shapes_and_stacks(format, shape, seed, special, scale):
    w = weights(shape, seed) * np.float32(scale)
    check_round_trip(w if special is None else SPECIAL[special](w), format)


@pytest.mark.parametrize("format", FORMATS)
def test_a_looked_up_row_is_a_column_and_a_stack_is_its_layers(format):
    w = weights((2, 40, 9))
    q = quantize(w, format)
    assert q.shape == (40, 9) and q.stack == (2,)
    ids = np.array([[0, 8, 3], [3, 3, 99]])  # beyond the table is its last row
    for layer in range(2):
        whole = np.asarray(dequantize(q[layer]))
        assert whole.shape == (40, 9)
        np.testing.assert_array_equal(whole, np.asarray(dequantize(q))[layer])
        np.testing.assert_array_equal(np.asarray(lookup(q[layer], ids)), whole[:, np.minimum(ids, 8)].transpose(1, 2, 0))
    with pytest.raises(UserError, match="pick one of them"):
        lookup(q, ids)


@pytest.mark.parametrize("format", ["int8", "int4_g32", "int4a_g64", "nf4", "q5_1", "q4_k", "q6_k"])
def test_jit_scan_and_vmap_see_the_same_weights(format):
    q = quantize(weights((3, 40, 4)), format)
    plain = np.asarray(dequantize(q))
    np.testing.assert_array_equal(jax.jit(dequantize)(q), plain)
    np.testing.assert_array_equal(jax.lax.scan(lambda carry, layer: (carry, dequantize(layer)), None, q)[1], plain)
    np.testing.assert_array_equal(jax.vmap(dequantize)(q), plain)
    leaves, structure = jax.tree.flatten(q)
    again = jax.tree.unflatten(structure, leaves)
    assert (again.format, again.shape, again.layout) == (format, (40, 4), "canonical")
    assert len(leaves) == 1 + (q.scales is not None) + (q.mins is not None)


@pytest.mark.parametrize("format", ["int8_g32", "int4_g32", "int4a_g32", "nf4"])
def test_own_formats_quantize_under_jit(format):
    w = weights((2, 40, 4))
    inside = jax.jit(lambda w: quantize(w, format))(w)
    assert np.abs(np.asarray(dequantize(inside)) - np.asarray(dequantize(quantize(w, format)))).max() < 1e-3


@pytest.mark.parametrize("format", FORMATS)
def test_bytes_and_padding_are_what_the_format_says(format):
    known, shape_of = FORMATS[format], lambda K: jax.eval_shape(lambda w: quantize(w, format), jnp.zeros((K, 5)))
    extra = 0 if known.group else 32 / 512  # one float32 an output
    assert shape_of(512).n_bytes * 8 == pytest.approx((known.bits_per_weight + extra) * 512 * 5)
    odd = quantize(weights((172, 5)), format)
    assert odd.n_padded == -172 % known.block_weights
    assert (f"padded to {172 + odd.n_padded}" in repr(odd)) == bool(odd.n_padded)
    assert odd.data.shape == (5, (172 + odd.n_padded) // known.block_weights * known.block_bytes)
    assert dequantize(odd).shape == (172, 5)


def test_what_lies_where_in_four_bits():
    """Byte j of 32 weights: weight j low, weight j + 16 high, each 8 above its value; scale 1 makes the values themselves."""
    w = np.array([*range(-8, 8), *range(7, -9, -1)], np.float32)[:, None]
    q = quantize(w, "int4_g32")
    assert float(q.scales[0, 0]) == 1.0
    assert np.asarray(q.data[0]).tolist() == [j + 16 * (15 - j) for j in range(16)]


def test_gguf_blocks_and_ours_are_the_same_numbers():
    """q4_0, q8_0 and q4_1 are int4_g32, int8_g32 and int4a_g32 with the scales inside: repacking changes no weight."""
    w = weights((172, 5))
    for theirs, ours, head in (("q8_0", "int8_g32", 2), ("q4_0", "int4_g32", 2), ("q4_1", "int4a_g32", 4)):
        q = quantize(w, theirs)
        blocks = np.asarray(q.data).reshape(5, 6, -1)
        floats = np.ascontiguousarray(blocks[..., :head]).view(np.float16)
        data = np.ascontiguousarray(blocks[..., head:]).reshape(5, -1)
        data = data.view(np.int8) if theirs == "q8_0" else data
        same = QTensor(data, floats[..., 0], floats[..., 1] if head == 4 else None, ours, (172, 5))
        np.testing.assert_array_equal(dequantize(same), dequantize(q))


@pytest.mark.parametrize(
    "array, format, message",
    [
        (np.zeros((4, 4), np.float32), "int5", "choose from int8, "),
        (np.zeros(4, np.float32), "int8", r"\(4,\); give a matrix"),
        (np.zeros((0, 4), np.float32), "int8", "without inputs"),
        (np.zeros((4, 4), np.int32), "int8", "int32; give an array of floats"),
        (np.full((4, 4), np.nan, np.float32), "q4_0", "16 weights that are NaN or infinite, of 16"),
        (np.array([[1.0, -np.inf]], np.float32), "int4_g32", "1 weights that are NaN or infinite"),
        (np.full((4, 4), 1e6, np.float32), "q6_k", "up to 65504; use int8"),
    ],
)
def test_what_cannot_be_quantized_is_refused_in_one_line(array, format, message):
    with pytest.raises(UserError, match=message):
        quantize(array, format)


def test_weights_beyond_float16_fit_where_scales_are_float32():
    check_round_trip(weights((32, 2)) * np.float32(1e6), "int8")


def test_another_layout_is_no_canonical_one():
    q = quantize(weights((32, 2)), "int8")
    with pytest.raises(UserError, match="rows16"):
        dequantize(QTensor(q.data, q.scales, None, "int8", (32, 2), "rows16"))


# ---------------------------------------------------------------- GGUF


def bits(x):
    return np.asarray(x, np.float32).view(np.uint32)


@pytest.mark.parametrize("format", [*SIMPLE, *K_BLOCKS])
def test_blocks_mean_what_gguf_says_bit_for_bit(format):
    data, floats = GOLDEN[f"{format}/bytes"], GOLDEN[f"{format}/floats"]
    q = QTensor(jnp.asarray(data), None, None, format, floats.shape[::-1])
    for decode in (dequantize, jax.jit(dequantize)):
        np.testing.assert_array_equal(bits(decode(q)), bits(floats.T))


@pytest.mark.parametrize("format", SIMPLE)
def test_simple_blocks_are_filled_as_gguf_fills_them(format):
    w = GOLDEN["weights"].astype(np.float32)
    np.testing.assert_array_equal(quantize(w.T, format).data, GOLDEN[f"{format}/quantized"])


@pytest.mark.parametrize("format", K_BLOCKS)
def test_k_blocks_are_nearer_than_llama_cpp_makes_them(format):
    w = GOLDEN["weights"].astype(np.float32)
    error = np.sqrt(np.mean((np.asarray(dequantize(quantize(w.T, format)), np.float64).T - w) ** 2))
    assert 0.9 * GOLDEN[f"{format}/error"] < error < 0.99 * GOLDEN[f"{format}/error"]


@pytest.mark.parametrize("format", [*SIMPLE, *K_BLOCKS])
def test_blocks_beside_the_gguf_package_of_today(format):
    gguf = pytest.importorskip("gguf", reason="`gguf` is not installed: no live comparison")
    kind, known = gguf.GGMLQuantizationType[format.replace("q", "Q").replace("k", "K")], FORMATS[format]
    rng = np.random.default_rng(1)
    data = rng.integers(0, 256, (50, 8 * known.block_bytes)).astype(np.uint8)
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(data, kind)
    ours = np.asarray(dequantize(QTensor(jnp.asarray(data), None, None, format, (8 * known.block_weights, 50)))).T
    finite = np.isfinite(theirs)
    assert finite.mean() > 0.5
    np.testing.assert_array_equal(bits(ours)[finite], bits(theirs)[finite])
    if format in SIMPLE:
        w = np.concatenate([rng.laplace(size=(200, 512)), rng.integers(-32, 33, (50, 512)) / 16]).astype(np.float32)
        np.testing.assert_array_equal(quantize(w.T, format).data, gguf.quants.quantize(w, kind))
