"""Decode attention on NVIDIA GPUs, in Pallas through Triton: what `decode_attention` says, reading the filled slots alone.

    over the tiles of slots:   s = q·kᵀ · scale    m' = max(m, s)    w = exp(s − m')    o = o · exp(m − m') + w·v    l = l · exp(m − m') + Σ w

One program takes all query rows and heads of one kv head, and a share of the filled tiles, since one sequence alone would leave most
of the card idle; the shares' (o, m, l) are put together afterwards. Slots in int8 and int4 are widened in registers. Values j and
j + 16 of 32 share a byte, so queries are laid out likewise before, and the outputs put back in order after.

Leaves out: heads whose width is no power of two and caches of fewer than 16 slots and capped scores (`why_not_run`; the reference takes them), gradients.
How a sequence is shared out depends on its length, T and the window, so results do too, in their last bits.
"""

import functools

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.triton as plt
import jax.numpy as jnp
from jax import lax

from pikojax.kernels import dispatch
from pikojax.kernels.decode_attention import MASKED, MOST_ROWS
from pikojax.kernels.kv_formats import GROUP, QuantizedKV, rotate
from pikojax.kernels.matmul_gpu import addressable

SMALLEST, TILE_S = 16, 64  # slots at a time; Triton multiplies no fewer than 16


def run(q_BTHC, cache_k, cache_v, length_B, *, layer=None, window=None, block_table=None, scale=None):
    @jax.custom_batching.sequential_vmap
    def attend(q_BTHC, cache_k, cache_v, length_B, layer, block_table):
        options = {"layer": layer, "window": window, "block_table": block_table, "scale": scale}
        return decode_attention(q_BTHC, cache_k, cache_v, length_B, **options, sm_count=dispatch.card().cores)

    return attend(q_BTHC, cache_k, cache_v, length_B, layer, block_table)


def why_not_run(q_BTHC, cache_k, cache_v, block_table=None, softcap=None) -> str | None:
    if softcap is not None:
        return "the Triton kernel caps no scores, as Gemma 2 does"
    here, (T, _, C) = dispatch.card(), q_BTHC.shape[1:]
    for cache in (cache_k, cache_v):
        quantized = isinstance(cache, QuantizedKV)
        data, format = (cache.data, cache.format) if quantized else (cache, cache.dtype.name)
        S, block = data.shape[-2], None if block_table is None else data.shape[-2]
        reason = why_not(here.platform, here.capability, (T, C, S if block is None else S * block_table.shape[1]), format, block)
        if reason is None and not all(map(addressable, jax.tree.leaves(cache))):
            reason = f"the Triton kernel counts bytes to 2³¹, and the cache has {data.size:,} numbers"
        if reason is not None:
            return reason
    return dispatch.why_not_on_mesh(q_BTHC, cache_k, cache_v)


def why_not_here() -> str | None:
    here = dispatch.card()
    return why_not(here.platform, here.capability, (1, 2 * GROUP, SMALLEST), "float32")


def why_not(
    platform: str, capability: tuple[int, int] | None, shape: tuple[int, int, int], format: str, block: int | None = None
) -> str | None:
    """Why this kernel cannot attend with (T query rows, head width, slots) of `shape` to a cache of this format; None if it can."""
    T, C, S = shape
    if platform not in ("gpu", "cuda"):
        return f"the Triton kernel is for NVIDIA GPUs, not {platform!r}"
    if capability is None or capability[0] < 8:
        return "the Triton kernel multiplies in bfloat16, which cards have from compute capability 8.0 on"
    if T > MOST_ROWS:
        return f"the Triton kernel takes up to {MOST_ROWS} query rows, not {T}"
    if C & (C - 1) or not 2 * GROUP <= C <= 256:
        return f"the Triton kernel takes heads 64, 128 or 256 wide, not {C}"
    if S < SMALLEST:
        return f"the Triton kernel wants a cache of at least {SMALLEST} slots, not {S}"
    if block is not None and (block & (block - 1) or block < SMALLEST):
        return f"the Triton kernel wants pool blocks of 16, 32, 64 … slots, not {block}"
    known = ("float32", "bfloat16", "int8", "int8_g32", "int4", "int4_rotated")
    return None if format in known else f"the Triton kernel reads caches in {', '.join(known)}, not {format!r}"


