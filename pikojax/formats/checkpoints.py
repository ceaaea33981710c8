"""The checkpoints of a run folder: which there are, what one says of itself, its arrays.

RUN/checkpoints/STEP is an Orbax folder with two trees, `params` and `training` (step, optimizer state), and a JSON note, `meta`.
Orbax writes under a temporary name and renames, so a folder that bears a step's number is whole. This file only reads, beside
a trainer too; `pikojax.train.checkpoint` writes.

Leaves out: other formats of weights (their own files).
"""

import contextlib
import gc
import logging
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from pikojax.config import UserError

FOLDER = "checkpoints"
CONFIG = "config.toml"  # of the run
_META = "_CHECKPOINT_METADATA"  # Orbax puts it into every finished checkpoint
_ERRNO = re.compile(r"os_error_code='(\d+)'")  # in the text of tensorstore's errors
_STORED = re.compile(r"Requested shape: \(.*?\) is not compatible with the stored shape: \(.*?\)")
_SHORT = re.compile(r"Requested byte range \[.*?\) is not valid for value of size \d+")


def steps(run: Path) -> list[int]:
    """The steps that have a finished checkpoint, ascending."""
    try:
        names = [entry.name for entry in (run / FOLDER).iterdir() if entry.name.isdigit() and (entry / _META).is_file()]
    except OSError:
        return []
    return sorted(map(int, names))


def folder(run: Path, step: int) -> Path:
    return run / FOLDER / str(step)


def locate(path: Path) -> tuple[Path, int | None]:
    """(run folder, step) of RUN or RUN/checkpoints/STEP; the step is None when only the run is named."""
    path = Path(path)
    if (path / CONFIG).is_file():  # a run may itself be called "checkpoints"
        return path, None
    resolved = path.resolve()
    if resolved.parent.name == FOLDER and resolved.name.isdigit():
        return path.parent.parent if len(path.parts) > 2 else resolved.parent.parent, int(resolved.name)
    if resolved.name == FOLDER and (resolved.parent / CONFIG).is_file():
        return path.parent if len(path.parts) > 1 else resolved.parent, None
    return path, None


def choose(run: Path, step: int | str | None) -> int:
    """The step that `step` means: None the latest, "best" the lowest validation loss, a number itself."""
    present = steps(run)
    if not present:
        raise UserError(f"{run} holds no finished checkpoint; train it first: the first one is written after checkpoint.interval steps")
    if step is None:
        return present[-1]
    if step == "best":
        by_loss = {s: read_meta(run, s).get("val_loss") for s in present}
        scored = {s: loss for s, loss in by_loss.items() if loss is not None and math.isfinite(loss)}
        return min(scored, key=scored.get) if scored else present[-1]
    if step not in present:
        raise UserError(f"{run} has no checkpoint of step {step}; there are: {', '.join(map(str, present))}")
    return step


def read_meta(run: Path, step: int) -> dict:
    """What the trainer noted beside the arrays: config, losses, seconds."""
    from orbax.checkpoint import v1 as ocp

    try:
        meta = ocp.checkpointables_metadata(folder(run, step).resolve()).custom_metadata
    except Exception as error:  # Orbax, tensorstore and json each have their own
        raise _unreadable(run, step, error) from None
    if not isinstance(meta, dict) or "config" not in meta:
        raise UserError(f"{folder(run, step)} is no checkpoint of a pikojax run; give a run folder or RUN/checkpoints/STEP")
    return meta


def read_arrays(run: Path, step: int, abstract: Mapping) -> dict:
    """{"params": tree, …} for the trees of ShapeDtypeStruct (with shardings) in `abstract`, placed as those say."""
    from orbax.checkpoint import v1 as ocp

    failure = None
    with _quiet():
        try:
            return dict(ocp.load_checkpointables(folder(run, step).resolve(), dict(abstract)))
        except Exception as error:
            failure = _unreadable(run, step, error)
        # The reads that were under way end with errors of their own, told to nobody: let that happen while it is quiet.
        time.sleep(0.2)
        gc.collect()
    raise failure


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Mutes what Orbax and its event loops print beside the error that they raise, and their advice."""
    logger, hook = logging.getLogger("asyncio"), sys.unraisablehook
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.unraisablehook = hook
        logger.setLevel(level)


def of_the_file_system(error: BaseException) -> bool:
    return isinstance(error, OSError) or _ERRNO.search(str(error)) is not None


def reason(error: BaseException) -> str:
    """One short line for an error, whether Python raised it, tensorstore, or Orbax over one of those."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    code = _ERRNO.search(str(error))
    if code:
        return os.strerror(int(code[1]))
    text = " ".join(str(error).split())
    told = _STORED.search(text) or _SHORT.search(text)
    return told[0] if told else text.partition("[tensorstore_spec")[0][:160] or type(error).__name__


def _unreadable(run: Path, step: int, error: Exception) -> UserError:
    others = [s for s in steps(run) if s != step]
    remedy = f"use {folder(run, others[-1])}" if others else "there is no other in this run"
    return UserError(f"cannot read the checkpoint {folder(run, step)} ({reason(error)}); {remedy}")
