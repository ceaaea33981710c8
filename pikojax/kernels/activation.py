"""GELU: x · Φ(x), exact (Φ by the error function) or by GPT-2's tanh approximation."""

import jax


def gelu(x, approximate: bool = False):
    return jax.nn.gelu(x, approximate=approximate)
