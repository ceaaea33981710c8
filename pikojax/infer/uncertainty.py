"""How sure a model is of each token that it writes, and a text in the colours of it.

    p = softmax(logits / T)      max-probability max p · entropy −Σ p ln p · margin (the largest p less the second)

T is fitted on held-out text (`fit_temperature`): the loss is convex in 1/T, so bisection on its slope, E_p[z] − z_target, finds it.
A model with a head of its own puts it in `out.aux["uncertainty"]`: [B, T], the probability that its likeliest next token is wrong.

Leaves out: what a whole answer is worth, samples compared with each other. A sure model can be wrong: see `calibration_error`.
"""

import functools
import os
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import require
from pikojax.infer.request import Continuation, prompt_ids
from pikojax.infer.sampling import Settings, make_settings, sample
from pikojax.text.view import spelled

HEAD = "uncertainty"  # its name in aux
T_RANGE = (0.05, 20.0)
# at least so sure: the colour behind the token
LEVELS = ((0.9, "#b7e4c7"), (0.7, "#e4f1a4"), (0.4, "#ffe08a"), (0.2, "#ffb482"), (0.0, "#ff8b8b"))
MARKED_BELOW = 0.4  # so sure, without colours


class Uncertainty(NamedTuple):
    max_prob_B: jax.Array
    entropy_nats_B: jax.Array
    margin_B: jax.Array
    own_B: jax.Array | None = None  # the model's head: the probability that the likeliest token is wrong


def measure(logits_BV, temperature=1.0) -> Uncertainty:
    """Of distributions over the last axis; tokens at −inf are impossible."""
    z_BV = logits_BV.astype(jnp.float32) / jnp.asarray(temperature, jnp.float32)
    log_p_BV = jax.nn.log_softmax(z_BV, axis=-1)
    p_BV = jnp.exp(log_p_BV)
    entropy_B = -jnp.sum(jnp.where(p_BV > 0, p_BV * log_p_BV, 0.0), axis=-1)
    top_B2 = jax.lax.top_k(p_BV, 2)[0]
    return Uncertainty(top_B2[..., 0], entropy_B, top_B2[..., 0] - top_B2[..., 1])


class Token(NamedTuple):
    id: int
    text: str  # what it adds; "" for a part of a character, which comes with the rest of it
    probability: float  # of this token, which need not be the likeliest
    max_prob: float
    entropy_nats: float
    margin: float
    own: float | None


class Written(NamedTuple):
    text: str
    tokens: list[Token]
    stopped: str  # "max_tokens" | "eos" | "context"
    prompt_tokens: int


def generate_with_uncertainty(
    model, cfg, params, tokenizer, prompt: str, *, max_tokens: int = 100, temperature: float = 0.8, top_k: int | None = None,
    top_p: float | None = None, seed: int = 0, framed: bool = False, calibration: float = 1.0,
) -> Written:  # fmt: skip
    """The text of `generate` with the same options, token by token, with what the model thought of each: of its own distribution divided by
    `calibration` (what `fit_temperature` gives), whatever the text is drawn with. Ends where the context is full."""
    require(max_tokens >= 1, f"max_tokens = {max_tokens}; give 1 or more")
    require(calibration > 0, f"calibration = {calibration}; give a temperature above 0")
    settings = make_settings(1, cfg.vocab_size, temperature, top_k, top_p, tokenizer.vocab_size)
    ids = prompt_ids(tokenizer, prompt, cfg.context, framed)
    text, stopped, written = Continuation(tokenizer, ids if prompt else []), "max_tokens", []
    for id, told in _told(model, cfg, params, ids, max_tokens, settings, seed, calibration):
        if id == tokenizer.eos_id:
            stopped = "eos"
            break
        written.append(Token(id, text.push(id), *told))
    if stopped != "eos" and len(written) < max_tokens:
        stopped = "context"
    if written:
        written[-1] = written[-1]._replace(text=written[-1].text + text.finish())
    return Written("".join(token.text for token in written), written, stopped, len(ids))


