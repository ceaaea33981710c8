"""The loop on a tiny model: when it stops, what it writes, that a resumed run is the run that never stopped, bit for bit."""

import dataclasses
import json
import os
import re
import shutil
import signal
import struct
import sys

import jax
import numpy as np
import pytest

from pikojax.config import UserError, config_from_dict
from pikojax.data.prepare import Dataset
from pikojax.data.shards import TokenStream
from pikojax.formats import checkpoints
from pikojax.formats import run as runs
from pikojax.train import checkpoint, loop, metrics, plots, signals
from pikojax.train.meter import TrainingDiverged
from pikojax.train.step import abstract_state

MODEL = {"d_model": 16, "n_layers": 2, "n_heads": 2, "context": 8, "dropout": 0.1}


@pytest.fixture(autouse=True, scope="module")
def compiled_once(tmp_path_factory):
    """The same tiny step is compiled for nearly every test here."""
    before = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")}
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def config_at(path, **blocks):
    train = {"steps": 33, "batch_size": 2, "grad_accum": 2, "eval_interval": 10, "log_interval": 5} | blocks.pop("train", {})
    tree = {"model": MODEL, "run": {"dir": str(path)}, "train": train, "checkpoint": {"interval": 10, "keep": 9}}
    return config_from_dict(tree | {"optim": {"warmup_steps": 5, "lr": 1e-2}} | blocks)


def tiny_data(seed=0) -> Dataset:
    rng = np.random.default_rng(seed)
    tokens = (np.cumsum(rng.integers(1, 3, 2000)) % 11).astype(np.uint16)
    train, val = TokenStream.of(tokens[:1800], 11, n_bytes=1800), TokenStream.of(tokens[1800:], 11, n_bytes=200)
    return Dataset(train, val, None, 11, "steps of one or two", {})


def run_of(path, events=None, on=lambda event, fields: None, resume=None, force=False, sample=None, data=None, **blocks):
    def report(event, fields):
        if events is not None:
            events.append((event, fields))
        on(event, fields)

    return loop.train(config_at(path, **blocks), data or tiny_data(), resume=resume, report=report, force=force, sample=sample)


def state_at(path, step):
    config = runs.read_config(path)
    return jax.device_get(checkpoint.restore(path, step, abstract_state(config, None)))


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes()


