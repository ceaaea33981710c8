"""What `matmul` and `decode_attention` run on a GPU or a TPU. No card is needed: the choice is made for one that is not there, the kernels
are interpreted, and the public functions are lowered for CUDA and TPU."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.export import DisabledSafetyCheck, export

from pikojax.config import GPTConfig, UserError
from pikojax.kernels import decode_attention_gpu, dispatch, lookup, matmul, matmul_gpu, matmul_hopper, matmul_tpu, mosaic, prepare, prepare_tree, signed
from pikojax.kernels.decode_attention import decode_attention, reference
from pikojax.kernels.kv_formats import quantize_kv
from pikojax.kernels.matmul import weights_NK
from pikojax.models import gpt
from pikojax.native import build
from pikojax.qtensor import FORMATS, dequantize, quantize
from pikojax.qtensor import lookup as canonical_lookup
from pikojax.quant.tree import quantize_tree

ROOT = Path(__file__).resolve().parent.parent
HOPPER, AMPERE, TURING, TPU = (
    dispatch.Card("gpu", (9, 0), 2),
    dispatch.Card("gpu", (8, 6), 2),
    dispatch.Card("gpu", (7, 5), 2),
    dispatch.Card("tpu", None, 1),
)
FILES = {"hopper": matmul_hopper, "gpu": matmul_gpu, "tpu": matmul_tpu}
CARDS = {"hopper": HOPPER, "gpu": AMPERE, "tpu": TPU}
FEW = ("int8", "int4a_g64")
EACH = [pytest.param(name, marks=() if name in FEW else pytest.mark.exhaustive) for name in FORMATS if signed.packs(name)]


@pytest.fixture
def machine(monkeypatch):
    """machine(card) pretends that this one has it; the seen dtypes of activations are what it returns."""
    monkeypatch.delenv("PIKOJAX_KERNELS", raising=False)
    dispatch._say_once.cache_clear()

    def pretend(card, interpret=True):
        monkeypatch.setattr(jax, "default_backend", lambda: card.platform)
        monkeypatch.setattr(dispatch, "card", lambda: card)
        seen = []
        for file in FILES.values() if interpret else ():
            multiply = functools.partial(file.matmul, interpret=True)
            monkeypatch.setattr(file, "matmul", lambda x, *rest, multiply=multiply, **options: (seen.append(x.dtype), multiply(x, *rest, **options))[1])
        if interpret:
            attend = functools.partial(decode_attention_gpu.decode_attention, interpret=True)
            monkeypatch.setattr(decode_attention_gpu, "decode_attention", attend)
        return seen

    yield pretend
    matmul.__globals__["_batched"].cache_clear()


def nmse(got, wanted) -> float:
    got, wanted = (np.asarray(x, np.float64) for x in (got, wanted))
    return float(((got - wanted) ** 2).sum() / (wanted**2).sum())


def drawn(format: str, K: int = 256, N: int = 136, stack: tuple[int, ...] = (), rows: int = 4):
    return jax.random.normal(jax.random.key(4), (rows, K)), quantize(jax.random.normal(jax.random.key(3), (*stack, K, N)), format)


def exact(x, w):
    return np.asarray(x, np.float64) @ np.asarray(dequantize(w), np.float64)


# ---------------------------------------------------------------- products


@pytest.mark.parametrize("kernel", FILES, ids="by_{}".format)  # "gpu" alone would be the mark of tests that need one
def test_a_product_by_each_kernel_in_bfloat16_and_float32_with_gradient_vmap_and_layers(kernel, machine, capsys):
    seen = machine(CARDS[kernel])
    x, w = drawn("int4a_g64", stack=(2,))
    stack = prepare(w)
    assert stack.layout == {"gpu": "canonical"}.get(kernel, kernel) and dispatch.choose("matmul", x, stack, 1) == kernel
    one, wanted = jax.tree.map(lambda leaf: leaf[1], stack), exact(x, w)[1]
    assert nmse(jax.jit(matmul)(x, stack, -1), wanted) < 1e-9 and seen == [jnp.float32]
    short = matmul(x.astype(jnp.bfloat16), one)
    assert short.dtype == jnp.bfloat16 and seen[-1] == jnp.bfloat16, "bfloat16 reaches the kernel as it is"
    long = matmul(x.astype(jnp.bfloat16), one, out_dtype=jnp.float32)  # logits: no bit of the sums is lost on the way out
    assert long.dtype == jnp.float32 and seen[-1] == jnp.bfloat16 and np.array_equal(long.astype(jnp.bfloat16), short)
    assert nmse(long, exact(x.astype(jnp.bfloat16), w)[1]) < 1e-5
    assert nmse(jax.vmap(matmul, (None, None, 0))(x, stack, jnp.arange(2)), exact(x, w)) < 1e-9
    gradient = jax.grad(lambda x: jnp.sum(matmul(x, stack, 1, jnp.float32)))(x.astype(jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    assert nmse(gradient, np.tile(np.asarray(dequantize(w), np.float64)[1].sum(-1), (4, 1))) < 1e-4
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("layout", signed.PADDED_TO)
@pytest.mark.parametrize("format", EACH)
def test_layouts_of_accelerators_hold_the_same_weights(format, layout):
    _, w = drawn(format, 300, 50, (2,))
    packed = jax.jit(functools.partial(signed.pack, layout=layout))(w)
    assert packed.data.dtype == (jnp.int8 if format.startswith("int8") else jnp.int4)
    assert nmse(weights_NK(packed), jnp.swapaxes(dequantize(w), -1, -2)) < 1e-12
    ids, table = jnp.asarray([[0, 49, 7], [3, 3, 90]]), jax.tree.map(lambda leaf: leaf[1], w)
    found = lookup(jax.tree.map(lambda leaf: leaf[1], packed), ids)
    assert found.shape == (2, 3, 300) and nmse(found, canonical_lookup(table, ids)) < 1e-12
    assert lookup(signed.pack(table, layout), ids, jnp.bfloat16).dtype == jnp.bfloat16


def test_what_a_kernel_cannot_take_the_next_one_does_and_says_so_once(machine, capsys):
    machine(HOPPER)
    x, blocks = drawn("q4_0")
    for _ in range(2):
        assert prepare(blocks) is blocks and nmse(matmul(x, blocks), exact(x, blocks)) < 1e-9
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "matmul runs by its kernel 'gpu'" in said and "not 'q4_0'" in said
    x, w = drawn("int8_g64")
    assert dispatch.choose("matmul", x, w, None) == "gpu" and "prepare them once" in capsys.readouterr().err
    machine(TURING)
    assert nmse(matmul(x, w), exact(x, w)) < 1e-9 and capsys.readouterr().err == ""  # an older card is no mishap: the doctor tells
    machine(TPU)
    assert prepare(blocks) is blocks and dispatch.choose("matmul", x, blocks, None) == "reference"
    assert "runs by its reference, which is slow: the TPU kernel reads" in capsys.readouterr().err


def test_wishes_and_the_doctors_rows(machine, monkeypatch):
    rows = {}
    for name, card in (("hopper", HOPPER), ("turing", TURING), ("tpu", TPU)):
        machine(card, interpret=False)
        rows[name] = {row["op"]: (row["kernel"], row["reason"]) for row in dispatch.listed()}
    assert rows["hopper"]["matmul"] == ("hopper", "the best for gpu") and rows["hopper"]["decode_attention"] == ("triton", "the best for gpu")
    assert rows["turing"]["matmul"] == ("gpu", "hopper: the Hopper kernels need compute capability 9.0; this card's is 7.5")
    assert rows["turing"]["decode_attention"][0] == "reference" and "8.0" in rows["turing"]["decode_attention"][1]
    assert rows["tpu"]["matmul"][0] == "tpu" and rows["tpu"]["decode_attention"] == ("reference", "there is no kernel for tpu")
    machine(HOPPER, interpret=False)
    x, w = drawn("int8")
    prepared = prepare(w)
    for wish, chosen in (("pallas", "hopper"), ("native", "reference"), ("reference", "reference")):
        monkeypatch.setenv("PIKOJAX_KERNELS", wish)
        assert dispatch.choose("matmul", x, prepared, None) == chosen
    assert nmse(matmul(x, prepared), exact(x, w)) < 1e-9, "the reference reads what was prepared for the card"
    assert prepare(w) is w


def test_no_outputs_are_no_work(machine):
    machine(HOPPER)
    x, w = drawn("int8", N=0)
    assert matmul(x, prepare(w)).shape == (4, 0)


def test_mistakes_are_one_line():
    x, w = drawn("int4_g32")
    for call in (
        lambda: signed.pack(signed.pack(w, "tpu"), "hopper"),
        lambda: matmul_tpu.prepare(drawn("q4_0")[1]),
        lambda: matmul_hopper.matmul(x, w, activations="int8"),
        lambda: matmul_hopper.matmul(x, w, activations="int4"),
        lambda: mosaic.swizzled(48, 4),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- attention


def attention_operands(C: int = 64, S: int = 40, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    k, v = (jax.jit(quantize_kv, static_argnums=1)(jax.random.normal(key, (2, 3, 2, S, C)), "int8") for key in keys[1:])
    return jax.random.normal(keys[0], (3, 2, 4, C)).astype(dtype), k, v, jnp.asarray([S, 5, 7], jnp.int32)


def test_attention_by_the_gpus_kernel_and_under_vmap(machine, capsys):
    machine(AMPERE)
    q, k, v, lengths = attention_operands(S=16)
    assert dispatch.choose("decode_attention", q, k, v, None) == "triton"
    by_layer = lambda attend: jax.jit(jax.vmap(lambda layer: attend(q, k, v, lengths, layer=layer, window=9)))(jnp.arange(2))
    assert nmse(by_layer(decode_attention), by_layer(reference)) < 1e-9
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("change, said", [({"C": 96}, "not 96"), ({"S": 9}, "at least 16 slots, not 9")])
def test_attention_that_the_kernel_cannot_do_is_the_references(machine, capsys, change, said):
    machine(AMPERE)
    jax.jit(functools.partial(decode_attention, layer=0)).trace(*attention_operands(**change))
    assert f"{said}\n" in capsys.readouterr().err


def test_attention_in_a_pool_of_blocks_asks_for_their_size(machine):
    machine(AMPERE)
    q, k, v, _ = attention_operands(S=48)  # no power of two
    assert "blocks of 16, 32, 64 … slots, not 48" in decode_attention_gpu.why_not_run(q, k, v, jnp.zeros((3, 4), jnp.int32))
    assert decode_attention_gpu.why_not_run(q, k, v) is None


def test_operands_on_a_mesh_are_left_to_the_partitioner_but_not_inside_shard_map():
    code = """
