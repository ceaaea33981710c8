"""The Llama family: x ← x + attention(norm(x)), x ← x + down(act(gate(norm x)) ∘ up(norm x)), rotary positions, grouped heads.

One file for Llama 2 and 3, Mistral, Qwen 2 and 3, SmolLM, Phi-3, Gemma 2 and 3: what sets them apart are switches of `LlamaConfig`,
each a line or two here; the mixtures of experts (Mixtral, Qwen's) have their own in place of the MLP (`moe.py`). Norms multiply by their weight as it stands: files that store weight − 1 are mended when they are read.

Leaves out: dropout.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pikojax.kernels import attention
from pikojax.llama_config import LlamaConfig
from pikojax.models import cache as kv
from pikojax.models import layers
from pikojax.models.layers import Linear, Model, Output, parameter
from pikojax.models.moe import Experts

STD = 0.02


class Norm(nnx.Module):
    def __init__(self, cfg: LlamaConfig, width: int):
        self.eps = cfg.norm_eps
        self.scale = parameter((width,), ("norm",), fill=1.0)

    def __call__(self, x):
        return layers.rms_norm(x, self.scale[...], self.eps)


class Block(nnx.Module):
    def __init__(self, cfg: LlamaConfig, key):
        D, F, HC, GC = cfg.d_model, cfg.d_hidden, cfg.n_heads * cfg.d_head, cfg.n_kv_heads * cfg.d_head
        keys = iter(jax.random.split(key, 7))
        onto_stream = STD / math.sqrt(2 * cfg.n_layers)
        self.norm1, self.norm2 = Norm(cfg, D), Norm(cfg, D)
        self.q = Linear((D, HC), ("embed", "heads"), next(keys), STD, cfg.qkv_bias)
        self.k = Linear((D, GC), ("embed", "heads"), next(keys), STD, cfg.qkv_bias)
        self.v = Linear((D, GC), ("embed", "heads"), next(keys), STD, cfg.qkv_bias)
        self.out = Linear((HC, D), ("heads", "embed"), next(keys), onto_stream, cfg.out_bias)
        if cfg.n_experts is None:
            self.gate = Linear((D, F), ("embed", "mlp"), next(keys), STD, cfg.mlp_bias)
            self.up = Linear((D, F), ("embed", "mlp"), next(keys), STD, cfg.mlp_bias)
            self.down = Linear((F, D), ("mlp", "embed"), next(keys), onto_stream, cfg.mlp_bias)
        else:
            self.experts = Experts(cfg, next(keys), onto_stream)
        if cfg.qk_norm:
            self.q_norm, self.k_norm = Norm(cfg, cfg.d_head), Norm(cfg, cfg.d_head)
        if cfg.post_norms:
            self.post1, self.post2 = Norm(cfg, D), Norm(cfg, D)

    def attention(self, cfg: LlamaConfig, x_BTD, cache, layer, kind, positions_BT, segments_BT):
        B, T, _ = x_BTD.shape
        C = cfg.d_head
        heads = lambda x, n: x.reshape(B, T, n, C)
        q_BTHC, k_BTGC, v_BTGC = map(heads, layers.each(x_BTD, self.q, self.k, self.v), (cfg.n_heads, cfg.n_kv_heads, cfg.n_kv_heads))
        if cfg.qk_norm:
            q_BTHC, k_BTGC = self.q_norm(q_BTHC), self.k_norm(k_BTGC)
        frequency, factor = frequencies(cfg, kind, T if cache is None else cache.reach)
        q_BTHC, k_BTGC = (layers.rotate(x, positions_BT, frequency, factor) for x in (q_BTHC, k_BTGC))
        if cfg.attention_scale is not None:  # the kernels divide by √C
            q_BTHC = q_BTHC * jnp.asarray(cfg.attention_scale * math.sqrt(C), q_BTHC.dtype)
        window = window_of(cfg, kind.local)
        layers.note("attention", {"q": q_BTHC, "k": k_BTGC, "window": window, "softcap": cfg.attention_softcap})
        if cache is not None:
            part, at = kv.part_of(cache, layer, cfg.is_local)
            part = kv.write(part, at, k_BTGC, v_BTGC)
            cache = kv.with_part(cache, part, layer, cfg.is_local)
            y_BTHC = attention.cached_attention(q_BTHC, part.k_LBGSC, part.v_LBGSC, cache.length_B + T, at, window, part.table_BN, cfg.attention_softcap)
        elif cfg.attention_softcap is not None:
            y_BTHC = softcapped(cfg, q_BTHC, k_BTGC, v_BTGC, positions_BT, window, segments_BT)
        else:
            y_BTHC = attention.causal_attention(q_BTHC, k_BTGC, v_BTGC, segments_BT, window)
        return self.out(y_BTHC.reshape(B, T, -1)), cache

    def mlp(self, cfg: LlamaConfig, x_BTD):
        return layers.gated_mlp(self, x_BTD, cfg.activation) if cfg.n_experts is None else self.experts(cfg, x_BTD)

    def __call__(self, cfg: LlamaConfig, x_BTD, cache, layer, kind, positions_BT, segments_BT):
        y_BTD, cache = self.attention(cfg, self.norm1(x_BTD), cache, layer, kind, positions_BT, segments_BT)
        x_BTD = x_BTD + (self.post1(y_BTD) if cfg.post_norms else y_BTD)
        y_BTD = self.mlp(cfg, self.norm2(x_BTD))
        return x_BTD + (self.post2(y_BTD) if cfg.post_norms else y_BTD), cache


class Kind(NamedTuple):
    """Of a layer, or of all, stacked."""

    local: Any  # sees a window
    turned: Any  # has positions


def window_of(cfg: LlamaConfig, local):
    """How far a layer sees: None for everything, or a number; a traced one where a loop runs over layers of both kinds."""
    if cfg.window is None:
        return None
    if cfg.global_every is None:
        return cfg.window
    return jnp.where(local, cfg.window, 2**30) if isinstance(local, jax.Array) else cfg.window if local else None


def softcapped(cfg: LlamaConfig, q_BTHC, k_BTGC, v_BTGC, positions_BT, window, segments_BT):
    """Gemma 2's attention over a sequence, by its reference alone."""
    k_BGSC, v_BGSC = k_BTGC.swapaxes(1, 2), v_BTGC.swapaxes(1, 2)
    back_BTS = positions_BT[:, :, None] - jnp.arange(k_BGSC.shape[2])[None, None, :]
    mask_BTS = back_BTS >= 0
    if window is not None:
        mask_BTS = mask_BTS & (back_BTS < window)
    if segments_BT is not None:
        mask_BTS = mask_BTS & (segments_BT[:, :, None] == segments_BT[:, None, :])
    return attention.softcapped_attention(q_BTHC, k_BGSC, v_BGSC, mask_BTS, cfg.attention_softcap)


