"""Matmul with int8 and int4 weights on NVIDIA's Hopper: y = x · dequantize(w), weights read packed, in Pallas' Mosaic GPU.

    y[m, n] = Σ_groups  scale[n, g] · (Σ_{k in g} q[n, k] · x[m, k])  +  min[n, g] · (Σ_{k in g} x[m, k])

The operands are swapped: the tensor cores take 64 rows at least on one side, so the weights stand there, and the batch, which may be
one row, on the side that may be 8 wide. A block of weights comes to shared memory by the copy engine, several blocks ahead; it is
loaded into registers, widened to bfloat16 (which holds every int8 exactly) and multiplied; a group's sum is scaled in float32, which
takes fewer instructions than scaling its weights, and loses nothing to bfloat16.

- Few rows: the time is that of reading the weights. One warpgroup takes 128 outputs and, so that all multiprocessors have work, a
  part of K; the parts are added up afterwards, in a fixed order.
- Many rows: the time is that of the tensor cores. Two warpgroups multiply, 64 outputs × 128 rows each; a third one only copies.
- `activations="int8"`: each row of x is rounded to int8 with a scale of its own, and the products are of integers.

float32 activations go through as two bfloat16 parts, x = high + low, beside each other.

Leaves out: nf4 and K-quants (`matmul_gpu`), Blackwell (its tensor cores are addressed differently), gradients (`dispatch`).
"""

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax

from pikojax.config import require
from pikojax.kernels import dispatch, mosaic, signed
from pikojax.kernels.matmul import why_not_prepared
from pikojax.qtensor import FORMATS, QTensor

LAYOUT = "hopper"
TILE_N = signed.PADDED_TO[LAYOUT][0]  # outputs; inputs are padded to 256, so that their rows start at multiples of 16 bytes
FEW_ROWS = 32  # up to here reading the weights is what takes the time; beyond, sums and products would not fit the registers
prepare = functools.partial(signed.pack, layout=LAYOUT)


def run(x, w: QTensor, layer, out_dtype):
    return matmul(x, w, layer, out_dtype=out_dtype, sm_count=dispatch.card().cores)


def why_not_run(x, w: QTensor, layer) -> str | None:
    return why_not_here(w) or why_not_prepared(w, LAYOUT) or dispatch.why_not_on_mesh(x, w)


def why_not_here(w: QTensor | None = None) -> str | None:
    here = dispatch.card()
    return why_not(here.platform, here.capability, (1, *(w.shape if w else (1, 1))), w.format if w else "int8")


def why_not(platform: str, capability: tuple[int, int] | None, shape: tuple[int, int, int], format: str) -> str | None:
    """Why these kernels cannot multiply x [M, K] by w [K, N] of this format there; None if they can."""
    if platform not in ("gpu", "cuda"):
        return f"the Hopper kernels need an NVIDIA GPU, not {platform!r}"
    if capability is None or capability[0] != 9:
        have = "unknown" if capability is None else f"{capability[0]}.{capability[1]}"
        return f"the Hopper kernels need compute capability 9.0; this card's is {have}"
    if not signed.packs(format):
        return f"the Hopper kernels read int8 and int4 weights of our own formats, not {format!r}"
    return None


# ---------------------------------------------------------------- activations


