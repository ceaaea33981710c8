"""A mixture of experts in place of a block's MLP: each token goes to the k experts that a router gives the most weight.

    p = softmax(x·W_router)        y = Σ_{e among the k largest of p} p_e · expert_e(x)   [+ σ(x·w) · shared expert(x)]

with p_e divided by the sum of the k where `norm_topk`. No token is dropped: the pairs (token, expert) are sorted by expert and cut into
blocks of as many rows as an expert has on average, each block within one expert, and a loop multiplies block by block. For a single
token the blocks are its k experts, one row each: no other expert's weights are touched. A quantized expert is read where it lies; of a
float one XLA makes a copy before it multiplies.

Leaves out: the loss that spreads tokens over experts in training, experts on several devices, a backward pass that is quick (each
block's gradient is added to that of the whole stack), blocks of layers without experts among those with them.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from pikojax.llama_config import LlamaConfig
from pikojax.models import layers
from pikojax.models.layers import Linear, parameter

STD = 0.02
MOST_ROWS = 256  # of a block: more would not be quicker to multiply, and the last of each expert is half empty


class SharedExpert(nnx.Module):
    """Qwen 2's: an MLP that all tokens pass through, weighed by a gate of its own."""

    def __init__(self, cfg: LlamaConfig, key, onto_stream: float):
        D, F = cfg.d_model, cfg.d_shared
        keys = iter(jax.random.split(key, 4))
        self.weight = parameter((D, 1), ("embed", "experts"), next(keys), STD)
        self.gate = Linear((D, F), ("embed", "mlp"), next(keys), STD)
        self.up = Linear((D, F), ("embed", "mlp"), next(keys), STD)
        self.down = Linear((F, D), ("mlp", "embed"), next(keys), onto_stream)

    def __call__(self, cfg: LlamaConfig, x_ND):
        return jax.nn.sigmoid(layers.linear(x_ND, self.weight[...])) * layers.gated_mlp(self, x_ND, cfg.activation)


class Experts(nnx.Module):
    def __init__(self, cfg: LlamaConfig, key, onto_stream: float):
        E, D, F = cfg.n_experts, cfg.d_model, cfg.d_expert
        keys = iter(jax.random.split(key, 5))
        self.router = parameter((D, E), ("embed", "experts"), next(keys), STD)  # no `kernel`: it stays as it is when those are quantized
        self.gate = Linear((E, D, F), ("experts", "embed", "mlp"), next(keys), STD)
        self.up = Linear((E, D, F), ("experts", "embed", "mlp"), next(keys), STD)
        self.down = Linear((E, F, D), ("experts", "mlp", "embed"), next(keys), onto_stream)
        if cfg.d_shared is not None:
            self.shared = SharedExpert(cfg, next(keys), onto_stream)

    def __call__(self, cfg: LlamaConfig, x_BTD):
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        weights_NK, experts_NK = route(cfg, layers.linear(x_ND, self.router[...], out_dtype=jnp.float32))
        layers.note("experts", {"weights": weights_NK, "experts": experts_NK})

        def add_block(y_ND, block):
            expert, token_R, weight_R = block
            out_RD = layers.gated_mlp(self, x_ND[token_R], cfg.activation, expert)
            weighed_RD = jnp.where(weight_R[:, None] > 0, out_RD.astype(jnp.float32) * weight_R[:, None], 0.0)
            return y_ND.at[token_R].add(weighed_RD), None

        blocks = by_expert(weights_NK, experts_NK, cfg.n_experts)
        y_ND = jax.lax.scan(add_block, jnp.zeros(x_ND.shape, jnp.float32), blocks)[0].astype(x_ND.dtype)
        if cfg.d_shared is not None:
            y_ND = y_ND + self.shared(cfg, x_ND)
        return y_ND.reshape(x_BTD.shape)


def route(cfg: LlamaConfig, logits_NE):
    """(weights, experts) of each token, the k with the largest probability."""
    weights_NK, experts_NK = jax.lax.top_k(layers.softmax(logits_NE), cfg.n_experts_used)
    total_N = sum(weights_NK[:, i] for i in range(cfg.n_experts_used))  # in this order, however many tokens there are
    return (weights_NK / total_N[:, None] if cfg.norm_topk else weights_NK), experts_NK


def by_expert(weights_NK, experts_NK, n_experts: int):
    """(expert of each block, tokens of its rows, their weights): pairs sorted by expert. Rows that a block has to spare weigh 0."""
    n_pairs, k = experts_NK.size, experts_NK.shape[1]
    mean = n_pairs // n_experts
    rows = min(MOST_ROWS, 1 << mean.bit_length() - 1) if mean else 1
    n_blocks = (n_pairs + min(n_experts, n_pairs) * (rows - 1)) // rows  # enough, however they are spread
    expert_P = experts_NK.reshape(-1)
    order_P = jnp.argsort(expert_P, stable=True)
    count_E = jnp.bincount(expert_P, length=n_experts)
    blocks_E = -(-count_E // rows)
    end_E, blocks_end_E = jnp.cumsum(count_E), jnp.cumsum(blocks_E)
    block_J = jnp.arange(n_blocks)
    expert_J = jnp.minimum(jnp.searchsorted(blocks_end_E, block_J, side="right"), n_experts - 1)
    rank_JR = ((block_J - (blocks_end_E - blocks_E)[expert_J]) * rows)[:, None] + jnp.arange(rows)[None, :]  # among the expert's pairs
    place_JR = (end_E - count_E)[expert_J][:, None] + rank_JR
    pair_JR = order_P[jnp.minimum(place_JR, n_pairs - 1)]
    weight_JR = jnp.where(rank_JR < count_E[expert_J][:, None], weights_NK.reshape(-1)[pair_JR], 0.0)
    return expert_J, pair_JR // k, weight_JR
