"""Arithmetic whose bits do not depend on what it is compiled together with.

    m = β·m + (1−β)·g      a compiler may round both products, or keep either one whole inside a fused multiply-add

Which it chooses changes with what else stands in the loop and with its version. `products_rounded(f)` is f with every product
rounded before anything is added to it: an exclusive or with a zero that the compiler cannot know to be one stands between. With
that each number comes out as IEEE 754 says, in whatever loop, however many numbers beside it. It costs one integer operation a
product, which is nothing where memory is the limit.

Leaves out: sums over an axis and products of matrices, whose order of addition remains the compiler's; float64.
"""

from collections.abc import Callable

import jax
import jax.extend.core
import jax.numpy as jnp


def products_rounded(f: Callable, zero: jax.Array) -> Callable:
    """`f` of arrays. `zero`: an int32 that is 0 and is computed as the program runs, such as the sign of a counter."""

    def rounded(*args):
        program, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
        results = _run(program, jax.tree.leaves(args), zero)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return rounded


def _run(program: jax.extend.core.ClosedJaxpr, args: list, zero: jax.Array) -> list:
    values = dict(zip(program.jaxpr.constvars + program.jaxpr.invars, [*program.consts, *args], strict=True))

    def value(name):
        return name.val if isinstance(name, jax.extend.core.Literal) else values[name]

    for line in program.jaxpr.eqns:
        inputs = [value(name) for name in line.invars]
        if line.primitive.name == "jit":
            outputs = _run(line.params["jaxpr"], inputs, zero)
        else:
            outputs = line.primitive.bind(*inputs, **line.params)
            outputs = outputs if line.primitive.multiple_results else [outputs]
        if line.primitive.name == "mul" and outputs[0].dtype == jnp.float32:
            bits = jax.lax.bitcast_convert_type(outputs[0], jnp.int32)
            outputs = [jax.lax.bitcast_convert_type(bits ^ zero, jnp.float32)]
        values.update(zip(line.outvars, outputs, strict=True))
    return [value(name) for name in program.jaxpr.outvars]
