"""Checkpoints: what comes back is bit for bit what went in, the right ones are kept, a failed write harms no earlier one."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pikojax.config import CheckpointConfig, UserError, config_from_dict
from pikojax.formats import checkpoints
from pikojax.train import checkpoint

CONFIG = config_from_dict({"model": {"d_model": 8, "n_layers": 1, "n_heads": 2, "vocab_size": 11}})
DATA = {"train": {"size": 9, "crc32": 1}, "val": {"size": 1, "crc32": 2}}
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))


class State(NamedTuple):
    step: Any
    params: Any
    opt_state: Any


def new_state(seed=0, width=64) -> State:
    params = {"w": jax.random.normal(jax.random.key(seed), (4, width)), "b": {"c": jnp.arange(7.0)}}
    return State(jnp.zeros((), jnp.int32), params, OPTIMIZER.init(params))


@jax.jit
def advance(state: State) -> State:
    grads = jax.tree.map(lambda p: jnp.sin(p * 3.0), state.params)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes its counter with floats
        updates, opt_state = OPTIMIZER.update(grads, state.opt_state, state.params)
    return State(state.step + 1, optax.apply_updates(state.params, updates), opt_state)


donating = jax.jit(advance, donate_argnums=0)


def meta(step, val_loss=None, config=CONFIG, **more):
    return checkpoint.make_meta(config, DATA, step=step, val_loss=val_loss, **more)


def abstract(state):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def replaced(config=CONFIG, **blocks):
    return dataclasses.replace(config, **{name: dataclasses.replace(getattr(config, name), **values) for name, values in blocks.items()})


def test_state_comes_back_bit_for_bit_although_it_was_donated_while_being_written(tmp_path):
    state = new_state(width=200_000)  # 2.4 MB with the moments: long enough to be overtaken
    kept = jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)
    store = checkpoint.Checkpoints(tmp_path, CheckpointConfig())
    store.save(state, meta(0))
    for _ in range(5):
        state = donating(state)
    jax.block_until_ready(state)
    store.close()
    assert_same(checkpoint.restore(tmp_path, 0, abstract(state)), kept)


def test_newest_and_best_are_kept(tmp_path):
    state = new_state()
    store = checkpoint.Checkpoints(tmp_path, CheckpointConfig(keep=2))
    for step, loss in {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: 1.5}.items():
        store.save(state, meta(step, loss))
    store.close()
    assert checkpoints.steps(tmp_path) == [2, 4, 5]
    assert checkpoints.choose(tmp_path, "best") == 2 and checkpoints.choose(tmp_path, None) == 5
    store = checkpoint.Checkpoints(tmp_path, CheckpointConfig(keep=1))  # a resumed trainer knows the losses too
    store.save(state, meta(6, 1.2))
    store.close()
    assert checkpoints.steps(tmp_path) == [2, 6]
    store = checkpoint.Checkpoints(tmp_path, CheckpointConfig(keep=1, keep_best=False))
    store.save(state, meta(7, 9.0))
    store.close()
    assert checkpoints.steps(tmp_path) == [7]


def test_half_written_checkpoints_are_not_seen_and_go_away(tmp_path):
    (tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    (tmp_path / "checkpoints" / "8").mkdir()  # a name without what a finished one holds
    assert checkpoints.steps(tmp_path) == []
    store = checkpoint.Checkpoints(tmp_path, CheckpointConfig())
    store.save(new_state(), meta(9))
    store.close()
    assert checkpoints.steps(tmp_path) == [9]
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))


def test_later_steps_go_when_a_run_branches_off(tmp_path):
    store = checkpoint.Checkpoints(tmp_path, CheckpointConfig(keep=5))
    for step in (1, 2, 3):
        store.save(new_state(step), meta(step))
    store.wait()
    store.drop_after(1)
    assert checkpoints.steps(tmp_path) == [1]
    store.save(new_state(22), meta(2))
    store.close()
    assert_same(checkpoint.restore(tmp_path, 2, abstract(new_state())), new_state(22))


FULL_DISK = """
    import resource, sys
    sys.path[:0] = [{tests!r}, {root!r}]
    from test_checkpoint import *
    run = Path({run!r})
    store = checkpoint.Checkpoints(run, CheckpointConfig(keep=3))
    store.save(new_state(1, 100_000), meta(1))
    store.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))  # from here on no file grows beyond: a full disk to a writer
    for step, where in [(2, lambda: store.save(new_state(3), meta(3))), (4, store.wait), (5, store.close)]:
        try:
            store.save(new_state(2, 100_000), meta(step))
            where()
        except UserError as error:
            print("LINE", error)
    assert not list((run / "checkpoints").glob("*tmp*")), "the disk stays full"
