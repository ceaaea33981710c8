"""A tree of parameters → the same tree with QTensors in it. The first rule whose pattern fits a path decides.

    quantize_tree(params, "int4_g32")                                     matrices in int4, embeddings and head in int8
    quantize_tree(params, [Rule("blocks/down/*", "q6_k"), Rule("blocks/*", "q4_k"), Rule("embed", "q8_0", table=True)])

A path is the names from the root, with slashes: `blocks/qkv/kernel`. In a pattern `*` stands for anything, slashes too. What no
rule fits, what is no matrix (norms, biases) and what is small stays as it is.

Leaves out: calibration (`pack.py`); formats chosen by measured error.
"""

import fnmatch
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pikojax.config import require
from pikojax.qtensor import FORMATS, QTensor, quantize

SMALLEST = 1024  # weights of a matrix; with fewer the scales' overhead is not worth the error


class Rule(NamedTuple):
    pattern: str
    format: str | None  # None: stays float
    table: bool = False  # rows are looked up: [V, D], whose QTensor is of shape (D, V)


def rules_for(format: str, embeddings: str | None = "", head: str | None = "") -> list[Rule]:
    """The usual rules: the blocks' matrices in `format`. Embeddings and head, which see every token, have eight bits
    unless told otherwise; None leaves them float. A tied head is the embedding."""
    require(format in FORMATS, f"format {format!r} is unknown; choose from {', '.join(FORMATS)}")
    eight = "q8_0" if FORMATS[format].gguf else "int8_g32"
    embeddings, head = (eight if choice == "" else choice for choice in (embeddings, head))
    return [Rule("embed", embeddings, table=True), Rule("head", head), Rule("blocks/*kernel", format)]


def quantize_tree(params, rules: str | Sequence[Rule], smallest: int = SMALLEST):
    """`rules`: a format's name for the usual ones, or a list of which each must fit something."""
    chosen = rules_for(rules) if isinstance(rules, str) else list(rules)
    for rule in chosen:
        require(
            rule.format is None or rule.format in FORMATS, f"format {rule.format!r} is unknown; choose from {', '.join(FORMATS)}"
        )
    used = set()

    def one(path, leaf):
        name = path_name(path)
        rule = rule_of(name, chosen)
        used.add(rule)
        if rule is None or rule.format is None or isinstance(leaf, QTensor) or not is_matrix(name, leaf, smallest):
            return leaf
        return quantize(jnp.swapaxes(leaf, -1, -2) if rule.table else leaf, rule.format)

    quantized = jax.tree_util.tree_map_with_path(one, params, is_leaf=is_qtensor)
    idle = [rule.pattern for rule in chosen if rule not in used]
    names = ", ".join(path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_qtensor))
    require(isinstance(rules, str) or not idle, f"no parameter is decided by {', '.join(map(repr, idle))}; the paths are {names}")
    return quantized


def rule_of(name: str, rules: Sequence[Rule]) -> Rule | None:
    """The first that fits."""
    return next((rule for rule in rules if fnmatch.fnmatchcase(name, rule.pattern)), None)


def is_qtensor(leaf) -> bool:
    return isinstance(leaf, QTensor)


def path_name(path) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)


def is_matrix(name: str, leaf, smallest: int) -> bool:
    """Two axes, three in a stack of blocks: there a norm's scale has two. A layer's experts are a stack too."""
    first, *rest = name.split("/")
    stacked = first == "blocks" and not rest[0].isdigit()
    wanted = 2 + stacked + ("experts" in rest and "shared" not in rest)
    return leaf.ndim == wanted and jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.shape[-1] * leaf.shape[-2] >= smallest
