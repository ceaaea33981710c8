"""`load(path)`: any model that is known here, told apart by what lies at the path, ready to compute.

    loaded = pikojax.load("qwen2.5-0.5b-q8_0.gguf")             a run folder, RUN/checkpoints/STEP, a Hugging Face folder (or org/name on its hub), a .gguf, an llama2.c .bin,
                                                                what `pikojax quantize` has made
    logits_BTV = loaded.logits(tokens_BT)
    out, cache = loaded.model.forward(loaded.config, loaded.params, tokens_BT, cache)

Tokenizer and chat templates are read when they are first asked for: a model whose vocabulary is not understood here still computes.

Leaves out: saving (`gguf_save.py`, `hf_write.py`, `run.py`).
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import UserError, require, user_path
from pikojax.formats import checkpoints, ends, gguf, gguf_model, hub, huggingface, llama2c, quantized, run
from pikojax.formats.mapped import Stack
from pikojax.kernels import prepare
from pikojax.models import catalog
from pikojax.models.layers import Model
from pikojax.qtensor import QTensor
from pikojax.text import chat, files, gguf_vocab
from pikojax.text.tokenizer import Tokenizer
from pikojax.text.what_is import HEAD_BYTES, refuse_mistakes

WANTED = "a run folder, a Hugging Face folder, a quantized one, a .gguf or an llama2.c .bin"


@dataclass(frozen=True, eq=False)
class Loaded:
    path: Path
    kind: str  # "run" | "huggingface" | "quantized" | "gguf" | "llama2c"
    model: Model
    config: Any  # of the model
    params: dict = field(repr=False)
    metadata: Mapping = field(default_factory=dict, repr=False)  # a GGUF file's
    framed: bool = True  # prompts begin as the tokenizer begins a text; what was trained here saw texts without that
    _tokenizer: Callable[[], Tokenizer | None] = field(default=lambda: None, repr=False)
    _templates: Callable[[], chat.Templates | None] = field(default=lambda: None, repr=False)
    _ends: Callable[[], tuple[int, ...]] = field(default=lambda: (), repr=False)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | None:
        return self._tokenizer()

    @functools.cached_property
    def chat_templates(self) -> chat.Templates | None:
        return self._templates()

    @functools.cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end a text or an answer."""
        return ends.joined(self._ends(), self.tokenizer, self.config.vocab_size)

    def must_foretell(self) -> None:
        heads = self.config.name == "heads"
        require(not heads, f"{self.path} holds heads that guess for a model, and no model; give the model, with --speculative heads={self.path}")
        require(self.model.new_cache is not None, f"{self.path} is an encoder, which expects no next token; from Python take model.forward(…)[0].hidden")

    def logits(self, tokens_BT) -> jax.Array:
        """float32 [B, T, V]: what the model expects after each token, seeing it and those before it."""
        self.must_foretell()
        tokens_BT, V, S = np.asarray(tokens_BT), self.config.vocab_size, self.config.context
        good = tokens_BT.ndim == 2 and tokens_BT.size and tokens_BT.dtype.kind in "iu"
        require(good, f"logits got {tokens_BT.dtype} of shape {tokens_BT.shape}; give whole numbers [B, T], as tokens[None] of one text")
        require(tokens_BT.shape[1] <= S, f"logits got {tokens_BT.shape[1]} tokens a row, the context holds {S}; shorten them")
        low, high = tokens_BT.min(), tokens_BT.max()
        require(0 <= low and high < V, f"logits got tokens from {low} to {high}, the vocabulary has 0 to {V - 1}; use the model's own tokenizer")
        return _logits(self.model.forward, self.config, self.params, tokens_BT.astype(np.int32))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits(forward, cfg, params, tokens_BT):
    return forward(cfg, params, tokens_BT)[0].logits


def load(path, *, ready: bool = True) -> Loaded:
    """Raises UserError, one line, for what is no model. With `ready` false, weights stay as the files have them (mapped, in
    half precision where they are, packed ones canonical): to be looked at or saved again, not to compute with."""
    path = user_path(path, "the model")
    if not path.exists() and hub.is_name(str(path)):
        path = hub.folder(str(path))
    return _opener(path)(path, np.float32 if ready else None, _ready if ready else None)


