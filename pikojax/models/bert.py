"""BERT: an encoder. Every token sees every other, norms stand after the sums, and what comes out are hidden states, not words.

    x ← norm(x + attention(x)),  x ← norm(x + down(gelu(up(x)))),  of x = norm(token + position + type)

Sentence embeddings (MiniLM and its kin) are `mean_pooled` hidden states. Padding is a segment of its own: tokens attend within their
segment, so `segments_BT` may be the 1s and 0s of a mask, or tell texts apart that lie in one row.

Leaves out: a cache, the heads (masked words, next sentence, the pooler's tanh), dropout, positions that begin anew with each segment.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from pikojax.config import require
from pikojax.kernels.attention import masked_attention
from pikojax.models import layers
from pikojax.models.layers import Linear, Model, Output, parameter

STD = 0.02


@dataclass(frozen=True)
class BertConfig:
    name: str = "bert"
    d_model: int = 384
    n_layers: int = 6
    n_heads: int = 12
    d_hidden: int = 1536
    vocab_size: int = 30_522
    context: int = 512
    n_types: int = 2  # first text, second text
    norm_eps: float = 1e-12
    activation: Literal["gelu", "gelu_tanh"] = "gelu"

    def __post_init__(self):
        for key in ("d_model", "n_layers", "n_heads", "d_hidden", "vocab_size", "context", "n_types"):
            require(getattr(self, key) >= 1, f"model.{key} = {getattr(self, key)}; give 1 or more")
        require(self.d_model % self.n_heads == 0, f"model.d_model = {self.d_model} does not divide into n_heads = {self.n_heads}; change one of them")
        require(self.norm_eps > 0, f"model.norm_eps = {self.norm_eps}; give a value above 0")


class Norm(nnx.Module):
    def __init__(self, cfg: BertConfig):
        self.eps = cfg.norm_eps
        self.scale, self.bias = parameter((cfg.d_model,), ("norm",), fill=1.0), parameter((cfg.d_model,), ("norm",))

    def __call__(self, x):
        return layers.layer_norm(x, self.scale[...], self.bias[...], self.eps)


class Block(nnx.Module):
    def __init__(self, cfg: BertConfig, key):
        D, F, keys = cfg.d_model, cfg.d_hidden, iter(jax.random.split(key, 6))
        self.q, self.k, self.v = (Linear((D, D), ("embed", "heads"), next(keys), STD, True) for _ in range(3))
        self.out = Linear((D, D), ("heads", "embed"), next(keys), STD, True)
        self.up = Linear((D, F), ("embed", "mlp"), next(keys), STD, True)
        self.down = Linear((F, D), ("mlp", "embed"), next(keys), STD, True)
        self.norm1, self.norm2 = Norm(cfg), Norm(cfg)

    def __call__(self, cfg: BertConfig, x_BTD, mask_BTT):
        B, T, D = x_BTD.shape
        q_BTHC, k_BTHC, v_BTHC = (part(x_BTD).reshape(B, T, cfg.n_heads, -1) for part in (self.q, self.k, self.v))
        layers.note("attention", {"q": q_BTHC, "k": k_BTHC, "causal": False})
        y_BTD = masked_attention(q_BTHC, k_BTHC, v_BTHC, mask_BTT).reshape(B, T, D)
        x_BTD = self.norm1(x_BTD + self.out(y_BTD))
        return self.norm2(x_BTD + self.down(layers.activate(self.up(x_BTD), cfg.activation)))


class Stem(nnx.Module):
    def __init__(self, cfg: BertConfig, key):
        keys = iter(jax.random.split(key, 3))
        self.embed = parameter((cfg.vocab_size, cfg.d_model), ("vocab", "embed"), next(keys), STD)
        self.positions = parameter((cfg.context, cfg.d_model), ("positions", "embed"), next(keys), STD)
        self.types = parameter((cfg.n_types, cfg.d_model), ("vocab", "embed"), next(keys), STD)
        self.norm = Norm(cfg)

    def __call__(self, tokens_BT, types_BT):
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1])[None, :], tokens_BT.shape)
        tables = ((self.embed, tokens_BT), (self.positions, positions_BT), (self.types, types_BT))
        return self.norm(sum(layers.embed(table[...], ids) for table, ids in tables))


def init(cfg: BertConfig, key) -> dict:
    stem_key, block_key = jax.random.split(key)
    return {**layers.init(Stem, cfg, stem_key), "blocks": layers.init(Block, cfg, block_key, copies=cfg.n_layers)}


def axes(cfg: BertConfig) -> dict:
    return {**layers.axes(Stem, cfg), "blocks": layers.axes(Block, cfg, stacked=True)}


def forward(cfg: BertConfig, params, tokens_BT, cache=None, *, segments_BT=None, types_BT=None, train_key=None, remat=False):
    B, T = tokens_BT.shape
    require(cache is None, "an encoder sees all of a text at once and has no cache; give none")
    require(T <= cfg.context, f"the text has {T} tokens, the context holds {cfg.context}; shorten it")
    mask_BTT = jnp.ones((1, T, T), bool) if segments_BT is None else segments_BT[:, :, None] == segments_BT[:, None, :]
    types_BT = jnp.zeros((B, T), jnp.int32) if types_BT is None else types_BT

    def block(weights, x_BTD, cache, layer, key):
        return layers.bind(Block, cfg, weights)(cfg, x_BTD, mask_BTT), cache

    stem = layers.bind(Stem, cfg, {name: value for name, value in params.items() if name != "blocks"})
    hidden_BTD, _ = layers.run_blocks(block, params["blocks"], stem(tokens_BT, types_BT), remat=remat)
    return Output(None, hidden_BTD, {}), None


def mean_pooled(hidden_BTD, segments_BT=None):
    """[B, D]: the mean over each row's tokens, those of segment 0 (padding) aside."""
    if segments_BT is None:
        return jnp.mean(hidden_BTD, axis=1)
    kept_BT1 = (segments_BT > 0).astype(hidden_BTD.dtype)[:, :, None]
    return jnp.sum(hidden_BTD * kept_BT1, axis=1) / jnp.maximum(jnp.sum(kept_BT1, axis=1), jnp.ones((), hidden_BTD.dtype))


MODEL = Model(BertConfig, init, forward, None, axes)
