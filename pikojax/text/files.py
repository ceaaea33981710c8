"""`load(path)`: a tokenizer.json, a folder that has one, or one of the older files, told apart by how they begin.

    {"model": …          tokenizer.json          IQ== 0           tiktoken's ranks
    a protobuf           SentencePiece .model    [PAD]\\n[UNK]…    BERT's vocab.txt        vocab.json + merges.txt: GPT-2's

Every kind becomes the tree of a tokenizer.json (see the readers), so that all behave, and save, alike.
A file that is not understood is refused in one line that names it.
"""

import json
import os
from importlib import import_module
from pathlib import Path

from pikojax.config import UserError, require
from pikojax.text import hf_json
from pikojax.text.sp_save import restore
from pikojax.text.tokenizer import Tokenizer
from pikojax.text.what_is import HEAD_BYTES, refuse_mistakes

IN_A_FOLDER = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")


def load(path: str | os.PathLike) -> Tokenizer:
    path = Path(path)
    file = _in_folder(path) if path.is_dir() else path
    try:
        return Tokenizer.from_tree(_tree(file))
    except UserError as error:
        said = str(error)
        raise UserError(said if str(file) in said else f"{file}: {said}") from None
    except (RecursionError, MemoryError, OverflowError):
        raise UserError(f"{file} is nested too deep or too large for a tokenizer; fetch it again") from None


def _in_folder(folder: Path) -> Path:
    found = next((folder / name for name in IN_A_FOLDER if (folder / name).is_file()), None)
    found = found or next(iter(sorted(folder.glob("*.tiktoken"))), None)
    return found or folder / "tokenizer.json"


def _tree(file: Path) -> dict:
    try:
        with open(file, "rb") as opened:
            head = opened.read(4096)
    except OSError as error:
        raise UserError(f"cannot read the tokenizer {file} ({error.strerror}); give a tokenizer.json or a folder that has one") from None
    if head.lstrip()[:1] == b"{":
        if (file.name == "vocab.json" or _beside(file)) and b'"model"' not in head and b'"added_tokens"' not in head:
            return _reader("vocab_files", "read_gpt2", file)
        return _with_names(restore(hf_json.read_tree(file)), file)
    for module, looks, read in _READERS:
        looks_like = getattr(_module(module), looks, None)
        if looks_like is not None and looks_like(head):
            return _reader(module, read, file)
    refuse_mistakes(file, head[:HEAD_BYTES])
    return hf_json.read_tree(file)  # which says that it is not JSON


def _with_names(tree: dict, file: Path) -> dict:
    """`tokenizer_config.json` beside a tokenizer.json says which token ends a text, begins it, or fills a row."""
    try:
        config = json.loads(hf_json.read_limited(file.parent / "tokenizer_config.json"))
    except UserError as error:
        if "larger than" in str(error):
            raise
        return tree
    except (OSError, ValueError, RecursionError):
        return tree
    names = {}
    for role in ("eos_token", "bos_token", "pad_token"):
        token = config.get(role) if isinstance(config, dict) else None
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            names[role] = token
    return {**tree, "model": {**tree["model"], "names": names}} if names else tree


def _beside(file: Path) -> bool:
    return file.name.endswith("vocab.json") and (file.parent / file.name.replace("vocab.json", "merges.txt")).is_file()


_READERS = (
    ("sentencepiece", "looks_like", "read"),
    ("rank_file", "looks_like", "read"),
    ("vocab_files", "looks_like_bert", "read_bert"),
)


def _module(name: str):
    try:
        return import_module(f"pikojax.text.{name}")
    except ModuleNotFoundError:
        return None


def _reader(module: str, name: str, file: Path) -> dict:
    found = _module(module)
    require(found is not None, f"{file} is not JSON; give a tokenizer.json in Hugging Face's shape")
    return getattr(found, name)(file)
