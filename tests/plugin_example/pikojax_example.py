"""A plug-in for pikojax: the model `bigram` (the next token depends on the last alone) and tokenizers of the type `Bytes`.

    logits_BTV = table_VV[tokens_BT]                "hé" → [104, 195, 169]

`pip install` it, and `pikojax train model.name=bigram` and `pikojax tokenizer encode FILE` know it; nothing else is to be done.
"""

import codecs
import json
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from pikojax.models import cache as kv
from pikojax.models.layers import Model, Output


@dataclass(frozen=True)
class BigramConfig:
    name: str = "bigram"
    vocab_size: int | None = None  # None: the tokenizer's
    context: int = 64


def init(cfg: BigramConfig, key) -> dict:
    return {"table": jnp.zeros((cfg.vocab_size, cfg.vocab_size), jnp.float32)}


def forward(cfg: BigramConfig, params, tokens_BT, cache=None, *, segments_BT=None, train_key=None, remat=False):
    logits_BTV = params["table"][tokens_BT].astype(jnp.float32)
    return Output(logits_BTV, logits_BTV, {}), None if cache is None else kv.advance(cache, tokens_BT.shape[1])


def new_cache(cfg: BigramConfig, batch: int, slots: int, dtype=jnp.float32):
    return kv.new_cache(1, batch, slots, 1, 1, dtype)  # only its length is used


BIGRAM = Model(BigramConfig, init, forward, new_cache, lambda cfg: {"table": ("vocab", "embed")})


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
