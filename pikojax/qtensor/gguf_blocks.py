"""GGUF's blocks: rows of float32 ↔ the bytes of a GGUF file, bit for bit.

q8_0: 32 weights, float16 d, 32 × int8              w = d · q,       d = amax / 127
q4_0: 32 weights, float16 d, 16 bytes of nibbles    w = d · (q − 8), d = largest / −8
"""

import jax
import jax.numpy as jnp

from pikojax.qtensor.formats import Format
from pikojax.qtensor.own import join, pack4, split, unpack4


def encode(rows, format: Format):
    """rows float32 [..., K_padded] → bytes [..., K_padded / block_weights · block_bytes]."""
    return join(_ENCODE[format.name](split(rows, format.block_weights)))


def decode(data, format: Format):
    """bytes → float32 [..., K_padded]."""
    return join(_DECODE[format.name](split(data, format.block_bytes)))


def _float16_bytes(x):
    return join(jax.lax.bitcast_convert_type(x.astype(jnp.float16), jnp.uint8))


def _float16_at(blocks, at: int):
    return jax.lax.bitcast_convert_type(blocks[..., at : at + 2], jnp.float16).astype(jnp.float32)[..., None]


def _inverse(d):
    return jnp.where(d == 0.0, 0.0, 1.0 / jnp.where(d == 0.0, 1.0, d))


def _encode_q8_0(blocks):
    d = jnp.max(jnp.abs(blocks), axis=-1, keepdims=True) / 127.0
    scaled = blocks * _inverse(d)
    q = jnp.sign(scaled) * jnp.floor(jnp.abs(scaled) + 0.5)
    return jnp.concatenate([_float16_bytes(d), jax.lax.bitcast_convert_type(q.astype(jnp.int8), jnp.uint8)], axis=-1)


def _decode_q8_0(blocks):
    return _float16_at(blocks, 0) * jax.lax.bitcast_convert_type(blocks[..., 2:], jnp.int8).astype(jnp.float32)


def _encode_q4_0(blocks):
    at = jnp.argmax(jnp.abs(blocks), axis=-1, keepdims=True)
    d = jnp.take_along_axis(blocks, at, axis=-1) / -8.0
    q = jnp.clip(jnp.floor(blocks * _inverse(d) + 8.5), 0.0, 15.0)
    return jnp.concatenate([_float16_bytes(d), pack4(q)], axis=-1)


def _decode_q4_0(blocks):
    return _float16_at(blocks, 0) * (unpack4(blocks[..., 2:]).astype(jnp.float32) - 8.0)


_ENCODE = {"q8_0": _encode_q8_0, "q4_0": _encode_q4_0}
_DECODE = {"q8_0": _decode_q8_0, "q4_0": _decode_q4_0}
