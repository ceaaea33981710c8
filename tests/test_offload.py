"""State in pinned host memory: the same bits as without, and on the device one layer's worth at a time."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import batch, compiled_step, config, run, start

from pikojax.models import layers
from pikojax.models.layers import on_host
from pikojax.native import cpu
from pikojax.train import offload
from pikojax.train.rounding import products_rounded
from pikojax.train.step import abstract_state, init_state

BOTH = dict(offload_optimizer=True, offload_params=True)
WAYS = [dict(offload_optimizer=True), dict(offload_params=True), BOTH]
AXES = {"a": ("layers", "embed", "mlp"), "b": ("norm",)}
CLIPPED = dict(grad_clip=0.1)  # at every step


def assert_same_bits(a, b):
    for path, x in jax.tree_util.tree_leaves_with_path(jax.device_get(a)):
        y = dict(jax.tree_util.tree_leaves_with_path(jax.device_get(b)))[path]
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(params=["layer by layer", "in a loop"])
def compiled(request, monkeypatch):
    """A CPU compiles few layers one by one, and a GPU always a loop."""
    if request.param == "in a loop":
        monkeypatch.setattr(layers, "UNROLLED_UP_TO", 0)
    compiled_step.cache_clear()
    yield
    compiled_step.cache_clear()


@pytest.mark.parametrize("way", [*(pytest.param(way, id=name, marks=pytest.mark.exhaustive) for way, name in zip(WAYS, ("optimizer", "params"))), pytest.param(BOTH, id="both")])
def test_results_are_equal_bit_for_bit(way, compiled):
    plain, facts = run(config(optim=CLIPPED), 4)
    state, found = run(config(optim=CLIPPED, **way), 4)
    assert found == facts and all(fact["grad_norm"] > 0.1 for fact in facts)
    assert_same_bits(state, plain)
    assert_lives_where_it_should(state, way)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "case",
    [dict(optim=CLIPPED | dict(name="muon", weight_decay=0.1), grad_accum=2), dict(remat=True, dtype="bfloat16"), dict(dtype="bfloat16")],
    ids=["muon, accumulated", "bfloat16, remat", "bfloat16"],
)
def test_also_with_all_else(case, compiled):
    plain, facts = run(config(**case), 4)
    state, found = run(config(**case, **BOTH), 4)
    assert found == facts
    assert_same_bits(state, plain)
    assert_lives_where_it_should(state, BOTH)


def assert_lives_where_it_should(state, way):
    def kinds(tree):
        return {leaf.sharding.memory_kind for leaf in jax.tree.leaves(tree) if leaf.ndim}

    assert kinds(state.params["blocks"]) == {"pinned_host" if "offload_params" in way else "device"}
    assert kinds({name: leaf for name, leaf in state.params.items() if name != "blocks"}) == {"device"}
    of_parameters = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape not in ((), (3,))]  # (3,): Muon's polynomial
    assert kinds(of_parameters) == {"pinned_host" if "offload_optimizer" in way else "device"}


def test_is_born_there():
    assert_lives_where_it_should(init_state(config(**BOTH), None), BOTH)
    assert_lives_where_it_should(abstract_state(config(**BOTH), None), BOTH)


def shapes_on_device(jaxpr) -> set:
    """The shapes of all that is made on the device in the program, at any depth."""
    found = set()
    for eqn in jaxpr.eqns:
        for var in eqn.outvars:
            if var.aval.memory_space == jax.memory.Space.Device:
                found.add(var.aval.shape)
        for sub in itertools.chain.from_iterable(jax.tree.leaves(v) if isinstance(v, (list, tuple)) else [v] for v in eqn.params.values()):
            if hasattr(sub, "jaxpr"):
                found |= shapes_on_device(sub.jaxpr)
            elif hasattr(sub, "eqns"):
                found |= shapes_on_device(sub)
    return found


@pytest.mark.parametrize("remat", [False, True])
def test_no_stack_of_weights_or_gradients_comes_to_the_device(remat, monkeypatch):
    monkeypatch.setattr(layers, "UNROLLED_UP_TO", 0)  # as on a GPU: a CPU's two memories are one
    compiled_step.cache_clear()

    def shapes(cfg):
        return shapes_on_device(jax.make_jaxpr(compiled_step(cfg))(start(cfg), batch(2)).jaxpr)

    stacks = {leaf.shape for leaf in jax.tree.leaves(start(config()).params["blocks"]) if leaf.ndim == 3}
    assert stacks <= shapes(config(grad_accum=2, remat=remat))
    assert not stacks & shapes(config(grad_accum=2, remat=remat, **BOTH))


def test_arithmetic_by_layer_is_the_arithmetic():
    rng = np.random.default_rng(0)
    tree = {"a": jnp.asarray(rng.standard_normal((3, 5, 7)), jnp.float32), "b": jnp.asarray(rng.standard_normal(6), jnp.float32)}
    host = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind="pinned_host")
    away = jax.device_put(tree, host)
    assert float(jax.jit(partial(offload.global_norm, axes=AXES))(away)) == float(jax.jit(partial(offload.global_norm, axes=AXES))(tree))
    add = jax.jit(lambda a, b: offload.elementwise(lambda x, y: 2 * x + y, a, b))
    for other in (tree, away):
        out = add(away, other)
        assert all(on_host(leaf) for leaf in jax.tree.leaves(out))
        assert_same_bits(out, jax.tree.map(lambda x: 3 * x, tree))


def test_a_rounded_product_is_that_of_ieee_754_whatever_it_is_added_to():
    a, b, c = (np.random.default_rng(i).standard_normal(1 << 16).astype(np.float32) for i in range(3))

    def arithmetic(a, b, c):
        return jnp.where(c > 0, a * b + 0.3 * c, a * b - c)  # `where` is a function of its own in the program

    expected = np.where(c > 0, a * b + np.float32(0.3) * c, a * b - c)
    rounded = jax.jit(lambda zero, *x: products_rounded(arithmetic, zero)(*x))(jnp.int32(0), a, b, c)
    np.testing.assert_array_equal(rounded, expected)
    if "fma" in cpu.features():
        assert not np.array_equal(jax.jit(arithmetic)(a, b, c), expected)
