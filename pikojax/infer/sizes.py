"""How much cache an engine has, in which numbers, how much of it layers keep that see only a window, and what a step reads of weights.

    blocks = what `cache_tokens` asks for, or a whole context for each slot, up to a quarter of memory, and one whole context at least
    ring   = window + a block of a prompt, whose last token is written before its first looks back

Leaves out: the arrays (models/cache.py), who has which block (pool.py).
"""

import os
from collections.abc import Callable

import jax

from pikojax.infer import decode, pool
from pikojax.qtensor import QTensor


def n_blocks(new_caches: Callable, context: int, slots: int, cache_tokens: int | None) -> int:
    """`new_caches(n)` makes those that have n blocks, a model's and its drafter's."""
    whole = -(-context // pool.BLOCK)
    if cache_tokens is not None:
        return max(1, -(-cache_tokens // pool.BLOCK))
    ones = jax.eval_shape(lambda: new_caches(1))
    block_bytes = sum(leaf.size * leaf.dtype.itemsize for one in ones if one for leaf in jax.tree.leaves((one.k_LBGSC, one.v_LBGSC)))
    return min(slots * whole, max(whole, memory_bytes() // 4 // max(block_bytes, 1)))


def ring_blocks(model, cfg, config, context: int, dtype, draft_cache: Callable = lambda n: None) -> int:
    """A row's, in layers that see a window; 0: they keep all, as the others do. Where `config` leaves it open: rings, if they are a quarter of a row
    or less, and memory does not hold all that every slot could write (beginnings are worth more than memory that nobody needs)."""
    window = getattr(cfg, "window", None)
    if window is None or config.rings is False or not model.rings:
        return 0
    ring, whole = -(-(window + decode.BLOCK) // pool.BLOCK) + 1, -(-context // pool.BLOCK)
    new_caches = lambda n: [model.new_cache(cfg, n, pool.BLOCK, dtype), draft_cache(n)]
    fits = config.cache_tokens is not None or n_blocks(new_caches, context, config.slots, None) == config.slots * whole
    return ring if config.rings or (4 * ring <= whole and not fits) else 0


def weight_bytes(params: dict) -> int:
    """What one step reads of the weights, as they lie in memory."""
    looked_up = {"positions"} | ({"embed"} if "head" in params else set())
    return sum(leaf.nbytes for name, part in params.items() if name not in looked_up for leaf in jax.tree.leaves(part))


def memory_bytes() -> int:
    """Of the device: what an accelerator has left beside the weights, or all of the machine's."""
    told = jax.devices()[0].memory_stats() or {}  # a CPU tells nothing
    if "bytes_limit" in told:
        return told["bytes_limit"] - told.get("bytes_in_use", 0)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cache_dtype(name: str, params) -> str:
    if name != "auto":
        return name
    quantized = any(isinstance(leaf, QTensor) for leaf in jax.tree.leaves(params["blocks"], is_leaf=lambda x: isinstance(x, QTensor)))
    return "int8" if quantized else "float32"
