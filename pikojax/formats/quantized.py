"""Quantized models of any architecture as a folder of our own: what GGUF cannot say stays packed here.

    quantized.json       {"version": 1, "model": {its config block}, "packed": {"blocks/0/q/kernel": "int4_g32", …}, "framed": true, "eos_ids": [2]}
    model.safetensors    blocks/0/q/kernel.data, .scales, .mins of what is packed; norm/scale and the like as they are
    tokenizer.json, chat_template.jinja

Shapes are not stored: they follow from the config, and a file that has others, or other tensors, is refused by the tensor's name.

Leaves out: shards, optimizer state.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import UserError, require, user_path
from pikojax.formats import safetensors_file
from pikojax.formats.halves import narrowed
from pikojax.formats.huggingface import ALONE, read_json
from pikojax.formats.mapped import release
from pikojax.formats.whole import made_whole
from pikojax.formats.safetensors_file import DTYPES, Tensor
from pikojax.models import catalog
from pikojax.qtensor import FORMATS, QTensor, quantize
from pikojax.quant.pack import FLOATS, Planned, leaves_of
from pikojax.quant.tree import path_name

MARKER, VERSION = "quantized.json", 1
TOKENIZER, TEMPLATE = "tokenizer.json", "chat_template.jinja"
PARTS = ("data", "scales", "mins")
_DTYPE_NAMES = {np.dtype(numpy).name: name for name, numpy in DTYPES.items() if not numpy.startswith(("bfloat", "float8"))} | {"bfloat16": "BF16"}


def looks_like(path: Path) -> bool:
    return (path / MARKER).is_file()


def write(folder: str | Path, cfg, params: Mapping, planned: Mapping[str, Planned], pack: Callable[[str], QTensor], *, tokenizer=None,
          template: str | None = None, framed: bool = True, eos_ids: Sequence[int] = (), force: bool = False) -> int:  # fmt: skip
    """The bytes written. `params` have their blocks as a tuple of layers; `pack` is asked for each packed matrix in the order of the tree."""
    folder = user_path(folder, "folder")
    tensors, packed = [], {}
    for path, leaf in leaves_of(params).items():
        format = planned[path].format
        if format in FORMATS:
            packed[path] = format
            tensors += _packed(path, leaf, planned[path], pack)
        else:
            tensors.append(_float(path, leaf, format))
    about = {"version": VERSION, "model": dataclasses.asdict(cfg), "packed": packed, "framed": framed, "eos_ids": list(eos_ids)}
    with made_whole(folder, force, MARKER) as beside:
        (beside / MARKER).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        safetensors_file.write(beside / ALONE, tensors, {"format": "pikojax"})
        if tokenizer is not None:
            tokenizer.save(beside / TOKENIZER)
        if template is not None:
            (beside / TEMPLATE).write_text(template, encoding="utf-8")
        size = sum(file.stat().st_size for file in beside.iterdir())
    return size


def _packed(path: str, leaf, what: Planned, pack: Callable[[str], QTensor]) -> list[Tensor]:
    """The tensors of one matrix, which is packed when the first of them is written and held until the last."""
    abstract, held = _abstract((*leaf.shape[:-2], *leaf.shape[:-3:-1]) if what.table else leaf.shape, what.format), []
    parts = [part for part in PARTS if getattr(abstract, part) is not None]

    def one(part: str) -> np.ndarray:
        if part == parts[0]:
            held[:] = [pack(path)]
            release(leaf)
        return np.asarray(getattr(held.pop() if part == parts[-1] else held[0], part))

    return [Tensor(f"{path}.{part}", getattr(abstract, part).shape, _dtype_name(getattr(abstract, part)), functools.partial(one, part)) for part in parts]


def _float(path: str, leaf, format: str | None) -> Tensor:
    dtype = leaf.dtype if format is None else np.dtype(FLOATS[format])
    return Tensor(path, tuple(leaf.shape), _dtype_name(np.zeros(0, dtype)), lambda: narrowed(leaf, dtype, path))


def _dtype_name(array) -> str:
    return _DTYPE_NAMES[np.dtype(array.dtype).name]


@functools.cache
def _abstract(shape: tuple[int, ...], format: str) -> QTensor:
    """A QTensor of a matrix [..., K, N] without numbers."""
    return jax.eval_shape(lambda: quantize(jnp.zeros(shape), format))


def read(folder: Path, dtype=np.float32):
    """(config, params, framed, eos_ids), blocks as a tuple of layers. `dtype` is that of what is not packed; None keeps the file's."""
    about, opened = read_json(folder / MARKER), safetensors_file.read(folder / ALONE)
    require(about.get("version") == VERSION, f"{folder / MARKER} is of version {str(about.get('version'))[:20]}, read here is {VERSION}; quantize the model anew")
    values, packed = about.get("model"), about.get("packed")
    good = isinstance(values, dict) and isinstance(values.get("name"), str) and isinstance(packed, dict)
    require(good, f"{folder / MARKER} has no model and packed; quantize the model anew")
    wrong = next((path for path, format in packed.items() if format not in FORMATS), None)
    require(wrong is None, f"{folder / MARKER} has {str(wrong)[:60]} in the format {str(packed.get(wrong))[:20]}, which is not known here; quantize the model anew")
    eos_ids = about.get("eos_ids", [])
    good = isinstance(eos_ids, list) and all(type(id) is int for id in eos_ids)
    require(good, f"{folder / MARKER} has eos_ids = {str(eos_ids)[:40]!r}, no list of whole numbers; quantize the model anew")
    model = catalog[values["name"]]
    cfg = _config(model.config_class, values, folder / MARKER)
    left = set(opened.tensors)

    def take(name: str, like) -> np.ndarray:
        require(name in opened.tensors, f"{folder} lacks the tensor {name}; quantize the model anew")
        found = opened.tensor(name)
        same = found.shape == tuple(like.shape) and (found.dtype == like.dtype or "." not in name and "float" in found.dtype.name)
        require(same, f"{folder} has {name} as {found.dtype} {list(found.shape)}, its config wants {like.dtype} {list(like.shape)}; quantize the model anew")
        left.discard(name)
        return found

    def one(path, like):
        name = path_name(path)
        if name in packed:
            shape = tuple(like.shape)
            abstract = _abstract(shape if name not in ("embed", "positions", "types") else shape[::-1], packed[name])
            arrays = {part: take(f"{name}.{part}", getattr(abstract, part)) for part in PARTS if getattr(abstract, part) is not None}
            return dataclasses.replace(abstract, **arrays)
        found = take(name, like)
        return found if dtype is None else found.astype(dtype, copy=False)

    params = jax.tree_util.tree_map_with_path(one, _shapes(model, cfg))
    require(not left, f"{folder} has the tensor {sorted(left)[0] if left else ''}, which its config does not use; quantize the model anew")
    return cfg, params, bool(about.get("framed", True)), tuple(eos_ids)


def _config(block: type, values: Mapping, file: Path):
    from pikojax.checked import build

    try:
        return build(block, values, "model.")
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def _shapes(model, cfg) -> dict:
    """The tree with blocks as a tuple of layers."""
    shapes = jax.eval_shape(lambda: model.init(cfg, jax.random.key(0)))
    layer = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), shapes["blocks"])
    n_layers = jax.tree.leaves(shapes["blocks"])[0].shape[0]
    return {**shapes, "blocks": tuple(layer for _ in range(n_layers))}
