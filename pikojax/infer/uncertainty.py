"""How sure a model is of each token that it writes, and a text in the colours of it.

    p = softmax(logits / T)      max-probability max p · entropy −Σ p ln p · margin (the largest p less the second)

T is fitted on held-out text (`fit_temperature`): the loss is convex in 1/T, so bisection on its slope, E_p[z] − z_target, finds it.
A model with a head of its own puts it in `out.aux["uncertainty"]`: [B, T], the probability that its likeliest next token is wrong.
The engine tells all of it of each token when a request asks for `uncertainty`; `generate_with_uncertainty` is one such request.

Leaves out: what a whole answer is worth, samples compared with each other. A sure model can be wrong: see `calibration_error`.
"""

import os
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import require
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


class Confidence(NamedTuple):
    """In one token that was drawn."""

    max_prob: float
    entropy_nats: float
    margin: float
    probability: float  # of this token, which need not be the likeliest
    own: float | None  # the model's head: the probability that the likeliest token is wrong


def measure(logits_BV, temperature=1.0) -> Uncertainty:
    """Of distributions over the last axis; tokens at −inf are impossible."""
    z_BV = logits_BV.astype(jnp.float32) / jnp.asarray(temperature, jnp.float32)
    log_p_BV = jax.nn.log_softmax(z_BV, axis=-1)
    p_BV = jnp.exp(log_p_BV)
    entropy_B = -jnp.sum(jnp.where(p_BV > 0, p_BV * log_p_BV, 0.0), axis=-1)
    top_B2 = jax.lax.top_k(p_BV, 2)[0]
    return Uncertainty(top_B2[..., 0], entropy_B, top_B2[..., 0] - top_B2[..., 1])


def confidence(logits_NV, token_N, n_tokens_N, calibration_N, own_N=None):
    """float32 [N, 5]: the fields of `Confidence`, of the distribution divided by `calibration`; own is NaN where the model has no head."""
    known_NV = jnp.arange(logits_NV.shape[1], dtype=jnp.int32)[None, :] < n_tokens_N[:, None]
    known_NV = jnp.where(known_NV, logits_NV.astype(jnp.float32), -jnp.inf) / calibration_N[:, None]
    probability_N = jnp.take_along_axis(jax.nn.softmax(known_NV, axis=-1), token_N[:, None], axis=1)[:, 0]
    own_N = jnp.full_like(probability_N, jnp.nan) if own_N is None else own_N.astype(jnp.float32)
    return jnp.stack([*measure(known_NV), probability_N, own_N], axis=1)


def head_of(out):
    """[B, T] of a model that has a head of its own, else None."""
    return out.aux.get(HEAD)


class Token(NamedTuple):
    id: int
    text: str  # what it adds; "" for a part of a character, which comes with the rest of it
    sure: Confidence


class Written(NamedTuple):
    text: str
    tokens: list[Token]
    stopped: str  # as in `Generation`
    prompt_tokens: int


def tokens_of(tokenizer, generation, prompt_ids=()) -> list[Token]:
    """Of a `Generation` with confidence; its first token's text can depend on the prompt's."""
    from pikojax.infer.request import Continuation  # which tells of tokens by this file

    stream, tokens = Continuation(tokenizer, list(prompt_ids)), []
    for id, sure in zip(generation.ids, generation.confidence, strict=True):
        tokens.append(Token(id, stream.push(id), sure))
    if tokens:
        tokens[-1] = tokens[-1]._replace(text=tokens[-1].text + stream.finish())
    return tokens


def generate_with_uncertainty(model, cfg, params, tokenizer, prompt: str, *, framed: bool = False, calibration: float = 1.0, **options) -> Written:
    """The text of `generate` with the same options (request.py), token by token, with what the model thought of each: of its own distribution
    divided by `calibration` (what `fit_temperature` gives), whatever the text is drawn with. Ends where the context is full."""
    from pikojax.infer.engine import Engine, EngineConfig

    engine = Engine(model, cfg, params, tokenizer, EngineConfig(slots=1, step_s=0.1), framed=framed)
    handle = engine.submit(prompt, uncertainty=True, calibration=calibration, **options)
    found = handle.result()
    return Written(found.text, tokens_of(tokenizer, found, handle.prompt_ids), found.stopped, found.prompt_tokens)


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
    return max(0.0, token.sure.max_prob if token.sure.own is None else 1 - token.sure.own)


def _lines(text: str) -> str:
    """Spelled out, but with its lines."""
    return "\n".join(spelled(line) for line in text.split("\n"))
