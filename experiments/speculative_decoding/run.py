"""What do guesses bring? Tokens a round, and tokens a second beside plain decoding, by drafter, text and temperature.

    run.py [--models FOLDER] [--seconds N] [--quick]

    curve      of the story model in float32: tokens a round and speed beside plain decoding where every round has k guesses, whether that pays or not
    coupling   two distributions at total variation d: how often the same random numbers draw the same token of both, used in two ways
    text       a drafter beside plain decoding, in turn, over the same weights; and whether the texts are the same

The story model, its heads and the small model that drafts for it are trained (some 20 minutes) in FOLDER, the others made of random weights,
where they are not there yet; the story model is used in float32 and packed as q8_0. With `--seconds` nothing is begun after so long: call again to go on.
"""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import bench_models
from trials import ROOT, Rows

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import LlamaConfig, cache_dir
from pikojax.infer import measure_decode
from pikojax.infer.engine import Engine, EngineConfig
from pikojax.infer.sampling import make_settings, sample
from pikojax.models import catalog

HERE = Path(__file__).parent
PASSES, DRAWS, VOCAB, PAIRS = 9, 4000, 64, 8  # of 1.1B 3: a pass of a small model takes a twentieth of a second
SMALLER = "d_model=128 n_layers=1 n_heads=2 n_kv_heads=1 d_hidden=256".split()
TINY = LlamaConfig(d_model=32, n_layers=1, n_heads=2, n_kv_heads=1, d_hidden=32, vocab_size=64, context=64)
HEADS = "train.steps=300 train.eval_interval=100 checkpoint.interval=300".split()
GUESSES = (1, 2, 3, 4)
STORY = "Once upon a time, there was a little girl who"
SENTENCES = "The cat sat on the mat. The dog ran to the park. Tom had a red ball. "
TEXTS = {"a story": STORY, "repeated": 4 * SENTENCES, "random": measure_decode.random_ids(64, 4096)}
CASES = [  # model, text, temperature, drafter
    *[("stories float32", "a story", t, drafter) for t in (0.0, 0.7, 1.0) for drafter in ("heads", "lookup", "draft", "early-exit=1")],
    *[("stories q8_0", "a story", t, drafter) for t in (0.0, 1.0) for drafter in ("heads", "lookup", "draft", "early-exit=1")],
    *[(model, "repeated", 0.0, drafter) for model in ("stories float32", "stories q8_0") for drafter in ("heads", "lookup")],
    *[("13M q8_0", "random", 1.0, drafter) for drafter in ("lookup", "early-exit=1")],
    ("13M q8_0", "random", 0.0, "lookup"),
    ("1.1B q4_0", "random", 1.0, "lookup"),
    ("1.1B q4_0", "random", 0.0, "lookup"),
]


# ---------------------------------------------------------------- coupling


def two_distributions(d: float, seed: int):
    """Log-probabilities at total variation d."""
    p_V, other_V = np.random.default_rng(seed).dirichlet(np.full(VOCAB, 0.3), 2)
    q_V = p_V + d / (0.5 * np.abs(p_V - other_V).sum()) * (other_V - p_V)
    assert q_V.min() >= 0, f"these two are nearer to each other than {d}"
    return [jnp.log(jnp.asarray(x_V, jnp.float32)) for x_V in (p_V, q_V)]


def agreement(draw: str, d: float, draws: int, seed: int = 0) -> float:
    """How often the same keys draw the same token of both: as the engine draws, by noise for each token, or by one number."""
    keys, settings = jax.random.split(jax.random.key(seed), draws), make_settings(draws, VOCAB, temperature=1.0)
    number_B1 = jax.vmap(jax.random.uniform)(keys)[:, None]
    by_number = lambda logp_BV: jnp.argmax(jnp.cumsum(jnp.exp(logp_BV), axis=1) > number_B1, axis=1)  # where the running sum passes it
    one = by_number if draw == "one number" else lambda logp_BV: sample(logp_BV, keys, settings)
    first, second = (one(jnp.tile(logp_V, (draws, 1))) for logp_V in two_distributions(d, seed))
    return float(jnp.mean(first == second))


def coupling(rows: Rows, draws: int) -> None:
    for draw in ("one number", "noise a token"):
        for d in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5):
            if not rows.has(kind="coupling", draw=draw, d=d):
                each = [agreement(draw, d, draws, seed) for seed in range(PAIRS)]
                rows.append(kind="coupling", draw=draw, d=d, agree=float(np.mean(each)), agree_each=each)


