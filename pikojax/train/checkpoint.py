"""Writing checkpoints while the training goes on, and taking a run up again where it stood.

`Checkpoints.save` copies the state off the device and returns; Orbax writes it in the background under a temporary name and
renames it, so that after a kill the newest finished checkpoint is whole. Kept are the newest `keep` and the best by
validation loss. `restore` gives back exactly what was saved, on any mesh, or refuses and says which settings differ.

Leaves out: several processes.
"""

import dataclasses
import functools
import logging
import shutil
import threading
import time
from pathlib import Path

from pikojax.config import CheckpointConfig, Config, UserError, config_from_dict, differing_keys
from pikojax.formats import checkpoints

VERSION = 1  # of the layout below and of what `meta` holds

# What may differ between a run and its continuation: none of it changes what the state means. A path may, since the data
# are told by their tokens.
_FREE_BLOCKS = ("run", "checkpoint", "mesh")
_FREE_KEYS = {
    "data.path",
    "tokenizer.path",
    *(
        f"train.{key}"
        for key in (
            "steps eval_interval sample_interval log_interval max_seconds target_val_loss remat offload_optimizer"
            " offload_params max_loss_jump tensorboard"
        ).split()
    ),
}


class Checkpoints:
    """The checkpoints of one run folder, open for writing. Closing it (or leaving its block) waits for the last save."""

    def __init__(self, run: Path, cfg: CheckpointConfig):
        self.run, self.cfg = run, cfg
        self._saving: int | None = None  # the step whose save is under way
        self._absl_level = logging.getLogger("absl").level
        try:
            (run / checkpoints.FOLDER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._failure(error) from None
        # Orbax takes half a second to import: let it happen while the first step compiles, and open it at the first save.
        threading.Thread(target=_import_orbax, daemon=True).start()

    @functools.cached_property
    def _manager(self):
        from orbax.checkpoint import v1 as ocp

        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(self.cfg.keep)]
        if self.cfg.keep_best:
            kept.append(policies.BestN(get_metric_fn=_val_loss, reverse=True, n=1, keep_checkpoints_without_metrics=False))
        saving = ocp.options.ArrayOptions.Saving(use_compression=False)  # it takes 8% off random-looking floats and half a core
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs each failed thread's traceback; we raise one line
        return ocp.training.Checkpointer(
            (self.run / checkpoints.FOLDER).resolve(),
            context=ocp.Context(array_options=ocp.options.ArrayOptions(saving=saving)),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(self.cfg.interval),
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,  # what a killed trainer left half-written
        )

    def save(self, state, meta: dict) -> None:
        """Starts saving `state`, a TrainState, once the save before has ended. `meta` is JSON; see `make_meta`."""
        step, loss = meta["step"], meta["val_loss"]
        trees = {"params": state.params, "training": {"step": state.step, "opt_state": state.opt_state}}
        self.wait()
        self._saving = step
        try:
            self._manager.save_checkpointables_async(
                step, trees, force=True, metrics=None if loss is None else {"val_loss": loss}, custom_metadata=meta
            )
        except Exception as error:
            raise self._failure(error) from None

    def wait(self) -> None:
        """Returns when nothing is being written; a save that failed in the background is told here."""
        try:
            self._manager.wait()
        except Exception as error:
            raise self._failure(error) from None
        self._saving = None

    def drop_after(self, step: int) -> None:
        """Removes what lies beyond `step`, where a run branches off from there."""
        for later in [s for s in checkpoints.steps(self.run) if s > step]:
            self._manager.delete(later)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        if "_manager" not in vars(self):
            return
        try:
            self.wait()
        finally:
            try:
                self._manager.close()
            except Exception as error:
                raise self._failure(error) from None
            finally:
                logging.getLogger("absl").setLevel(self._absl_level)

    def _failure(self, error: Exception) -> Exception:
        """One line for a write that the file system refused."""
        if not checkpoints.of_the_file_system(error):
            return error
        _sweep(self.run)
        whole = [s for s in checkpoints.steps(self.run) if s != self._saving]
        what = "open the checkpoints" if self._saving is None else f"write the checkpoint of step {self._saving}"
        kept = f"step {', '.join(map(str, whole))} is whole; " if whole else ""
        return UserError(
            f"cannot {what} in {self.run} ({checkpoints.reason(error)}); {kept}make room or mend the folder,"
            f" then{f' use --resume {self.run}' if whole else ' start again'}"
        )


