"""QTensor: a quantized matrix as a pytree, and what one does with it.

A matmul weight is logically [K, N], y = x · dequantize(w), but lies by outputs: `data[n]` is the K weights of output n, packed,
so that a kernel reads one output (or a tile of them) from end to end. An embedding table of V rows of width D is a QTensor of
shape (D, V): `lookup` reads rows of it, and as a tied head it is used as it is.

Leading axes of the leaves are stacks (layers). `shape` does not name them, so `tree.map(lambda leaf: leaf[i], w)`, scan and vmap work.

Leaves out: arithmetic on packed numbers (`kernels`), other layouts than the canonical one (made by `kernels`, which also undo them).
"""

import dataclasses
import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pikojax.config import require
from pikojax.qtensor import gguf_blocks, own, search
from pikojax.qtensor.formats import FORMATS, Format, format_named
from pikojax.qtensor.search import Grid


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QTensor:
    data: jax.Array  # uint8, or int8 for own 8-bit formats [..., N, bytes of one output's weights]
    scales: jax.Array | None  # float16 [..., N, K_padded / group]; "int8": float32 [..., N, 1]; GGUF has them inside data: None
    mins: jax.Array | None  # float16, like scales; None where the format is symmetric, or GGUF's
    format: str = dataclasses.field(metadata={"static": True})
    shape: tuple[int, int] = dataclasses.field(metadata={"static": True})  # logical (K, N), without stacks and padding
    layout: str = dataclasses.field(default="canonical", metadata={"static": True})

    @property
    def n_padded(self) -> int:
        """Zeros at the end of each output's weights, to fill the last block."""
        return -self.shape[0] % FORMATS[self.format].block_weights

    @property
    def n_bytes(self) -> int:
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(self))

    @property
    def stack(self) -> tuple[int, ...]:
        return tuple(self.data.shape[:-2])

    def __getitem__(self, index) -> "QTensor":
        """`w[...]` is w, `w[layer]` one of a stack."""
        return self if index is ... else jax.tree.map(lambda leaf: leaf[index], self)

    def __repr__(self) -> str:
        K, N = self.shape
        padding = f" padded to {K + self.n_padded}" if self.n_padded else ""
        stack = f", stack={self.stack}" if len(getattr(self.data, "shape", ())) > 2 and self.layout == "canonical" else ""
        layout = "" if self.layout == "canonical" else f", layout={self.layout}"
        return f"QTensor({self.format}, K={K}{padding}, N={N}{stack}{layout})"


def quantize(array, format: str, importance=None) -> QTensor:
    """array [..., K, N] of any float type → QTensor. Under jit nothing looks for NaN and infinity; outside they are refused. With an `importance`
    of each input [..., K] scales are chosen for the least error weighed by it."""
    known = format_named(format)
    array = jnp.asarray(array)
    require(jnp.issubdtype(array.dtype, jnp.floating), f"quantize got {array.dtype}; give an array of floats")
    require(array.ndim >= 2, f"quantize got an array of shape {array.shape}; give a matrix [K, N], or a stack of them")
    *stack, K, N = array.shape
    require(K >= 1, f"quantize got an array of shape {array.shape}, without inputs; give K of at least 1")
    array = array.astype(jnp.float32)
    if not isinstance(array, jax.core.Tracer):
        _require_representable(array, known.name)
    rows = in_blocks(jnp.swapaxes(array, -1, -2), known)
    if importance is not None:
        return _weighed(rows, in_blocks(jnp.asarray(importance, jnp.float32)[..., None, :], known), known, (K, N))
    data, scales, mins = (gguf_blocks.encode(rows, known), None, None) if known.gguf else own.encode(rows, known)
    return QTensor(data, scales, mins, format, (K, N))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _weighed(rows, importance, format: Format, shape: tuple[int, int]) -> QTensor:
    grid = fit(rows, format, importance)
    return pack(nearest(rows, grid, format), grid, format, shape)


# ---------------------------------------------------------------- in steps, for those who choose the whole numbers themselves


def in_blocks(rows, format: Format):
    """Rows [..., K] with zeros at their ends to fill the last block."""
    return jnp.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, -rows.shape[-1] % format.block_weights)])


def fit(rows, format: Format, importance=None) -> Grid:
    """The scales of rows [..., K_padded], by least squares weighed by an importance that is broadcast to them."""
    importance = None if importance is None else jnp.broadcast_to(importance, rows.shape)
    return (gguf_blocks if format.gguf else own).fit(rows, format, importance)


def nearest(rows, grid: Grid, format: Format):
    """For each weight the number that stands nearest."""
    return search.nearest(rows, grid, *gguf_blocks.LEVELS[format.name]) if format.gguf else own.nearest(rows, grid, format)


def nearest_value(w, scales, mins, format: Format):
    """The same as floats, where scales and mins stand beside each weight."""
    if format.name == "nf4":
        return own.nearest_nf4(w * search.inverse(scales)) * scales
    levels = gguf_blocks.LEVELS[format.name] if format.gguf else own.levels(format)
    return search.rounded(w, scales, *levels, mins) * scales + mins


def pack(q, grid: Grid, format: Format, shape: tuple[int, int]) -> QTensor:
    data, scales, mins = (gguf_blocks.pack(q, grid, format), None, None) if format.gguf else own.pack(q, grid, format)
    return QTensor(data, scales, mins, format.name, shape)


def _require_representable(array, format: str) -> None:
    bad = int(jnp.sum(~jnp.isfinite(array)))
    require(bad == 0, f"quantize got {bad} weights that are NaN or infinite, of {array.size}; mend the weights first")
    largest = float(jnp.max(jnp.abs(array), initial=0.0))
    fits = format == "int8" or largest <= own.LARGEST_SCALE
    require(
        fits,
        f"quantize got a weight of {largest:g}, {format} has float16 scales, up to {own.LARGEST_SCALE:g}; use int8, or scale the weights",
    )


def dequantize(w: QTensor, dtype=jnp.float32):
    """The weights [..., K, N] as floats."""
    return jnp.swapaxes(_rows(w, dtype), -1, -2)


def lookup(w: QTensor, ids, dtype=jnp.float32):
    """Rows [..., D] of an embedding table of shape (D, V), the rows that `ids` name: dequantize(w)[:, ids], transposed.
    Ids beyond the table read its last row, as `layers.embed` has it."""
    require(not w.stack, f"lookup reads one table; this one has leading axes {w.stack}: pick one of them first")
    ids = jnp.clip(ids, 0, w.shape[1] - 1)
    taken = jax.tree.map(lambda leaf: jnp.take(leaf, ids, axis=0, mode="clip"), w)
    return _rows(taken, dtype)


def _rows(w: QTensor, dtype):
    require(w.layout == "canonical", f"the weights lie as {w.layout!r}, not canonically; undo what `prepare` did first")
    known = format_named(w.format)
    rows = gguf_blocks.decode(w.data, known) if known.gguf else own.decode(w.data, w.scales, w.mins, known)
    return rows[..., : w.shape[0]].astype(dtype)
