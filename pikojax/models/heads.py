"""Heads that guess several tokens ahead of a model, from its hidden state, through its own output projection.

    u   = h + silu(W₀ [h; e] + b₀)        h: the state from which a token was drawn, e: that token's embedding, normalized
    z_i = u + silu(W_i u + b_i)           logits of the token i places behind the drawn one = unembed(z_i),   i = 1 … n

All W and b begin at zero, where each guess is what the model said of the drawn token's own place. The heads do not wait for each other:
n guesses are one product with the table of tokens, read once. As Medusa's (arxiv.org/abs/2401.10774), but for e, which Medusa's do not see.

Leaves out: the model itself (it stays as it is), training (train/heads.py), a head that sees the guesses before its own.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pikojax.config import require
from pikojax.heads_config import HeadsConfig
from pikojax.models import layers
from pikojax.models.layers import Linear, Model
from pikojax.qtensor import QTensor

PRINT_BITS, PRINT_ROWS = 64, 64
PRINT_DIFFERENCE = 12  # bits that a quantized or further trained model may differ by; of another model's about half differ


class Trunk(nnx.Module):
    def __init__(self, cfg: HeadsConfig, key):
        self.onto = Linear((2 * cfg.d_model, cfg.d_model), ("mlp", "embed"), key, None, True)


class Head(nnx.Module):
    def __init__(self, cfg: HeadsConfig, key):
        self.onto = Linear((cfg.d_model, cfg.d_model), ("mlp", "embed"), key, None, True)


def init(cfg: HeadsConfig, key) -> dict:
    require(cfg.d_model is not None, "the heads' d_model is not known: it is their model's; train them by pikojax train --heads MODEL")
    return {**layers.init(Trunk, cfg, key), "blocks": layers.init(Head, cfg, key, copies=cfg.n_ahead)}


def axes(cfg: HeadsConfig) -> dict:
    return {**layers.axes(Trunk, cfg), "blocks": layers.axes(Head, cfg, stacked=True)}


def forward(*_, **__):
    require(False, "these are heads that guess ahead for a model; load the model, and these with it by --speculative heads")


def states(heads: dict, table_VD, hidden_BTD, drawn_BT, n: int):
    """What the first n heads read out, [B, T, n, D]. `table_VD`: the model's embedding."""
    e_BTD = layers.rms_norm(layers.embed(table_VD, drawn_BT, hidden_BTD.dtype))
    add = lambda x, through, read: x + jax.nn.silu(layers.linear(read, through["onto"]["kernel"], through["onto"]["bias"].astype(x.dtype)))
    u_BTD = add(hidden_BTD, heads, jnp.concatenate([hidden_BTD, e_BTD], axis=-1))
    blocks = heads["blocks"]
    block = (lambda i: jax.tree.map(lambda leaf: leaf[i], blocks)) if isinstance(blocks, dict) else blocks.__getitem__
    return jnp.stack([add(u_BTD, block(i), u_BTD) for i in range(n)], axis=2)


def print_of(params: dict) -> str:
    """A model's print, in hexadecimal: the signs of random sums of some rows of its embedding. Quantizing turns few of them."""
    table = params["embed"]
    n_rows, _ = table.shape[::-1] if isinstance(table, QTensor) else table.shape
    rows = np.asarray(layers.embed(table, jnp.asarray(np.linspace(0, n_rows - 1, PRINT_ROWS).astype(np.int32))), np.float32)
    signs = np.random.default_rng(0).integers(0, 2, (PRINT_BITS, rows.size), np.int8).astype(np.float32) * 2 - 1
    bits = signs @ rows.reshape(-1) > 0
    return np.packbits(bits).tobytes().hex()


def same_model(one: str, other: str) -> bool:
    return (int(one, 16) ^ int(other, 16)).bit_count() <= PRINT_DIFFERENCE


MODEL = Model(HeadsConfig, init, forward, None, axes)