def make_meta(config: Config, data: dict, *, step: int, val_loss: float | None, **progress) -> dict:
    """The note beside the arrays: what is needed to check and to take up the run again. `progress` is the loop's own."""
    import jax

    from pikojax import __version__

    return {
        "version": VERSION,
        "pikojax": __version__,
        "jax": f"jax {jax.__version__} on {jax.default_backend()}",
        "step": step,
        "config": dataclasses.asdict(config),
        "data": data,
        "val_loss": val_loss,
        **progress,
    }


def restore(run: Path, step: int, abstract):
    """The TrainState of that step, laid out as `abstract` (a TrainState of ShapeDtypeStruct with shardings) says."""
    training = {"step": abstract.step, "opt_state": abstract.opt_state}
    trees = checkpoints.read_arrays(run, step, {"params": abstract.params, "training": training})
    return type(abstract)(step=trees["training"]["step"], params=trees["params"], opt_state=trees["training"]["opt_state"])


def check_resumable(meta: dict, config: Config, data: dict, run: Path) -> list[str]:
    """Raises where the run's checkpoint does not fit `config` and `data`; returns what is allowed but worth a line."""
    import jax

    if meta.get("version") != VERSION:
        raise UserError(f"{run} was written as version {meta.get('version')} of checkpoints, this reads {VERSION}; train anew")
    old = config_from_dict(meta["config"])
    refuse_other(old, config, run)
    if meta["data"] != data:
        raise UserError(
            f"the data are not those that {run} was trained on ({_tokens(meta['data'])}, now {_tokens(data)}):"
            " give the same text and tokenizer or start a new run"
        )
    notes = []
    if old.train.steps != config.train.steps and config.optim.schedule != "constant":
        notes.append(
            f"train.steps goes from {old.train.steps} to {config.train.steps}: from here on the {config.optim.schedule}"
            " schedule is the longer run's, so this is not what one run of that length would have been"
        )
    now = f"jax {jax.__version__} on {jax.default_backend()}"
    if meta["jax"] != now:
        notes.append(f"saved by {meta['jax']}, going on with {now}: not bit for bit the same run")
    if old.mesh != config.mesh:
        notes.append("the mesh differs from the run's: sums round in another order, so not bit for bit the same run")
    return notes


def refuse_other(old: Config, config: Config, run: Path) -> None:
    """Raises where `config` would make another run of the one that was begun with `old`."""
    blocks = [f.name for f in dataclasses.fields(Config) if f.name not in _FREE_BLOCKS]
    differing = [key for key in differing_keys(old, config, blocks) if key.partition(":")[0] not in _FREE_KEYS]
    if differing:
        raise UserError(f"the run in {run} has another config: {'; '.join(differing)}; set these back or start a new run")


def fingerprint(dataset) -> dict:
    """Tells one dataset from another by sizes and a checksum of both ends of each split; where it lies does not matter."""
    import zlib

    import numpy as np

    out = {}
    for name in ("train", "val"):
        stream, checksum = getattr(dataset, name), 0
        n = min(len(stream), 65_536)
        for start in (0, len(stream) - n):
            checksum = zlib.crc32(np.ascontiguousarray(stream.read(start, n), dtype=np.int32), checksum)
        out[name] = {"size": len(stream), "crc32": checksum}
    return out


def _import_orbax() -> None:
    from orbax.checkpoint import v1  # noqa: F401


def _sweep(run: Path) -> None:
    """Removes the half-written folder, which would keep a full disk full. Other threads may still be writing into it."""
    clean, tries = 0, 0
    while clean < 4 and tries < 40:
        left = list((run / checkpoints.FOLDER).glob("*.orbax-checkpoint-tmp*"))
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)
        clean, tries = 0 if left else clean + 1, tries + 1
        time.sleep(0.05)


def _val_loss(metrics: dict) -> float:
    return metrics["val_loss"]


def _tokens(data: dict) -> str:
    return f"{data['train']['size']:,} + {data['val']['size']:,} tokens, checksum {data['train']['crc32']:08x}"
