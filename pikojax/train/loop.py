"""The one training loop: batch → step, and round it evaluations, samples, checkpoints, metrics and the reasons to stop.

    for batch in prefetch(data, first_step): state, facts = step(state, batch)

`step` is compiled and pure, a batch depends on (seed, step) alone, a step's random key too: so a run that is taken up from a
checkpoint gives the same bits as one that never stopped. The host only queues work; it looks at results two steps late
(`meter.py`). At a step where several things are due they come in this order: metrics, evaluation, checkpoint, sample. So a
checkpoint is only written after its step's loss was seen to be sound, and a resumed run repeats none of them.

Leaves out: several processes; variants pass a `loss_fn` and never fork this file.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jax

from pikojax.config import Config, UserError
from pikojax.data.batches import prefetch
from pikojax.data.prepare import resolve_vocab
from pikojax.formats import checkpoints
from pikojax.formats import run as runs
from pikojax.models.sharding import batch_sharding, count_parameters, make_mesh
from pikojax.train import checkpoint, metrics, plots, signals
from pikojax.train.evaluate import make_evaluate
from pikojax.train.loss import next_token_loss
from pikojax.train.meter import Meter, TrainingDiverged
from pikojax.train.step import TrainState, abstract_state, init_state, make_step

PLOT_SHARE = 0.01  # of the run's time at the most goes into drawing curves.png on the way
FIRST_PLOT_S = 1.0  # what the first drawing is taken to cost

Report = Callable[[str, dict], None]


@dataclass
class Progress:
    """What the run knows beside the TrainState; it goes into each checkpoint's note."""

    step: int = 0
    seconds: float = 0.0  # up to the checkpoint, over all starts
    smoothed_loss: float | None = None
    val_loss: float | None = None  # of the last evaluation
    val_bits_per_byte: float | None = None
    val_step: int | None = None
    best_val_loss: float | None = None
    best_step: int | None = None


@dataclass
class Session:
    """One start of the loop: what it works with, and what it has done so far."""

    config: Config
    dataset: object
    run: Path
    data: dict  # its fingerprint
    report: Report
    sample: Callable | None
    evaluate: Callable
    store: checkpoint.Checkpoints
    log: metrics.Log
    meter: Meter
    progress: Progress
    began_s: float
    first_step: int
    saved_step: int | None
    sampled_step: int | None = None
    compile_s: float = 0.0
    eval_s: list[float] = field(default_factory=list)
    drawn_s: float = 0.0
    plots: bool = True

    def seconds(self) -> float:
        """Wall-clock of the run, over all its starts: compiling, evaluating and saving included."""
        return self.progress.seconds + time.perf_counter() - self.began_s


def train(
    config: Config,
    dataset,
    *,
    resume: Path | None = None,
    sample: Callable | None = None,
    report: Report = lambda event, fields: None,
    force: bool = False,
    loss_fn: Callable = next_token_loss,
    frozen=None,
) -> dict:
    """Trains to the end that `config.train` sets, in the new folder `config.run.dir` or on in that of `resume`.

    `resume` is RUN (its latest checkpoint) or RUN/checkpoints/STEP. `sample(params, step)` gives the text of a sample. `report` is
    told of start, notice, step, eval, checkpoint, sample, stopping and done. Raises TrainingDiverged where the loss does.
    """
    began_s = time.perf_counter()
    config = resolve_vocab(config, dataset)
    mesh, data = make_mesh(config.mesh), checkpoint.fingerprint(dataset)
    run, step = (runs.create_run(config, dataset.tokenizer, force), None) if resume is None else checkpoints.locate(resume)
    if resume is not None and not runs.is_run(run):
        raise UserError(f"cannot resume {str(resume)!r}: it is no run folder; give RUN or RUN/checkpoints/STEP")
    with runs.lock(run), signals.catch() as asked:
        state, progress = _start(config, mesh, run, step, data, resume is not None, force, report)
        evaluate, step_fn = make_evaluate(config, mesh, loss_fn, frozen), make_step(config, mesh, loss_fn, frozen)
        with (
            checkpoint.Checkpoints(run, config.checkpoint) as store,
            metrics.Log(run, progress.step, config.train.tensorboard) as log,
            prefetch(dataset.train, config, progress.step, _to_device(mesh)) as batches,
        ):
            store.drop_after(progress.step)
            session = Session(
                config, dataset, run, data, report, sample, evaluate, store, log, None, progress, began_s,
                first_step=progress.step, saved_step=progress.step or None,
            )  # fmt: skip
            session.meter = Meter(config, progress.smoothed_loss, lambda facts: _write_step(session, facts))
            report("start", _facts_of_start(session, state, mesh))
            return _run(session, state, step_fn, batches, asked)


