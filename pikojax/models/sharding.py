"""Where arrays live on several devices: logical axes → mesh axes, once, here.

A batch is split over (data, fsdp). Parameters and optimizer state are split over fsdp along the one axis that RULES names;
an axis that does not divide evenly stays whole on every device. JAX's partitioner derives the rest.
"""

import math

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pikojax.config import MeshConfig, UserError

# Each parameter shards along the first of its axes that stands here. A tensor-parallel mesh axis would be one more entry.
RULES = {"embed": "fsdp", "mlp": None, "heads": None, "vocab": None, "positions": None, "layers": None, "norm": None, "experts": None}


def make_mesh(cfg: MeshConfig) -> Mesh | None:
    """The (data, fsdp) mesh over the first devices; None for one device."""
    wanted, present = cfg.data * cfg.fsdp, jax.devices()
    if wanted == 1:
        return None
    if wanted > len(present):
        raise UserError(
            f"mesh.data × mesh.fsdp = {wanted}, but JAX sees {len(present)} device(s); lower them, or on a CPU set"
            f" JAX_NUM_CPU_DEVICES={wanted}"
        )
    return jax.make_mesh((cfg.data, cfg.fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=present[:wanted])


def spec(mesh: Mesh, logical: tuple[str, ...], shape: tuple[int, ...]) -> PartitionSpec:
    taken, out = set(), []
    for name, size in zip(logical, shape, strict=True):
        axis = RULES[name]
        fits = axis is not None and axis not in taken and size % mesh.shape[axis] == 0
        taken |= {axis} if fits else set()
        out.append(axis if fits else None)
    return PartitionSpec(*out)


def params_sharding(mesh: Mesh | None, axes, shapes, memory_kind: str | None = None):
    """A sharding for each leaf of `shapes` (arrays or ShapeDtypeStructs), `axes` being the tree of its logical axes."""

    def one(leaf, logical):
        if mesh is None:
            return jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind=memory_kind)
        return NamedSharding(mesh, spec(mesh, logical, leaf.shape), memory_kind=memory_kind)

    return jax.tree.map(one, shapes, axes)


def batch_sharding(mesh: Mesh | None, batch_axis: int = 0):
    """For arrays whose axis `batch_axis` counts sequences."""
    if mesh is None:
        return jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return NamedSharding(mesh, PartitionSpec(*(None,) * batch_axis, ("data", "fsdp")))


def count_parameters(params) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
