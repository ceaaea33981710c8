"""What a model does with a text: where each head looks, what each layer would say, how long its vectors are.

    attention  softmax(q·kᵀ/√C + mask) of each head, from the q and k that the model notes on its way
    lens       readout(x after layer l): the words that the final norm and head make of a stream that is not finished
    norms      |x after layer l| of each token

One forward pass, traced once with the models' notes taken (models/layers.py): the ordinary forward pass is not changed, and an architecture
from elsewhere is shown as far as it notes something. Encoders have no words to say; of them the likeness of their final vectors is shown.

Leaves out: what a head writes (only where it looks), gradients, texts beyond `most_tokens`.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import require
from pikojax.models import layers
from pikojax.models.layers import Model

MOST_VALUES = 3_000_000  # of attention on a page, a byte each
MOST_TOKENS = 512  # more are no picture
N_WORDS = 6  # the likeliest of each place and layer


class Looked(NamedTuple):
    """Of T tokens in L layers with H heads. Stream 0 is what enters the first layer."""

    attention_LHTT: np.ndarray | None  # rows: who looks, columns: at whom; None: the model notes none
    causal: bool
    norms_LT: np.ndarray  # L + 1
    words_LTK: np.ndarray | None  # L + 1: ids, the likeliest first; None: an encoder
    probs_LTK: np.ndarray | None
    likeness_TT: np.ndarray  # the cosine of final vectors
    experts_LTK: np.ndarray | None  # which experts each token went to


def most_tokens(cfg) -> int:
    return min(cfg.context, MOST_TOKENS, math.isqrt(MOST_VALUES // (cfg.n_layers * cfg.n_heads)))


def look(model: Model, cfg, params, ids) -> Looked:
    """At one text. A text that is too long for a page is refused."""
    n, most = len(ids), most_tokens(cfg)
    require(n > 0, "the prompt has no tokens; give some text")
    require(n <= most, f"the prompt has {n} tokens, a page of this model holds {most}; leave out {n - most} of them")
    seen = jax.device_get(_look(model.forward, cfg, params, np.asarray([ids], np.int32)))
    broken = np.flatnonzero(~np.isfinite(seen["norms_LT"]).all(axis=1))
    first = broken.min(initial=cfg.n_layers)
    require(not broken.size, f"the model's vectors are no numbers from layer {first} on; its weights are damaged, load them anew")
    return Looked(causal=model.new_cache is not None, **seen)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _look(forward, cfg, params, tokens_BT) -> dict:
    if isinstance(params["blocks"], dict):
        params = layers.unstack(params)
    with layers.taking_notes() as notes:
        out, _ = forward(cfg, params, tokens_BT)
    noted = lambda name: [value for found, value in notes if found == name]
    streams = [x_BTD[0].astype(jnp.float32) for x_BTD in noted("stream")]
    maps = [attention_weights(**parts)[0] for parts in noted("attention")]
    experts = [parts["experts"] for parts in noted("experts")]
    words, probs = None, None
    if noted("readout") and out.logits is not None:
        read = noted("readout")[0]
        probs, words = zip(*(_likeliest(read(x_BTD)[0]) for x_BTD in noted("stream")), strict=True)
    hidden_TD = out.hidden[0].astype(jnp.float32)
    hidden_TD = hidden_TD / jnp.maximum(jnp.linalg.norm(hidden_TD, axis=1, keepdims=True), 1e-9)
    stacked = lambda parts: jnp.stack(parts) if parts else None
    return {
        "attention_LHTT": stacked(maps),
        "norms_LT": jnp.stack([jnp.linalg.norm(x_TD, axis=1) for x_TD in streams or [out.hidden[0].astype(jnp.float32)]]),
        "words_LTK": stacked(words),
        "probs_LTK": stacked(probs),
        "likeness_TT": jnp.einsum("TD,SD->TS", hidden_TD, hidden_TD),
        "experts_LTK": stacked(experts),
    }


def _likeliest(logits_TV):
    return jax.lax.top_k(jax.nn.softmax(logits_TV, axis=-1), min(N_WORDS, logits_TV.shape[-1]))


def attention_weights(q, k, *, causal: bool = True, window=None, softcap: float | None = None):
    """float32 [B, H, T, S] of queries [B, T, H, C] and keys [B, S, G, C], as the kernels weigh values."""
    B, T, H, C = q.shape
    k_BSHC = jnp.repeat(k, H // k.shape[2], axis=2)
    scores_BHTS = jnp.einsum("BTHC,BSHC->BHTS", q, k_BSHC, preferred_element_type=jnp.float32) * C**-0.5
    if softcap is not None:
        scores_BHTS = softcap * jnp.tanh(scores_BHTS / softcap)
    back_TS = jnp.arange(T)[:, None] - jnp.arange(k.shape[1])[None, :]
    mask_TS = back_TS >= 0 if causal else jnp.ones(back_TS.shape, bool)
    if window is not None:
        mask_TS = mask_TS & (back_TS < window)
    return jax.nn.softmax(jnp.where(mask_TS[None, None], scores_BHTS, -jnp.inf), axis=-1)