def _start(config, mesh, run, step, data, resumed, force, report) -> tuple[TrainState, Progress]:
    """A new state, or the checkpoint's, once it is clear that it belongs to this config and these data."""
    present = checkpoints.steps(run)
    if resumed and (present or step is not None):
        step = checkpoints.choose(run, step)
        later = [s for s in present if s > step]
        if later and not force:
            raise UserError(
                f"{run} goes on to step {later[-1]}; resume it from there with --resume {run}, or give --force to go on"
                f" from step {step} and drop what comes after it"
            )
        meta = checkpoints.read_meta(run, step)
        for note in checkpoint.check_resumable(meta, config, data, run):
            report("notice", {"text": note})
        state = checkpoint.restore(run, step, abstract_state(config, mesh))
        runs.write_config(run, _at(config, run))
        return state, Progress(**meta["progress"])
    if resumed:
        checkpoint.refuse_other(runs.read_config(run), config, run)
        report("notice", {"text": f"{run} holds no checkpoint yet: it starts again from the beginning"})
    return init_state(config, mesh), Progress()


def _run(session: Session, state: TrainState, step_fn, batches, asked) -> dict:
    first_wait_s, stopped = None, None
    try:
        while (stopped := _reason_to_stop(session, asked)) is None:
            batch = next(batches)
            first_wait_s = batches.waited_s if first_wait_s is None else first_wait_s
            called_s = time.perf_counter()
            state, facts = step_fn(state, batch)
            session.progress.step += 1
            if session.progress.step == session.first_step + 1:
                session.compile_s = time.perf_counter() - called_s
            session.meter.add(session.progress.step, facts)
            _what_is_due(session, state)
        session.meter.drain()
        if stopped == "interrupted":
            session.report("stopping", {"signal": asked.name, "step": session.progress.step})
        elif session.progress.val_step != session.progress.step:
            _evaluate(session, state.params)
        seconds = session.seconds()
        _save(session, state)
        if stopped != "interrupted":
            _sample(session, state.params)
        session.store.wait()
    except TrainingDiverged as error:
        raise _after_divergence(session, error) from None
    _draw(session, last=True)
    result = _result(session, state, stopped, seconds, batches.waited_s - (first_wait_s or 0.0))
    session.report("done", result)
    return result


def _reason_to_stop(session: Session, asked) -> str | None:
    train, progress = session.config.train, session.progress
    if asked.name is not None:
        return "interrupted"
    fresh = progress.val_step is not None and progress.val_step == progress.step
    if train.target_val_loss is not None and fresh and progress.val_loss <= train.target_val_loss:
        return "target"
    if progress.step >= train.steps:
        return "steps"
    if train.max_seconds is not None and session.seconds() >= train.max_seconds:
        return "time"
    return None


def _what_is_due(session: Session, state: TrainState) -> None:
    train, step = session.config.train, session.progress.step
    if step % train.eval_interval == 0:
        _evaluate(session, state.params)
        _draw(session)
    best = session.config.checkpoint.keep_best and session.progress.best_step == step
    if step % session.config.checkpoint.interval == 0 or best:
        _save(session, state)
    if step % (train.sample_interval or train.eval_interval) == 0:
        _sample(session, state.params)


def _evaluate(session: Session, params) -> None:
    progress = session.progress
    with session.meter.paused():
        began_s = time.perf_counter()
        found = session.evaluate(params, session.dataset.val)
        session.eval_s.append(time.perf_counter() - began_s)
    facts = {"step": progress.step, **found, "tokens": progress.step * session.meter.tokens_per_step, "seconds": session.seconds()}
    session.log.write(facts)
    loss = found["val_loss"]
    if not math.isfinite(loss):
        raise TrainingDiverged(f"the validation loss became {loss} at step {progress.step}", progress.step)
    progress.val_loss, progress.val_bits_per_byte, progress.val_step = loss, found["val_bits_per_byte"], progress.step
    if progress.best_val_loss is None or loss < progress.best_val_loss:
        progress.best_val_loss, progress.best_step = loss, progress.step
    session.report("eval", {**facts, "eval_s": session.eval_s[-1], "best": progress.best_step == progress.step})


def _save(session: Session, state: TrainState) -> None:
    """Nothing is saved unless every weight is finite; a loss only tells of the weights before its step."""
    progress = session.progress
    if session.saved_step == progress.step or progress.step == 0:
        return
    with session.meter.paused():
        if not _all_finite(state.params):
            raise TrainingDiverged(f"the weights became infinite or NaN at step {progress.step}", progress.step)
        began_s = time.perf_counter()
        noted = dataclasses.replace(progress, seconds=session.seconds(), smoothed_loss=session.meter.smoothed)
        val_loss = progress.val_loss if progress.val_step == progress.step else None
        note = checkpoint.make_meta(
            _at(session.config, session.run), session.data, step=progress.step, val_loss=val_loss, progress=dataclasses.asdict(noted)
        )
        session.store.save(state, note)
        session.saved_step = progress.step
    path = checkpoints.folder(session.run, progress.step)
    session.report("checkpoint", {"step": progress.step, "path": str(path), "held_up_s": time.perf_counter() - began_s})