def frequencies(cfg: LlamaConfig, kind: "Kind", reach: int):
    """(radians a position of each rotated pair, by what rotated vectors are multiplied); `kind` may be traced. `reach`: tokens of the text, or
    what its cache is made for."""
    frequency, factor = scaled_frequencies(cfg, reach)
    if cfg.rope_base_local is not None:
        plain = base_frequencies(cfg.rope_base_local, cfg.d_rope)
        frequency, factor = jnp.where(kind.local, plain, frequency), jnp.where(kind.local, 1.0, factor)
    if cfg.nope_every is not None:  # turned by nothing
        frequency, factor = jnp.where(kind.turned, frequency, 0.0), jnp.where(kind.turned, factor, 1.0)
    return frequency, factor


def base_frequencies(base: float, width: int) -> np.ndarray:
    return (base ** (-np.arange(0, width, 2, dtype=np.float64) / width)).astype(np.float32)


def scaled_frequencies(cfg: LlamaConfig, reach: int = 0) -> tuple[np.ndarray, float]:
    """Waves too long for the first training's context are stretched: all alike (linear), or those alone, with a soft border; or each by a
    divisor of its own, of which there are two, for texts that reach beyond that context and for others (longrope). There transformers looks
    at a text's length so far, so that a text that grows beyond changes what was read; here, as in llama.cpp, the cache decides."""
    far = cfg.rope_scaling == "longrope" and reach > cfg.rope_original_context
    divisors = (cfg.rope_long_divisors if far else cfg.rope_divisors) or 1.0
    frequency = base_frequencies(cfg.rope_base, cfg.d_rope).astype(np.float64) / np.asarray(divisors)
    stretched, factor = frequency / cfg.rope_factor, 1.0
    if cfg.rope_scaling == "linear":
        frequency = stretched
    elif cfg.rope_scaling == "llama3":
        turns = cfg.rope_original_context * frequency / (2 * math.pi)
        keep = np.clip((turns - cfg.rope_low_factor) / (cfg.rope_high_factor - cfg.rope_low_factor), 0, 1)
        frequency = keep * frequency + (1 - keep) * stretched
    elif cfg.rope_scaling == "yarn":
        place = lambda turns: cfg.d_rope * math.log(cfg.rope_original_context / (turns * 2 * math.pi)) / (2 * math.log(cfg.rope_base))
        low, high = max(math.floor(place(cfg.rope_beta_fast)), 0), min(math.ceil(place(cfg.rope_beta_slow)), cfg.d_rope - 1)
        change = np.clip((np.arange(cfg.d_rope // 2) - low) / ((high - low) or 0.001), 0, 1)
        frequency = change * stretched + (1 - change) * frequency
        factor = cfg.rope_attention_factor
        factor = (0.1 * math.log(cfg.rope_factor) + 1 if cfg.rope_factor > 1 else 1.0) if factor is None else factor
    elif cfg.rope_scaling == "longrope":
        factor = cfg.rope_attention_factor
        factor = math.sqrt(1 + math.log(max(cfg.rope_factor, 1.0)) / math.log(cfg.rope_original_context)) if factor is None else factor
    return frequency.astype(np.float32), factor


class Stem(nnx.Module):
    """All but the blocks."""

    def __init__(self, cfg: LlamaConfig, key):
        keys = iter(jax.random.split(key, 2))
        self.embed = parameter((cfg.vocab_size, cfg.d_model), ("vocab", "embed"), next(keys), STD)
        self.norm = Norm(cfg, cfg.d_model)
        if not cfg.tie:
            self.head = parameter((cfg.d_model, cfg.vocab_size), ("embed", "vocab"), next(keys), STD)

    def tokens_in(self, cfg: LlamaConfig, tokens_BT, dtype):
        x_BTD = layers.embed(self.embed[...], tokens_BT, dtype)
        return x_BTD if cfg.embed_scale == 1.0 else x_BTD * jnp.asarray(cfg.embed_scale, x_BTD.dtype)

    def logits_out(self, cfg: LlamaConfig, x_BTD):
        head = self.embed[...] if cfg.tie else self.head[...]
        logits_BTV = layers.linear(x_BTD, head, out_dtype=jnp.float32, transposed=cfg.tie)
        return logits_BTV if cfg.softcap is None else cfg.softcap * jnp.tanh(logits_BTV / cfg.softcap)


def init(cfg: LlamaConfig, key) -> dict:
    stem_key, block_key = jax.random.split(key)
    return {**layers.init(Stem, cfg, stem_key), "blocks": layers.init(Block, cfg, block_key, copies=cfg.n_layers)}


def axes(cfg: LlamaConfig) -> dict:
    return {**layers.axes(Stem, cfg), "blocks": layers.axes(Block, cfg, stacked=True)}


def forward(cfg: LlamaConfig, params, tokens_BT, cache=None, *, segments_BT=None, train_key=None, remat=False, pick_B=None):
    B, T = tokens_BT.shape
    start_B = jnp.zeros((B,), jnp.int32) if cache is None else cache.length_B
    positions_BT = start_B[:, None] + jnp.arange(T, dtype=jnp.int32)[None, :]
    kinds_L = Kind(*(np.array([of(layer) for layer in range(cfg.n_layers)]) for of in (cfg.is_local, cfg.is_turned)))

    def block(weights, x_BTD, cache, layer, kind):
        return layers.bind(Block, cfg, weights)(cfg, x_BTD, cache, layer, kind, positions_BT, segments_BT)

    stem = layers.bind(Stem, cfg, {name: value for name, value in params.items() if name != "blocks"})
    x_BTD = stem.tokens_in(cfg, tokens_BT, layers.stream_dtype(params))
    x_BTD, cache = layers.run_blocks(block, params["blocks"], x_BTD, cache, keys_L=kinds_L, remat=remat)
    layers.note("readout", lambda x_BTD: stem.logits_out(cfg, stem.norm(x_BTD)))
    hidden_BTD = stem.norm(x_BTD)
    cache = None if cache is None else kv.advance(cache, T)
    return Output(stem.logits_out(cfg, layers.picked(hidden_BTD, pick_B)), hidden_BTD, {}), cache


def unembed(cfg: LlamaConfig, params, hidden):
    """The logits of states that were normalized, whatever their leading axes."""
    return layers.bind(Stem, cfg, {name: value for name, value in params.items() if name != "blocks"}).logits_out(cfg, hidden)


def new_cache(cfg: LlamaConfig, batch: int, slots: int, dtype=jnp.float32, windowed: int | None = None) -> kv.KVCache:
    """`windowed`: as many rows, or blocks, for the layers that see a window, in stacks of their own."""
    n_local = 0 if windowed is None else sum(map(cfg.is_local, range(cfg.n_layers)))
    make = lambda n_layers, batch: kv.new_cache(n_layers, batch, slots, cfg.n_kv_heads, cfg.d_head, dtype)
    cache = make(cfg.n_layers - n_local, batch)
    return replace(cache, windowed=make(n_local, windowed)) if n_local else cache


MODEL = Model(LlamaConfig, init, forward, new_cache, axes, unembed, rings=True)
