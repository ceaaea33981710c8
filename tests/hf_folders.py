"""Tiny Hugging Face folders whose weights the tensors' names decide, and what transformers said of them."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from pikojax.config import UserError
from pikojax.formats import hf_config
from pikojax.models import catalog

GOLDEN = Path(__file__).parent / "golden"
sys.path.append(str(GOLDEN))
from make_llama_golden import draw  # noqa: E402

__all__ = ["draw", "saved", "write_folder", "in_pieces", "each_makes_a_config_or_one_line"]


def saved(name: str):
    """(arrays by case, and "tokens"; config and shapes by case) of a golden file."""
    arrays = np.load(GOLDEN / name)
    return arrays, json.loads(arrays["about"].tobytes())


def write_folder(folder: Path, about: dict, change=lambda config, tensors: None, shards: int = 1) -> Path:
    config = json.loads(json.dumps(about["config"]))
    tensors = {name: draw(name, tuple(shape)) for name, shape in about["tensors"].items()}
    change(config, tensors)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        files = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(tensors)}
        for file in set(files.values()):
            save_file({name: tensors[name] for name in tensors if files[name] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


def each_makes_a_config_or_one_line(changed: list[dict]) -> None:
    n_read = 0
    for raw in changed:
        try:
            hf_config.to_config(raw)
            n_read += 1
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 300
    assert 0 < n_read < len(changed)


def in_pieces(cfg, params, tokens_BT, sizes) -> np.ndarray:
    """Logits of so many tokens at a time over a cache."""
    model = catalog[cfg.name]
    step = jax.jit(lambda params, tokens_BT, cache: model.forward(cfg, params, tokens_BT, cache))
    cache, found, at = model.new_cache(cfg, len(tokens_BT), 48), [], 0
    for size in sizes:
        out, cache = step(params, tokens_BT[:, at : at + size], cache)
        found.append(np.asarray(out.logits))
        at += size
    return np.concatenate(found, axis=1)