def _opener(path: Path) -> Callable[..., Loaded]:
    found, _ = checkpoints.locate(path)
    if (found / checkpoints.CONFIG).is_file():
        return _run
    if quantized.looks_like(path):
        return _quantized
    if path.is_dir():
        single = sorted(path.glob("*.gguf"))
        hint = f"; give {single[0]}" if single else f"; give {WANTED}"
        require(huggingface.looks_like(path), f"{path} is no model: it has neither {checkpoints.CONFIG} nor {huggingface.CONFIG}{hint}")
        return _hugging_face
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise UserError(f"cannot read the model {path} ({error.strerror}); give {WANTED}") from None
    for looks_like, opener in ((gguf.looks_like, _gguf), (llama2c.looks_like, _llama2c)):
        if looks_like(head):
            return opener
    refuse_mistakes(path, head)
    inside = path.suffix in (".safetensors", ".json") and huggingface.looks_like(path.parent)
    raise UserError(f"{path} is {'a part of a model; give its folder' if inside else 'no model that is known here; give ' + WANTED}")


def _run(path: Path, _, place) -> Loaded:
    found = run.load_run(path)
    params = found.params if place is None else place(found.params)
    return Loaded(path, "run", found.model, found.config.model, params, framed=False, _tokenizer=lambda: found.tokenizer)


def _hugging_face(path: Path, dtype, place) -> Loaded:
    config, params = huggingface.read(path, dtype, place)

    def tokenizer():
        there = any((path / name).is_file() for name in files.IN_A_FOLDER) or any(path.glob("*.tiktoken"))
        return files.load(path) if there else None

    templates = lambda: chat.find_templates(path)
    written = functools.partial(ends.of_folder, path)
    return Loaded(path, "huggingface", catalog[config.name], config, params, _tokenizer=tokenizer, _templates=templates, _ends=written)


def _quantized(path: Path, dtype, place) -> Loaded:
    config, params, framed, eos_ids = quantized.read(path, dtype)
    params = params if place is None else place(params)
    tokenizer = lambda: files.load(path) if (path / quantized.TOKENIZER).is_file() else None
    templates = lambda: chat.find_templates(path)
    return Loaded(path, "quantized", catalog[config.name], config, params, framed=framed, _tokenizer=tokenizer, _templates=templates, _ends=lambda: eos_ids)


def _gguf(path: Path, dtype, place) -> Loaded:
    opened = gguf.read_whole(path)
    config, params = gguf_model.of_file(opened, dtype, place)

    def tokenizer():
        tree = gguf_vocab.tree(opened.metadata, str(path))
        return None if tree is None else Tokenizer.from_tree(tree)

    templates = lambda: gguf_vocab.templates(opened.metadata, str(path))
    written = functools.partial(ends.of_gguf, opened.metadata)
    return Loaded(path, "gguf", catalog[config.name], config, params, opened.metadata, _tokenizer=tokenizer, _templates=templates, _ends=written)


def _llama2c(path: Path, _, place) -> Loaded:
    config, params = llama2c.read(path, place)
    beside = llama2c.tokenizer_beside(path)
    tokenizer = lambda: None if beside is None else Tokenizer.from_tree(llama2c.read_tokenizer(beside, config.vocab_size))
    return Loaded(path, "llama2c", catalog[config.name], config, params, _tokenizer=tokenizer)


def _ready(params: dict) -> dict:
    """On the device, packed weights in the layout of this machine's kernels. Readers hand over one part at a time, so that memory holds no more
    than one of them twice."""

    def one(leaf):
        if isinstance(leaf, Stack):
            return jax.device_put(np.asarray(leaf))  # which nobody else has: it may lie where it is
        placed = jax.tree.map(jnp.asarray, leaf)
        return prepare(placed) if isinstance(placed, QTensor) else placed

    return jax.block_until_ready(jax.tree.map(one, params, is_leaf=lambda leaf: isinstance(leaf, QTensor)))