def lines_of(path, *timeless):
    lines = metrics.read(path / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_s")} for line in lines] if timeless else lines


@pytest.fixture(scope="module")
def whole(tmp_path_factory, compiled_once):
    """The run that nothing disturbed: 33 steps."""
    path, events = tmp_path_factory.mktemp("whole") / "run", []
    result = run_of(path, events, sample=lambda params, step: f"after {step}: {params['embed'].shape}")
    return path, result, events


def stop_at(step, number=signal.SIGINT):
    """A reporter that sends a signal when the line of `step` is told."""

    def on(event, fields):
        if event == "step" and fields["step"] == step:
            os.kill(os.getpid(), number)

    return on


def test_a_run_leaves_what_it_promises(whole):
    path, result, events = whole
    assert result["stopped"] == "steps" and result["steps"] == 33 and result["tokens"] == 33 * 4 * 8
    assert result["parameters"] == sum(x.size for x in jax.tree.leaves(state_at(path, 33).params))
    assert 0 <= result["data_wait_fraction"] < 1 and result["tokens_per_s"] > 0 and result["compile_s"] > 0
    assert checkpoints.steps(path) == [10, 20, 30, 33]  # the end is always saved
    assert {f.name for f in path.iterdir()} >= {"config.toml", "metrics.jsonl", "samples.txt", "curves.png", "checkpoints"}
    told = [line["step"] for line in lines_of(path) if "loss" in line]
    assert told == [1, 5, 10, 15, 20, 25, 30]
    evals = [line for line in lines_of(path) if "val_loss" in line]
    assert [line["step"] for line in evals] == [10, 20, 30, 33]
    assert result["val_loss"] == evals[-1]["val_loss"] < evals[0]["val_loss"] < np.log(11)
    np.testing.assert_allclose(evals[0]["val_bits_per_byte"], evals[0]["val_loss"] * 199 / 200 / np.log(2), rtol=1e-6)
    assert re.findall(r"^=== step (\d+) ===\nafter (\d+)", (path / "samples.txt").read_text(), re.M) == [(s, s) for s in ("10", "20", "30", "33")]
    assert [e for e, _ in events][0] == "start" and events[-1] == ("done", result)
    order = [e for e, f in events if f.get("step") == 20]
    assert order == ["step", "eval", "checkpoint", "sample"]
    assert runs.load_run(path).step == 33


def test_logged_loss_is_the_mean_of_its_interval(whole, tmp_path):
    run_of(tmp_path / "run", train={"log_interval": 1, "target_val_loss": 9.0})
    single = [line["loss"] for line in lines_of(tmp_path / "run") if "loss" in line]
    coarse = {line["step"]: line["loss"] for line in lines_of(whole[0]) if "loss" in line}
    np.testing.assert_allclose(coarse[5], np.mean(single[1:5]), rtol=1e-12)
    np.testing.assert_allclose(coarse[10], np.mean(single[5:10]), rtol=1e-12)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_is_never_stopped_bit_for_bit(whole, tmp_path, number):
    path, sample = tmp_path / "run", lambda params, step: f"after {step}: {params['embed'].shape}"
    events = []
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    first = run_of(path, events, on=stop_at(15, number), sample=sample)
    assert first["stopped"] == "interrupted" and 15 <= first["steps"] <= 19  # the step under way, and those queued
    assert checkpoints.steps(path)[-1] == first["steps"]
    assert ("stopping", {"signal": number.name, "step": first["steps"]}) in events
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    second = run_of(path, sample=sample, resume=path)
    assert second["stopped"] == "steps" and second["seconds"] > first["seconds"]
    assert_same_bits(state_at(path, 33), state_at(whole[0], 33))
    assert second["val_loss"] == whole[1]["val_loss"] and second["loss"] == whole[1]["loss"]
    steps = [(line["step"], "loss" in line) for line in lines_of(path)]
    assert steps == [(line["step"], "loss" in line) for line in lines_of(whole[0])]  # none twice, none missing
    assert (path / "samples.txt").read_text() == (whole[0] / "samples.txt").read_text()


def test_resuming_from_an_older_step_drops_what_came_after_and_only_by_force(whole, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(whole[0], path)
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"step": 34, "lo')  # what a kill leaves
    with pytest.raises(UserError, match="--force"):
        run_of(path, resume=path / "checkpoints" / "20")
    assert checkpoints.steps(path) == [10, 20, 30, 33]
    result = run_of(path, resume=path / "checkpoints" / "20", force=True, sample=lambda params, step: f"after {step}: {params['embed'].shape}")
    assert result["steps"] == 33
    assert (path / "samples.txt").read_text() == (whole[0] / "samples.txt").read_text()
    assert lines_of(path, "timeless") == lines_of(whole[0], "timeless")
    assert_same_bits(state_at(path, 33), state_at(whole[0], 33))


def test_other_config_or_data_cannot_resume(whole):
    path = whole[0]
    with pytest.raises(UserError, match=r"optim.lr: 0.01 → 0.5.*set these back"):
        run_of(path, resume=path, optim={"lr": 0.5, "warmup_steps": 5})
    with pytest.raises(UserError, match="train.grad_accum: 2 → 1"):
        run_of(path, resume=path, train={"grad_accum": 1})
    with pytest.raises(UserError, match="data are not those"):
        run_of(path, resume=path, data=tiny_data(seed=1))
    with pytest.raises(UserError, match="no run folder"):
        run_of(path, resume=path.parent)
    assert runs.read_config(path).train.steps == 33


def test_a_longer_run_goes_on_and_says_what_that_means(whole, tmp_path):
    path, events = tmp_path / "run", []
    shutil.copytree(whole[0], path)
    result = run_of(path, events, resume=path, train={"steps": 50, "target_val_loss": 9.0})  # it has that loss already
    assert (result["stopped"], result["steps"]) == ("target", 33)
    assert any("33 to 50" in fields["text"] for event, fields in events if event == "notice")
    assert runs.read_config(path).train.steps == 50


def test_a_run_killed_before_its_first_checkpoint_starts_again(whole, tmp_path):
    path, events = tmp_path / "run", []
    runs.create_run(dataclasses.replace(config_at(path), model=runs.read_config(whole[0]).model))
    (path / "metrics.jsonl").write_text('{"step": 1, "loss": 9.9}\n')
    run_of(path, events, resume=path)
    assert any("no checkpoint yet" in fields["text"] for event, fields in events if event == "notice")
    assert lines_of(path, "timeless") == lines_of(whole[0], "timeless")
    with pytest.raises(UserError, match="optim.lr"):
        run_of(path, resume=path, optim={"lr": 0.5})


def test_stops_by_target_and_by_time(tmp_path, monkeypatch):
    result = run_of(tmp_path / "target", train={"target_val_loss": 9.0})
    assert (result["stopped"], result["steps"]) == ("target", 10) and result["val_loss"] <= 9.0
    monkeypatch.setattr(loop.Session, "seconds", lambda session: float(session.progress.step))
    result = run_of(tmp_path / "time", train={"max_seconds": 12.0})
    assert (result["stopped"], result["steps"]) == ("time", 12)
    assert checkpoints.steps(tmp_path / "time") == [10, 12] and lines_of(tmp_path / "time")[-1]["val_loss"] == result["val_loss"]


def poisoned(monkeypatch, step, poison):
    """The loop's compiled step, with `poison(state, facts)` applied after the step of that number."""
    make_step = loop.make_step

    def make(*args):
        inner, count = make_step(*args), [0]

        def step_fn(state, batch):
            state, facts = inner(state, batch)
            count[0] += 1
            return poison(state, facts) if count[0] == step else (state, facts)

        return step_fn

    monkeypatch.setattr(loop, "make_step", make)


NAN = np.float32(np.nan)


@pytest.mark.parametrize(
    "step, poison, said, kept",
    [
        (20, lambda state, facts: (state, facts | {"loss": NAN}), "loss became nan at step 20", [10]),
        (20, lambda state, facts: (state, facts | {"grad_norm": NAN}), "gradient became nan at step 20", [10]),
        (23, lambda state, facts: (state, facts | {"loss": facts["loss"] + 4.0}), r"exploded to \d.\d+ at step 23", [10, 20]),
        (20, lambda state, facts: (state._replace(params=state.params | {"embed": state.params["embed"] * NAN}), facts), "weights.* step 20", [10, 15]),
    ],
    ids=["loss", "gradient", "explosion", "weights"],
)
def test_divergence_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, step, poison, said, kept):
    poisoned(monkeypatch, step, poison)
    with pytest.raises(TrainingDiverged, match=said) as error:
        run_of(tmp_path / "run", train={"eval_interval": 15 if kept == [10, 15] else 10})  # an evaluation would see bad weights too
    assert error.value.step == step and isinstance(error.value, UserError)
    assert "\n" not in str(error.value) and f"checkpoints/{kept[-1]} is the last good" in str(error.value)
    assert checkpoints.steps(tmp_path / "run") == kept
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert np.isfinite(runs.load_run(tmp_path / "run").params["embed"]).all()


def test_a_jump_during_warm_up_is_no_explosion(tmp_path, monkeypatch):
    poisoned(monkeypatch, 12, lambda state, facts: (state, facts | {"loss": facts["loss"] + 9.0}))
    assert run_of(tmp_path / "run", on=stop_at(20))["stopped"] == "interrupted"


@pytest.mark.slow
def test_a_rate_that_is_far_too_high_is_caught(tmp_path):
    with pytest.raises(TrainingDiverged, match="optim.lr"):
        run_of(tmp_path / "run", optim={"lr": 1e30, "grad_clip": "none", "schedule": "constant", "warmup_steps": 0})


def test_missing_matplotlib_is_one_notice(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    events = []
    assert run_of(tmp_path / "run", events)["stopped"] == "steps"
    assert [f["text"] for e, f in events if e == "notice"] == ["no curves.png: matplotlib is missing; pip install 'pikojax[plot]'"]


def test_an_error_of_the_data_surfaces_and_the_lock_is_let_go(tmp_path):
    tokens = np.zeros(400_000, np.uint16)
    tokens[70_000:-70_000] = 12  # both ends are looked at before the run begins
    bad = tiny_data()._replace(train=TokenStream.of(tokens, 11))
    with pytest.raises(UserError, match="vocabulary"):
        run_of(tmp_path / "run", data=bad)
    with runs.lock(tmp_path / "run"):
        pass


def test_a_second_ctrl_c_aborts():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a script starts with & ignores it
    try:
        with pytest.raises(KeyboardInterrupt), signals.catch() as asked:
            os.kill(os.getpid(), signal.SIGINT)
            assert asked.name == "SIGINT"
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_full_disk_under_the_metrics_is_one_line(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with metrics.Log(tmp_path) as log:
        os.dup2(os.open("/dev/full", os.O_WRONLY), log._file)
        with pytest.raises(UserError, match=r"No space left on device.*--resume"):
            log.write({"step": 1, "loss": 2.0})


def test_event_file_holds_the_numbers_that_tensorboard_reads(tmp_path):
    assert metrics._checksum(b"123456789") == struct.pack("<I", ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF)
    with metrics.Log(tmp_path, tensorboard=True) as log:
        log.write({"step": 300, "loss": 2.5, "lr": None, "tokens": 7, "seconds": 1.0})
    (file,) = (tmp_path / "tensorboard").iterdir()
    data, records = file.read_bytes(), []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        assert data[8:12] == metrics._checksum(data[:8]) and data[12 + size : 16 + size] == metrics._checksum(data[12 : 12 + size])
        records.append(data[12 : 12 + size])
        data = data[16 + size :]
    assert b"brain.Event:2" in records[0] and len(records) == 3
    # field 2 (step) = 300, field 5 (summary) { field 1 (value) { field 1 (tag) "loss", field 2 (float) 2.5 } }
    assert records[2][9:] == b"\x10\xac\x02" + b"\x2a\x0d\x0a\x0b" + b"\x0a\x04loss" + b"\x15" + struct.pack("<f", 2.5)


def test_curves_are_drawn_from_any_metrics(tmp_path):
    assert plots.draw(tmp_path) is None
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 2.0, "lr": 0.1, "grad_norm": 1.0, "tokens": 8, "tokens_per_s": null}\n')
    assert plots.draw(tmp_path).read_bytes()[:4] == b"\x89PNG"
    with open(file, "a") as out:
        out.write('{"step": 2, "val_loss": 1.0, "val_bits_per_byte": null, "tokens": 8}\n{"step": 3, "diverged": "x"}\n')
    plots.draw(tmp_path)
    assert not list(tmp_path.glob(".curves*"))