def matmul(x, w: QTensor, layer=None, *, activations: str = "same", out_dtype=None, sm_count: int = 132, interpret: bool = False):
    """x [..., K] · w, in `out_dtype` (x's by default). `layer` picks one of a stack of weights without copying it. `sm_count`: how many
    multiprocessors share the work (an argument, since asking the device would tie a lowering to the machine it is made on)."""
    require(activations in ("same", "int8"), f"got activations={activations!r}; choose from same, int8")
    require(activations == "same" or w.format.startswith("int8"), f"integer products need int8 weights, not {w.format}; use activations='same'")
    if w.layout == "canonical":
        w = prepare(w)
    K, N = w.shape
    out_dtype = jnp.dtype(out_dtype or x.dtype)
    rows = x.reshape(-1, K)
    M = rows.shape[0]
    if M == 0 or N == 0:
        return jnp.zeros((*x.shape[:-1], N), out_dtype)
    row_scales = None
    if activations == "int8":
        parts, row_scales = _rounded_rows(rows)
    elif x.dtype == jnp.bfloat16:
        parts = rows
    else:
        high = rows.astype(jnp.bfloat16)
        parts = jnp.concatenate([high, (rows.astype(jnp.float32) - high.astype(jnp.float32)).astype(jnp.bfloat16)])
    y = _matmul(parts, row_scales, w, layer, out_dtype if len(parts) == M else jnp.float32, sm_count, interpret)
    if parts.shape[0] != M:
        y = y[:M] + y[M:]
    return y.astype(out_dtype).reshape(*x.shape[:-1], N)


def _rounded_rows(x):
    """int8 numbers and float32 scales: x ≈ q · scale, row by row."""
    x = x.astype(jnp.float32)
    scales = jnp.max(jnp.abs(x), axis=-1) / 127.0
    inverse = jnp.where(scales == 0.0, 0.0, 1.0 / jnp.where(scales == 0.0, 1.0, scales))
    return jnp.round(x * inverse[:, None]).astype(jnp.int8), scales


