"""A plug-in for pikojax: the model `bigram` (the next token depends on the last alone), tokenizers of the type `Bytes`, and the kernels
`exact`: `PIKOJAX_KERNELS=exact` multiplies by quantized weights with every bit that float32 has.

    x = embed[token]; x ← x + relu(x·W) a few times; logits = x·embedᵀ                "hé" → [104, 195, 169]

`pip install` it, and `pikojax train model.name=bigram` and `pikojax tokenizer encode FILE` know it; nothing else is to be done.
"""

import codecs
import json
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pikojax.models import cache as kv
from pikojax.models import layers
from pikojax.qtensor import dequantize


@dataclass(frozen=True)
class BigramConfig:
    name: str = "bigram"
    d_model: int = 32
    n_layers: int = 2
    vocab_size: int | None = None  # None: the tokenizer's
    context: int = 64


class Block(nnx.Module):
    def __init__(self, cfg: BigramConfig, key):
        self.mix = layers.parameter((cfg.d_model, cfg.d_model), ("embed", "mlp"), key, 0.02)

    def __call__(self, x_BTD):
        return x_BTD + jax.nn.relu(layers.linear(x_BTD, self.mix[...]))


class Stem(nnx.Module):
    def __init__(self, cfg: BigramConfig, key):
        self.embed = layers.parameter((cfg.vocab_size, cfg.d_model), ("vocab", "embed"), key, 0.02)


def init(cfg: BigramConfig, key) -> dict:
    stem_key, block_key = jax.random.split(key)
    return {**layers.init(Stem, cfg, stem_key), "blocks": layers.init(Block, cfg, block_key, copies=cfg.n_layers)}


def axes(cfg: BigramConfig) -> dict:
    return {**layers.axes(Stem, cfg), "blocks": layers.axes(Block, cfg, stacked=True)}


def forward(cfg: BigramConfig, params, tokens_BT, cache=None, *, segments_BT=None, train_key=None, remat=False):
    def block(weights, x_BTD, cache, layer, key):
        return layers.bind(Block, cfg, weights)(x_BTD), cache

    hidden_BTD, cache = layers.run_blocks(block, params["blocks"], layers.embed(params["embed"], tokens_BT), cache, keys_L=None, remat=remat)
    logits_BTV = layers.linear(hidden_BTD, params["embed"].T, out_dtype=jnp.float32)
    return layers.Output(logits_BTV, hidden_BTD, {}), None if cache is None else kv.advance(cache, tokens_BT.shape[1])


def new_cache(cfg: BigramConfig, batch: int, slots: int, dtype=jnp.float32):
    return kv.new_cache(1, batch, slots, 1, 1, dtype)  # only its length is used


BIGRAM = layers.Model(BigramConfig, init, forward, new_cache, axes)


class Bytes:
    """One token a byte of UTF-8."""

    vocab_size, specials = 256, ()
    eos_id = bos_id = unk_id = pad_id = None

    def __init__(self, tree: dict):
        self.tree = tree

    def encode(self, text, add_special_tokens=True, allowed_special="all"):
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def encode_batch(self, texts, threads=None, **options):
        return [self.encode(text, **options) for text in texts]

    def decode(self, ids, skip_special_tokens=False):
        return bytes(int(i) for i in ids).decode("utf-8", "replace")

    def stream(self, skip_special_tokens=False):
        return Stream()

    def token_to_id(self, token):
        return ord(token) if len(token) == 1 and ord(token) < 256 else None

    def id_to_token(self, id):
        return chr(id) if 0 <= id < 256 else None

    def to_json(self):
        return self.tree

    def save(self, path):
        path = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        path.write_text(json.dumps(self.tree))
        return path


class Stream:
    def __init__(self):
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id):
        return self.decoder.decode(bytes([int(id)]))

    def finish(self):
        return self.decoder.decode(b"", final=True)


bytes_from_tree = Bytes


class Exact:
    """Kernels are functions of an object: `matmul(x_MK, w, layer)`, `decode_attention(…)`, whichever it brings."""

    @staticmethod
    def matmul(x_MK, w, layer):
        w = w if layer is None else jax.tree.map(lambda leaf: leaf[layer], w)
        return jnp.matmul(x_MK, dequantize(w), precision="highest")


EXACT = Exact()
