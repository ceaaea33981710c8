"""GELU: x · Φ(x), exact (Φ by the error function) or by GPT-2's tanh approximation.

The exact one has its derivative written out, Φ(x) + x · φ(x), from the saved x: differentiated automatically, XLA's CPU back
end evaluates the error function's pieces again in every pass that reads them.
"""

import math

import jax
import jax.numpy as jnp


def gelu(x, approximate: bool = False):
    return jax.nn.gelu(x, approximate=True) if approximate else _exact_gelu(x)


@jax.custom_vjp
def _exact_gelu(x):
    wide = x.astype(jnp.float32)  # 1 + erf(x) cancels where x is well below 0: bfloat16 would leave nothing
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _normal_cdf(x):
    return 0.5 * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


def _backward(x, dy):
    dtype, x = x.dtype, x.astype(jnp.float32)
    density = jnp.exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))
    return ((dy.astype(jnp.float32) * (_normal_cdf(x) + x * density)).astype(dtype),)


_exact_gelu.defvjp(lambda x: (_exact_gelu(x), x), _backward)
