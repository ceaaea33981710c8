"""A model's name on the Hugging Face hub, "org/name", → a folder on this machine: from the hub's local cache, else downloaded.

    folder("HuggingFaceTB/SmolLM2-135M")   →   ~/.cache/huggingface/hub/models--HuggingFaceTB--SmolLM2-135M/snapshots/<commit>

The cache is read as it lies, without the hub's package; downloading needs it (`pip install 'pikojax[hub]'`) and a network, and fetches
what is read here alone: no pickles. HF_HUB_CACHE, HF_HOME and HF_HUB_OFFLINE mean what they mean to that package.

Leaves out: revisions other than main, private models (whose token that package knows), data sets.
"""

import os
import re
from pathlib import Path

from pikojax.config import UserError
from pikojax.formats.huggingface import CONFIG, pickle_in

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
WANTED_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken"]


def is_name(text: str) -> bool:
    """Whether it could be a model there, and no mistyped path: of that the folder is here."""
    return NAME.fullmatch(text) is not None and not Path(text.partition("/")[0]).exists()


def folder(name: str) -> Path:
    return _cached(name) or _downloaded(name)


def _cached(name: str) -> Path | None:
    cache = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface") / "hub"
    here = Path(cache).expanduser() / f"models--{name.replace('/', '--')}"
    try:
        commit = (here / "refs" / "main").read_text().strip()
        snapshot = here / "snapshots" / commit
        weights = any(file.exists() for file in snapshot.glob("*.safetensors")) or pickle_in(snapshot)  # of pickles the reader says why not
        return snapshot if re.fullmatch(r"\w+", commit) and (snapshot / CONFIG).is_file() and weights else None
    except (OSError, ValueError):
        return None


def _downloaded(name: str) -> Path:
    said = f"{name} is no file or folder here, and no model in the local cache of the Hugging Face hub"
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"{said}; to download it run: pip install 'pikojax[hub]'") from None
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=WANTED_FILES))
    except Exception as error:  # its own kinds, those of its network library, and the system's
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{said}, and cannot be downloaded ({why}); check the name and the network") from None
