"""A model's tensors packed one after the other, as a writer asks for them, so that a model larger than memory can be quantized.

    planned = plan(params, [Rule("blocks/3/down/*", "q6_k"), *rules_for("q4_k")], gguf=True)     path → Planned: which format, and why another than asked for
    pack = Packer(params, planned, layers=calibrated(…))
    pack("blocks/0/q/kernel") → QTensor on the host;  pack.lines: what each has become, for `report.table`

Three methods: the nearest number; the nearest number under scales that are weighed by an importance of each input (from a file, or from a text);
rounding with error feedback (`feedback.py`, from a text). What a text tells comes layer by layer (`observe.py`).

Leaves out: formats chosen by measured error.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import require
from pikojax.models.layers import Model
from pikojax.qtensor import FORMATS, QTensor, dequantize, quantize
from pikojax.quant import feedback
from pikojax.quant.observe import Seen, observed
from pikojax.quant.report import Line
from pikojax.quant.tree import SMALLEST, Rule, is_matrix, is_qtensor, path_name, rule_of

TABLES = ("embed", "positions", "types")  # of which rows are looked up
FLOATS = {"f32": np.float32, "f16": np.float16}
WEIGHTS_AT_ONCE = 1 << 20  # that are packed together; packing needs several times their memory


class Planned(NamedTuple):
    format: str | None  # one of FORMATS or of FLOATS; None: stays as it is
    table: bool  # its rows are looked up: [V, D]
    note: str = ""  # why this format and not the one that was asked for


def by_layers(params: Mapping) -> dict:
    """`params` with blocks as a tuple of layers; of a stack the layers are views."""
    if not isinstance(params.get("blocks"), Mapping):
        return dict(params)
    host = jax.tree.map(lambda leaf: leaf if isinstance(leaf, QTensor) else np.asarray(leaf), params["blocks"], is_leaf=is_qtensor)
    first = jax.tree.leaves(host, is_leaf=is_qtensor)[0]
    n = (first.stack if isinstance(first, QTensor) else first.shape)[0]
    return {**params, "blocks": tuple(jax.tree.map(lambda leaf: leaf[i], host, is_leaf=is_qtensor) for i in range(n))}


def leaves_of(params: Mapping) -> dict:
    """Path → leaf."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_qtensor)}


def plan(params: Mapping, rules: Sequence[Rule], gguf: bool = False, smallest: int = SMALLEST, must_fit: int = 0) -> dict[str, Planned]:
    """What becomes of each parameter. A GGUF file holds no padding: there a row that no block divides gets a format of smaller blocks, or float16.
    The first `must_fit` rules have to decide something."""
    leaves, used, made = leaves_of(params), set(), {}
    for path, leaf in leaves.items():
        rule = rule_of(path, rules)
        table = path in TABLES or bool(rule and rule.table)
        if rule is None or rule.format is None or not is_matrix(path, leaf, 0 if rule in rules[:must_fit] else smallest):
            made[path] = Planned(None, table)
            continue
        used.add(rule)
        made[path] = _divided(leaf, rule.format, table) if gguf and rule.format in FORMATS else Planned(rule.format, table)
    idle = [rule.pattern for rule in rules[:must_fit] if rule not in used]
    require(not idle, f"no matrix is decided by {', '.join(map(repr, idle))}; the paths are such as {', '.join(list(leaves)[:12])}")
    return made


def _divided(leaf, format: str, table: bool) -> Planned:
    K, block = leaf.shape[-1 if table else -2], FORMATS[format].block_weights
    if K % block == 0:
        return Planned(format, table)
    return Planned("q8_0" if K % 32 == 0 else "f16", table, f"{format} needs a multiple of {block} inputs, here are {K}")


