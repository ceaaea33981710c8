"""The optimizer: gradients → clip by global norm → AdamW, or Muon for the matrices of the blocks, times a scheduled rate.

    AdamW: p ← p − lr·(m̂ / (√v̂ + ε) + λ·p)        Muon: p ← p − lr_muon·(√max(1, N/K)·orthogonalized momentum + λ·p)

Weight decay λ falls on what is a matrix within one layer (two or more dimensions besides the stacked layer axis), the
embeddings included, as in nanoGPT; norm scales and biases are spared. Everything is float32. Both rules are optax's.
Clipping is ours: optax's selects between two trees, which XLA's CPU does in extra passes; one scalar factor costs none.

Leaves out: a rate for each group beyond these two, accumulators in bfloat16, schedules by tokens or by time.
"""

import jax
import jax.numpy as jnp
import optax

from pikojax.config import Config


def make_optimizer(config: Config, axes) -> optax.GradientTransformation:
    """`axes`: the model's tree of logical axis names, from which follows what is a matrix, and what is a layer's.

    Clipping is the step's: without it, what happens to one layer depends on no other, and state can be streamed.
    """
    optim = config.optim
    decayed = jax.tree.map(is_matrix, axes, is_leaf=_is_names)
    adam = dict(b1=optim.beta1, b2=optim.beta2, eps=optim.eps, weight_decay=optim.weight_decay)
    if optim.name == "adamw":
        return optax.adamw(schedule(config), mask=decayed, **adam)
    rules = jax.tree.map(_rule_of, axes, is_leaf=_is_names)
    matrix = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)  # the layer axis is a batch of matrices
    return optax.partition(
        {
            "muon": optax.contrib.muon(
                schedule(config, optim.muon_lr),
                weight_decay=optim.weight_decay,
                muon_weight_dimension_numbers=lambda params: jax.tree.map(lambda _: matrix, params),
            ),
            "adamw": optax.adamw(schedule(config), **adam),
            "adamw, no decay": optax.adamw(schedule(config), **{**adam, "weight_decay": 0.0}),
        },
        rules,
    )


def schedule(config: Config, peak: float | None = None) -> optax.Schedule:
    """Step (from 0) → learning rate: a linear warm-up, then flat, a cosine, or flat with a linear fall at the end."""
    optim, steps = config.optim, float(config.train.steps)
    peak, warmup = optim.lr if peak is None else peak, float(config.optim.warmup_steps)
    fall = max(1, round(optim.decay_fraction * steps))

    def rate(step):
        step = jnp.asarray(step).astype(jnp.float32)
        if optim.schedule == "cosine":
            part = jnp.clip((step - warmup) / max(1.0, steps - warmup), 0.0, 1.0)
            shape = 0.5 * (1.0 + jnp.cos(jnp.pi * part))
        elif optim.schedule == "trapezoid":
            shape = jnp.clip((steps - step) / fall, 0.0, 1.0)
        else:
            return peak * jnp.minimum(1.0, (step + 1.0) / (warmup + 1.0))
        shape = optim.end_lr_ratio + (1.0 - optim.end_lr_ratio) * shape
        return peak * jnp.minimum(shape, (step + 1.0) / (warmup + 1.0))

    return rate


def clip_factor(norm, max_norm: float | None):
    if max_norm is None:
        return jnp.float32(1.0)
    return jnp.where(norm < max_norm, 1.0, max_norm / norm)


def is_matrix(names: tuple[str, ...]) -> bool:
    return len([name for name in names if name != "layers"]) >= 2


def _rule_of(names: tuple[str, ...]) -> str:
    if is_matrix(names):
        return "muon" if "layers" in names else "adamw"
    return "adamw, no decay"


def _is_names(node) -> bool:
    return isinstance(node, tuple)