"""


def test_full_disk_is_one_line_wherever_it_surfaces_and_earlier_checkpoints_stay_whole(tmp_path):
    tests = Path(__file__).parent
    script = textwrap.dedent(FULL_DISK).format(tests=str(tests), root=str(tests.parent), run=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for line, step in zip(lines, (2, 4, 5), strict=True):
        assert re.search(rf"LINE cannot write the checkpoint of step {step} .*File too large.*step 1 is whole", line)
    assert "Traceback" not in done.stderr
    assert checkpoints.steps(tmp_path) == [1]
    state = new_state(1, 100_000)
    assert_same(checkpoint.restore(tmp_path, 1, abstract(state)), state)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(UserError) as error:
        checkpoint.Checkpoints(tmp_path, CheckpointConfig()).save(new_state(), meta(1))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_our_own_mistakes_are_not_blamed_on_the_disk(tmp_path):
    store = checkpoint.Checkpoints(tmp_path, CheckpointConfig())
    with pytest.raises(Exception) as error:
        store.save(State(jnp.int32(1), {"w": object()}, ()), meta(1))
    assert not isinstance(error.value, UserError)


def resumable(config, data=DATA, run=Path("runs/x"), old=CONFIG):
    return checkpoint.check_resumable(json.loads(json.dumps(meta(3, config=old))), config, data, run)


@pytest.mark.parametrize(
    "blocks, named",
    [
        ({"model": {"d_model": 16, "d_hidden": 64}}, ["model.d_model: 8 → 16", "model.d_hidden: 32 → 64"]),
        ({"optim": {"beta2": 0.99}}, ["optim.beta2: 0.95 → 0.99"]),
        ({"train": {"batch_size": 4}}, ["train.batch_size: 8 → 4"]),
        ({"train": {"grad_accum": 2, "dtype": "bfloat16"}}, ["train.grad_accum: 1 → 2", "train.dtype: 'auto' → 'bfloat16'"]),
        ({"data": {"document_mask": True}}, ["data.document_mask: False → True"]),
        ({"tokenizer": {"kind": "word"}}, ["tokenizer.kind: 'char' → 'word'"]),
    ],
)
def test_another_config_is_refused_and_every_difference_named(blocks, named):
    with pytest.raises(UserError) as error:
        resumable(replaced(**blocks))
    assert "\n" not in str(error.value)
    assert all(difference in str(error.value) for difference in named)
    with pytest.raises(UserError, match="seed: 0 → 5"):
        resumable(dataclasses.replace(CONFIG, seed=5))


def test_what_does_not_touch_the_state_may_change():
    free = replaced(
        run={"dir": "elsewhere"},
        train={"eval_interval": 7, "log_interval": 3, "max_seconds": 9.0, "target_val_loss": 1.0},
        checkpoint={"keep": 7, "interval": 3},
        data={"path": "/moved/corpus.txt"},
    )
    assert resumable(free) == []


def test_a_longer_run_says_that_its_schedule_is_another():
    (note,) = resumable(replaced(train={"steps": 4_000}))
    assert "2000 to 4000" in note and "cosine" in note
    constant = replaced(optim={"schedule": "constant"})
    assert resumable(replaced(constant, train={"steps": 4_000}), old=constant) == []
    (note,) = resumable(replaced(mesh={"fsdp": 2}))
    assert "mesh" in note


def test_other_data_under_the_same_name_are_refused():
    class Stream:
        def __init__(self, tokens):
            self.tokens = tokens

        def __len__(self):
            return len(self.tokens)

        def read(self, start, count):
            return self.tokens[start : start + count]

    class Data:
        def __init__(self, train):
            self.train, self.val = Stream(train), Stream(np.arange(10, dtype=np.int32))

    tokens = np.random.default_rng(0).integers(0, 50, 200_000).astype(np.int32)
    one, same, changed = tokens.copy(), tokens.copy(), tokens.copy()
    changed[-3] ^= 1
    old = checkpoint.fingerprint(Data(one))
    assert old == checkpoint.fingerprint(Data(same)) != checkpoint.fingerprint(Data(changed))
    with pytest.raises(UserError, match="not those"):
        resumable(CONFIG, data=checkpoint.fingerprint(Data(changed)))


@pytest.mark.skipif(os.environ.get("JAX_PLATFORMS", "cpu") != "cpu", reason="virtual devices are the CPU's")
def test_saved_on_four_devices_restored_on_two_and_one(tmp_path):
    tests = Path(__file__).parent
    script = textwrap.dedent(f"""
        import sys
        sys.path[:0] = [{str(tests)!r}, {str(tests.parent)!r}]
        from test_checkpoint import *
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P, SingleDeviceSharding
        run, plain = Path({str(tmp_path)!r}), advance(new_state())
        def laid(n):
            mesh = jax.make_mesh((n,), ("fsdp",), axis_types=(AxisType.Auto,), devices=jax.devices()[:n])
            return jax.tree.map(lambda l: NamedSharding(mesh, P(None, "fsdp") if l.ndim == 2 else P()), plain)
        store = checkpoint.Checkpoints(run, CheckpointConfig())
        store.save(jax.device_put(plain, laid(4)), meta(1))
        store.close()
        for places in (laid(2), jax.tree.map(lambda l: SingleDeviceSharding(jax.devices()[1]), plain)):
            shapes = jax.tree.map(lambda l, s: jax.ShapeDtypeStruct(l.shape, l.dtype, sharding=s), plain, places)
            back = checkpoint.restore(run, 1, shapes)
            assert jax.tree.all(jax.tree.map(lambda l, s: l.sharding == s, back, places))
            assert_same(jax.device_get(back), jax.device_get(plain))
        print("same")
    """)
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=env)
    assert done.stdout == "same\n", done.stderr[-2000:]