@dataclass(frozen=True)
class Plan:
    """How a product is cut up; all of it static."""

    weight_bits: int
    x_bits: int  # 16: bfloat16; 8: int8
    group: int | None  # inputs that share a scale; None: one scale an output, applied at the end
    asymmetric: bool
    block_k: int  # inputs that are copied at once
    tile_m: int  # rows of x at a time
    tile_n: int  # outputs at a time and warpgroup
    warpgroups: int = 1
    stages: int = 4  # blocks that are in shared memory or on their way there
    splits: int = 1  # parts of K that are summed up separately

    @property
    def span(self) -> int:
        """Inputs that are multiplied before their sum is scaled."""
        return self.group or 128

    @property
    def x_row_bytes(self) -> int:
        return min(128, self.span * self.x_bits // 8)

    @property
    def unit(self) -> int:
        """Inputs whose weights are loaded at once: pieces of 32 to 128 bytes of an output."""
        return self.span if self.x_bits == 8 else max(self.span, 64)

    @property
    def shared_bytes(self) -> int:
        outputs, groups = self.warpgroups * self.tile_n, self.block_k // self.span
        weights, x = outputs * self.block_k * self.weight_bits // 8, self.tile_m * self.block_k * self.x_bits // 8
        scales = 4 * groups * outputs if self.group else 0
        mins = scales + 4 * groups * self.tile_m if self.asymmetric else 0
        staging = 2 * outputs * self.tile_m if self.warpgroups > 1 else 0  # where bfloat16 outputs are turned round
        return self.stages * (weights + x + scales + mins) + staging + 8192  # buffers begin at multiples of 1,024 bytes


def plan_for(M: int, w: QTensor, x_bits: int, sm_count: int) -> Plan:
    known = FORMATS[w.format]
    n_padded, k_padded = w.data.shape[-2:]
    bits = 4 if w.data.dtype == jnp.int4 else 8
    common = {"weight_bits": bits, "x_bits": x_bits, "group": known.group, "asymmetric": known.asymmetric}
    if M <= FEW_ROWS:
        block_k = 128 * 8 // bits  # 16 KiB of weights; three such warpgroups fit a multiprocessor
        wanted = max(1, 3 * sm_count // (n_padded // TILE_N))
        plan = Plan(**common, block_k=block_k, tile_m=-(-M // 8) * 8, tile_n=TILE_N, splits=min(wanted, k_padded // block_k))
    else:
        plan = Plan(**common, block_k=128, tile_m=64 if M <= 64 else 128, tile_n=64, warpgroups=2)
    while plan.shared_bytes > mosaic.SHARED_BYTES and plan.stages > 2:
        plan = dataclasses.replace(plan, stages=plan.stages - 1)
    require(plan.shared_bytes <= mosaic.SHARED_BYTES, f"{plan} needs {plan.shared_bytes} bytes of shared memory, of {mosaic.SHARED_BYTES}")
    # Of wgmma: the batch side is a multiple of 8 up to 256. Of the copy engine: a box is at most 256 a side, rows start at 16 bytes.
    assert plan.tile_m % 8 == 0 and plan.tile_m <= 256 and plan.tile_n % 64 == 0 and plan.block_k % plan.unit == 0
    return plan


def _matmul(x, row_scales, w: QTensor, layer, out_dtype, sm_count: int, interpret: bool):
    """x [M, K] bfloat16 or int8 → [M, N]."""
    M, N = x.shape[0], w.shape[1]
    k_padded = w.data.shape[-1]
    plan = plan_for(M, w, 8 * x.dtype.itemsize, sm_count)
    x = jnp.pad(x, [(0, -M % plan.tile_m), (0, k_padded - x.shape[1])])
    of_layers = {"weights": w.data, "scales": w.scales} | ({"mins": w.mins} if plan.asymmetric else {})
    if w.data.ndim == 2:
        of_layers, layer = {name: leaf[None] for name, leaf in of_layers.items()}, 0
    inputs = {"layer": jnp.asarray(layer, jnp.int32).reshape(1), "x": x} | of_layers
    if plan.asymmetric:  # each group's inputs added up, [groups, M]
        inputs["sums"] = x.astype(jnp.float32).reshape(x.shape[0], k_padded // plan.group, plan.group).sum(axis=-1).T
    if row_scales is not None:
        inputs["row_scales"] = jnp.pad(row_scales, (0, -M % plan.tile_m))
    y = (_few_rows if plan.warpgroups == 1 else _many_rows)(plan, inputs, out_dtype, sm_count, interpret)
    return y[:M, :N]


# ---------------------------------------------------------------- one block of K


def _specs(plan: Plan, n_index, m_index, k_index):
    """What the copy engine fetches for step k: blocks of weights and x, then of scales, minimums and sums where the format has them."""
    outputs, groups = plan.warpgroups * plan.tile_n, plan.block_k // plan.span
    weights_swizzle = mosaic.swizzled(plan.unit * plan.weight_bits // 8, plan.weight_bits)
    x_swizzle = mosaic.swizzled(plan.x_row_bytes, plan.x_bits)
    specs = [
        plgpu.BlockSpec((outputs, plan.block_k), lambda k: (n_index, k_index(k)), transforms=weights_swizzle),
        plgpu.BlockSpec((plan.tile_m, plan.block_k), lambda k: (m_index, k_index(k)), transforms=x_swizzle),
    ]
    of_outputs = plgpu.BlockSpec((groups, outputs), lambda k: (k_index(k), n_index))
    of_rows = plgpu.BlockSpec((groups, plan.tile_m), lambda k: (k_index(k), m_index))
    return specs + ([of_outputs] if plan.group else []) + ([of_outputs, of_rows] if plan.asymmetric else [])


def _add_block(sums, blocks, plan: Plan, mine, interpret: bool):
    """Adds one block's products to `sums` [tile_n, tile_m]; `mine` is the slice of the block's outputs that this warpgroup has."""
    weights_ref, x_ref, *scaling = blocks
    upcast = plgpu.Layout.WGMMA_UPCAST_4X if plan.weight_bits == 4 else plgpu.Layout.WGMMA_UPCAST_2X
    for start in range(0, plan.block_k, plan.unit):
        weights = weights_ref.at[mine, pl.ds(start, plan.unit)]
        if plan.x_bits == 16:
            weights = mosaic.cast(mosaic.load(weights, upcast, interpret), plgpu.Layout.WGMMA, interpret).astype(jnp.bfloat16)
        for at in range(0, plan.unit, plan.span):
            part = weights[:, at : at + plan.span] if plan.x_bits == 16 else weights
            product = mosaic.product(part, x_ref.at[:, pl.ds(start + at, plan.span)], interpret)
            sums = sums + (
                product if plan.group is None else _scaled(product, scaling, (start + at) // plan.span, mine, interpret)
            )
    return sums


def _scaled(product, scaling, group: int, mine, interpret: bool):
    by_output, by_row = plgpu.Layout.WGMMA.reduce(1), plgpu.Layout.WGMMA.reduce(0)
    scales_ref, *rest = scaling

    def spread(ref, layout, axis):
        return lax.broadcast_in_dim(mosaic.load(ref, layout, interpret), product.shape, (axis,))

    scaled = product.astype(jnp.float32) * spread(scales_ref.at[group, mine], by_output, 0)
    if rest:
        mins_ref, sums_ref = rest
        scaled = scaled + spread(mins_ref.at[group, mine], by_output, 0) * spread(sums_ref.at[group], by_row, 1)
    return scaled


def _zeros(plan: Plan, interpret: bool):
    """Integers stay integers to the end where one scale serves all of K: 127 · 127 · K < 2³¹ for K up to 133,000."""
    dtype = jnp.int32 if plan.x_bits == 8 and plan.group is None else jnp.float32
    return mosaic.cast(jnp.zeros((plan.tile_n, plan.tile_m), dtype), plgpu.Layout.WGMMA, interpret)


def _finished(sums, refs, plan: Plan, columns, rows, interpret: bool):
    """The sums times the scales that serve all of K: an output's ("int8") and a row's (rounded activations)."""
    sums = sums.astype(jnp.float32)
    if plan.group is None:
        scales = mosaic.load(refs["scales"].at[0, columns], plgpu.Layout.WGMMA.reduce(1), interpret, optimized=False)
        sums = sums * lax.broadcast_in_dim(scales, sums.shape, (0,))
    if "row_scales" in refs:
        scales = mosaic.load(refs["row_scales"].at[rows], plgpu.Layout.WGMMA.reduce(0), interpret, optimized=False)
        sums = sums * lax.broadcast_in_dim(scales, sums.shape, (1,))
    return sums


def _of_layer(names, refs):
    """The references by name, those of stacked weights at their layer, and the ones that are fetched block by block."""
    by_name = dict(zip(names, refs, strict=True))
    layer = by_name["layer"][0]
    by_name |= {name: by_name[name].at[layer] for name in ("weights", "scales", "mins") if name in by_name}
    return by_name


def _fetched(refs, plan: Plan, rows=slice(None), columns=slice(None)):
    """What the copy engine reads from, in the order of `_specs`; of some rows of x and some outputs."""
    of_columns = [refs["scales"].at[:, columns]] if plan.group else []
    of_both = [refs["mins"].at[:, columns], refs["sums"].at[:, rows]] if plan.asymmetric else []
    return [refs["weights"].at[columns], refs["x"].at[rows], *of_columns, *of_both]


# ---------------------------------------------------------------- the two kernels


def _few_rows(plan: Plan, inputs, out_dtype, sm_count: int, interpret: bool):
    """One warpgroup a block: TILE_N outputs, one part of K. Returns [tile_m, N]."""
    del sm_count  # the plan has used it
    n_padded, k_padded = inputs["weights"].shape[1:]
    blocks = k_padded // plan.block_k
    steps = -(-blocks // plan.splits)
    splits = -(-blocks // steps)

    def body(*refs):
        refs, out_ref = _of_layer(inputs, refs[:-1]), refs[-1]
        n, split = lax.axis_index("n"), lax.axis_index("split")
        first = split * steps

        def step(_, *args):
            *block, sums = args
            return _add_block(sums, block, plan, pl.ds(0, plan.tile_n), interpret)

        pipeline = plgpu.emit_pipeline(
            step,
            grid=(jnp.minimum(steps, blocks - first) if blocks % steps else steps,),
            in_specs=_specs(plan, n, 0, lambda k: first + k),
            max_concurrent_steps=min(plan.stages, steps),
            init_carry=_zeros(plan, interpret),
        )
        columns = pl.ds(n * plan.tile_n, plan.tile_n)
        sums = pipeline(*_fetched(refs, plan))
        out_ref[split, columns] = _finished(sums, refs, plan, columns, pl.ds(0, plan.tile_m), interpret)

    out = jax.ShapeDtypeStruct((splits, n_padded, plan.tile_m), jnp.float32)
    grid = {"grid": (n_padded // plan.tile_n, splits), "grid_names": ("n", "split")}
    return mosaic.kernel(body, interpret, out_type=out, **grid)(*inputs.values()).sum(axis=0).T.astype(out_dtype)


def _many_rows(plan: Plan, inputs, out_dtype, sm_count: int, interpret: bool):
    """Blocks that stay and take tile after tile, neighbours in turn so that they share what is in the cache. Returns [M_padded, N]."""
    (n_padded, k_padded), m_padded = inputs["weights"].shape[1:], inputs["x"].shape[0]
    outputs, steps = plan.warpgroups * plan.tile_n, k_padded // plan.block_k
    tiles = (m_padded // plan.tile_m, n_padded // outputs)
    turn = out_dtype == jnp.bfloat16  # wider outputs are written as they lie, [N, M], and turned round afterwards

    def body(*refs):
        *refs, out_ref, turned_ref = refs
        refs = _of_layer(inputs, refs)
        warpgroup = lax.axis_index("warpgroup")

        def step(_, *args):
            *block, sums = args
            return _add_block(sums, block, plan, pl.ds(warpgroup * plan.tile_n, plan.tile_n), interpret)

        def pipeline(compute):
            return plgpu.emit_pipeline_warp_specialized(
                step,
                grid=(steps,),
                in_specs=_specs(plan, 0, 0, lambda k: k),
                max_concurrent_steps=min(plan.stages, steps),
                wg_axis="warpgroup",
                num_compute_wgs=plan.warpgroups,
                memory_registers=40,
                compute_context=compute,
            )

        def make_tile(m, n, allocations):
            rows, of_block = pl.ds(m * plan.tile_m, plan.tile_m), pl.ds(n * outputs, outputs)
            columns = pl.ds(n * outputs + warpgroup * plan.tile_n, plan.tile_n)

            def compute(run):
                sums = _finished(run(_zeros(plan, interpret)), refs, plan, columns, rows, interpret).astype(out_dtype)
                if turn:
                    _write_turned(sums, turned_ref.at[warpgroup], out_ref.at[rows, columns], interpret)
                else:
                    out_ref[columns, rows] = sums

            pipeline(compute)(*_fetched(refs, plan, rows, of_block), allocations=allocations)

        def make_tiles(allocations):
            @plgpu.nd_loop((tiles[0] * tiles[1],), collective_axes="sm")
            def _(info):
                make_tile(*plgpu.planar_snake(info.index[0], tiles, 1, 8), allocations)

        # Allocated once for all tiles: what one tile's pipeline has waited for, the next one's finds in order.
        allocations = pipeline(lambda run: None).get_allocations(*_fetched(refs, plan))
        pl.run_scoped(make_tiles, allocations, collective_axes="warpgroup")
        plgpu.wait_smem_to_gmem(0)

    out = jax.ShapeDtypeStruct((m_padded, n_padded) if turn else (n_padded, m_padded), out_dtype)
    turned = plgpu.SMEM(
        (plan.warpgroups, plan.tile_m, plan.tile_n), jnp.bfloat16, transforms=mosaic.swizzled(2 * plan.tile_n, 16)
    )
    grid = {"grid": (sm_count,), "grid_names": ("sm",), "num_threads": plan.warpgroups + 1, "thread_name": "warpgroup"}
    y = mosaic.kernel(body, interpret, out_type=out, scratch_types=[turned], **grid)(*inputs.values())
    return y if turn else y.T


def _write_turned(sums, turned_ref, out_ref, interpret: bool):
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # until the tile before this one has left
    mosaic.store_turned(turned_ref, sums, interpret)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(turned_ref, out_ref)