# ---------------------------------------------------------------- text


def pikojax(*words) -> None:
    subprocess.run([sys.executable, "-m", "pikojax", *map(str, words)], check=True, cwd=ROOT, stdout=sys.stderr)


def file_of(model: str, folder: Path) -> Path:
    if model in bench_models.FILES:
        return bench_models.file_of(model, folder)
    run = folder / ("draft" if model.startswith("draft") else "story")
    packed = run.with_name(f"{run.name}-q8_0.gguf")
    if not run.exists():
        smaller = [*SMALLER, f"tokenizer.path={folder / 'story' / 'tokenizer.json'}"] if model.startswith("draft") else []
        pikojax("train", HERE / "config.toml", f"run.dir={run}", *smaller)
    if run.name == "story" and not (run / "heads").exists():
        pikojax("train", "--heads", run, *HEADS)
    if model.endswith("float32"):
        return run
    if not packed.is_file():
        pikojax("convert", run, "-o", packed, "--type", "q8_0")
    return packed


def named(drafter: str, model: str, folder: Path) -> str:
    """As an engine knows it."""
    if drafter == "draft":
        return f"draft={file_of('draft ' + model.split()[-1], folder)}"
    return f"heads={file_of('stories float32', folder)}" if drafter == "heads" else drafter


def curve(rows: Rows, folder: Path, over) -> None:
    plain = None
    for drafter in ("heads", "lookup", "draft", "early-exit=1"):
        for temperature in (0.0, 1.0):
            for k in GUESSES:
                key = {"kind": "curve", "model": "stories float32", "text": "a story", "temperature": temperature, "drafter": drafter, "guesses": k}
                if rows.has(**key) or over():
                    continue
                plain = plain or measure_decode.open_engine(file_of("stories float32", folder))
                drafting = measure_decode.with_drafter(plain, named(drafter, "stories float32", folder))
                drafting.speculation.drafter = dataclasses.replace(drafting.speculation.drafter, widths=(k,))
                drafting.speculation.pays = lambda *_: True
                found = measure_decode.drafter_beside_plain(plain, drafting, TEXTS["a story"], 128, PASSES, temperature)
                rows.append(**key | found | {"speculative": drafter})


def text(rows: Rows, folder: Path, over) -> None:
    engines = {}  # one model at a time
    for model, text, temperature, drafter in CASES:
        key = {"kind": "text", "model": model, "text": text, "temperature": temperature, "drafter": drafter}
        if rows.has(**key) or over():
            continue
        if (model, "off") not in engines:
            engines = {(model, "off"): measure_decode.open_engine(file_of(model, folder))}
        if (model, drafter) not in engines:
            engines[model, drafter] = measure_decode.with_drafter(engines[model, "off"], named(drafter, model, folder))
        tokens, passes = (64, 3) if model == "1.1B q4_0" else (128, PASSES)
        both = engines[model, "off"], engines[model, drafter]
        found = measure_decode.drafter_beside_plain(*both, TEXTS[text], tokens, passes, temperature)
        rows.append(**key | found | {"speculative": drafter})


def main(quick: bool, folder: Path, limit_s: float) -> None:
    rows, began_s = Rows(HERE / "results.jsonl", quick), time.monotonic()
    if quick:
        rows.append(kind="coupling", draw="one number", d=0.3, agree=agreement("one number", 0.3, 200))
        plain = Engine(catalog["llama"], TINY, catalog["llama"].init(TINY, jax.random.key(0)), None, EngineConfig(slots=1, remember=False))
        both = plain, measure_decode.with_drafter(plain, "lookup")
        rows.append(kind="text", **measure_decode.drafter_beside_plain(*both, [1, 2, 3, 1, 2, 3], 32, 1))
        return
    over = lambda: time.monotonic() - began_s > limit_s
    coupling(rows, DRAWS)
    text(rows, folder, over)
    curve(rows, folder, over)


def after(word: str) -> str | None:
    return sys.argv[sys.argv.index(word) + 1] if word in sys.argv else None


if __name__ == "__main__":
    main("--quick" in sys.argv, Path(after("--models") or cache_dir("models")), float(after("--seconds") or "inf"))
