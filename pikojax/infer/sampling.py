"""Sampling: logits → one token a row, by temperature, top-k, top-p, min-p, penalties, a bias and a mask.

    shape: logits → + bias → penalties → allowed only → / temperature → top-k → top-p → min-p → log-weights, dropped tokens −inf
    draw:  argmax of log-weight − ln E, E of each token exponential: a race, which a token wins with probability softmax(log-weights)

A row has settings and a key of its own, all of them traced: other settings need no other program, and a row has the same bits and draws
the same token whatever stands beside it (on a CPU; elsewhere up to the rounding of sums). Temperature 0 is greedy: weight for the likeliest
token alone. Top-k is applied first, top-p to what it leaves, renormalized; min-p keeps what has at least that part of the likeliest
token's probability, after the temperature, so it matters not when. Equal logits share their fate: a tie at the edge is kept whole, so the
order of the vocabulary never matters.

Of what a row has `Seen`: repetition (CTRL's, as in Hugging Face's) divides positive logits and multiplies negative ones of all tokens
in prompt or output; presence and frequency (OpenAI's) are subtracted once, or once for each time, and of the output alone, as in vLLM.

The edges are found by bisection on the logits' bit patterns instead of a sort: 32 passes over V, exact. A draw takes a random number for each token, by a hash of key and token that costs a
few operations. So two distributions from which the same key draws, a model's and its drafter's, mostly draw the same token: with
probability (1 − d) / (1 + d) at least, d being the total variation between them; read off one running sum they would agree far less.

Leaves out: beams, penalties that fade, windows of them.
"""

from collections.abc import Callable
from numbers import Integral
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import require

MIN_TOP_P = 1e-7  # float32 knows no part much smaller, and 0 would keep nothing
MOST = 1_000_000  # of a temperature, a penalty or a bias: what float32 can still do sums with
BROKEN = -1  # the token of logits that are no numbers
LARGEST_EXPONENTIAL = 24.0  # u may be rounded to 1
MIN_TEMPERATURE = 1e-6  # below it the division would overflow; the draw is greedy long before


class Settings(NamedTuple):
    """How each row draws. Off: top_k = the vocabulary's size, top_p = 1, min_p = 0, repetition = 1, presence = frequency = 0."""

    temperature_B: jax.Array  # float32; 0: the likeliest token
    top_k_B: jax.Array  # int32
    top_p_B: jax.Array  # float32
    n_tokens_B: jax.Array  # int32; ids from here up are a table's padding, and are never drawn
    min_p_B: jax.Array  # float32
    repetition_B: jax.Array  # float32; this and the next two need a `Seen`
    presence_B: jax.Array  # float32
    frequency_B: jax.Array  # float32
    calibration_B: jax.Array  # float32: what a distribution is divided by before its certainty is told; no draw depends on it


class Seen(NamedTuple):
    """What a row's text holds already, for penalties."""

    prompt_BV: jax.Array  # bool: the prompt has the token
    drawn_BV: jax.Array  # int32: how often it was drawn since

    def add(self, token_B: jax.Array, active_B: jax.Array) -> "Seen":
        """With the token that each active row has drawn."""
        row_B = jnp.arange(token_B.shape[0])
        return self._replace(drawn_BV=self.drawn_BV.at[row_B, token_B].add(active_B.astype(jnp.int32)))


def make_settings(
    batch: int, vocab_size: int, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None,
    n_tokens: int | None = None, min_p: float | None = None,
    repetition_penalty: float = 1.0, presence_penalty: float = 0.0, frequency_penalty: float = 0.0, calibration: float = 1.0,
) -> Settings:  # fmt: skip
    """The same checked settings for every row. `n_tokens`: what the tokenizer knows, where the model's table is larger."""
    require(0 <= temperature <= MOST, f"temperature = {temperature}; give 0 (the likeliest token) or a number up to {MOST:,}")
    whole = top_k is None or (isinstance(top_k, Integral) and top_k >= 1)
    require(whole, f"top_k = {top_k}; give 1 or more, a whole number, or leave it out for no limit")
    require(top_p is None or 0 < top_p <= 1, f"top_p = {top_p}; give a part above 0 and up to 1, or leave it out")
    require(min_p is None or 0 <= min_p <= 1, f"min_p = {min_p}; give a part from 0 to 1, or leave it out")
    require(0 < repetition_penalty <= MOST, f"repetition_penalty = {repetition_penalty}; give a number above 0, up to {MOST:,}, or 1 for none")
    for name, value in (("presence_penalty", presence_penalty), ("frequency_penalty", frequency_penalty)):
        require(abs(value) <= MOST, f"{name} = {value}; give a number up to {MOST:,}, or 0 for none")
    require(0 < calibration <= MOST, f"calibration = {calibration}; give a temperature above 0, up to {MOST:,}")
    top_k = vocab_size if top_k is None else min(top_k, vocab_size)
    top_p = 1.0 if top_p is None else max(top_p, MIN_TOP_P)
    n_tokens = vocab_size if n_tokens is None else min(n_tokens, vocab_size)
    row = (temperature, top_k, top_p, n_tokens, min_p or 0.0, repetition_penalty, presence_penalty, frequency_penalty, calibration)
    kinds = (np.float32, np.int32, np.float32, np.int32, *[np.float32] * 5)
    return Settings(*(jnp.asarray(np.full(batch, value, kind)) for value, kind in zip(row, kinds, strict=True)))


