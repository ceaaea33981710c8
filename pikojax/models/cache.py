"""The KV cache: what attention has seen, as one pytree with a length a row.

    forward(cache) writes T new tokens a row into slots length_B … length_B + T, and reads only slots below each token's own.

Head-major: the slots of one kv head lie side by side, which is how attention reads them. The keys and the values of all layers are one
stack each, plain arrays of floats or quantized (`dtype="int8"` or `"int4"`; kernels/kv_formats.py), written in place.

With `table_BN` the stacks are pools of blocks, [L, P, G, block, C], and slot s of row b is slot s mod block of block table_BN[b, s ÷ block]:
rows grow block by block, begin with blocks that they share, and come and go without a copy (infer/pool.py hands the blocks out).

Layers that see only a window may have stacks of their own (`windowed`), whose table goes round: it names few blocks again and again, so that a new
slot takes the place of one that no window reaches any more. A row's memory then stops growing there; what it has forgotten nobody can share.

Rolling back is setting lengths: slots beyond a row's length are never read, so nothing is erased or copied. What is written beyond the
last slot is lost: reserve as many spare slots as a speculative round may write past the end.

Leaves out: who has which block (infer/pool.py, infer/rows.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from pikojax.config import require
from pikojax.kernels import kv_formats
from pikojax.kernels.kv_formats import QuantizedKV
from pikojax.kernels.kv_write import empty, kv_write

FLOATS = ("float32", "bfloat16", "float16")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    k_LBGSC: jax.Array | QuantizedKV
    v_LBGSC: jax.Array | QuantizedKV
    length_B: jax.Array  # int32: slots filled, a row
    table_BN: jax.Array | None = None  # int32: the row's blocks, in order
    windowed: "KVCache | None" = None  # of layers that see a window, in their order, if the others' stacks are without them; has no lengths of its own

    @property
    def slots(self) -> int:
        """Of a row."""
        return jax.tree.leaves(self.k_LBGSC)[0].shape[3] * (1 if self.table_BN is None else self.table_BN.shape[1])

    @property
    def reach(self) -> int:
        """How long a text it is for: of a pool in whole blocks, since its table has room for one token beyond, which may begin a block."""
        return self.slots if self.table_BN is None else self.slots - self.slots // self.table_BN.shape[1]

    def rollback(self, length_B: jax.Array) -> "KVCache":
        """The same buffers with other (shorter) lengths."""
        return replace(self, length_B=length_B.astype(jnp.int32))


def new_cache(n_layers: int, batch: int, slots: int, n_kv_heads: int, head_width: int, dtype) -> KVCache:
    """`dtype` is float32, bfloat16, float16, or "int8", "int8_g32", "int4". Of `batch` rows, or, once a table is put in, blocks."""
    name, wanted = dtype if isinstance(dtype, str) else jnp.dtype(dtype).name, (*FLOATS, *kv_formats.OF_CACHE)
    require(name in wanted, f"got a cache in {name}, wanted one of {', '.join(wanted)}; float32 is exact, int8 is smaller")
    shape = (n_layers, batch, n_kv_heads, slots, head_width)
    of_keys, of_values = kv_formats.OF_CACHE.get(name, (name, name))
    return KVCache(empty(shape, of_keys), empty(shape, of_values), jnp.zeros((batch,), jnp.int32))


def beside(params, fresh):
    """Fresh arrays on the device that the weights lie on: so they are of the kind that programs give back, and none is compiled anew for its second call."""
    weight = jax.tree.leaves(params)[0]
    devices = weight.devices() if isinstance(weight, jax.Array) else ()
    return jax.device_put(fresh, next(iter(devices))) if len(devices) == 1 else fresh


def part_of(cache: KVCache, layer: int, is_local: Callable[[int], bool]) -> tuple[KVCache, int]:
    """The stacks that `layer` is in, and where."""
    if cache.windowed is None:
        return cache, layer
    n_local = sum(is_local(i) for i in range(layer))
    return (replace(cache.windowed, length_B=cache.length_B), n_local) if is_local(layer) else (cache, layer - n_local)


def with_part(cache: KVCache, part: KVCache, layer: int, is_local: Callable[[int], bool]) -> KVCache:
    """With what `part_of` gave, after it was written."""
    return replace(cache, windowed=part) if cache.windowed is not None and is_local(layer) else part


def write(cache: KVCache, layer: int, k_BTGC: jax.Array, v_BTGC: jax.Array) -> KVCache:
    """`layer`'s new keys and values, each row at its own length. Lengths grow once, after the last layer (`advance`)."""
    keys = kv_write(cache.k_LBGSC, layer, k_BTGC, cache.length_B, cache.table_BN)
    values = kv_write(cache.v_LBGSC, layer, v_BTGC, cache.length_B, cache.table_BN)
    return replace(cache, k_LBGSC=keys, v_LBGSC=values)


def advance(cache: KVCache, n_tokens: int) -> KVCache:
    return replace(cache, length_B=cache.length_B + n_tokens)
