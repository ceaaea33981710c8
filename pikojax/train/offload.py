"""Training state in pinned host memory, and the arithmetic that takes it to the device a layer at a time.

Which leaves live there is a property of the arrays (their memory space), so nothing here reads a setting. What is on the host and
stacked by layers goes through `lax.scan`: layer i to the device, the arithmetic, the result back.

The results are those without, to the last bit. What adds up many numbers goes layer by layer in either memory, as the order of
addition depends on how many there are: the norm, and Muon's products of matrices. AdamW treats each number alone and takes whole
stacks on the device, which is faster; `rounding.py` makes its bits the same.

Leaves out: overlapping a layer's transfer with the arithmetic before it (the compiler may), disk.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from pikojax.models.layers import on_host, to_device
from pikojax.train.rounding import products_rounded


def elementwise(f: Callable, *trees):
    """`f` leaf by leaf; where a leaf of the first tree is on the host, layer by layer, with the result there as well."""

    def one(first, *others):
        if not on_host(first):
            return f(first, *map(to_device, others))
        return jax.lax.map(lambda layer: _to_host(f(*map(to_device, layer))), (first, *others))

    return jax.tree.map(one, *trees)


def global_norm(tree, axes):
    """√Σ x². A stack is summed a layer at a time."""

    def squares(leaf, names):
        if "layers" in names:
            return jnp.sum(jax.lax.map(lambda layer: jnp.sum(jnp.square(to_device(layer))), leaf))
        return jnp.sum(jnp.square(to_device(leaf)))

    return jnp.sqrt(sum(jax.tree.leaves(jax.tree.map(squares, tree, axes))))


def update(optimizer: optax.GradientTransformation, params, opt_state, grads, axes, factor, step, elementwise: bool = False):
    """(params, opt_state) after one step of `optimizer` on factor · grads, one layer of the stacks at a time.

    `elementwise`: the optimizer treats each number alone; what is on the device then goes at once. `step` counts from 0.
    """
    one_update = partial(_update, optimizer, factor)
    if elementwise:
        one_update = products_rounded(one_update, jax.lax.shift_right_arithmetic(step, jnp.int32(31)))
        if not any(on_host(leaf) for leaf in jax.tree.leaves((params, opt_state))):
            return one_update(params, opt_state, grads)
    kinds = jax.tree.map(lambda names: "layers" if "layers" in names else "whole", axes, is_leaf=lambda x: isinstance(x, tuple))
    kinds = (kinds, map_params(optimizer, lambda _, kind: kind, opt_state, kinds, other=lambda _: "shared"), kinds)
    tree = (params, opt_state, grads)
    stacks = [leaf for leaf, kind in zip(jax.tree.leaves(tree), jax.tree.leaves(kinds), strict=True) if kind == "layers"]

    def one_layer(_, layer):
        weights = iter(layer)
        fill = {"layers": lambda _: to_device(next(weights))[None], "whole": _no_rows, "shared": lambda leaf: leaf}
        new = one_update(*jax.tree.map(lambda leaf, kind: fill[kind](leaf), tree, kinds))
        kept = jax.tree.map(lambda x, old, kind: [_where(old, x[0])] if kind == "layers" else [], new, tree[:2], kinds[:2])
        return None, jax.tree.leaves(kept)

    _, layered = jax.lax.scan(one_layer, None, stacks)
    layered = iter(layered)
    rest = jax.tree.map(lambda leaf, kind: _no_rows(leaf) if kind == "layers" else to_device(leaf), tree, kinds)
    rest = one_update(*rest)
    return jax.tree.map(
        lambda x, old, kind: next(layered) if kind == "layers" else _where(old, x), rest, tree[:2], kinds[:2]
    )


def map_params(optimizer, f: Callable, opt_state, *like_params, other: Callable):
    """`opt_state` with f(leaf, …) at each leaf that belongs to a parameter, `other(leaf)` at the rest (counters)."""

    def one(leaf, *same):
        return leaf if isinstance(leaf, optax.MaskedNode) else f(leaf, *same)

    is_masked = lambda node: isinstance(node, optax.MaskedNode)  # noqa: E731
    return optax.tree.map_params(optimizer, one, opt_state, *like_params, transform_non_params=other, is_leaf=is_masked)


def _update(optimizer, factor, params, opt_state, grads):
    grads = jax.tree.map(lambda g: factor * g, grads)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of an integer counter
        updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def _no_rows(leaf):
    """Takes part in the arithmetic at no cost: each pass computes its own leaves alone."""
    return jnp.zeros((0, *leaf.shape[1:]), leaf.dtype)


def _where(old, new):
    return _to_host(new) if on_host(old) else new


def _to_host(array):
    return jax.device_put(array, jax.memory.Space.Host)