def _sample(session: Session, params) -> None:
    step = session.progress.step
    if session.sample is None or session.sampled_step == step:
        return
    with session.meter.paused():
        text = session.sample(params, step)
    session.sampled_step = step
    session.log.sample(step, text)
    session.report("sample", {"step": step, "text": text})


def _write_step(session: Session, facts: dict) -> None:
    seconds = session.seconds()
    session.log.write({**facts, "seconds": seconds})
    session.report("step", {**facts, "seconds": seconds, "step_s": session.meter.step_s, "eta_s": _time_left(session, facts["step"])})


def _time_left(session: Session, step: int) -> float | None:
    train = session.config.train
    if session.meter.step_s is None:
        return None
    left_s = (train.steps - step) * session.meter.step_s
    if session.eval_s:
        evals = train.steps // train.eval_interval - step // train.eval_interval
        left_s += evals * session.eval_s[-1]  # the first one compiled
    return left_s if train.max_seconds is None else max(0.0, min(left_s, train.max_seconds - session.seconds()))


def _draw(session: Session, last: bool = False) -> None:
    """On the way only as often as it stays a small share of the time, the last time always."""
    cost_s, run_s = max(session.drawn_s, FIRST_PLOT_S), time.perf_counter() - session.began_s
    if not session.plots or (not last and cost_s > PLOT_SHARE * run_s):
        return
    began_s = time.perf_counter()
    try:
        with contextlib.nullcontext() if last else session.meter.paused():
            plots.draw(session.run)
    except ImportError:
        session.plots = False
        session.report("notice", {"text": "no curves.png: matplotlib is missing; pip install 'pikojax[plot]'"})
    except OSError as error:
        session.report("notice", {"text": f"no curves.png ({error.strerror})"})
    session.drawn_s += time.perf_counter() - began_s


def _after_divergence(session: Session, error: TrainingDiverged) -> TrainingDiverged:
    """The same with the way back: waits for the save under way, so that the checkpoint it names is whole."""
    session.store.wait()
    session.log.write({"step": error.step, "diverged": str(error)})
    _draw(session, last=True)
    good = checkpoints.steps(session.run)
    kept = f"{checkpoints.folder(session.run, good[-1])} is the last good checkpoint" if good else "no checkpoint had been written"
    advice = "start anew with a lower optim.lr or a longer optim.warmup_steps"
    return TrainingDiverged(f"{error}; {kept}; {advice}", error.step)


def _facts_of_start(session: Session, state: TrainState, mesh) -> dict:
    devices = jax.devices() if mesh is None else list(mesh.devices.flat)
    count = 1 if mesh is None else len(devices)
    return {
        "run": str(session.run),
        "parameters": count_parameters(state.params),
        "device": (f"{count} × " if count > 1 else "") + devices[0].device_kind,
        "data": session.dataset.description,
        "step": session.progress.step,
        "steps": session.config.train.steps,
        "tokens_per_step": session.meter.tokens_per_step,
        "vocab_size": session.config.model.vocab_size,
    }


def _result(session: Session, state: TrainState, stopped: str, seconds: float, waited_s: float) -> dict:
    progress, meter = session.progress, session.meter
    return {
        "run": str(session.run),
        "stopped": stopped,
        "steps": progress.step,
        "tokens": progress.step * meter.tokens_per_step,
        "parameters": count_parameters(state.params),
        "seconds": seconds,
        "loss": meter.smoothed,
        "val_loss": progress.val_loss,
        "val_bits_per_byte": progress.val_bits_per_byte,
        "best_val_loss": progress.best_val_loss,
        "best_step": progress.best_step,
        "tokens_per_s": meter.tokens_per_s,
        "step_s": meter.timed_s / meter.timed_steps if meter.timed_steps else None,
        "compile_s": session.compile_s,
        "eval_s": math.fsum(session.eval_s),
        "data_wait_fraction": waited_s / meter.timed_s if meter.timed_s else None,
    }


def _to_device(mesh) -> Callable:
    place = batch_sharding(mesh, batch_axis=1)
    return lambda batch: jax.device_put(batch, place)


def _all_finite(params) -> bool:
    """One leaf at a time, fetched to the device where it lives in host memory."""
    found = []
    for leaf in jax.tree.leaves(params):
        if leaf.sharding.memory_kind == "pinned_host":
            leaf = jax.device_put(leaf, leaf.sharding.with_memory_kind("device"))
        found.append(_finite_leaf(leaf))
    return all(map(bool, jax.device_get(found)))


@jax.jit
def _finite_leaf(leaf):
    return jax.numpy.isfinite(leaf).all()


def _at(config: Config, run: Path) -> Config:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, dir=str(run)))
