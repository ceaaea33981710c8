"""The layouts "hopper" and "tpu" that accelerators' products read: numbers with a sign, scales in float32 beside them, made once at load.

    data          int8 or int4   [..., N, K] for Hopper, whose copies run along K;   [..., K, N] for TPUs, with the outputs along the lanes
    scales, mins  float32        [..., K / group, N];   "int8", one scale an output: [..., 1, N]               w = q · scale [+ min]

int4 is signed here: where the canonical numbers are 0…15 with a minimum,  w = q · scale + min = (q − 8) · scale + (min + 8 · scale).
Both sides are padded with zeros to multiples of what a kernel takes at once.

Leaves out: nf4 and GGUF's blocks (other kernels read those as they lie); the way back to canonical bytes.
"""

import jax.numpy as jnp

from pikojax.config import require
from pikojax.qtensor import FORMATS, QTensor
from pikojax.qtensor.own import join, split, unpack4

PADDED_TO = {"hopper": (128, 256), "tpu": (256, 256)}  # outputs, inputs


def packs(format: str) -> bool:
    known = FORMATS.get(format)
    return known is not None and not known.gguf and known.name != "nf4"


def pack(w: QTensor, layout: str) -> QTensor:
    require(
        w.layout == "canonical", f"got weights in the layout {w.layout!r}, wanted canonical ones; they may be prepared already"
    )
    require(packs(w.format), f"got weights in {w.format}, the layout {layout!r} holds int8 and int4 of our own formats; quantize to one of those")
    known, int8 = FORMATS[w.format], w.data.dtype == jnp.int8
    q = w.data if int8 else unpack4(w.data).astype(jnp.int8) - jnp.int8(8)
    scales = w.scales.astype(jnp.float32)
    mins = w.mins.astype(jnp.float32) + 8.0 * scales if known.asymmetric else None
    n, k = (-size % multiple for size, multiple in zip((w.shape[1], q.shape[-1]), PADDED_TO[layout], strict=True))
    data = _padded(q, n, k).astype(jnp.int8 if int8 else jnp.int4)
    groups = k // known.group if known.group else 0
    turned = (None if x is None else jnp.swapaxes(_padded(x, n, groups), -1, -2) for x in (scales, mins))
    return QTensor(jnp.swapaxes(data, -1, -2) if layout == "tpu" else data, *turned, w.format, w.shape, layout)


def _padded(x, n: int, k: int):
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, n), (0, k)])


def rows(w: QTensor):
    """The weights by outputs, float32 [..., N, K]."""
    scales, mins = (None if x is None else jnp.swapaxes(x, -1, -2)[..., None] for x in (w.scales, w.mins))
    q_NK = jnp.swapaxes(w.data, -1, -2) if w.layout == "tpu" else w.data
    found = split(q_NK.astype(jnp.float32), q_NK.shape[-1] // scales.shape[-2]) * scales
    return join(found if mins is None else found + mins)[..., : w.shape[1], : w.shape[0]]


def lookup(w: QTensor, ids, dtype=jnp.float32):
    """`pikojax.qtensor.lookup` for a table in these layouts."""
    require(w.data.ndim == 2, f"lookup reads one table; this one has leading axes {w.data.shape[:-2]}: pick one of them first")
    flat = jnp.clip(ids, 0, w.shape[1] - 1).reshape(-1)
    data = jnp.take(w.data, flat, axis=1 if w.layout == "tpu" else 0)
    scales, mins = (None if x is None else jnp.take(x, flat, axis=1) for x in (w.scales, w.mins))
    found = rows(QTensor(data, scales, mins, w.format, (w.shape[0], flat.size), w.layout))
    return found.reshape(*ids.shape, w.shape[0]).astype(dtype)
