"""Next-token loss: the mean over counted targets of −ln p(target) = logsumexp(logits) − logits[target], in nats.

A loss function is `loss_fn(cfg, params, batch, train_key, *, remat) → (mean, facts)`; the step differentiates it, and weighs
micro-batches by `facts["targets"]`. Another objective is another such function, never another step or loop.

`logsumexp − take` keeps the least memory of the forms that were tried on XLA's CPU, and none was faster: the gradient's scatter is
compiled into the softmax. A hand-written gradient gained nothing.

Leaves out: label smoothing, z-loss, a projection in chunks that never makes all logits.
"""

import jax
import jax.numpy as jnp

from pikojax.models.catalog import catalog


def next_token_loss(cfg, params, batch, train_key=None, *, remat: bool = False):
    """`batch`: tokens, targets, segments | None, mask | None, each [B, T], in the order of `data.Batch`."""
    tokens_BT, targets_BT, segments_BT, mask_BT = batch
    out, _ = catalog[cfg.name].forward(cfg, params, tokens_BT, segments_BT=segments_BT, train_key=train_key, remat=remat)
    return mean_cross_entropy(out.logits, targets_BT, mask_BT)


def mean_cross_entropy(logits_BTV, targets_BT, mask_BT=None):
    nats_BT = cross_entropy(logits_BTV, targets_BT)
    if mask_BT is None:
        return jnp.mean(nats_BT), {"targets": jnp.float32(nats_BT.size)}
    count = jnp.sum(mask_BT, dtype=jnp.float32)
    return jnp.sum(jnp.where(mask_BT, nats_BT, 0.0)) / jnp.maximum(count, 1.0), {"targets": count}


def cross_entropy(logits_BTV, targets_BT):
    """Nats of each target; logits in float32."""
    at_target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - at_target_BT
