"""Training state in pinned host memory, and the arithmetic that takes it to the device a layer at a time.

Which leaves live there is a property of the arrays (their memory space), so nothing here reads a setting. What is stacked by
layers goes through `lax.scan`: layer i to the device, the same arithmetic as without, the result back. An optimizer of
`optim.make_optimizer` treats every layer by itself, so the results are equal bit for bit.

Leaves out: overlapping a layer's transfer with the arithmetic before it (the compiler may), disk.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from pikojax.models.layers import on_host, to_device


def any_on_host(tree) -> bool:
    return any(map(on_host, jax.tree.leaves(tree)))


def elementwise(f: Callable, *trees):
    """`f` leaf by leaf; where a leaf of the first tree is on the host, layer by layer, with the result there as well."""

    def one(first, *others):
        if not on_host(first):
            return f(first, *map(to_device, others))
        return jax.lax.map(lambda layer: _to_host(f(*map(to_device, layer))), (first, *others))

    return jax.tree.map(one, *trees)


def global_norm(tree):
    """√Σ x², every layer of a stack summed by itself in either memory, so that the order of the sum is the same."""

    def squares(leaf):
        if on_host(leaf):
            return jnp.sum(jax.lax.map(lambda layer: _sum_of_squares(to_device(layer)), leaf))
        return _sum_of_squares(leaf)

    return jnp.sqrt(sum(map(squares, jax.tree.leaves(tree))))


def update(optimizer: optax.GradientTransformation, params, opt_state, grads, axes):
    """(params, opt_state) after one step of `optimizer`. Of what is on the host, one layer at a time comes to the device."""
    if not any_on_host((params, opt_state)):
        return _update(optimizer, params, opt_state, grads)
    kinds = jax.tree.map(lambda names: "layers" if "layers" in names else "whole", axes, is_leaf=lambda x: isinstance(x, tuple))
    kinds = (kinds, map_params(optimizer, lambda _, kind: kind, opt_state, kinds, other=lambda _: "shared"), kinds)
    tree = (params, opt_state, grads)
    stacks = [leaf for leaf, kind in zip(jax.tree.leaves(tree), jax.tree.leaves(kinds), strict=True) if kind == "layers"]

    def one_layer(_, layer):
        weights = iter(layer)
        fill = {"layers": lambda _: to_device(next(weights))[None], "whole": _no_rows, "shared": lambda leaf: leaf}
        new = _update(optimizer, *jax.tree.map(lambda leaf, kind: fill[kind](leaf), tree, kinds))
        kept = jax.tree.map(lambda x, old, kind: [_where(old, x[0])] if kind == "layers" else [], new, tree[:2], kinds[:2])
        return None, jax.tree.leaves(kept)

    _, layered = jax.lax.scan(one_layer, None, stacks)
    layered = iter(layered)
    rest = jax.tree.map(lambda leaf, kind: _no_rows(leaf) if kind == "layers" else to_device(leaf), tree, kinds)
    rest = _update(optimizer, *rest)
    return jax.tree.map(
        lambda x, old, kind: next(layered) if kind == "layers" else _where(old, x), rest, tree[:2], kinds[:2]
    )


def map_params(optimizer, f: Callable, opt_state, *like_params, other: Callable):
    """`opt_state` with f(leaf, …) at each leaf that belongs to a parameter, `other(leaf)` at the rest (counters)."""

    def one(leaf, *same):
        return leaf if isinstance(leaf, optax.MaskedNode) else f(leaf, *same)

    is_masked = lambda node: isinstance(node, optax.MaskedNode)  # noqa: E731
    return optax.tree.map_params(optimizer, one, opt_state, *like_params, transform_non_params=other, is_leaf=is_masked)


def _update(optimizer, params, opt_state, grads):
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


def _sum_of_squares(leaf):
    square = jnp.square(leaf)
    while square.ndim > 0:  # axis by axis, the last first: one loop for XLA, and one order
        square = jnp.sum(square, axis=-1)
    return square
