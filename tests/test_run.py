"""Run folders: made once, replaced only when asked, held by one trainer, loaded back; a wrong one gives a line."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pikojax.config import CheckpointConfig, UserError, config_from_dict
from pikojax.formats import checkpoints
from pikojax.formats import run as runs
from pikojax.models import catalog
from pikojax.train import checkpoint

TINY = {"d_model": 8, "n_layers": 2, "n_heads": 2, "context": 8, "vocab_size": 11}


def config_at(path, **blocks):
    return config_from_dict({"model": TINY, "run": {"dir": str(path)}, **blocks})


@functools.cache
def _init(model):
    return jax.jit(functools.partial(catalog["gpt"].init, model))


def params_of(config, seed=0):
    return _init(config.model)(jax.random.key(seed))


def save(run, config, losses: dict, keep=9):
    """A checkpoint for each step of `losses`; the parameters of step s come from seed s."""
    from typing import Any, NamedTuple

    State = NamedTuple("State", [("step", Any), ("params", Any), ("opt_state", Any)])
    store = checkpoint.Checkpoints(run, CheckpointConfig(keep=keep))
    for step, loss in losses.items():
        state = State(jnp.int32(step), params_of(config, step), {"mu": jnp.zeros(3)})
        store.save(state, checkpoint.make_meta(config, {}, step=step, val_loss=loss))
    store.close()


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 600
    return text


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_config_round_trips_and_nothing_temporary_stays(tmp_path):
    config = config_at(tmp_path / "a" / "run", optim={"grad_clip": "none"}, data={"path": 'we"ird \\ path'})
    path = runs.create_run(config)
    assert runs.read_config(path) == config
    assert sorted(os.listdir(path)) == [".lock", "config.toml"]


def test_existing_run_needs_force_and_only_a_run_is_replaced(tmp_path):
    run = runs.create_run(config_at(tmp_path / "run"))
    (run / "metrics.jsonl").write_text("{}\n")
    (run / "checkpoints" / "3").mkdir(parents=True)
    (run / "notes.md").write_text("mine")
    with pytest.raises(UserError) as error:
        runs.create_run(config_at(run, seed=1))
    assert "--resume" in one_line(error) and "--force" in one_line(error)
    assert runs.read_config(run).seed == 0

    runs.create_run(config_at(run, seed=1), force=True)
    assert runs.read_config(run).seed == 1
    assert not (run / "metrics.jsonl").exists() and not (run / "checkpoints").exists()
    assert (run / "notes.md").read_text() == "mine"

    project = tmp_path / "project"
    project.mkdir()
    (project / "config.toml").write_text("[tool]\n")  # somebody else's
    (project / "metrics.jsonl").write_text("keep")
    with pytest.raises(UserError, match="no run folder"):
        runs.create_run(config_at(project), force=True)
    assert (project / "metrics.jsonl").read_text() == "keep" and sorted(os.listdir(project)) == ["config.toml", "metrics.jsonl"]


def test_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError) as error:
        runs.create_run(config_at(tmp_path / "file" / "run"))
    assert "Not a directory" in one_line(error)
    with pytest.raises(UserError, match="is a file"):
        runs.create_run(config_at(tmp_path / "file"))


def test_failed_atomic_write_leaves_the_old_file(tmp_path, monkeypatch):
    run = runs.create_run(config_at(tmp_path / "run"))

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        runs.write_config(run, config_at(run, seed=7))
    assert runs.read_config(run).seed == 0 and sorted(os.listdir(run)) == [".lock", "config.toml"]


def test_two_trainers_in_one_folder_are_refused_and_a_kill_frees_it(tmp_path):
    run = runs.create_run(config_at(tmp_path / "run"))
    holder = "import sys, time; from pathlib import Path; from pikojax.formats import run\nwith run.lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", holder, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError) as error, runs.lock(run):
            pass
        assert f"process {other.pid}" in one_line(error)
        with pytest.raises(UserError, match="another trainer"):
            runs.create_run(config_at(run, seed=5), force=True)
        assert runs.read_config(run).seed == 0
    finally:
        other.kill()
        other.communicate()
    with runs.lock(run):
        pass


def test_load_run_gives_the_trained_parameters_by_step_latest_and_best(tmp_path):
    config = config_at(tmp_path / "run")
    run = runs.create_run(config)
    save(run, config, {10: 3.0, 20: 1.5, 30: None, 40: 2.0})
    assert checkpoints.steps(run) == [10, 20, 30, 40]
    for path, step, wanted in [(run, None, 40), (run, "best", 20), (run, 10, 10), (run / "checkpoints" / "30", None, 30)]:
        loaded = runs.load_run(path, step)
        assert loaded.step == wanted and loaded.config == config and loaded.tokenizer is None
        assert_same(loaded.params, params_of(config, wanted))
    out, _ = loaded.model.forward(config.model, loaded.params, np.zeros((1, 4), np.int32))
    assert out.logits.shape == (1, 4, 11)


def test_load_run_brings_its_tokenizer(tmp_path):
    from pikojax import text

    config = config_at(tmp_path / "run")
    run = runs.create_run(config, text.train_char(["hello world"]))
    save(run, config, {1: None})
    tokenizer = runs.load_run(run).tokenizer
    assert tokenizer.decode(tokenizer.encode("low")) == "low"


def test_what_is_missing_or_damaged_is_one_line(tmp_path):
    config = config_at(tmp_path / "run")
    with pytest.raises(UserError, match="no run folder"):
        runs.load_run(tmp_path / "run")
    run = runs.create_run(config)
    with pytest.raises(UserError, match="no finished checkpoint"):
        runs.load_run(run)
    save(run, config, {1: None, 2: None})
    with pytest.raises(UserError, match="no checkpoint of step 7; there are: 1, 2"):
        runs.load_run(run, 7)

    for file in (run / "checkpoints" / "2" / "params").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(UserError) as error:
        runs.load_run(run)
    assert str(run / "checkpoints" / "1") in one_line(error)  # says which one to use instead
    assert_same(runs.load_run(run, 1).params, params_of(config, 1))

    (run / "checkpoints" / "1" / "_CHECKPOINT_METADATA").write_text("{")
    with pytest.raises(UserError):
        checkpoints.read_meta(run, 1)
    (run / "config.toml").write_text(runs.HEADER + "[model\n")
    with pytest.raises(UserError) as error:
        runs.load_run(run)
    assert "damaged" in one_line(error)


def test_parameters_of_another_shape_are_refused(tmp_path):
    config = config_at(tmp_path / "run")
    run = runs.create_run(config)
    save(run, config, {1: None})
    wider = dataclasses.replace(config, model=dataclasses.replace(config.model, d_model=16, d_hidden=64))
    runs.write_config(run, wider)
    with pytest.raises(UserError) as error:
        runs.load_run(run)
    one_line(error)


def test_meta_is_plain_json_and_gives_the_config_back(tmp_path):
    config = config_at(tmp_path / "run", optim={"grad_clip": "none"}, train={"max_seconds": 5})
    meta = json.loads(json.dumps(checkpoint.make_meta(config, {"train": 1}, step=3, val_loss=None, seconds=0.1)))
    assert config_from_dict(meta["config"]) == config and meta["seconds"] == 0.1
