"""GPT: a stack of blocks x ← x + attention(norm(x)), x ← x + mlp(norm(x)) over token embeddings, read out to next-token logits.

`classic` is GPT-2's function as nanoGPT has it (learned positions, LayerNorm, exact GELU, one table for input and output);
`modern` has rotary positions, RMSNorm without weights to learn, normalized queries and keys, ReLU² and projections that start
at zero. Every switch of `GPTConfig` stands alone, so that what each contributes can be measured by turning it off.

Leaves out: dropout of attention weights (nanoGPT has it; embeddings and branches are dropped),
mixtures of experts, sliding windows, weights of other people's models (formats/huggingface.py reads GPT-2's).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from pikojax.config import GPTConfig
from pikojax.kernels.attention import cached_attention, causal_attention
from pikojax.models import cache as kv
from pikojax.models import layers
from pikojax.models.layers import Linear, Model, Output, dropout, parameter

STD = 0.02  # of every matrix and table at the start; projections onto the residual stream get STD / √(2 · n_layers)


class Norm(nnx.Module):
    def __init__(self, cfg: GPTConfig):
        self.kind, self.eps = cfg.norm, cfg.norm_eps
        if cfg.norm == "layernorm":
            self.scale = parameter((cfg.d_model,), ("norm",), fill=1.0)
            if cfg.bias:
                self.bias = parameter((cfg.d_model,), ("norm",))

    def __call__(self, x):
        if self.kind == "none":
            return x
        if self.kind == "rmsnorm":
            return layers.rms_norm(x, None, self.eps)
        return layers.layer_norm(x, self.scale[...], self.bias[...] if hasattr(self, "bias") else None, self.eps)


class Block(nnx.Module):
    def __init__(self, cfg: GPTConfig, key):
        D, F, C = cfg.d_model, cfg.d_hidden, cfg.d_model // cfg.n_heads
        HC, GC = cfg.n_heads * C, cfg.n_kv_heads * C
        keys = iter(jax.random.split(key, 4))
        onto_stream = None if cfg.zero_init else STD / (2 * cfg.n_layers) ** 0.5
        self.norm1, self.norm2 = Norm(cfg), Norm(cfg)
        self.qkv = Linear((D, HC + 2 * GC), ("embed", "heads"), next(keys), STD, cfg.bias)
        self.out = Linear((HC, D), ("heads", "embed"), next(keys), onto_stream, cfg.bias)
        self.up = Linear((D, F), ("embed", "mlp"), next(keys), STD, cfg.bias)
        self.down = Linear((F, D), ("mlp", "embed"), next(keys), onto_stream, cfg.bias)

    def attention(self, cfg: GPTConfig, x_BTD, cache, layer, positions_BT, segments_BT):
        B, T, D = x_BTD.shape
        H, G, C = cfg.n_heads, cfg.n_kv_heads, D // cfg.n_heads
        q, k, v = jnp.split(self.qkv(x_BTD), [H * C, (H + G) * C], axis=-1)
        q_BTHC, k_BTGC, v_BTGC = q.reshape(B, T, H, C), k.reshape(B, T, G, C), v.reshape(B, T, G, C)
        if cfg.qk_norm:
            q_BTHC, k_BTGC = layers.rms_norm(q_BTHC), layers.rms_norm(k_BTGC)
        if cfg.positions == "rope":
            q_BTHC = layers.rope(q_BTHC, positions_BT, cfg.rope_base)
            k_BTGC = layers.rope(k_BTGC, positions_BT, cfg.rope_base)
        layers.note("attention", {"q": q_BTHC, "k": k_BTGC})
        if cache is None:
            y_BTHC = causal_attention(q_BTHC, k_BTGC, v_BTGC, segments_BT)
        else:
            cache = kv.write(cache, layer, k_BTGC, v_BTGC)
            y_BTHC = cached_attention(q_BTHC, cache.k_LBGSC, cache.v_LBGSC, cache.length_B + T, layer, None, cache.table_BN)
        return self.out(y_BTHC.reshape(B, T, H * C)), cache

    def mlp(self, cfg: GPTConfig, x_BTD):
        h_BTF = self.up(x_BTD)
        if cfg.activation == "relu2":
            h_BTF = jnp.square(jnp.maximum(h_BTF, jnp.zeros((), h_BTF.dtype)))
        else:
            h_BTF = layers.activate(h_BTF, cfg.activation)
        return self.down(h_BTF)

    def __call__(self, cfg: GPTConfig, x_BTD, cache, layer, positions_BT, segments_BT, key):
        key1, key2 = (None, None) if key is None else jax.random.split(key)
        y_BTD, cache = self.attention(cfg, self.norm1(x_BTD), cache, layer, positions_BT, segments_BT)
        y_BTD = dropout(y_BTD, cfg.dropout, key1)
        x_BTD = x_BTD + y_BTD if cfg.residual else y_BTD
        y_BTD = dropout(self.mlp(cfg, self.norm2(x_BTD)), cfg.dropout, key2)
        return (x_BTD + y_BTD if cfg.residual else y_BTD), cache


class Stem(nnx.Module):
    """All but the blocks: what turns tokens into the stream, and the stream into logits."""

    def __init__(self, cfg: GPTConfig, key):
        keys = iter(jax.random.split(key, 3))
        self.embed = parameter((cfg.vocab_size, cfg.d_model), ("vocab", "embed"), next(keys), STD)
        if cfg.positions == "learned":
            self.positions = parameter((cfg.context, cfg.d_model), ("positions", "embed"), next(keys), STD)
        self.norm = Norm(cfg)
        if not cfg.tie:
            std = None if cfg.zero_init else STD
            self.head = parameter((cfg.d_model, cfg.vocab_size), ("embed", "vocab"), next(keys), std)

    def tokens_in(self, cfg: GPTConfig, tokens_BT, positions_BT, key, dtype):
        x_BTD = layers.embed(self.embed[...], tokens_BT, dtype)
        if cfg.positions == "learned":
            x_BTD = x_BTD + layers.embed(self.positions[...], positions_BT, dtype)
        elif cfg.positions == "sinusoidal":
            x_BTD = x_BTD + layers.sinusoids(positions_BT, cfg.d_model).astype(x_BTD.dtype) * STD
        return dropout(x_BTD, cfg.dropout, key)

    def logits_out(self, cfg: GPTConfig, x_BTD):
        head = self.embed[...] if cfg.tie else self.head[...]
        logits_BTV = layers.linear(x_BTD, head, out_dtype=jnp.float32, transposed=cfg.tie)
        return logits_BTV if cfg.softcap is None else cfg.softcap * jnp.tanh(logits_BTV / cfg.softcap)


def init(cfg: GPTConfig, key) -> dict:
    stem_key, block_key = jax.random.split(key)
    return {**layers.init(Stem, cfg, stem_key), "blocks": layers.init(Block, cfg, block_key, copies=cfg.n_layers)}


def axes(cfg: GPTConfig) -> dict:
    return {**layers.axes(Stem, cfg), "blocks": layers.axes(Block, cfg, stacked=True)}


def forward(cfg: GPTConfig, params, tokens_BT, cache=None, *, segments_BT=None, train_key=None, remat=False, pick_B=None):
    B, T = tokens_BT.shape
    start_B = jnp.zeros((B,), jnp.int32) if cache is None else cache.length_B
    positions_BT = start_B[:, None] + jnp.arange(T, dtype=jnp.int32)[None, :]
    keys_L = stem_key = None
    if train_key is not None and cfg.dropout > 0:
        stem_key, block_key = jax.random.split(train_key)
        keys_L = jax.random.split(block_key, cfg.n_layers)

    def block(weights, x_BTD, cache, layer, key):
        return layers.bind(Block, cfg, weights)(cfg, x_BTD, cache, layer, positions_BT, segments_BT, key)

    stem = layers.bind(Stem, cfg, {name: value for name, value in params.items() if name != "blocks"})
    x_BTD = stem.tokens_in(cfg, tokens_BT, positions_BT, stem_key, layers.stream_dtype(params))
    x_BTD, cache = layers.run_blocks(block, params["blocks"], x_BTD, cache, keys_L=keys_L, remat=remat)
    layers.note("readout", lambda x_BTD: stem.logits_out(cfg, stem.norm(x_BTD)))
    hidden_BTD = stem.norm(x_BTD)
    cache = None if cache is None else kv.advance(cache, T)
    return Output(stem.logits_out(cfg, layers.picked(hidden_BTD, pick_B)), hidden_BTD, {}), cache


def unembed(cfg: GPTConfig, params, hidden):
    """The logits of states that were normalized, whatever their leading axes."""
    return layers.bind(Stem, cfg, {name: value for name, value in params.items() if name != "blocks"}).logits_out(cfg, hidden)


def new_cache(cfg: GPTConfig, batch: int, slots: int, dtype=jnp.float32) -> kv.KVCache:
    return kv.new_cache(cfg.n_layers, batch, slots, cfg.n_kv_heads, cfg.d_model // cfg.n_heads, dtype)


MODEL = Model(GPTConfig, init, forward, new_cache, axes, unembed)
