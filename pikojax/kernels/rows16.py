"""The layout "rows16" that the native CPU product reads: tiles of 16 outputs, made once at load from the canonical layout.

    tiles uint8 [..., N / 16, bytes of a tile]        a tile is a row of blocks along K        a block is its scales, then its codes

A scale of 16 outputs stands as 16 numbers side by side. Each 32 weights of 16 outputs are eight vectors of 64 bytes: byte 4n + c of
vector v is the code of weight 4v + c of output n. Codes are unsigned (value + zero), and packed as far as they go: of four-bit codes
vector v takes the low and v + 4 the high half of a byte; fifth bits are one vector more (bit v for vector v), fifth and sixth bits
two (two bits a vector). `native/matmul_formats.h` reads what is written here.

Leaves out: the way back to canonical bytes (`dequantize` and `lookup` read tiles as they are; keep the file, or the canonical
tensor, to save from).
"""

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import require
from pikojax.qtensor import FORMATS, QTensor
from pikojax.qtensor.own import NF4, join, split, unpack4

TILE, GROUP = 16, 32
ZEROS = {"int8": 128, "q8_0": 128, "int4": 8, "q4_0": 8, "q5_0": 16, "q6_k": 32}  # of symmetric formats: value = code − zero
UPPER_BITS = {"q5_0": 1, "q5_1": 1, "q5_k": 1, "q6_k": 2}
# What stands before a block's codes: each (numbers an output, bytes a number).
SUPER, SUPER_SIGNED = ((1, 2), (1, 2), (8, 1), (8, 1)), ((1, 2), (16, 1))
HEADS = {
    "int8": ((1, 4),),
    "q4_1": ((1, 2), (1, 2)),
    "q5_1": ((1, 2), (1, 2)),
    "q4_k": SUPER,
    "q5_k": SUPER,
    "q6_k": SUPER_SIGNED,
}


