"""`pikojax quickstart`: from nothing to a model that writes little stories, in under three minutes on two cores, offline.

Makes the built-in corpus, trains the model of configs/quickstart.toml, shows samples as they get better, and leaves a run folder with
checkpoints, curves and samples. A few steps are timed first; a slow machine takes fewer steps, as many as the time allows, so that
the learning rate's schedule still ends where the run ends. Then the model is quantized to four bits, writes with and without guesses of
what comes next, and shows how sure it was.

    pikojax quickstart --minutes 10 --dir my-first-model
"""

import argparse
import dataclasses
import os
import shlex
import shutil
import sys
import time
from collections.abc import Collection
from pathlib import Path

from pikojax.cli import bench, train
from pikojax.config import Config, load_config, require

HELP = "start here: train a small model on made-up stories in under 3 minutes, and see it write"
FOLDER = "pikojax-quickstart"
MINUTES = 2.2
BESIDES_STEPS = 1.15  # evaluation, samples and checkpoints, on top of the bare steps
SLACK = 1.25  # a machine that slows down on the way may take so much longer: the last steps, at falling rates, gain the most
END_S = 20.0  # after the steps: the last evaluation, checkpoint and sample, and writing in four bits
PROMPT, TOKENS = "Once upon a time", 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("items", nargs="*", metavar="key=value", help="settings on top of the quickstart config")
    parser.add_argument("--dir", metavar="DIR", help=f"the run folder ({FOLDER}, with a number where that exists)")
    parser.add_argument("--minutes", type=float, default=MINUTES, metavar="M", help=f"about how long it may take ({MINUTES})")


def run(args: argparse.Namespace) -> dict:
    begun_s = time.monotonic()
    require(0.1 <= args.minutes <= 600, f"--minutes {args.minutes}; give 0.1 to 600")
    folder = Path(args.dir) if args.dir else free_folder(Path(FOLDER))
    require(not folder.exists(), f"{folder} exists; give another --dir")
    config = load_config("quickstart", [*args.items])
    require(config.run.dir is None, f"run.dir = {config.run.dir!r}; the quickstart's folder is given with --dir")
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, dir=str(folder)))
    print(f"1  Make {config.data.stories_mb:g} MB of stories, and time a few training steps.", flush=True)
    speed = bench.bench_train(config, 3)
    budget_s = args.minutes * 60 - (time.monotonic() - begun_s) - END_S
    said = {item.partition("=")[0].rpartition(".")[2] for item in args.items}
    config = fit_to_time(config, speed["step_s"], budget_s, said)
    print(
        f"2  Train {speed['parameters'] / 1e6:.1f} M parameters for {config.train.steps:,} steps of {speed['step_s'] * 1e3:.0f} ms."
        f" It knows nothing yet; watch the samples.",
        flush=True,
    )
    result = train.execute(config, print_config=False)
    found = {} if result.get("stopped") == "interrupted" else in_four_bits(folder)
    print(next_steps(folder, command()))
    return {**result, **found, "total_s": time.monotonic() - begun_s}


def in_four_bits(folder: Path) -> dict:
    """The trained model's weights quantized; the same text with and without guesses, and how sure the model was of it."""
    import jax

    from pikojax.cli.generate import show_uncertainty
    from pikojax.formats.load import load
    from pikojax.infer.engine import Engine, EngineConfig
    from pikojax.kernels import prepare_tree
    from pikojax.quant import quantize_tree

    loaded = load(folder)
    quantized = quantize_tree(loaded.params, "q4_0")
    before, after = (sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (loaded.params, quantized))
    print(f"3  Quantize to four bits: {before / 1e6:.1f} MB become {after / 1e6:.1f} MB. Write with them, then with guesses from the text itself.")
    texts = {}
    for how in ("off", "lookup"):
        engine = Engine(loaded.model, loaded.config, prepare_tree(quantized), loaded.tokenizer, EngineConfig(slots=1, step_s=0.2, speculative=how))
        texts[how] = engine.generate(PROMPT, max_tokens=TOKENS, temperature=0.5, slide=True, uncertainty=True)
    plain, guessed = texts["off"], texts["lookup"]
    same = "the same text" if plain.ids == guessed.ids else "another text, which is a bug"
    print(f"   {speed_of(plain)} plain; with guesses {speed_of(guessed)}: {same}. How sure it was:\n")
    show_uncertainty(loaded.tokenizer, plain)
    return {"bytes_float": before, "bytes_quantized": after, "plain_tokens_per_s": plain.tokens_per_s, "guessed_tokens_per_s": guessed.tokens_per_s,
            "accepted_per_round": guessed.accepted_per_round, "same_text": plain.ids == guessed.ids}  # fmt: skip


def speed_of(result) -> str:
    """A text that its first token ended has none."""
    rate = "no tokens to time" if result.tokens_per_s is None else f"{result.tokens_per_s:,.0f} tokens/s"
    return rate if result.accepted_per_round is None else f"{rate}, {result.accepted_per_round:.2f} tokens a round"


def fit_to_time(config: Config, step_s: float, budget_s: float, said: Collection[str] = ()) -> Config:
    """The same config with the steps that the time allows, if they are fewer, with four evaluations and eight samples on the way.
    What was `said` on the command line stays."""
    steps = min(config.train.steps, max(40, int(budget_s / (step_s * BESIDES_STEPS))))
    quarter = max(1, steps // 4)
    limits = dict(steps=steps, eval_interval=quarter, sample_interval=max(1, steps // 8), max_seconds=max(20.0, budget_s * SLACK))
    return dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, **{key: value for key, value in limits.items() if key == "steps" or key not in said}),
        checkpoint=config.checkpoint if "interval" in said else dataclasses.replace(config.checkpoint, interval=quarter),
    )


def free_folder(folder: Path) -> Path:
    """`folder`, or the first of folder-2, folder-3 … that does not exist: whoever starts again loses nothing."""
    number, free = 1, folder
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free


def command() -> str:
    """How this program was called, so that what is printed can be typed: the venv need not be active."""
    called = sys.argv[0]
    on_path = shutil.which("pikojax")
    if os.path.basename(called) != "pikojax":
        return f"{shlex.quote(sys.executable)} -m pikojax"
    return "pikojax" if on_path and os.path.samefile(on_path, called) else shlex.quote(called)


def next_steps(folder: Path, pikojax: str) -> str:
    name = shlex.quote(str(folder))
    files = [f"{file.name}: {what}" for file, what in ((folder / "curves.png", "the loss"), (folder / "samples.txt", "what it wrote")) if file.exists()]
    return f"""
4  Done. In {name}/: {", ".join([*files, "config.toml, metrics.jsonl, checkpoints"])}.

Try next:
  {pikojax} generate {name} --prompt "Once upon a time" --temperature 0.6
  {pikojax} train --resume {name} train.steps=4000 train.max_seconds=none
  {pikojax} train lightllm train.max_seconds=600
  {pikojax} doctor"""
