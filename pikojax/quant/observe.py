"""What a text sends into each matrix of a model: one layer at a time, so that memory holds the weights of one layer.

    importance_K = mean of x²       gram_KK = mean of x·xᵀ       over the inputs x of a matrix, one a token

A model's `forward` runs until its blocks would run, and gives away the block's function and its input (`layers.run_blocks`). From there on the layers
are run here: a layer sees what the layers before it send when they are quantized, its weights are observed as they were, then it is quantized and run.

    layers = observed(model, cfg, params, tokens_BT)
    seen = next(layers)            {"q/kernel": Seen, …} of layer 0
    seen = layers.send(rounded)    the same of layer 1, behind layer 0 with the weights `rounded`

Leaves out: embeddings and heads, which keep eight bits; models whose blocks are not run by `layers.run_blocks`.
"""

from collections.abc import Callable, Generator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import require
from pikojax.models.layers import Model, Observed
from pikojax.qtensor import QTensor, dequantize
from pikojax.quant.tree import path_name

TOKENS_AT_ONCE = 4096


class Seen:
    """Sums over what one matrix, or each of a stack, was multiplied by."""

    def __init__(self, stack: int | None, K: int, products: bool):
        self.n, self.squares = np.zeros(stack or 1), np.zeros((stack or 1, K))
        self.products = np.zeros((K, K), np.float32) if products and stack is None else None

    def see(self, x_RK, which) -> None:
        x_RK = x_RK.astype(jnp.float32)
        if which is None and not isinstance(x_RK, jax.core.Tracer):
            self._add(0, x_RK.shape[0], jnp.sum(x_RK * x_RK, axis=0), None if self.products is None else x_RK.T @ x_RK)
        else:
            jax.debug.callback(self._add, jnp.int32(0) if which is None else which, x_RK.shape[0], jnp.sum(x_RK * x_RK, axis=0), None)

    def _add(self, which, n, squares_K, products_KK) -> None:
        self.n[int(which)] += int(n)
        self.squares[int(which)] += np.asarray(squares_K)
        if products_KK is not None:
            self.products += np.asarray(products_KK)

    @property
    def importance(self) -> np.ndarray:
        """[K], or [stack, K]; of an expert that no token reached, that of all together."""
        mean = self.squares / np.maximum(self.n, 1)[:, None]
        mean[self.n == 0] = self.squares.sum(axis=0) / max(self.n.sum(), 1)
        return (mean[0] if len(mean) == 1 else mean).astype(np.float32)

    @property
    def gram(self) -> np.ndarray | None:
        return None if self.products is None else self.products / np.float32(max(self.n[0], 1))


def observed(model: Model, cfg, params: Mapping, tokens_BT: np.ndarray, products: bool = True) -> Generator[dict[str, Seen], Mapping, None]:
    """`params["blocks"]`: a sequence of layers, or a stack of them; arrays may be mapped from a file."""
    parts = max(1, tokens_BT.size // TOKENS_AT_ONCE)
    stem = jax.tree.map(_on_device, {name: value for name, value in params.items() if name != "blocks"})
    streams = [_begun(model, cfg, stem, part) for part in np.array_split(tokens_BT, min(parts, len(tokens_BT)))]
    del stem
    blocks = params["blocks"]
    for layer in range(len(blocks) if not isinstance(blocks, Mapping) else jax.tree.leaves(blocks)[0].shape[0]):
        weights = jax.tree.map(lambda leaf: leaf[layer], blocks) if isinstance(blocks, Mapping) else blocks[layer]
        weights, seen = _watched(jax.tree.map(_on_device, weights), products)
        _run(streams, weights, layer)
        jax.effects_barrier()
        del weights
        rounded = yield seen
        streams = _run(streams, jax.tree.map(_on_device, rounded, is_leaf=_is_packed), layer)


def _begun(model: Model, cfg, stem, tokens_BT) -> tuple[Callable, jax.Array, object]:
    """(block, its input, what each layer has of its own) for these tokens."""
    found = []

    class Begun(Exception):
        pass

    def blocks(block, x, keys_L):
        found.extend((block, x, keys_L))
        raise Begun

    try:
        model.forward(cfg, {**stem, "blocks": blocks}, jnp.asarray(tokens_BT))
    except Begun:
        pass
    require(len(found) == 3, f"the model {cfg.name!r} does not run its blocks by layers.run_blocks, so nothing can be observed; quantize it without a text")
    return tuple(found)


def _run(streams: list, weights, layer: int) -> list:
    own = lambda keys_L: jax.tree.map(lambda leaf: leaf[layer], keys_L)
    return [(block, block(weights, x, None, layer, own(keys_L))[0], keys_L) for block, x, keys_L in streams]


def _watched(weights, products: bool) -> tuple[dict, dict[str, Seen]]:
    seen = {}

    def one(path, leaf):
        name = path_name(path)
        if not name.endswith("kernel"):
            return leaf
        seen[name] = Seen(leaf.shape[0] if leaf.ndim == 3 else None, leaf.shape[-2], products)
        return Observed(leaf, seen[name].see)

    return jax.tree_util.tree_map_with_path(one, weights), seen


def _on_device(leaf):
    if isinstance(leaf, QTensor):
        return dequantize(jax.tree.map(jnp.asarray, leaf))
    return jnp.asarray(np.asarray(leaf), jnp.float32)


def _is_packed(leaf) -> bool:
    return isinstance(leaf, QTensor)