def block_weights(w: QTensor) -> int:
    """Weights along K in one block: the format's, and all of K (a multiple of 32) where all share one scale."""
    return max(-(-w.shape[0] // GROUP), 1) * GROUP if w.format == "int8" else FORMATS[w.format].block_weights


def heads(format: str) -> tuple[tuple[int, int], ...]:
    return HEADS.get(format) or ((1, 2),) * (2 if FORMATS[format].asymmetric else 1)


def zero_of(format: str) -> int:
    return 0 if FORMATS[format].asymmetric else ZEROS.get(format.partition("_")[0]) or ZEROS.get(format, 0)


def vectors(format: str) -> int:
    """Of 64 bytes, for 32 weights of 16 outputs."""
    return 8 if _whole_bytes(format) else 4 + UPPER_BITS.get(format, 0)


def _whole_bytes(format: str) -> bool:
    return format.startswith(("int8", "q8"))


# ---------------------------------------------------------------- canonical → tiles


def pack(w: QTensor) -> QTensor:
    """The same weights in tiles. Outputs are padded to a multiple of 16; what pads them is zero and never written out."""
    require(
        w.layout == "canonical", f"got weights in the layout {w.layout!r}, wanted canonical ones; they may be prepared already"
    )
    codes, head_parts = _codes(w)
    blocks = codes.shape[-1] // block_weights(w)
    parts = [
        _by_tile(part.reshape(*part.shape[:-1], blocks, -1), size)
        for part, (_, size) in zip(head_parts, heads(w.format), strict=True)
    ]
    grouped = _by_tile(codes.reshape(*codes.shape[:-1], blocks, -1), 4)  # [..., tile, block, 8 · groups, 16, 4]
    grouped = grouped.reshape(*grouped.shape[:-3], -1, 8, TILE, 4)
    parts.append(_packed(grouped, w.format))
    flat = jnp.concatenate([part.reshape(*part.shape[: codes.ndim], -1) for part in parts], axis=-1)
    return QTensor(join(flat), None, None, w.format, w.shape, "rows16")


def _by_tile(rows, size: int):
    """Bytes [..., N, blocks, n · size] → [..., tiles, blocks, n, 16, size]."""
    *stack, N, blocks, width = rows.shape
    rows = jnp.pad(rows, [(0, 0)] * len(stack) + [(0, -N % TILE), (0, 0), (0, 0)])
    rows = rows.reshape(*stack, -(-N // TILE), TILE, blocks, width // size, size)
    return jnp.moveaxis(rows, -4, -2)


def _packed(codes, format: str):
    """[..., 8, 16, 4] → vectors [..., n, 16, 4]: upper bits first, then nibbles."""
    if _whole_bytes(format):
        return codes
    nibbles = (codes[..., :4, :, :] & 15) | ((codes[..., 4:, :, :] & 15) << 4)
    bits = UPPER_BITS.get(format, 0)
    if bits == 0:
        return nibbles
    shifts = jnp.arange(0, 8, bits, dtype=jnp.uint8).reshape(*[1] * (codes.ndim - 3), 1, 8 // bits, 1, 1)
    upper = (codes >> 4).reshape(*codes.shape[:-3], bits, 8 // bits, TILE, 4)
    planes = jnp.sum(upper << shifts, axis=-3, dtype=jnp.uint8)
    return jnp.concatenate([planes, nibbles], axis=-3)


def _codes(w: QTensor):
    """Unsigned codes [..., N, K_padded], and for each head its bytes [..., N, blocks · numbers · bytes]."""
    if FORMATS[w.format].gguf:
        return _gguf_codes(w)
    head_parts = [_as_bytes(part) for part in (w.scales, w.mins) if part is not None]
    if w.data.dtype != jnp.int8:
        return unpack4(w.data), head_parts
    codes = jax.lax.bitcast_convert_type(w.data, jnp.uint8) ^ 128
    return jnp.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % block_weights(w))]), head_parts


def _gguf_codes(w: QTensor):
    blocks = split(w.data, FORMATS[w.format].block_bytes)
    cuts = {"q4_0": (2,), "q8_0": (2,), "q4_1": (2, 4), "q5_0": (2, 6), "q5_1": (2, 4, 8)}
    cuts |= {"q4_k": (2, 4, 16), "q5_k": (2, 4, 16, 48), "q6_k": (128, 192, 208)}
    parts = jnp.split(blocks, cuts[w.format], axis=-1)
    if w.format == "q6_k":
        lower, upper, scale, d = parts
        lower, upper = lower.reshape(*lower.shape[:-1], 2, 2, 32), split(upper, 32)
        codes = jnp.concatenate([lower & 15, lower >> 4], axis=-2) | (
            jnp.stack([(upper >> i) & 3 for i in (0, 2, 4, 6)], axis=-2) << 4
        )
        return join(join(join(codes))), [join(d), join(scale)]
    if w.format in ("q4_k", "q5_k"):
        d, dmin, scales, *fifth, nibbles = parts
        nibbles = split(nibbles, 32)
        codes = join(jnp.stack([nibbles & 15, nibbles >> 4], axis=-2).reshape(*nibbles.shape[:-2], 8, 32))
        if fifth:
            codes |= join(jnp.stack([(fifth[0] >> i) & 1 for i in range(8)], axis=-2)) << 4
        return join(codes), [join(d), join(dmin), *map(join, _six_bits(scales))]
    *head_parts, codes = parts
    if w.format == "q8_0":
        return join(codes ^ 128), [join(part) for part in head_parts]
    codes = unpack4(codes)
    if w.format.startswith("q5"):
        *head_parts, fifth = head_parts
        codes |= join(jnp.stack([(fifth >> i) & 1 for i in range(8)], axis=-1)) << 4
    return join(codes), [join(part) for part in head_parts]


def _six_bits(data):
    """12 bytes → eight scales, eight minimums: of the last four of each, the upper two bits lie above the first four's."""
    a, b, lower = data[..., :4], data[..., 4:8], data[..., 8:]
    scales = jnp.concatenate([a & 63, (lower & 15) | ((a >> 6) << 4)], axis=-1)
    return scales, jnp.concatenate([b & 63, (lower >> 4) | ((b >> 6) << 4)], axis=-1)


def _as_bytes(numbers):
    return join(jax.lax.bitcast_convert_type(numbers, jnp.uint8))


# ---------------------------------------------------------------- tiles → floats


def rows(w: QTensor):
    """The weights by outputs, float32 [..., N, K]: the same numbers as before `pack`, to the bit."""
    return _tile_rows(w, w.data)[..., : w.shape[1], : w.shape[0]]


def lookup(w: QTensor, ids, dtype=jnp.float32):
    """`pikojax.qtensor.lookup` for a table in tiles: reads the tile of each id, sixteen rows, and keeps one."""
    require(w.data.ndim == 2, f"lookup reads one table; this one has leading axes {w.data.shape[:-2]}: pick one of them first")
    ids = jnp.clip(ids, 0, w.shape[1] - 1)
    flat = ids.reshape(-1)
    found = _tile_rows(w, jnp.take(w.data, flat // TILE, axis=0)[:, None, :])  # [ids, 16, K_padded]
    found = jnp.take_along_axis(found, (flat % TILE)[:, None, None], axis=1)[:, 0, : w.shape[0]]
    return found.reshape(*ids.shape, w.shape[0]).astype(dtype)


def _tile_rows(w: QTensor, tiles):
    """tiles [..., tiles, bytes] → float32 [..., 16 · tiles, K_padded]."""
    size, format = block_weights(w), w.format
    groups, blocks = size // GROUP, -(-w.shape[0] // size)
    tiles = split(tiles, tiles.shape[-1] // max(blocks, 1))
    widths = [count * TILE * width for count, width in heads(format)]
    *head_parts, packed = jnp.split(tiles, np.cumsum(widths), axis=-1)
    codes = _unpacked(packed.reshape(*packed.shape[:-1], groups, vectors(format), TILE, 4), format)
    codes = jnp.moveaxis(codes, -2, -4)
    codes = codes.reshape(*codes.shape[:-4], TILE, blocks, size)  # [..., tile, 16, block, weight]
    numbers = []
    for part, (count, width) in zip(head_parts, heads(format), strict=True):
        part = jnp.moveaxis(part.reshape(*part.shape[:-1], count, TILE, width), -2, -4)  # [..., tile, 16, block, count, width]
        numbers.append(_numbers(part, signed=format == "q6_k"))
    found = _weights(codes, numbers, format)
    return found.reshape(*found.shape[:-4], found.shape[-4] * TILE, blocks * size)


def _unpacked(packed, format: str):
    """[..., block, group, vectors, 16, 4] → codes [..., block, group · 8, 16, 4], in the order of the weights."""
    if not _whole_bytes(format):
        bits = UPPER_BITS.get(format, 0)
        planes, nibbles = packed[..., :bits, :, :], packed[..., bits:, :, :]
        packed = jnp.concatenate([nibbles & 15, nibbles >> 4], axis=-3)
        if bits:
            upper = jnp.stack([(planes >> i) & (2**bits - 1) for i in range(0, 8, bits)], axis=-3)
            packed |= upper.reshape(packed.shape) << 4
    return packed.reshape(*packed.shape[:-4], packed.shape[-4] * 8, TILE, 4)


def _numbers(part, signed: bool):
    """[..., count, bytes] → float32 [..., count]."""
    width = part.shape[-1]
    kind = {4: jnp.float32, 2: jnp.float16}.get(width, jnp.int8 if signed else jnp.uint8)
    return jax.lax.bitcast_convert_type(part if width > 1 else part[..., 0], kind).astype(jnp.float32)


def _weights(codes, numbers, format: str):
    """The formats' own equations, in the order of `pikojax.qtensor`'s, so that the bits are the same."""
    if format == "nf4":
        return jnp.take(jnp.asarray(NF4), codes.astype(jnp.int32), mode="clip") * numbers[0]
    q = codes.astype(jnp.float32) - float(zero_of(format))
    if format in ("q4_k", "q5_k", "q6_k"):
        d, *rest = numbers
        scales = rest[-2 if len(rest) == 3 else -1]
        q = q.reshape(*q.shape[:-1], scales.shape[-1], -1)
        found = (d * scales)[..., None] * q
        return (found - (rest[0] * rest[2])[..., None] if len(rest) == 3 else found).reshape(codes.shape)
    return q * numbers[0] + numbers[1] if len(numbers) == 2 else q * numbers[0]


def n_tiles(w: QTensor) -> int:
    return -(-w.shape[1] // TILE)


def tile_bytes(w: QTensor) -> int:
    size = block_weights(w)
    head = sum(count * TILE * width for count, width in heads(w.format))
    return -(-w.shape[0] // size) * (head + size // GROUP * vectors(w.format) * 64)


def canonical_bytes(w: QTensor) -> int:
    """What one layer of the weights takes in the canonical layout, padding of K and scales counted."""
    known = FORMATS[w.format]
    blocks = -(-w.shape[0] // known.block_weights)
    beside = 4 if w.format == "int8" else 0 if known.gguf else (4 if known.asymmetric else 2) * blocks
    return w.shape[1] * (blocks * known.block_bytes + beside)