def decode_attention(
    q_BTHC,
    cache_k,
    cache_v,
    length_B,
    *,
    layer=None,
    window=None,
    block_table=None,
    scale=None,
    sm_count: int = 132,
    interpret: bool = False,
):
    B, T, H, C = q_BTHC.shape
    leaves = [*_leaves(cache_k, layer), *_leaves(cache_v, layer)]
    G, S = leaves[0].shape[2:4]
    R, block = H // G, S
    if block_table is not None:
        S = block * block_table.shape[1]
    if isinstance(cache_k, QuantizedKV) and cache_k.format == "int4_rotated":
        q_BTHC = rotate(q_BTHC.astype(jnp.float32)).astype(q_BTHC.dtype)
    q_BGMC = q_BTHC.reshape(B, T, G, R, C).transpose(0, 2, 3, 1, 4).reshape(B, G, R * T, C)
    M = max(SMALLEST, 1 << (R * T - 1).bit_length())
    q_BGMC = _halves_apart(jnp.pad(q_BGMC, [(0, 0), (0, 0), (0, M - R * T), (0, 0)]), leaves[0])
    tile = min(TILE_S, 1 << (block.bit_length() - 1))
    splits = max(1, min(2 * sm_count // (B * G), -(-S // (2 * tile))))
    table = jnp.arange(B, dtype=jnp.int32)[:, None] if block_table is None else block_table.astype(jnp.int32)
    body = functools.partial(
        _body, T=T, G=G, tile=tile, block=block, splits=splits, window=window, scale=float(C**-0.5 if scale is None else scale)
    )
    like = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    o, m, l = pl.pallas_call(
        body,
        out_shape=[like((splits, B, G, M, C)), like((splits, B, G, M)), like((splits, B, G, M))],
        grid=(B * G, splits),
        compiler_params=plt.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
    )(jnp.asarray(0 if layer is None else layer, jnp.int32).reshape(1), length_B.astype(jnp.int32), table, q_BGMC, *leaves)
    part = jnp.exp(m - jnp.max(m, axis=0, keepdims=True))
    total = jnp.sum(l * part, axis=0)
    o_BGMC = jnp.sum(o * part[..., None], axis=0) / jnp.where(total == 0.0, 1.0, total)[..., None]
    o_BGMC = _halves_together(o_BGMC, leaves[2])[:, :, : R * T]
    return o_BGMC.reshape(B, G, R, T, C).transpose(0, 3, 1, 2, 4).reshape(B, T, H, C).astype(q_BTHC.dtype)


def _leaves(cache, layer):
    """Data and scales, stacked; floats have a scale that nobody reads."""
    data, scales = (
        (cache.data, cache.scales) if isinstance(cache, QuantizedKV) else (cache, jnp.zeros((1,) * cache.ndim, jnp.float16))
    )
    return (data[None], scales[None]) if layer is None else (data, scales)


def _halves_apart(x, like):
    """Where two values share a byte: first the values of all low halves, then those of the high ones."""
    if like.dtype != jnp.uint8:
        return x
    return x.reshape(*x.shape[:-1], -1, 2, GROUP // 2).swapaxes(-2, -3).reshape(x.shape)


def _halves_together(x, like):
    if like.dtype != jnp.uint8:
        return x
    return x.reshape(*x.shape[:-1], 2, -1, GROUP // 2).swapaxes(-2, -3).reshape(x.shape)


def _body(
    layer_ref, length_ref, table_ref, q_ref, k_ref, k_scales_ref, v_ref, v_scales_ref, o_ref, m_ref, l_ref, *, T, G, tile, block, splits, window, scale
):  # fmt: skip
    b, g, split = pl.program_id(0) // G, pl.program_id(0) % G, pl.program_id(1)
    layer, length = layer_ref[0], length_ref[b]
    M, C = q_ref.shape[2:]
    position_M = length - T + lax.rem(jnp.arange(M), T)
    begin = 0 if window is None else jnp.maximum(length - T - window + 1, 0) // tile
    end = pl.cdiv(jnp.minimum(length, block * table_ref.shape[1]), tile)
    share = pl.cdiv(end - begin, splits)
    first = begin + split * share
    paged = table_ref.shape[1] > 1 or block % tile == 0

    def attend(i, state):
        o, m, l = state
        wanted = i * tile
        # The last tile of a cache that tiles do not divide reaches back; what it then sees twice is masked.
        at = lax.rem(wanted, block) if paged else jnp.minimum(wanted, block - tile)
        slot = (wanted if paged else at) + jnp.arange(tile)
        pool = table_ref[b, wanted // block]
        where = (layer, pool, g, pl.ds(at, tile))
        s = jnp.zeros((M, tile), jnp.float32)
        for h, k in enumerate(_values(k_ref, k_scales_ref, where, q_ref.dtype)):
            q = plt.load(q_ref.at[b, g, :, pl.ds(h * k.shape[1], k.shape[1])])
            s = s + _dot(q, k.T)
        seen = (slot[None, :] <= position_M[:, None]) & (slot >= wanted)[None, :]
        if window is not None:
            seen = seen & (slot[None, :] > position_M[:, None] - window)
        s = jnp.where(seen, s * scale, MASKED)
        m_new = jnp.maximum(m, jnp.max(s, axis=1))
        w = jnp.where(seen, jnp.exp(s - m_new[:, None]), 0.0)
        fade = jnp.exp(m - m_new)
        values = _values(v_ref, v_scales_ref, where, q_ref.dtype)
        o = tuple(part * fade[:, None] + _dot(w.astype(v.dtype), v) for part, v in zip(o, values, strict=True))
        return o, m_new, l * fade + jnp.sum(w, axis=1)

    halves = C // v_ref.shape[4]
    start = tuple(jnp.zeros((M, C // halves), jnp.float32) for _ in range(halves))
    start = start, jnp.full((M,), MASKED, jnp.float32), jnp.zeros((M,), jnp.float32)
    o, m, l = lax.fori_loop(first, jnp.minimum(first + share, end), attend, start)
    for h, part in enumerate(o):
        plt.store(o_ref.at[split, b, g, :, pl.ds(h * (C // halves), C // halves)], part)
    plt.store(m_ref.at[split, b, g, :], m)
    plt.store(l_ref.at[split, b, g, :], l)


def _values(data_ref, scales_ref, where, dtype):
    """A tile of slots as floats: one array [tile, C]; of int4 two [tile, C/2], the low halves and the high ones."""
    data = plt.load(data_ref.at[(*where, slice(None))])
    if data.dtype not in (jnp.int8, jnp.uint8):
        return [data.astype(dtype)]
    scales = plt.load(scales_ref.at[(*where, slice(None))]).astype(jnp.float32)
    (tile, width), groups = data.shape, scales.shape[1]
    scales = lax.broadcast_in_dim(scales, (tile, groups, width // groups), (0, 1)).reshape(tile, width)
    data = data.astype(jnp.int32)
    halves = [data] if data_ref.dtype == jnp.int8 else [(data & 15) - 8, (data >> 4) - 8]
    return [(half.astype(jnp.float32) * scales).astype(dtype) for half in halves]


def _dot(a, b):
    return plt.dot(a, b, precision=lax.Precision.HIGHEST if a.dtype == jnp.float32 else None)