def sample(logits_BV, key_B, settings: Settings, seen: Seen | None = None, bias_BV=None, allowed_BV=None) -> jax.Array:
    """One token id a row, int32: `draw(shape(…), key_B)`, without the drawing where every row is greedy. `key_B` may be a function that
    makes the keys, which takes as long as much of a small model's step: then it is called only to draw."""
    logits_BV = _adjust(logits_BV, settings, seen, bias_BV, allowed_BV)
    weigh_and_draw = lambda logits_1V, settings_1, key_1: _draw(_weigh(logits_1V, settings_1), key_1)
    drawn = lambda: _each_row(weigh_and_draw, logits_BV, settings, key_B() if callable(key_B) else key_B)
    return jax.lax.cond(jnp.any(settings.temperature_B > 0), drawn, lambda: jnp.argmax(logits_BV, axis=1).astype(jnp.int32))


def shape(logits_BV, settings: Settings, seen: Seen | None = None, bias_BV=None, allowed_BV=None) -> jax.Array:
    """float32 log-weights: softmax of them is the distribution that `draw` draws from. The parts that are None cost nothing, but each
    choice of them is a program of its own. `bias_BV` is added to the logits; of `allowed_BV` at least one token a row is True."""
    return _each_row(_weigh, _adjust(logits_BV, settings, seen, bias_BV, allowed_BV), settings)


def draw(shaped_BV: jax.Array, key_B: jax.Array) -> jax.Array:
    """One token id a row, int32, of what `shape` gives."""
    return _each_row(_draw, shaped_BV, key_B)


def log_probs(logits_BV: jax.Array, token_B: jax.Array, n_top: int, n_tokens_B: jax.Array | None = None):
    """(log-probability of each row's token, the n_top likeliest ids, theirs): of the model's own distribution, before bias, penalties,
    temperature and truncation, which is what llama.cpp's and vLLM's servers report unless they are asked for something else."""
    logits_BV = logits_BV.astype(jnp.float32)
    if n_tokens_B is not None:
        logits_BV = jnp.where(_known(logits_BV, n_tokens_B), logits_BV, -jnp.inf)

    def one(logits_1V, token_1):
        logprob_1V = jax.nn.log_softmax(logits_1V, axis=1)
        top_1N, ids_1N = jax.lax.top_k(logprob_1V, n_top)
        return jnp.take_along_axis(logprob_1V, token_1[:, None], axis=1)[:, 0], ids_1N.astype(jnp.int32), top_1N

    return _each_row(one, logits_BV, token_B.astype(jnp.int32))


def _each_row(f: Callable, first_BV, *rest):
    """`f` of the rows. On a CPU of one row after the other, as XLA there sums and exponentiates a batch in an order, or by a library, that
    depends on its size. How often the loop runs is hidden from the compiler, which would compile a loop of one row otherwise."""
    if jax.default_backend() != "cpu":
        return f(first_BV, *rest)
    batch, rows = first_BV.shape[0], (first_BV, *rest)
    like = jax.eval_shape(f, *jax.tree.map(lambda x: x[:1], rows))

    def one(b, out):
        made = f(*jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, b, 1), rows))
        return jax.tree.map(lambda all_B, part: jax.lax.dynamic_update_slice_in_dim(all_B, part, b, 0), out, made)

    n_rows = batch + jnp.isnan(first_BV[0, 0]).astype(jnp.int32)  # batch, or the last row twice
    return jax.lax.fori_loop(0, n_rows, one, jax.tree.map(lambda x: jnp.zeros((batch, *x.shape[1:]), x.dtype), like))


def _known(logits_BV, n_tokens_B):
    return jnp.arange(logits_BV.shape[1], dtype=jnp.int32)[None, :] < n_tokens_B[:, None]


def _adjust(logits_BV, settings: Settings, seen: Seen | None, bias_BV, allowed_BV) -> jax.Array:
    """The logits that order the tokens."""
    logits_BV, keep_BV = logits_BV.astype(jnp.float32), _known(logits_BV, settings.n_tokens_B)
    if bias_BV is not None:
        logits_BV = logits_BV + bias_BV.astype(jnp.float32)
    if seen is not None:
        there_BV = seen.prompt_BV | (seen.drawn_BV > 0)
        factor_B1 = settings.repetition_B[:, None]
        logits_BV = jnp.where(there_BV, jnp.where(logits_BV > 0, logits_BV / factor_B1, logits_BV * factor_B1), logits_BV)
        logits_BV = logits_BV - settings.frequency_B[:, None] * seen.drawn_BV.astype(jnp.float32)
        logits_BV = logits_BV - settings.presence_B[:, None] * (seen.drawn_BV > 0).astype(jnp.float32)
    if allowed_BV is not None:
        keep_BV = keep_BV & allowed_BV
    return jnp.where(keep_BV, logits_BV, -jnp.inf)


