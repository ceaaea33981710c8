"""What quantizing a model cost: bytes before and after, and the relative error of each matrix, √(Σ(ŵ − w)² / Σw²)."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pikojax.config import require
from pikojax.qtensor import QTensor, dequantize
from pikojax.quant.tree import Rule, is_qtensor, path_name, rule_of, rules_for


class Line(NamedTuple):
    path: str
    shape: tuple[int, ...]  # logical, with stacks
    format: str  # or the float type
    bytes_before: int
    bytes_after: int
    error: float  # relative; 0 where nothing changed
    n_padded: int  # zeros that fill the last block of each output
    note: str = ""  # why it is not what was asked for


def compare(params, quantized, rules: str | Sequence[Rule] = "int8") -> list[Line]:
    """One line a parameter. `rules`: what `quantize_tree` was given; of a format's name it only counts that `embed` is a table."""
    chosen = rules_for(rules) if isinstance(rules, str) else rules
    before = jax.tree_util.tree_leaves_with_path(params)
    after = jax.tree.leaves(quantized, is_leaf=is_qtensor)
    return [_line(path_name(path), old, new, chosen) for (path, old), new in zip(before, after, strict=True)]


def _line(path: str, old, new, rules: Sequence[Rule]) -> Line:
    if not isinstance(new, QTensor):
        return Line(path, old.shape, str(new.dtype), old.nbytes, new.nbytes, 0.0, 0)
    back = dequantize(new)
    shape, rule = (*new.stack, *new.shape), rule_of(path, rules)
    old_KN = jnp.asarray(old, jnp.float32)
    if rule is not None and rule.table:  # the shape alone does not tell: V may be D
        old_KN = jnp.swapaxes(old_KN, -1, -2)
    require(
        old_KN.shape == shape,
        f"{path} is {old_KN.shape} by the rules, quantized {shape}; give compare the rules of quantize_tree",
    )
    error = jnp.sqrt(jnp.sum(jnp.square(back - old_KN)) / jnp.maximum(jnp.sum(jnp.square(old_KN)), 1e-30))
    return Line(path, shape, new.format, old.nbytes, new.n_bytes, float(error), new.n_padded)


def in_groups(lines: list[Line]) -> list[Line]:
    """Layers that became the same as one line: blocks/*/q/kernel ×16."""
    groups: dict[tuple, list[Line]] = {}
    for line in lines:
        groups.setdefault((re.sub(r"^blocks/\d+/", "blocks/*/", line.path), line.shape, line.format, line.n_padded, line.note), []).append(line)
    made = []
    for (path, *_), those in groups.items():
        squares = sum(line.error**2 for line in those) / len(those)
        sums = dict(bytes_before=sum(line.bytes_before for line in those), bytes_after=sum(line.bytes_after for line in those))
        made.append(those[0]._replace(path=path + (f" ×{len(those)}" if len(those) > 1 else ""), error=squares**0.5, **sums))
    return made


def table(lines: list[Line]) -> str:
    """The lines as text, the totals last."""
    cells = [("parameter", "shape", "format", "bytes", "before", "error", "")]
    for line in lines:
        shape = "×".join(map(str, line.shape)) + (f" (+{line.n_padded})" if line.n_padded else "")
        error = f"{line.error:.2%}" if line.error else ""
        cells.append((line.path, shape, line.format, f"{line.bytes_after:,}", f"{line.bytes_before:,}", error, line.note))
    before, after = sum(line.bytes_before for line in lines), sum(line.bytes_after for line in lines)
    cells.append(("all", "", "", f"{after:,}", f"{before:,}", "", ""))
    widths = [max(map(len, column)) for column in zip(*cells)]
    rows = ("  ".join(cell.rjust(w) if 2 < i < 6 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))) for row in cells)
    return "\n".join(row.rstrip() for row in rows)
