"""Validation: the loss over the whole split, every counted target once.

    nats a token = Σ −ln p(target) / targets          bits a byte = Σ −ln p(target) / (ln 2 · bytes of the text)

Bits a byte compares models whose tokenizers differ; it is None where the bytes are not known (token shards), and with document
masks, which leave out the first target of every document. A target is seen
with the history that its window holds, as in training, so a longer context lowers the figure.

Leaves out: sliding windows (each target with a full history), losses by position or by document.
"""

import math
from collections.abc import Callable

import jax
import numpy as np

from pikojax.config import Config
from pikojax.data.batches import eval_batches
from pikojax.data.shards import TokenStream
from pikojax.models.sharding import batch_sharding
from pikojax.train.loss import next_token_loss
from pikojax.train.step import compute_params, with_frozen

TOKENS_AT_ONCE = 8192  # small training batches are joined, as each costs a start,
LOGITS_AT_ONCE = 1 << 26  # as long as their logits stay within 256 MB
BATCHES_AHEAD = 4


def make_evaluate(config: Config, mesh, loss_fn: Callable = next_token_loss, frozen=None) -> Callable:
    """`(params, stream) → {"val_loss", "val_bits_per_byte", "val_tokens"}`, compiled once for every split."""

    @jax.jit
    def totals(params, batch, *frozen):
        batch = jax.tree.map(lambda x: x[0], batch)
        mean, facts = with_frozen(loss_fn, *frozen)(config.model, compute_params(config, params), batch, None)
        return mean * facts["targets"], facts["targets"]

    where = batch_sharding(mesh, batch_axis=1)
    one_batch = config.train.batch_size * config.model.context
    joined = min(TOKENS_AT_ONCE, LOGITS_AT_ONCE // (config.model.vocab_size or 1)) // one_batch
    rows = config.train.batch_size * max(1, joined)

    def evaluate(params, stream: TokenStream) -> dict:
        batches = eval_batches(
            stream,
            batch_size=rows,
            context=config.model.context,
            document_mask=config.data.document_mask,
        )
        found, ahead = [], []
        for batch in batches:
            ahead.append(totals(params, jax.device_put(batch, where), *(() if frozen is None else (frozen,))))
            if len(ahead) > BATCHES_AHEAD:  # the device stays busy, and no more than these lie in its memory
                found.append(jax.device_get(ahead.pop(0)))
        nats, count = map(float, np.asarray(found + jax.device_get(ahead), np.float64).sum(axis=0))
        known = stream.n_bytes and not config.data.document_mask and loss_fn is next_token_loss  # with masks the first token of a document costs nothing
        in_bytes = nats / math.log(2) / stream.n_bytes if known else None
        return {"val_loss": nats / count, "val_bits_per_byte": in_bytes, "val_tokens": int(count)}

    return evaluate
