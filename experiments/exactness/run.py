"""Is the text always the same, whatever else runs and whoever guesses? 1,000 prompts, and draws from a model that can be enumerated.

    run.py [--models FOLDER] [--quick]

    texts   greedy texts of 1,000 prompts, one way after another, beside those that the engine writes for each alone: how many differ
    draws   texts of three tokens of a toy model beside their probabilities, by drafter; and by a loop that keeps guesses unseen

The model (pikojax quickstart's, in fewer steps) and its heads are trained in FOLDER where they are not there yet, a few minutes.
"""

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import ROOT, Rows

import jax
import jax.numpy as jnp
import numpy as np
import toy

from pikojax.config import cache_dir
from pikojax.formats.load import load
from pikojax.infer import decode
from pikojax.infer.engine import Engine, EngineConfig
from pikojax.kernels import prepare_tree
from pikojax.models.heads import print_of
from pikojax.quant import quantize_tree

HERE = Path(__file__).parent
PROMPTS, TOKENS, DRAWS, SEED = 1000, 16, 20_000, 0
WAYS = ("batched", "known beginnings", "read in short pieces", "cancelled neighbours", "lookup", "early-exit", "draft", "heads")
WEIGHTS = ("float32", "q4_0")  # with the caches that they have by default: float32, int8


def pikojax(*words) -> None:
    subprocess.run([sys.executable, "-m", "pikojax", *map(str, words)], check=True, cwd=ROOT, stdout=sys.stderr)


def model_in(folder: Path) -> Path:
    run, smaller = folder / "exactness", folder / "exactness-draft"
    steps = ["train.steps=150", "train.eval_interval=150", "checkpoint.interval=150"]
    if not run.exists():
        pikojax("train", "quickstart", f"run.dir={run}", *steps)
    if not (run / "heads").exists():
        pikojax("train", "--heads", run, "model.n_ahead=3", "train.steps=60", "train.eval_interval=60", "checkpoint.interval=60")
    if not smaller.exists():
        pikojax("train", "quickstart", f"run.dir={smaller}", f"tokenizer.path={run / 'tokenizer.json'}", "d_model=64", "n_layers=1", "n_heads=2", *steps)
    return run


def prompts_of(loaded, n: int) -> list[list[int]]:
    """Of 4 to 100 tokens; each fourth begins as the one before it."""
    rng, texts = np.random.default_rng(SEED), []
    for i in range(n):
        ids = rng.integers(0, loaded.config.vocab_size, rng.integers(4, 100)).tolist()
        texts.append((texts[-1][:70] + ids)[:100] if i % 4 == 3 else ids)
    return texts


def written(engine: Engine, prompts, strangers=0) -> list[list[int]]:
    """With so many strangers among the requests, some of them cancelled on the way."""
    handles, others = [], []
    for i, ids in enumerate(prompts):
        handles.append(engine.submit(ids, max_tokens=TOKENS, temperature=0, ignore_eos=True))
        if strangers and i % 3 == 0:
            others.append(engine.submit(ids[::-1], max_tokens=60, temperature=1.0, seed=i))
    while engine.step():
        if strangers and others:
            others.pop(0).cancel()
    return [handle.result().ids for handle in handles]


def texts(rows: Rows, loaded, run: Path, n: int, ways, weights) -> None:
    asked, size = prompts_of(loaded, n), 4 * n
    for kind in weights:
        params = decode.ready(loaded.params if kind == "float32" else prepare_tree(quantize_tree(loaded.params, kind)))
        make = lambda **config: Engine(loaded.model, loaded.config, params, loaded.tokenizer, EngineConfig(queue=size, step_s=0.2, **config), home=run)
        alone = None
        for way in ways:
            if rows.has(kind="text", weights=kind, way=way, prompts=n):
                continue
            alone = alone or kept(run.with_name(f"exactness-alone-{print_of(loaded.params)}-{kind}-{n}.json"), lambda: written(make(slots=1, remember=False), asked))
            found = one_way(way, make, asked, run)
            wrong = [i for i, (a, b) in enumerate(zip(alone, found, strict=True)) if a != b]
            first = [next(j for j, (a, b) in enumerate(zip(alone[i], found[i])) if a != b) for i in wrong]
            rows.append(kind="text", weights=kind, way=way, prompts=n, tokens=sum(map(len, alone)), differing=len(wrong), first_difference=min(first, default=None))


def kept(file: Path, make) -> list[list[int]]:
    """What an earlier start of this script has made with the same model, whose print is in the name."""
    if not file.is_file():
        file.write_text(json.dumps(make()))
    return json.loads(file.read_text())


def one_way(way: str, make, asked, run: Path) -> list[list[int]]:
    if way == "batched":
        return written(make(slots=8, remember=False), asked)
    if way == "known beginnings":
        engine = make(slots=4, cache_tokens=200_000)
        written(engine, asked)
        return written(engine, asked)
    if way == "read in short pieces":
        whole, decode.BLOCK = decode.BLOCK, 16
        try:
            return written(make(slots=8, remember=False), asked)
        finally:
            decode.BLOCK = whole
    if way == "cancelled neighbours":
        return written(make(slots=8), asked, strangers=1)
    named = {"draft": f"draft={run}-draft", "early-exit": "early-exit=2"}.get(way, way)
    engine = make(slots=4, remember=False, speculative=named)
    engine.speculation.pays = lambda *_: True  # a draft model too is used all the time
    return written(engine, asked)


def draws(rows: Rows, n: int, names) -> None:
    def append(name: str, verified: bool) -> None:
        drawn, a_round = toy.drawn_texts(name, n)
        found = toy.chi_square(drawn, toy.probabilities())  # infinite if there are texts that cannot be, which JSON has no number for
        rows.append(kind="draws", drafter=name, draws=n, standard_deviations=None if found == float("inf") else found, accepted_per_round=a_round, verified=verified)

    for name in names:
        if not rows.has(kind="draws", drafter=name, draws=n):
            append(name, True)
    if not rows.has(kind="draws", drafter="heads", verified=False):
        right, jnp.cumprod = jnp.cumprod, lambda x, axis: jnp.ones_like(x)
        jax.clear_caches()
        try:
            append("heads", False)
        finally:
            jnp.cumprod = right
            jax.clear_caches()


def main(quick: bool, folder: Path) -> None:
    rows = Rows(HERE / "results.jsonl", quick)
    if quick:
        return draws(rows, 500, ["heads"])
    draws(rows, DRAWS, toy.NAMES)
    run = model_in(folder)
    texts(rows, load(run), run, PROMPTS, WAYS, WEIGHTS)


if __name__ == "__main__":
    main("--quick" in sys.argv, Path(sys.argv[sys.argv.index("--models") + 1]) if "--models" in sys.argv else cache_dir("models"))
