"""Validation: the loss over the whole split, every target once.

    nats a token = Σ −ln p(target) / targets          bits a byte = Σ −ln p(target) / (ln 2 · bytes of the text)

Bits a byte compares models whose tokenizers differ; it is None where the bytes are not known (token shards). A target is seen
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
from pikojax.train.step import compute_params


def make_evaluate(config: Config, mesh, loss_fn: Callable = next_token_loss) -> Callable:
    """`(params, stream) → {"val_loss", "val_bits_per_byte", "val_tokens"}`, compiled once for every split."""

    @jax.jit
    def totals(params, batch):
        batch = jax.tree.map(lambda x: x[0], batch)
        mean, facts = loss_fn(config.model, compute_params(config, params), batch, None)
        return mean * facts["targets"], facts["targets"]

    where = batch_sharding(mesh, batch_axis=1)

    def evaluate(params, stream: TokenStream) -> dict:
        batches = eval_batches(
            stream,
            batch_size=config.train.batch_size,
            context=config.model.context,
            document_mask=config.data.document_mask,
        )
        sums = [totals(params, jax.device_put(batch, where)) for batch in batches]  # read once all are under way
        nats, count = np.asarray(jax.device_get(sums), np.float64).sum(axis=0)
        in_bytes = nats / math.log(2) / stream.n_bytes if stream.n_bytes else None
        return {"val_loss": float(nats / count), "val_bits_per_byte": in_bytes, "val_tokens": int(count)}

    return evaluate
