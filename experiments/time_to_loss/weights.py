"""PyTorch's final weights as our classic model, and its loss over the whole validation split by our evaluator."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import trials  # noqa: F401  (the package's place, the compile cache)

from pikojax.config import load_config


def load_export(path) -> dict:
    import jax.numpy as jnp
    import numpy as np

    params: dict = {}
    with np.load(path) as arrays:
        for name in arrays.files:
            *outer, last = name.split("/")
            node = params
            for part in outer:
                node = node.setdefault(part, {})
            node[last] = jnp.asarray(arrays[name])
    return params


def validation_loss(weights, text) -> float:
    from pikojax.data import open_dataset, resolve_vocab
    from pikojax.train.evaluate import make_evaluate

    classic = ["model.preset=classic", "d_model=128", "n_layers=4", "n_heads=4", "context=64", "batch_size=64"]
    config = load_config(None, [*classic, f"data.path={text}", "data.source=text"])
    dataset = open_dataset(config)
    return make_evaluate(resolve_vocab(config, dataset), None)(load_export(weights), dataset.val)["val_loss"]


if __name__ == "__main__":
    print(validation_loss(sys.argv[1], sys.argv[2]))