import json, jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from pikojax.kernels import dispatch
mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
x = jnp.ones((4, 4))
found = []
def f(x):
    found.append(dispatch.why_not_on_mesh(jnp.sin(x)))
    return x
jax.jit(f)(x)
jax.jit(f)(jax.device_put(x, NamedSharding(mesh, P("d"))))
jax.jit(jax.shard_map(f, mesh=mesh, in_specs=P("d"), out_specs=P("d")))(x)
print(json.dumps(found))
"""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    alone, on_mesh, inside = json.loads(done.stdout)
    assert alone is None and inside is None and "opaque to the partitioner" in on_mesh


@pytest.mark.skipif(build.find_compiler()[0] is None, reason="no C++ compiler")
def test_on_a_mesh_the_native_kernels_run_on_each_devices_rows():
    code = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from pikojax.kernels.attention import causal_attention
from pikojax.kernels.product import product
mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
rows, split = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P("fsdp"))
draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
qkv, x, w = [draw(i, 8, 16, 2, 8) for i in range(3)], draw(3, 512, 300), draw(4, 300, 200)
segments = jnp.arange(8 * 16).reshape(8, 16) // 5

def loss(q, k, v, x, w, segments):
    return jnp.sum(jnp.sin(causal_attention(q, k, v, segments))) + jnp.sum(jnp.sin(product(x, w)))

def compiled(*operands):
    return jax.jit(jax.value_and_grad(loss, range(5))).lower(*operands).compile()

operands = (*qkv, x, w, segments)
spread = (*(jax.device_put(a, rows) for a in (*qkv, x)), jax.device_put(w, split), jax.device_put(segments, rows))
one, many = compiled(*operands), compiled(*spread)
for call in ("pikojax_flash_forward", "pikojax_flash_backward", "pikojax_gemm"):
    assert call in one.as_text() and call in many.as_text()
assert "f32[8,16,2,8]" not in many.as_text(), "no device has the whole batch"
for a, b in zip(jax.tree.leaves(one(*operands)), jax.tree.leaves(many(*spread)), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
"""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    environ.pop("PIKOJAX_KERNELS", None)
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


