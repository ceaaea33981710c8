"""One optimizer step as a pure, compiled function: (state, batch) → (state, facts), the old state's memory given to the new.

    gradient = Σ_a ∇(mean_a)·targets_a / Σ_a targets_a over the A micro-batches: the mean over every counted target

The random key of a step is fold_in(key(seed), step), so that the state is (step, params, opt_state) and the same state and
batch give the same bits. Weights, gradients and optimizer are float32; the arithmetic is `train.dtype`'s.

A loss or gradient that is not finite is reported, not mended: from then on every loss is NaN, so a loop that looks before
each save, at loss *and* grad_norm, keeps a good checkpoint to go back to. (Skipping the update inside the step would hide
it; with `where` it also costs three passes over the whole state.)

Leaves out: tensor and expert axes (rules in `models.sharding` away), gradient compression, several losses.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pikojax.config import Config
from pikojax.models.catalog import catalog
from pikojax.models.sharding import params_sharding
from pikojax.qtensor import QTensor
from pikojax.train import offload
from pikojax.train.loss import next_token_loss
from pikojax.train.optim import clip_factor, make_optimizer, schedule


class TrainState(NamedTuple):
    step: Any  # int32, steps done
    params: dict
    opt_state: Any


def init_state(config: Config, mesh) -> TrainState:
    """The state before the first step; every device makes its own part, and the same weights come on any mesh (to the last bits, which
    XLA may round otherwise when it compiles a part)."""
    return jax.jit(lambda: _new_state(config), out_shardings=state_sharding(config, mesh))()


def abstract_state(config: Config, mesh) -> TrainState:
    """Shapes, dtypes and placement of the state, for restoring a checkpoint."""
    shapes = jax.eval_shape(lambda: _new_state(config))
    placed = state_sharding(config, mesh)
    return jax.tree.map(lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes, placed)


def state_sharding(config: Config, mesh) -> TrainState:
    axes, shapes = catalog[config.model.name].axes(config.model), jax.eval_shape(lambda: _new_state(config))
    in_memory = {on_host: params_sharding(mesh, axes, shapes.params, "pinned_host" if on_host else "device") for on_host in (False, True)}
    layered = jax.tree.map(lambda names: "layers" in names, axes, is_leaf=lambda node: isinstance(node, tuple))
    params = jax.tree.map(
        lambda stacked, device, host: host if stacked and config.train.offload_params else device,
        layered, in_memory[False], in_memory[True],
    )
    of_optimizer = in_memory[config.train.offload_optimizer]
    whole = params_sharding(mesh, (), jax.ShapeDtypeStruct((), jnp.int32))
    opt_state = offload.map_params(
        make_optimizer(config, axes), lambda _, where: where, shapes.opt_state, of_optimizer, other=lambda _: whole
    )
    return TrainState(whole, params, opt_state)


def make_step(config: Config, mesh, loss_fn: Callable = next_token_loss, frozen=None) -> Callable:
    """Compiled `(state, batch) → (state, {"loss", "grad_norm", "lr"})`; `batch` has a leading axis of micro-batches. `frozen`: weights that
    `loss_fn` takes by that name and nothing trains; an argument of the program, as a constant of it would be compiled in."""
    axes = catalog[config.model.name].axes(config.model)
    optimizer, rate, clip = make_optimizer(config, axes), schedule(config), config.optim.grad_clip
    update = partial(offload.update, optimizer, axes=axes, elementwise=config.optim.name == "adamw")

    def step(state: TrainState, batch, *frozen):
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        loss, grads = loss_and_gradient(config, with_frozen(loss_fn, *frozen), state.params, batch, key)
        norm = offload.global_norm(grads, axes)
        params, opt_state = update(state.params, state.opt_state, grads, factor=clip_factor(norm, clip), step=state.step)
        facts = {"loss": loss, "grad_norm": norm, "lr": rate(state.step)}
        return TrainState(state.step + 1, params, opt_state), facts

    compiled = jax.jit(step, donate_argnums=0, out_shardings=(state_sharding(config, mesh), None))
    return compiled if frozen is None else lambda state, batch: compiled(state, batch, frozen)


def with_frozen(loss_fn: Callable, *frozen) -> Callable:
    return partial(loss_fn, frozen=frozen[0]) if frozen else loss_fn


def loss_and_gradient(config: Config, loss_fn: Callable, params, batch, key):
    """The mean loss over every counted target of a batch [A, B, T], and its gradient in float32."""

    def loss(params, micro_batch, key):
        low = compute_params(config, params)
        return loss_fn(config.model, low, micro_batch, key, remat=config.train.remat)

    gradient = jax.value_and_grad(loss, has_aux=True)
    n_micro = jax.tree.leaves(batch)[0].shape[0]
    if n_micro == 1:
        (mean, _), grads = gradient(params, jax.tree.map(lambda x: x[0], batch), key)
        return mean, grads

    def accumulate(sums, micro):
        micro_batch, index = micro
        (mean, facts), grads = gradient(params, micro_batch, jax.random.fold_in(key, index))
        weight = facts["targets"]
        total, count, grad_sum = sums
        grad_sum = offload.elementwise(lambda s, g: s + weight * g, grad_sum, grads)
        return (total + weight * mean, count + weight, grad_sum), None

    zero = jnp.zeros((), jnp.float32)
    zeros = offload.elementwise(jnp.zeros_like, params)
    (total, count, grads), _ = jax.lax.scan(accumulate, (zero, zero, zeros), (batch, jnp.arange(n_micro)))
    count = jnp.maximum(count, 1.0)
    return total / count, offload.elementwise(lambda g: g / count, grads)


def compute_params(config: Config, params):
    """`params` in the dtype of the arithmetic, but for the stacks, which are converted a layer at a time where they are used,
    and quantized ones, which have no other type."""
    dtype = compute_dtype(config)
    axes = catalog[config.model.name].axes(config.model)
    quantized = lambda leaf: isinstance(leaf, QTensor)
    as_it_is = lambda leaf, names: "layers" in names or quantized(leaf)
    return jax.tree.map(lambda leaf, names: leaf if as_it_is(leaf, names) else leaf.astype(dtype), params, axes, is_leaf=quantized)


def compute_dtype(config: Config):
    if config.train.dtype == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(config.train.dtype)


def _new_state(config: Config) -> TrainState:
    model = catalog[config.model.name]
    params = model.init(config.model, jax.random.key(config.seed))
    opt_state = make_optimizer(config, model.axes(config.model)).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state)
