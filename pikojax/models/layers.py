"""What the architectures share: parameters with logical axes, linear, norms, rotary positions, and running a stack of blocks.

A module (`nnx.Module`) states each parameter once: shape, initial values, logical axes. From that come the pure dict of
arrays (`init`), the tree of axes (`axes`) and, inside a trace, the callable (`bind`). Blocks are stacked: one dict whose
leaves have a leading layer axis, run by `lax.scan`; or, unstacked, a tuple of dicts, run one after the other (decode).
What a page shows of a model's inside (infer/inspect.py) models `note` as they pass it.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pikojax.kernels import norm
from pikojax.kernels.activation import gelu
from pikojax.kernels.matmul import lookup, matmul, matmul_each
from pikojax.kernels.product import product
from pikojax.qtensor import QTensor

# Layers that a CPU compiles one by one. In a loop, all that the backward pass needs is copied into stacks, by one thread
# (experiments/train_speed). Deeper stacks are loops, to be compiled in a minute; so are a GPU's, where the copies cost little, and remat's.
UNROLLED_UP_TO = 12


class Output(NamedTuple):
    logits: Any  # float32 [B, T, V]; None for an encoder
    hidden: Any  # [B, T, D], what the output projection reads
    aux: dict


class Model(NamedTuple):
    config_class: type
    init: Callable  # (cfg, key) → params
    # (cfg, params, tokens_BT, cache=None, *, segments_BT=None, train_key=None, remat=False, pick_B=None) → Output, cache
    # With `pick_B` the logits are those of that one position a row, [B, 1, V]: the end of a prompt needs no others.
    forward: Callable
    new_cache: Callable | None  # (cfg, batch, slots, dtype) → cache; None: an encoder
    axes: Callable  # (cfg) → the tree of logical axis names
    unembed: Callable | None = None  # (cfg, params, hidden) → logits, for who guesses from hidden states
    rings: bool = False  # new_cache takes `windowed`, and forward knows of such caches (cache.part_of)


# ---------------------------------------------------------------- modules ↔ dicts


def parameter(shape, axes, key=None, std=None, fill=0.0) -> nnx.Param:
    """Normal with `std`, or constant where `std` is None. `axes` names each dimension for sharding."""
    assert len(shape) == len(axes), (shape, axes)
    value = jnp.full(shape, fill, jnp.float32) if std is None else std * jax.random.normal(key, shape, jnp.float32)
    return nnx.Param(value, axes=axes)


def init(module: type, cfg, key, copies: int | None = None) -> dict:
    """The parameters of `module(cfg, key)` as a pure dict; with `copies`, that many of them stacked on axis 0."""

    def one(key):
        return nnx.to_pure_dict(nnx.state(module(cfg, key)))

    return one(key) if copies is None else jax.vmap(one)(jax.random.split(key, copies))


@functools.cache
def _structure(module: type, cfg):
    return nnx.split(nnx.eval_shape(lambda: module(cfg, jax.random.key(0))))


def axes(module: type, cfg, stacked: bool = False) -> dict:
    _, state = _structure(module, cfg)
    tree: dict = {}
    for path, variable in nnx.to_flat_state(state):
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = (("layers",) if stacked else ()) + variable.get_metadata()["axes"]
    return tree


def bind(module: type, cfg, params: dict):
    """The module with these parameters, to be called inside a trace."""
    return nnx.merge(_structure(module, cfg)[0], params)


def unstack(params: dict) -> dict:
    """`params` with its blocks as a tuple of dicts: decoding then reads each layer's weights where they lie."""
    n_layers = jax.tree.leaves(params["blocks"])[0].shape[0]
    return {**params, "blocks": tuple(jax.tree.map(lambda leaf: leaf[i], params["blocks"]) for i in range(n_layers))}