# ---------------------------------------------------------------- lowering: no device is needed, and no compiler of one is run


def lowered(platform: str, f, *arguments) -> str:
    """Triton's lowering asks what card it lowers for."""
    try:
        from jax.sharding import AbstractDevice
    except ImportError:  # until jax 0.10
        from jax._src.mesh import AbstractDevice
    device = AbstractDevice("NVIDIA H100 80GB HBM3", 132, "cuda")
    checks = [DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")]
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("device",), axis_types=(jax.sharding.AxisType.Auto,), abstract_device=device)):
        return export(jax.jit(f), platforms=[platform], disabled_checks=checks)(*arguments).mlir_module()


@pytest.mark.parametrize("card, platform, calls", [(HOPPER, "cuda", "mosaic_gpu"), (AMPERE, "cuda", "triton"), (TPU, "tpu", "tpu_custom_call")])
def test_the_public_product_lowers(card, platform, calls, machine):
    machine(card._replace(cores=132), interpret=False)
    w = jax.eval_shape(lambda x: prepare(quantize(x, "int4_g64")), jax.ShapeDtypeStruct((2, 1024, 512), jnp.float32))
    x, layer = jax.ShapeDtypeStruct((3, 1024), jnp.bfloat16), jax.ShapeDtypeStruct((), jnp.int32)
    multiply = functools.partial(matmul, out_dtype=jnp.float32)
    assert calls in lowered(platform, multiply, x, w, layer)
    gradient = jax.grad(lambda x, w, layer: jnp.sum(multiply(x, w, layer)))
    assert lowered(platform, gradient, x, w, layer)


