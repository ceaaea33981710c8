"""How well a model foretells a text, and how far it is from another model with the same vocabulary.

    perplexity = exp(mean nats a token)     bits a byte = Σ nats / (ln 2 · bytes)     KL = Σ_v p(v) · ln(p(v) / q(v)), p of the model compared with

The text is cut into windows one after the other, and every token is a target once, seen with what stands before it in its window: with <bos> before
each window where the tokenizer begins texts so, otherwise with the last token of the window before (the text's first token is no
target then). An error is one standard error of a mean over tokens, as if they were independent.

Leaves out: sliding windows (each target with a full history); the loss while training (`evaluate.py`).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import require
from pikojax.train.loss import cross_entropy

TOKENS_AT_ONCE = 4096
LOGITS_AT_ONCE = 1 << 26  # of one model: 256 MB


def measure(loaded, ids: np.ndarray, n_bytes: int, *, bos: int | None, context: int, against=None) -> dict:
    """`loaded`, `against`: anything with model, config and params (`formats.load`)."""
    require(context >= 2, f"a window of {context} tokens foretells nothing; give 2 or more")
    require(len(ids) >= (1 if bos is not None else 2), f"the text has {len(ids)} tokens, too few to foretell one; give a longer text")
    inputs_NT, targets_NT, counted_NT = windows(np.asarray(ids, np.int32), bos, context)
    rows = max(1, min(TOKENS_AT_ONCE, LOGITS_AT_ONCE // loaded.config.vocab_size) // inputs_NT.shape[1])
    found = []
    for at in range(0, len(inputs_NT), rows):
        part = inputs_NT[at : at + rows], targets_NT[at : at + rows]
        facts = _facts(loaded, against, *(np.pad(x, [(0, rows - len(x)), (0, 0)]) for x in part))  # one shape, compiled once
        found.append([np.asarray(fact)[: len(part[0])][counted_NT[at : at + rows]] for fact in facts])
    nats_N, *others = (np.concatenate(each).astype(np.float64) for each in zip(*found, strict=True))
    mean, error = _mean(nats_N)
    per_byte = len(nats_N) / (math.log(2) * n_bytes)
    made = {"tokens": len(nats_N), "bytes": n_bytes, "context": context, "nats_per_token": mean, "nats_per_token_error": error}
    perplexity = math.exp(mean) if mean < 700 else math.inf
    made |= {"perplexity": perplexity, "perplexity_error": perplexity * error, "bits_per_byte": mean * per_byte, "bits_per_byte_error": error * per_byte}
    for name, values_N in zip(("kl_mean", "same_top_rate", "nats_above"), others):
        made[name], made[f"{name}_error"] = _mean(values_N)
    return made


def windows(ids: np.ndarray, bos: int | None, context: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """inputs, targets, counted, each [windows, tokens]: token t of the targets follows token t of the inputs."""
    targets = ids if bos is not None else ids[1:]
    width = min(context, len(targets))
    n = -(-len(targets) // width)
    counted_NT = np.arange(n * width).reshape(n, width) < len(targets)
    targets_NT = np.pad(targets, (0, n * width - len(targets))).reshape(n, width)
    before = np.concatenate([ids[:1], targets])[:-1]  # what stands before each target
    inputs_NT = np.pad(before, (0, n * width - len(before))).reshape(n, width).copy()
    if bos is not None:
        inputs_NT[:, 0] = bos
    return inputs_NT, targets_NT, counted_NT


def _facts(loaded, against, inputs_NT, targets_NT):
    if against is None:
        return _alone(loaded.model.forward, loaded.config, loaded.params, inputs_NT, targets_NT)
    return _compared(loaded.model.forward, against.model.forward, loaded.config, against.config, loaded.params, against.params, inputs_NT, targets_NT)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _alone(forward, cfg, params, inputs_NT, targets_NT):
    return (cross_entropy(forward(cfg, params, inputs_NT)[0].logits, targets_NT),)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _compared(forward, forward_p, cfg, cfg_p, params, params_p, inputs_NT, targets_NT):
    logits_NTV, logits_p_NTV = forward(cfg, params, inputs_NT)[0].logits, forward_p(cfg_p, params_p, inputs_NT)[0].logits
    log_q_NTV, log_p_NTV = jax.nn.log_softmax(logits_NTV), jax.nn.log_softmax(logits_p_NTV)
    kl_NT = jnp.sum(jnp.exp(log_p_NTV) * (log_p_NTV - log_q_NTV), axis=-1)
    same_NT = jnp.argmax(logits_NTV, axis=-1) == jnp.argmax(logits_p_NTV, axis=-1)
    nats_NT, nats_p_NT = cross_entropy(logits_NTV, targets_NT), cross_entropy(logits_p_NTV, targets_NT)
    return nats_NT, kl_NT, same_NT, nats_NT - nats_p_NT


def _mean(values_N: np.ndarray) -> tuple[float, float]:
    n = len(values_N)
    return float(values_N.mean()), float(values_N.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