def run_blocks(block: Callable, blocks, x, cache=None, *, keys_L=None, remat: bool = False):
    """x after every block: `block(weights, x, cache, layer, key) → x, cache`. With a cache the layers are unrolled.
    `keys_L`: what each layer has of its own besides weights, stacked. `blocks` may be a function (block, x, keys_L) → x that takes their place."""
    if callable(blocks):
        return blocks(block, x, keys_L), cache
    n_layers = jax.tree.leaves(blocks)[0].shape[0] if isinstance(blocks, dict) else len(blocks)
    if isinstance(blocks, dict) and cache is None:

        def body(x, layer):
            weights, key = layer
            return block(streamed(weights, x.dtype), x, None, None, key)[0], None

        unrolled = not remat and n_layers <= UNROLLED_UP_TO and jax.default_backend() == "cpu"
        # A loop saves what its backward pass needs, but for the weights as streamed: those are fetched again, or all would stay here.
        saved = None if remat else lambda primitive, *_, **__: primitive.name not in ("device_put", "convert_element_type")
        if not unrolled:
            body = jax.checkpoint(body, prevent_cse=False, policy=saved)
        return jax.lax.scan(body, x, (blocks, keys_L), unroll=n_layers if unrolled else 1)[0], None
    if isinstance(blocks, dict):
        blocks = unstack({"blocks": blocks})["blocks"]
    note("stream", x)
    for layer, weights in enumerate(blocks):
        x, cache = block(streamed(weights, x.dtype), x, cache, layer, jax.tree.map(lambda leaf: leaf[layer], keys_L))
        note("stream", x)
    return x, cache


def streamed(weights, dtype):
    """One layer's weights, on the device and in the `dtype` of the stream. Whatever memory they come from, their gradient leaves
    the layer in the dtype that they have there, so that the optimizer's arithmetic is the same."""

    def one(leaf):
        if isinstance(leaf, QTensor):  # packed numbers have no other type
            return jax.tree.map(to_device, leaf)
        return to_device(leaf).astype(dtype)

    return jax.tree.map(one, weights, is_leaf=lambda leaf: isinstance(leaf, QTensor))


def on_host(array) -> bool:
    return jax.typeof(array).memory_space == jax.memory.Space.Host


def to_device(array):
    return jax.device_put(array, jax.memory.Space.Device) if on_host(array) else array


# ---------------------------------------------------------------- for who looks into a model

_notes: contextvars.ContextVar[list | None] = contextvars.ContextVar("notes", default=None)


@contextlib.contextmanager
def taking_notes() -> Iterator[list[tuple[str, Any]]]:
    """The list of what models `note` while they are traced here; with unstacked blocks, as values of a loop cannot leave it."""
    notes: list[tuple[str, Any]] = []
    reset = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(reset)


_rows_alone: contextvars.ContextVar[bool] = contextvars.ContextVar("rows_alone", default=False)


@contextlib.contextmanager
def rows_alone() -> Iterator[None]:
    """What models compute while they are traced here has, row by row, the same bits whatever rows stand beside (kernels/norm.py): a text read in
    pieces is the text read whole. Without a gradient. (JAX keeps traces of functions that are jitted by themselves, and knows nothing of this:
    a model's forward must not be.)"""
    reset = _rows_alone.set(True)
    try:
        yield
    finally:
        _rows_alone.reset(reset)


def note(name: str, value) -> None:
    """At other times than `taking_notes` it is nothing, and in no compiled program anything."""
    notes = _notes.get()
    if notes is not None:
        notes.append((name, value))


# ---------------------------------------------------------------- functions


