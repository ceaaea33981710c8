"""What a model consists of: parameters and bytes, by part, by kind of number, by layer. Looks at shapes alone.

    describe(params)["parameters_by_part"]  →  {"embed": 32768, "norm": 64, "blocks/q": 20480, …}

A tied head is the embedding and counts once.
"""

import math
from collections import Counter

import jax

from pikojax.qtensor import QTensor


def describe(params: dict) -> dict:
    counts, sizes, kinds, layers = Counter(), Counter(), Counter(), Counter()
    for part, leaf, layer, share in _leaves(params):
        packed = isinstance(leaf, QTensor)
        n = math.prod((*leaf.stack, *leaf.shape)) if packed else math.prod(leaf.shape)
        n_bytes = leaf.n_bytes if packed else n * leaf.dtype.itemsize
        counts[part] += n
        sizes[part] += n_bytes
        kinds[leaf.format if packed else str(leaf.dtype)] += n_bytes
        for each in range(share) if layer is None else (layer,):
            layers[each] += n_bytes // share
    return {
        "parameters": sum(counts.values()),
        "parameters_by_part": dict(counts),
        "bytes": sum(sizes.values()),
        "bytes_by_part": dict(sizes),
        "bytes_by_kind": dict(kinds),
        "bytes_by_layer": [layers[layer] for layer in sorted(layers) if layer >= 0],
    }


def _leaves(params: dict):
    """(part, leaf, its layer or None for a stack of all, how many layers share it); what is in no layer has layer −1."""
    flat = lambda tree: jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: isinstance(leaf, QTensor))
    for path, leaf in flat({name: value for name, value in params.items() if name != "blocks"}):
        yield str(path[0].key), leaf, -1, 1
    blocks = params.get("blocks", ())
    stacked = isinstance(blocks, dict)
    for layer, block in enumerate((blocks,) if stacked else blocks):
        for path, leaf in flat(block):
            n_layers = (leaf.stack if isinstance(leaf, QTensor) else leaf.shape)[0] if stacked else 1
            yield f"blocks/{path[0].key}", leaf, None if stacked else layer, n_layers