def _told(model, cfg, params, ids: list[int], max_tokens: int, settings: Settings, seed: int, calibration: float):
    """(token, what `Token` says of it besides) one after another."""
    power_of_two = lambda n: 1 << (n - 1).bit_length()
    from pikojax.infer.decode import ready  # which measures by this file

    params = ready(params)
    slots = min(cfg.context, max(256, power_of_two(len(ids) + max_tokens)))
    cache, key_B = model.new_cache(cfg, 1, slots), jax.random.key(seed)[None]
    new = np.zeros((1, min(slots, max(16, power_of_two(len(ids))))), np.int32)  # few lengths, few programs
    new[0, : len(ids)] = ids
    n_new, position = len(ids), len(ids)
    for _ in range(min(max_tokens, slots - len(ids) + 1)):
        numbers = np.asarray([n_new], np.int32), np.asarray([position], np.int32), np.float32(calibration)
        token_B, told, cache = _read(model.forward, cfg, params, cache, new, key_B, settings, *numbers)
        yield int(token_B[0]), [None if x_B is None else float(x_B[0]) for x_B in told]
        new, n_new, position = np.asarray(token_B)[:, None], 1, position + 1


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3,))
def _read(forward, cfg, params, cache, tokens_BT, key_B, settings, n_B, position_B, calibration):
    """Reads n_B tokens a row and draws the next. → token_B, (its probability, the rest of `Uncertainty`), cache."""
    before_B = cache.length_B
    out, cache = forward(cfg, params, tokens_BT, cache)
    logits_BV = jnp.take_along_axis(out.logits, (n_B - 1)[:, None, None], axis=1)[:, 0]
    token_B = sample(logits_BV, jax.vmap(jax.random.fold_in)(key_B, position_B), settings)
    own_B = jnp.take_along_axis(out.aux[HEAD], (n_B - 1)[:, None], axis=1)[:, 0] if HEAD in out.aux else None
    known_BV = jnp.arange(logits_BV.shape[1], dtype=jnp.int32)[None, :] < settings.n_tokens_B[:, None]
    known_BV = jnp.where(known_BV, logits_BV, -jnp.inf)
    probability_BV = jax.nn.softmax(known_BV / calibration, axis=-1)
    probability_B = jnp.take_along_axis(probability_BV, token_B[:, None], axis=1)[:, 0]
    return token_B, (probability_B, *measure(known_BV, calibration)._replace(own_B=own_B)), cache.rollback(before_B + n_B)


# ---------------------------------------------------------------- calibration


def fit_temperature(logits_NV, targets_N) -> float:
    """The temperature, from 0.05 to 20, under which held-out targets are likeliest."""
    logits_NV, targets_N = jnp.asarray(logits_NV, jnp.float32), jnp.asarray(targets_N, jnp.int32)
    good = logits_NV.ndim == 2 and targets_N.shape == logits_NV.shape[:1] and targets_N.size > 0
    require(good, f"fit_temperature got logits {logits_NV.shape} and targets {targets_N.shape}; give [N, V] and [N]")
    return float(1 / _inverse_temperature(logits_NV, targets_N))


@jax.jit
def _inverse_temperature(logits_NV, targets_N):
    z_NV = logits_NV - jnp.max(logits_NV, axis=1, keepdims=True)
    z_NV = jnp.maximum(z_NV, -1e4)  # an impossible token adds nothing; −inf · 0 would be no number
    target = jnp.mean(jnp.take_along_axis(z_NV, targets_N[:, None], axis=1))

    def halve(_, bounds):
        low, high = bounds  # of ln 1/T
        middle = (low + high) / 2
        slope = jnp.mean(jnp.sum(jax.nn.softmax(jnp.exp(middle) * z_NV, axis=1) * z_NV, axis=1)) - target
        return jnp.where(slope < 0, middle, low), jnp.where(slope < 0, high, middle)

    bounds = jnp.float32(-np.log(T_RANGE[1])), jnp.float32(-np.log(T_RANGE[0]))
    return jnp.exp(sum(jax.lax.fori_loop(0, 30, halve, bounds)) / 2)


def calibration_error(probability_N, right_N, n_bins: int = 15) -> float:
    """The expected calibration error: how far, in the mean over bins of confidence, confidence and the rate of being right are apart."""
    probability_N, right_N = np.asarray(probability_N, np.float64), np.asarray(right_N, np.float64)
    bin_N = np.minimum((probability_N * n_bins).astype(int), n_bins - 1)
    gap = np.bincount(bin_N, probability_N - right_N, minlength=n_bins)
    return float(np.abs(gap).sum() / len(probability_N))


# ---------------------------------------------------------------- in a terminal


def in_colours(stream) -> bool:
    """Whether colours are seen there, and wanted (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def view(tokens: Iterable[Token], coloured: bool):
    """The text with its uncertainty and a legend: a `rich.text.Text`, or, where colours do not serve or rich is missing, a string in which
    tokens that the model was unsure of are marked, as in "the ‹cat 12%›". Nothing in the text acts."""
    tokens = list(tokens)
    try:
        from rich.text import Text
    except ImportError:
        coloured = False
    if not coloured:
        marked = "".join(f"‹{_lines(t.text)} {sureness(t):.0%}›" if sureness(t) < MARKED_BELOW else _lines(t.text) for t in tokens)
        return f"{marked}\n(‹marked›: less than {MARKED_BELOW:.0%} sure)"
    out = Text()
    for token in tokens:
        out.append(_lines(token.text), style=f"black on {next(colour for least, colour in LEVELS if sureness(token) >= least)}")
    out.append("\nsure:")
    for least, colour in LEVELS:
        out.append(f" ≥ {least:.0%} " if least else " less ", style=f"black on {colour}")
    return out


def sureness(token: Token) -> float:
    """By the model's own head where it has one, else by the largest probability."""
    return max(0.0, token.max_prob if token.own is None else 1 - token.own)


def _lines(text: str) -> str:
    """Spelled out, but with its lines."""
    return "\n".join(spelled(line) for line in text.split("\n"))
