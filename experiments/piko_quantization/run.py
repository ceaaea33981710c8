"""What does each format cost a trained model? Weight error and bits per byte after quantizing it: run.py [--quick | --full]

    formats    every matrix and the table of tokens in one format
    groups     the plainest rounding to four bits, by group size, around zero and between minimum and maximum
    outliers   the same function, with two inputs of each norm's successors multiplied by 32 and divided by 32 before: formats again

`--full` is the default.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import Rows

from pikojax.config import load_config
from pikojax.qtensor import FORMATS, QTensor, dequantize

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
GROUPS = (16, 32, 64, 128, 256, None)  # None: all weights of an output
OUTLIERS, FACTOR = (3, 200), 32.0
OUTLIER_FORMATS = ("int8", "int8_g128", "int8_g32", "q6_k", "q4_k", "int4a_g32", "int4_g128", "int4_g32", "nf4")
QUICK = ["d_model=32", "n_layers=1", "n_heads=2", "context=32", "train.steps=4", "eval_interval=4", "warmup_steps=1"]
QUICK += ["batch_size=8", "stories_mb=0.1", "val_fraction=0.2"]


def trained(config):
    """The model after training, and `(params) → bits per byte` of the validation stories."""
    from pikojax.data import open_dataset, resolve_vocab
    from pikojax.formats.run import load_run
    from pikojax.train import loop
    from pikojax.train.evaluate import make_evaluate

    dataset = open_dataset(config)
    config = resolve_vocab(config, dataset)
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, dir=str(Path(folder) / "run")))
        loop.train(config, dataset)
        params = load_run(Path(folder) / "run").params
    evaluate = make_evaluate(config, None)
    return params, lambda params: evaluate(params, dataset.val)["val_bits_per_byte"]


def one_format(params, format: str):
    from pikojax.quant import Rule, quantize_tree

    return quantize_tree(params, [Rule("embed", format, table=True), Rule("blocks/*kernel", format)], smallest=0)


def as_floats(params):
    """Quantized weights as the floats they stand for: every format is then evaluated by the same compiled function."""
    import jax

    is_quantized = lambda leaf: isinstance(leaf, QTensor)
    floats = jax.tree.map(lambda leaf: dequantize(leaf) if is_quantized(leaf) else leaf, params, is_leaf=is_quantized)
    if is_quantized(params["embed"]):
        floats["embed"] = floats["embed"].T
    return floats


def cost(params, quantized) -> dict:
    """Bits a weight with all that belongs to it, and the relative error over all quantized weights."""
    from pikojax.quant import compare

    lines = [line for line in compare(params, quantized) if line.format in FORMATS]
    n = sum(line.bytes_before // 4 for line in lines)
    squares = [
        (line.error, float((leaf.astype("float64") ** 2).sum()))
        for line, leaf in zip(lines, matrices(params).values(), strict=True)
    ]
    error = (sum(e * e * s for e, s in squares) / sum(s for _, s in squares)) ** 0.5
    return {
        "bits_per_weight": 8 * sum(line.bytes_after for line in lines) / n,
        "error": error,
        "n_padded": sum(line.n_padded for line in lines),
    }


def matrices(params) -> dict:
    import jax
    import numpy as np

    from pikojax.quant.tree import path_name

    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {path_name(path): np.asarray(leaf) for path, leaf in leaves if path_name(path).endswith(("kernel", "embed"))}


def plainly_rounded(w, group: int | None, asymmetric: bool):
    """Four bits in two lines: divide by the step, round, multiply. w [..., K, N], groups along K."""
    import jax.numpy as jnp

    *stack, K, N = w.shape
    groups = w.reshape(*stack, -1, group or K, N)
    low, high = groups.min(axis=-2, keepdims=True), groups.max(axis=-2, keepdims=True)
    if asymmetric:
        step = (high - low) / 15
        return (jnp.round((groups - low) / step) * step + low).reshape(w.shape)
    step = jnp.maximum(high, -low) / 7
    return (jnp.round(groups / step) * step).reshape(w.shape)


def plain(params, group, asymmetric):
    import jax

    blocks = jax.tree.map(lambda w: plainly_rounded(w, group, asymmetric) if w.ndim == 3 else w, params["blocks"])
    return {**params, "blocks": blocks, "embed": plainly_rounded(params["embed"].T, group, asymmetric).T}


def with_outliers(params):
    """The same function: what the norm divides by 32 the next matrix multiplies by 32."""
    import jax
    import jax.numpy as jnp

    blocks = jax.tree.map(jnp.asarray, params["blocks"])  # new dicts, the same arrays
    for norm, matrix in (("norm1", "qkv"), ("norm2", "up")):
        for channel in OUTLIERS:
            channel %= params["embed"].shape[1]
            blocks[norm]["scale"] = blocks[norm]["scale"].at[:, channel].divide(FACTOR)
            blocks[matrix]["kernel"] = blocks[matrix]["kernel"].at[:, channel].multiply(FACTOR)
    return {**params, "blocks": blocks}


def quantized_cost(params, format: str, bits_per_byte) -> dict:
    quantized = one_format(params, format)
    return cost(params, quantized) | {"bits_per_byte": bits_per_byte(as_floats(quantized))}


def plain_cost(params, group, asymmetric, bits_per_byte) -> dict:
    rounded = plain(params, group, asymmetric)
    before, after = matrices(params), matrices(rounded)
    squared = sum(float(((after[name] - before[name]) ** 2).sum()) for name in before)
    error = (squared / sum(float((w**2).sum()) for w in before.values())) ** 0.5
    return {"error": error, "bits_per_byte": bits_per_byte(rounded)}


def main(quick: bool) -> None:
    rows = Rows(HERE / "results.jsonl", quick)
    for seed in SEEDS[:1] if quick else SEEDS:
        if rows.has(kind="finished", seed=seed):
            continue
        params, bits_per_byte = trained(load_config(HERE / "config.toml", [f"seed={seed}", *(QUICK if quick else [])]))
        harder = with_outliers(params)

        def once(measure, **key):
            if not rows.has(seed=seed, **key):
                rows.append(seed=seed, **key, **measure())

        for kind, weights, formats in (("formats", params, list(FORMATS)), ("outliers", harder, OUTLIER_FORMATS)):
            once(
                lambda: {"bits_per_weight": 32.0, "error": 0.0, "bits_per_byte": bits_per_byte(weights)},
                kind=kind,
                format="float32",
            )
            for format in formats[:: 6 if quick else 1]:
                once(lambda: quantized_cost(weights, format, bits_per_byte), kind=kind, format=format)
        for group in GROUPS[: 1 if quick else None]:
            for asymmetric in (False, True):
                once(
                    lambda: plain_cost(params, group, asymmetric, bits_per_byte),
                    kind="groups",
                    group=group,
                    asymmetric=asymmetric,
                )
        once(dict, kind="finished")


if __name__ == "__main__":
    main("--quick" in sys.argv)