def linear(x, kernel_KN, bias_N=None, out_dtype=None, transposed: bool = False, which=None):
    """x·W + b over the last axis; W is an array, [N, K] with `transposed`, or a QTensor, which is of shape (K, N) either way. With `which`
    (traced or not) W is that one of a stack. All leading axes of x are one: XLA's CPU back end differentiates the two-dimensional product
    into two-dimensional products, and a three-dimensional one into transposed copies."""
    x_RK = x.reshape(-1, x.shape[-1])
    if isinstance(kernel_KN, Observed):
        kernel_KN.see(x_RK, which)
        kernel_KN = kernel_KN.kernel
    if isinstance(kernel_KN, QTensor):
        rows = matmul(x_RK, kernel_KN, which, out_dtype=out_dtype)
    else:
        kernel_KN = kernel_KN if which is None else jax.lax.dynamic_index_in_dim(kernel_KN, which, keepdims=False)
        rows = product(x_RK, kernel_KN, transposed, out_dtype)
    return biased(rows.reshape(*x.shape[:-1], rows.shape[-1]), bias_N)


def biased(y, bias_N):
    return y if bias_N is None else y + jnp.broadcast_to(bias_N, y.shape)


class Observed:
    """A kernel that tells `see(x_RK, which)` what it is multiplied by."""

    def __init__(self, kernel, see: Callable):
        self.kernel, self.see = kernel, see

    def __getitem__(self, index) -> "Observed":  # modules take theirs as `[...]`
        assert index is ..., index
        return self


class Linear(nnx.Module):
    """x·W + b; with `std` None W begins at zero. Of a shape with a leading axis it is a stack, of which a call says `which`."""

    def __init__(self, shape, axes, key, std=None, bias=False):
        self.kernel = parameter(shape, axes, key, std)
        if bias:
            self.bias = parameter(shape[1:], axes[1:])

    def __call__(self, x, which=None):
        return linear(x, self.kernel[...], self.bias_N, which=which)

    @property
    def bias_N(self):
        return self.bias[...] if hasattr(self, "bias") else None


def each(x, *linears: Linear, which=None) -> tuple:
    """What several make of one x, which is rounded once for all that are quantized alike."""
    kernels = [linear.kernel[...] for linear in linears]
    if not all(isinstance(kernel, QTensor) for kernel in kernels):
        return tuple(linear(x, which) for linear in linears)
    rows = matmul_each(x.reshape(-1, x.shape[-1]), kernels, which)
    return tuple(biased(y.reshape(*x.shape[:-1], y.shape[-1]), linear.bias_N) for linear, y in zip(linears, rows, strict=True))


def gated_mlp(module, x, activation: str, which=None):
    """down(activation(gate(x)) ∘ up(x)) of a module that has the three."""
    gate, up = each(x, module.gate, module.up, which=which)
    return module.down(activate(gate, activation) * up, which)


def activate(x, name: str):
    return jax.nn.silu(x) if name == "silu" else gelu(x, approximate=name == "gelu_tanh")


def embed(table_VD, ids, dtype=jnp.float32):
    """Rows of a table [V, D] as they are, or of a QTensor, whose shape is (D, V), in `dtype`."""
    return lookup(table_VD, ids, dtype) if isinstance(table_VD, QTensor) else jnp.take(table_VD, ids, axis=0, mode="clip")


def picked(hidden_BTD, pick_B):
    """All positions, or one of each row."""
    return hidden_BTD if pick_B is None else jnp.take_along_axis(hidden_BTD, pick_B[:, None, None], axis=1)


def stream_dtype(params: dict):
    """Of the residual stream where the embedding is quantized and says nothing about it: that of the first parameter beside it which is
    not, those of the blocks last, as a training step converts them later. float32 where everything is quantized."""
    stem = {name: value for name, value in params.items() if name != "blocks"}
    leaves = jax.tree.leaves((stem, params["blocks"]), is_leaf=lambda leaf: isinstance(leaf, QTensor))
    return next((leaf.dtype for leaf in leaves if not isinstance(leaf, QTensor)), jnp.float32)


def rms_norm(x, scale=None, eps: float = 1e-5):
    """x / √(mean(x²) + ε) · scale, in float32."""
    return _norm(x.astype(jnp.float32), _as_scale(scale, x), eps, False).astype(x.dtype)