def _weigh(logits_BV: jax.Array, settings: Settings) -> jax.Array:
    vocab_size = logits_BV.shape[1]
    truncates = jnp.any((settings.top_k_B < vocab_size) | (settings.top_p_B < 1.0) | (settings.min_p_B > 0.0))
    scaled_BV = jax.lax.cond(truncates, _scale_and_truncate, _scale, logits_BV, settings)
    likeliest_BV = jnp.arange(vocab_size, dtype=jnp.int32)[None, :] == jnp.argmax(logits_BV, axis=1).astype(jnp.int32)[:, None]
    return jnp.where((settings.temperature_B > 0)[:, None], scaled_BV, jnp.where(likeliest_BV, 0.0, -jnp.inf))


def _draw(shaped_BV, key_B):
    return jnp.argmax(shaped_BV + noise(key_B, shaped_BV.shape[1]), axis=1).astype(jnp.int32)


def noise(key_B, n: int):
    """float32 [B, n]: −ln E, E exponential with mean 1 (Gumbel's distribution), a function of key and token. The winner's E is small, so it
    is made from a uniform number with all its bits there: of u near 0, where floats are dense, by ln(1 − u)."""
    words_BW = jax.random.key_data(key_B)
    token_1V = jnp.arange(n, dtype=jnp.uint32)[None, :]
    bits_BV = _mixed(_mixed(token_1V + words_BW[:, :1]) ^ words_BW[:, -1:])
    u_BV = (bits_BV.astype(jnp.float32) + 0.5) * jnp.float32(2.0**-32)
    exponential_BV = jnp.minimum(-jnp.log1p(-u_BV), LARGEST_EXPONENTIAL)
    return -jnp.log(exponential_BV)


def _mixed(x):
    """A permutation of 32-bit words in which each bit depends on all."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def keep_mask(logits_BV: jax.Array, settings: Settings) -> jax.Array:
    """True where a token may be drawn; in every row at least one is."""
    order_BV = _order_bits(logits_BV)
    count = lambda at_least_BV: jnp.sum(at_least_BV, axis=1, dtype=jnp.int32)
    edge_B = _highest_edge(order_BV, lambda at_least_BV: count(at_least_BV) >= settings.top_k_B)
    keep_BV = order_BV >= edge_B[:, None]
    prob_BV = jax.nn.softmax(jnp.where(keep_BV, _scale(logits_BV, settings), -jnp.inf), axis=1)
    mass = lambda at_least_BV: jnp.sum(jnp.where(at_least_BV, prob_BV, 0.0), axis=1)
    edge_B = _highest_edge(order_BV, lambda at_least_BV: mass(at_least_BV) >= settings.top_p_B)
    everything_B = settings.top_p_B >= 1.0  # rounding may bring a part of the sum to 1 already
    keep_BV = keep_BV & (everything_B[:, None] | (order_BV >= edge_B[:, None]))
    return keep_BV & (_scale(logits_BV, settings) >= jnp.log(settings.min_p_B)[:, None])  # log 0 keeps everything


def _scale(logits_BV: jax.Array, settings: Settings) -> jax.Array:
    highest_B1 = jnp.maximum(jnp.max(logits_BV, axis=1, keepdims=True), jnp.finfo(jnp.float32).min)  # −inf − −inf is no number
    return (logits_BV - highest_B1) / jnp.maximum(settings.temperature_B, MIN_TEMPERATURE)[:, None]


def _scale_and_truncate(logits_BV: jax.Array, settings: Settings) -> jax.Array:
    return jnp.where(keep_mask(logits_BV, settings), _scale(logits_BV, settings), -jnp.inf)


def _order_bits(x_BV: jax.Array) -> jax.Array:
    """int32 in the order of the float32 values: a float's bits already are, once the magnitude of negatives is flipped."""
    bits_BV = jax.lax.bitcast_convert_type(jnp.where(x_BV == 0, jnp.float32(0), x_BV), jnp.int32)  # −0 and 0 are equal
    return jnp.where(bits_BV < 0, bits_BV ^ jnp.int32(0x7FFFFFFF), bits_BV)


def _highest_edge(order_BV: jax.Array, enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The highest edge for which the tokens at or above it are `enough`; the lowest integer when even all are not."""
    info, batch = jnp.iinfo(jnp.int32), order_BV.shape[0]

    def halve(_, bounds):
        low_B, high_B = bounds
        middle_B = (low_B | high_B) - ((low_B ^ high_B) >> 1)  # the average rounded up, without overflow
        good_B = enough(order_BV >= middle_B[:, None])
        return jnp.where(good_B, middle_B, low_B), jnp.where(good_B, high_B, middle_B - 1)

    bounds = jnp.full(batch, info.min, jnp.int32), jnp.full(batch, info.max, jnp.int32)
    return jax.lax.fori_loop(0, 32, halve, bounds)[0]