class Packer:
    """The one thing with state: which layer's answers are at hand, and the lines of the report."""

    def __init__(self, params: Mapping, planned: Mapping[str, Planned], importance: Mapping[str, np.ndarray] | None = None,
                 layers: Iterator[dict[str, QTensor]] | None = None, progress=lambda stage, done, total: None):  # fmt: skip
        self.leaves, self.planned, self.importance, self.layers, self.progress = leaves_of(params), planned, importance or {}, layers, progress
        self.lines: list[Line] = []
        self.at_hand: dict[str, QTensor] = {}

    def __call__(self, path: str) -> QTensor:
        leaf, what = self.leaves[path], self.planned[path]
        self.progress("tensor", len(self.lines) + 1, sum(each.format in FORMATS for each in self.planned.values()))
        while self.layers is not None and path.startswith("blocks/") and path.endswith("kernel") and path not in self.at_hand:
            self.at_hand = next(self.layers)
        if path in self.at_hand:
            made = self.at_hand.pop(path)
            error = error_of(made, leaf, what.table)
        else:
            made, error = in_parts(leaf, what.format, what.table, self.importance.get(path))
        self.note(path, leaf, made.format, made.n_bytes, error, made.n_padded)
        return made

    def note(self, path: str, leaf, format: str, n_bytes: int, error: float = 0.0, n_padded: int = 0) -> None:
        shape = (*leaf.shape[:-2], *leaf.shape[:-3:-1]) if self.planned[path].table else leaf.shape
        self.lines.append(Line(path, tuple(shape), format, leaf.nbytes, n_bytes, error, n_padded, self.planned[path].note))

    def note_floats(self, vectors: str | None = None) -> None:
        """Lines for what was not packed; a GGUF file has vectors as f32."""
        for path, leaf in self.leaves.items():
            format = self.planned[path].format or (vectors if leaf.ndim == 1 else None)
            if format not in FORMATS:
                dtype = np.dtype(FLOATS[format] if format else leaf.dtype)
                self.note(path, leaf, dtype.name, leaf.size * dtype.itemsize)


def calibrated(model: Model, cfg, params: Mapping, planned: Mapping[str, Planned], tokens_BT, method: str, importance: dict | None = None) -> Iterator[dict[str, QTensor]]:
    """Layer by layer the packed matrices, by path. `importance` is filled with what the text has told."""
    blocks = params["blocks"]
    layers = observed(model, cfg, params, tokens_BT, products=method == "feedback")
    seen, n = next(layers), len(blocks)
    for layer in range(n):
        packed = {}
        for name, leaf in leaves_of(blocks[layer]).items():
            path = f"blocks/{layer}/{name}"
            if importance is not None and name in seen:
                importance[path] = seen[name].importance
            if planned[path].format in FORMATS and name in seen:
                packed[name] = _packed(leaf, planned[path].format, seen[name])
        yield {f"blocks/{layer}/{name}": made for name, made in packed.items()}
        if layer + 1 < n:
            rounded = jax.tree_util.tree_map_with_path(lambda path, leaf: packed.get(path_name(path), leaf), blocks[layer])
            seen = layers.send(rounded)


def _packed(leaf, format: str, seen: Seen) -> QTensor:
    if seen.gram is not None:
        return feedback.quantize(np.asarray(leaf, np.float32), format, seen.gram)
    return in_parts(leaf, format, False, seen.importance)[0]


def in_parts(leaf, format: str, table: bool = False, importance: np.ndarray | None = None) -> tuple[QTensor, float]:
    """(QTensor on the host, relative error) of a matrix [K, N], a table [V, D] or a stack of matrices; some outputs at a time."""
    if leaf.ndim > 2:
        share = lambda i: importance[i] if importance is not None and importance.ndim > 1 else importance
        made, errors = zip(*(in_parts(part, format, table, share(i)) for i, part in enumerate(leaf)))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *made), float(np.sqrt(np.mean(np.square(errors))))
    rows_NK = leaf if table else leaf.T
    N, K = rows_NK.shape
    if importance is not None:
        require(importance.shape == (K,), f"the importance is of shape {list(importance.shape)}, the matrix has {K} inputs; it is another model's")
        importance = (importance / max(float(importance.mean()), 1e-30) + feedback.DAMPING).astype(np.float32)
    step, parts, off, all = max(1, min(N, WEIGHTS_AT_ONCE // K)), [], 0.0, 0.0
    for at in range(0, N, step):
        rows = np.zeros((step, K), np.float32)  # one shape for all parts, compiled once
        rows[: N - at] = rows_NK[at : at + step]
        part = quantize(rows.T, format, importance)
        off += float(jnp.sum(jnp.square(dequantize(part).T - rows)))
        all += float(np.vdot(rows, rows))
        parts.append(jax.tree.map(lambda each: np.asarray(each)[: N - at], part))
    made = parts[0] if len(parts) == 1 else jax.tree.map(lambda *each: np.concatenate(each), *parts)
    return QTensor(made.data, made.scales, made.mins, format, (K, N)), (off / max(all, 1e-30)) ** 0.5


def error_of(made: QTensor, leaf, table: bool = False) -> float:
    off = np.asarray(dequantize(jax.tree.map(jnp.asarray, made))) - np.asarray(leaf.T if table else leaf, np.float32)
    return float(np.linalg.norm(off) / max(np.linalg.norm(np.asarray(leaf, np.float32)), 1e-30))