def layer_norm(x, scale=None, bias=None, eps: float = 1e-5):
    """(x − mean) / √(variance + ε) · scale + bias, in float32."""
    y = _norm(x.astype(jnp.float32), _as_scale(scale, x), eps, True)
    if bias is not None:
        y = y + jnp.broadcast_to(bias.astype(jnp.float32), y.shape)
    return y.astype(x.dtype)


def _as_scale(scale, x):
    scale = jnp.ones((x.shape[-1],)) if scale is None else scale
    return scale.astype(jnp.float32).reshape(*[1] * (x.ndim - 1), -1)


def softmax(x):
    """Over the last axis, of few numbers that decide much: which experts a token goes to."""
    return norm.softmax(x) if _rows_alone.get() else jax.nn.softmax(x, axis=-1)


def _norm(x, scale, eps, centered):
    return norm.normalized(x, eps, centered) * scale if _rows_alone.get() else _normalized(x, scale, eps, centered)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _normalized(x, scale, eps, centered):
    """n · scale, n = (x − mean) · rstd. Its derivative is written out, because differentiated automatically it keeps four arrays of
    the size of x for the backward pass in place of one: dx = rstd · (g − mean(g) − n · mean(g ∘ n)) with g = dy ∘ scale."""
    return _statistics(x, eps, centered)[0] * scale


def _statistics(x, eps, centered):
    mean = jnp.mean(x, axis=-1, keepdims=True) if centered else 0.0
    rstd = jax.lax.rsqrt(jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True) + eps)
    return (x - mean) * rstd, mean, rstd


def _normalized_forward(x, scale, eps, centered):
    n, mean, rstd = _statistics(x, eps, centered)
    return n * scale, (x, scale, mean, rstd)


def _normalized_backward(eps, centered, saved, dy):
    x, scale, mean, rstd = saved
    n, g = (x - mean) * rstd, dy * scale
    dx = g - n * jnp.mean(g * n, axis=-1, keepdims=True)
    dx = rstd * (dx - jnp.mean(g, axis=-1, keepdims=True) if centered else dx)
    return dx, jnp.sum(dy * n, axis=tuple(range(x.ndim - 1)), keepdims=True)


_normalized.defvjp(_normalized_forward, _normalized_backward)


def rope(x_BTHC, positions_BT, base: float):
    """Rotates each pair (i, i + C/2) of a head by position · base^(−2i/C): a score then depends on the distance alone."""
    half = x_BTHC.shape[-1] // 2
    return rotate(x_BTHC, positions_BT, base ** (-jnp.arange(half, dtype=jnp.float32) / half))


def rotate(x_BTHC, positions_BT, frequency, factor=1.0):
    """Each pair (i, i + half) of the first 2 · half of a head by position · frequency_i, then times `factor`; the rest of the head stays."""
    half = frequency.shape[0]
    angle = positions_BT[:, :, None, None].astype(jnp.float32) * jnp.asarray(frequency)[None, None, None, :]
    cos, sin = jnp.cos(angle) * factor, jnp.sin(angle) * factor
    a, b = x_BTHC[..., :half].astype(jnp.float32), x_BTHC[..., half : 2 * half].astype(jnp.float32)
    rotated = [(a * cos - b * sin).astype(x_BTHC.dtype), (b * cos + a * sin).astype(x_BTHC.dtype)]
    return jnp.concatenate(rotated + ([x_BTHC[..., 2 * half :]] if 2 * half < x_BTHC.shape[-1] else []), axis=-1)


def sinusoids(positions_BT, width: int):
    """The fixed position vectors of the first Transformer: sines, then cosines, of geometrically spaced frequencies."""
    half = width // 2
    frequency = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions_BT[..., None].astype(jnp.float32) * frequency[None, None, :]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)] + ([jnp.zeros_like(angle[..., :1])] * (width % 2)), axis=-1)


def dropout(x, rate: float, key):
    if rate == 0.0 or key is None:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))
