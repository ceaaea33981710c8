"""A run folder: config.toml (resolved), tokenizer.json, metrics.jsonl, samples.txt, curves.png, checkpoints/.

`create_run` makes one, `lock` keeps a second trainer out, `load_run` gives a trained model back. A folder that exists is
replaced only when asked to, and only if it is a run folder: its config.toml opens with HEADER. What else lies in it stays.

Leaves out: reading the checkpoints (`checkpoints.py`), writing them (`pikojax.train.checkpoint`).
"""

import contextlib
import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pikojax.config import Config, UserError, config_from_dict, to_toml, user_path
from pikojax.formats import checkpoints

CONFIG = checkpoints.CONFIG
TOKENIZER, METRICS, SAMPLES, CURVES, EVENTS = (
    "tokenizer.json",
    "metrics.jsonl",
    "samples.txt",
    "curves.png",
    "tensorboard",
)
HEADER = "# A pikojax run: every setting it was trained with.\n"
_OWN = (checkpoints.FOLDER, EVENTS, METRICS, SAMPLES, CURVES, TOKENIZER, CONFIG)  # the config goes last: it marks the folder


class Loaded(NamedTuple):
    config: Config
    model: Any  # pikojax.models.layers.Model
    params: dict
    tokenizer: Any  # None where the run was trained on ready-made tokens
    step: int


def create_run(config: Config, tokenizer=None, force: bool = False) -> Path:
    """Makes the folder `config.run.dir` with its config and tokenizer. `force` replaces a run that is there already."""
    if config.run.dir is None:
        raise UserError("run.dir is not set; give it a folder, as in run.dir=runs/first")
    path = user_path(config.run.dir, "run.dir")
    refuse_taken(path, force)
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with lock(path):
            refuse_taken(path, force)  # again: another trainer may have come first
            for name in _OWN:
                _remove(path / name)
            if tokenizer is not None:
                beside = path / f".{os.getpid()}.{TOKENIZER}"
                tokenizer.save(beside)
                os.replace(beside, path / TOKENIZER)
            write_config(path, config)  # last: it makes the folder a run
    return path


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds the run folder against other trainers. The kernel lets go of it however this process ends."""
    import fcntl

    with _writing(path):
        handle = open(path / ".lock", "a+")  # noqa: SIM115
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            pid = handle.read().strip() or "unknown"
            raise UserError(f"another trainer (process {pid}) is at work in {path}; wait for it or use another run.dir") from None
        with _writing(path):
            handle.truncate(0)
            handle.write(f"{os.getpid()}\n")
            handle.flush()
        yield


def is_run(path: Path) -> bool:
    try:
        with open(path / CONFIG, encoding="utf-8") as file:
            return file.readline() == HEADER
    except (OSError, UnicodeDecodeError):
        return False


def write_config(path: Path, config: Config) -> None:
    write_atomically(path / CONFIG, HEADER + to_toml(config))


def read_config(path: Path) -> Config:
    try:
        return config_from_dict(tomllib.loads((path / CONFIG).read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{path} is no run folder ({CONFIG}: {error.strerror}); give the folder that a training run made") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path / CONFIG} is damaged ({' '.join(str(error).split())}); mend it or train anew") from None


def write_atomically(path: Path, text: str) -> None:
    """Readers see the old file or the new one, never half of either."""
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with _writing(path), open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with _writing(path):
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load_run(path, step: int | str | None = None, mesh=None) -> Loaded:
    """The model of a run folder or of RUN/checkpoints/STEP: the latest checkpoint, that `step`, or the "best" one.

    The float32 parameters land on the first device, or as `mesh` lays them out; on how many they were trained does not matter.
    """
    import jax

    from pikojax.models import catalog
    from pikojax.models.sharding import params_sharding

    run, named = checkpoints.locate(user_path(path, "the run"))
    if not run.is_dir():
        raise UserError(f"no run folder {str(path)!r}; give the folder that a training run made")
    config = read_config(run)
    model = catalog[config.model.name]
    step = checkpoints.choose(run, named if step is None else step)
    shapes = jax.eval_shape(lambda key: model.init(config.model, key), jax.random.key(0))
    places = params_sharding(mesh, model.axes(config.model), shapes)
    abstract = jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, places)
    params = checkpoints.read_arrays(run, step, {"params": abstract})["params"]
    return Loaded(config, model, params, _load_tokenizer(run), step)


def _load_tokenizer(run: Path):
    if not (run / TOKENIZER).is_file():
        return None
    from pikojax import text

    return text.load(run / TOKENIZER)


def refuse_taken(path: Path, force: bool) -> None:
    """Raises where a new run may not be written. Cheap, so that it can be asked before anything long."""
    if not path.exists():
        return
    if not path.is_dir():
        raise UserError(f"run.dir = {str(path)!r} is a file; give a folder")
    with _writing(path):
        taken = [name for name in os.listdir(path) if not name.startswith(".")]  # a lock, or what a killed start left
    if not taken:
        return
    if not force:
        raise UserError(f"{path} is not empty; go on with --resume {path}, replace it with --force, or give another run.dir")
    if not is_run(path):
        raise UserError(f"{path} is not empty and no run folder, so it is not replaced; give another run.dir")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); give a writable run.dir with space on its disk") from None
