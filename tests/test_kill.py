"""kill -9 at twenty random moments, resumed each time: the weights, the optimizer and the log are those of the run nobody touched."""

import multiprocessing
import random
import time

import jax
import numpy as np
import pytest
from test_loop import assert_same_bits, config_at, lines_of, state_at, tiny_data

from pikojax.formats import checkpoints
from pikojax.formats import run as runs
from pikojax.train import loop

STEPS, INTERVAL = 600, 5


def config_of(path):
    return config_at(
        path,
        train={"steps": STEPS, "eval_interval": 20, "sample_interval": 20},
        checkpoint={"interval": INTERVAL, "keep": 3},
        optim={"name": "muon", "warmup_steps": 5},
    )


def child(path, cache, told):
    """Trains in `path`, resuming what is there; sends each step that was looked at."""
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

    def report(event, fields):
        if event in ("start", "step", "done"):
            told.send((event, fields.get("step")))

    resume = path if runs.is_run(path) else None
    loop.train(config_of(path), tiny_data(), resume=resume, report=report, sample=lambda params, step: f"text {step}")


def start(context, path, cache):
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(path, cache, there))
    process.start()
    there.close()
    return process, here


def finish(process, told):
    """Waits for the end of a child and gives what it told."""
    out = []
    try:
        while True:
            out.append(told.recv())
    except EOFError:
        process.join()
    return out


@pytest.mark.parametrize("kills", [pytest.param(2, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.exhaustive)])
def test_kills_change_no_bit(tmp_path, kills):
    context = multiprocessing.get_context("forkserver")  # the imports, seconds, are paid once
    context.set_forkserver_preload(["test_kill", "orbax.checkpoint.experimental.v1"])
    whole, path, cache = tmp_path / "whole", tmp_path / "run", str(tmp_path / "compiled")
    process, told = start(context, whole, cache)
    assert finish(process, told)[-1][0] == "done" and process.exitcode == 0

    chance, resumed_from, startup_s = random.Random(0), [], 1.0
    for kill in range(kills):
        process, told = start(context, path, cache)
        if kill % 5 == 4:  # some while it is starting, most while it trains and saves
            time.sleep(chance.uniform(0, startup_s))
        else:
            began_s, lines = time.monotonic(), chance.randint(1, 5)
            while lines:
                lines -= told.recv()[0] == "step"
            startup_s = time.monotonic() - began_s
            time.sleep(chance.uniform(0, 0.05))
        process.kill()
        seen = max([step for event, step in finish(process, told) if event == "step"], default=0)
        assert process.exitcode == -9, "it ended before it was killed: make STEPS larger"
        present = checkpoints.steps(path)
        resumed_from.append(present[-1] if present else 0)
        # What may be lost: the interval that was running, and the one whose checkpoint was still being written.
        assert resumed_from[-1] >= seen - 2 * INTERVAL, (resumed_from, seen)
    assert len(set(resumed_from)) > kills // 3, resumed_from  # the kills did fall into the training

    process, told = start(context, path, cache)
    finish(process, told)
    assert process.exitcode == 0
    assert_same_bits(state_at(path, STEPS), state_at(whole, STEPS))
    assert lines_of(path, "timeless") == lines_of(whole, "timeless")
    steps = [(line["step"], "loss" in line) for line in lines_of(path)]
    assert len(steps) == len(set(steps)) and len(steps) == 1 + STEPS // 5 + STEPS // 20
    assert (path / "samples.txt").read_text() == (whole / "samples.txt").read_text()
    assert np.isfinite(runs.load_run(path).params["embed"]).all()
    print(f"resumed from {resumed_from}")