def test_a_whole_decode_step_of_a_quantized_model_lowers_to_the_cards_kernels(machine):
    machine(HOPPER._replace(cores=132), interpret=False)
    cfg = GPTConfig(d_model=256, n_layers=2, n_heads=4, n_kv_heads=4, d_hidden=512, vocab_size=300, context=64)

    def made():
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), gpt.init(cfg, jax.random.key(0)))
        return prepare_tree(quantize_tree(params, "int4_g32")), gpt.new_cache(cfg, 1, 64, "int8")

    step = lambda params, cache: gpt.forward(cfg, params, jnp.zeros((1, 1), jnp.int32), cache)[0].logits
    params, cache = jax.eval_shape(made)
    module = lowered("cuda", step, params, cache)
    assert "mosaic_gpu" in module and "triton" in module
    assert "stablehlo.dot_general" not in module, [line for line in module.splitlines() if "stablehlo.dot_general" in line]


def test_an_attention_kernel_that_caps_nothing_serves_what_needs_no_cap(monkeypatch):
    def bare(q_BTHC, cache_k, cache_v, length_B, layer=None, window=None, block_table=None, scale=None):
        return q_BTHC + 1

    monkeypatch.setattr(dispatch, "choose", lambda *_: "bare")
    monkeypatch.setattr(dispatch, "function", lambda *_: bare)
    q_BTHC, cache_BGSC = jnp.ones((1, 1, 2, 32)), jnp.ones((1, 2, 8, 32))
    call = lambda **more: decode_attention(q_BTHC, cache_BGSC, cache_BGSC, jnp.asarray([8]), **more)
    assert (call() == 2).all()
    with pytest.raises(UserError, match="the kernel bare takes no softcap.* set PIKOJAX_KERNELS=auto"):
        call(softcap=2.0)
