"""`pikojax train CONFIG key=value …`: trains the model that a TOML file describes.

    pikojax train configs/lightllm.toml train.steps=500 optim.lr=3e-4
    pikojax train --resume runs/lightllm train.steps=4000
    pikojax train --data_dir data/shards --model_size tiny --max_steps 50000
    pikojax train --heads runs/lightllm model.n_ahead=4

CONFIG is a file, or the name of a shipped one. A run lands in runs/CONFIG unless run.dir says otherwise; one that exists is
never overwritten without --force. --resume takes a run folder, or RUN/checkpoints/STEP, and the run's own config with
what is said here on top; without a value it takes the folder that this run would have been written to.
--heads MODEL trains no model, but heads that guess several tokens ahead of one (`generate MODEL --speculative heads`), which stays as it is.
They learn from what it was trained on and land in its run folder, RUN/heads, a run folder itself; --resume RUN/heads goes on.
The flags below are other names for config keys. Their defaults hold where neither CONFIG nor --heads is given.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from pikojax.cli import progress
from pikojax.config import Config, RunConfig, UserError, find_config, load_config, model_block, require, to_toml, user_path

HELP = "train a model from a config file: pikojax train configs/lightllm.toml train.steps=500"

FLAGS = {  # flag → (config key, default without a CONFIG, what it is)
    "model_size": ("model.size", "tiny", "nano, micro, tiny, small, medium, large, xl or xxl"),
    "batch_size": ("train.batch_size", 4, "sequences in one forward pass"),
    "grad_accum": ("train.grad_accum", 16, "forward passes to one optimizer step"),
    "lr": ("optim.lr", 6e-4, "peak learning rate"),
    "max_steps": ("train.steps", 50_000, "optimizer steps"),
    "seq_len": ("model.context", 512, "tokens in a sequence"),
    "data_dir": ("data.path", None, "a folder with shard_*.npy, or any data.path; the built-in stories without it"),
    "checkpoint_dir": ("run.dir", "checkpoints", "the run folder"),
}
HERE = "."  # --resume without a value: the folder this run would be written to


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("items", nargs="*", metavar="CONFIG or key=value", help="a TOML file or a shipped config's name; settings on top of it")
    parser.add_argument("--resume", nargs="?", const=HERE, metavar="PATH", help="go on with a run folder, or from RUN/checkpoints/STEP")
    parser.add_argument("--heads", metavar="MODEL", help="train heads that guess ahead for this model, for generate --speculative heads")
    parser.add_argument("--force", action="store_true", help="replace a run folder that exists")
    for flag, (key, default, text) in FLAGS.items():
        names = dict.fromkeys((f"--{flag}", f"--{flag.replace('_', '-')}"))
        shown = f"{text}; {key}" + (f" ({default} without a CONFIG)" if default is not None else "")
        parser.add_argument(*names, dest=flag, metavar="X", help=shown)


def run(args: argparse.Namespace) -> dict:
    config, resume = resolve(args) if args.heads is None else (of_heads(args), None)
    return execute(config, resume=resume, force=args.force)


def resolve(args: argparse.Namespace) -> tuple[Config, Path | None]:
    """The config that the command line stands for, and the run to go on with."""
    items = list(args.items)
    if args.resume is not None and "=" in args.resume and not Path(args.resume).exists():
        items.append(args.resume)  # `--resume train.steps=9`: the value belongs to the settings
        args.resume = HERE
    files = [item for item in items if "=" not in item]
    if len(files) > 1:
        raise UserError(f"got {len(files)} configs ({' '.join(files)}), wanted one; settings are written key=value")
    source = files[0] if files else None
    resume = Path(args.resume) if args.resume not in (None, HERE) else None
    if args.resume == HERE and source is None:
        resume = Path(args.checkpoint_dir or FLAGS["checkpoint_dir"][1])
    if resume is not None and source is None:
        source = run_folder(resume) / "config.toml"
        if not source.is_file():
            raise UserError(f"--resume {resume}: there is no run ({source} is missing); give a run folder or RUN/checkpoints/STEP")
    usual = {} if source is not None else {flag: default for flag, (_, default, _) in FLAGS.items() if flag != "model_size" or not _has_no_sizes(items)}
    config = load_config(source, _flags(args, usual) + [item for item in items if "=" in item])
    if resume is not None:
        config = _in_folder(config, run_folder(resume))  # it may have been moved since
    elif config.run.dir is None:
        config = _in_folder(config, Path("runs") / find_config(source).stem)
    return config, Path(config.run.dir) if args.resume == HERE and resume is None else resume


def of_heads(args: argparse.Namespace) -> Config:
    from pikojax.train.heads import config_for

    files = [item for item in args.items if "=" not in item]
    require(not files and args.resume is None, f"--heads {args.heads} takes settings alone, as train.steps=200; to go on: --resume {args.heads}/heads")
    require(args.model_size is None, f"--heads {args.heads} takes no --model_size: heads are as wide as their model; leave it out")
    return config_for(args.heads, _flags(args, {}) + args.items)


def _flags(args: argparse.Namespace, usual: Mapping) -> list[str]:
    """The flags that were given, and what is `usual` for others, as settings."""
    values = {flag: usual.get(flag) if getattr(args, flag) is None else getattr(args, flag) for flag in FLAGS}
    text = lambda key, value: json.dumps(value, ensure_ascii=False) if key == "data.path" else value
    return [f"{key}={text(key, values[flag])}" for flag, (key, _, _) in FLAGS.items() if values[flag] is not None]


def _has_no_sizes(items: list[str]) -> bool:
    """Whether the settings name a model (a plug-in's, say) that knows no size = "tiny"."""
    names = [item.partition("=")[2] for item in items if item.startswith("model.name=")]
    return bool(names) and not hasattr(model_block(names[-1]), "SIZES")


def run_folder(path: Path) -> Path:
    """The run that a RUN or RUN/checkpoints/STEP belongs to."""
    from pikojax.formats import checkpoints

    return checkpoints.locate(path)[0]


def _in_folder(config: Config, folder: Path) -> Config:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, dir=str(folder)))


def execute(config: Config, *, resume: Path | None = None, force: bool = False, print_config: bool = True) -> dict:
    """Opens the data, shows the config, trains, and returns the loop's result."""
    from pikojax.data import open_dataset, resolve_vocab
    from pikojax.formats.run import refuse_taken
    from pikojax.train import loop

    if resume is None:
        refuse_taken(user_path(config.run.dir, "run.dir"), force)  # before the data, which may take a while
    of_loss = {}
    if config.model.name == "heads":
        from pikojax.train import heads

        config, base = heads.open_base(config)
        of_loss = {"loss_fn": heads.loss_of(base), "frozen": base.params}
    dataset = open_dataset(config)
    config = resolve_vocab(config, dataset)
    sample = None if of_loss else sampler(config, dataset.tokenizer)
    if print_config:
        print(to_toml(config), flush=True)
    with progress.show() as report:
        return loop.train(config, dataset, resume=resume, sample=sample, report=report, force=force, **of_loss)


def sampler(config: Config, tokenizer):
    """What writes a sample during training: always from the same seed, so that the samples differ by the training alone.

    None where nobody could read it, and with `train.offload_params`: decoding wants all weights on the device.
    """
    if tokenizer is None or config.run.sample_tokens == 0 or config.train.offload_params:
        return None
    from pikojax.infer.generate import generate
    from pikojax.infer.request import prompt_ids
    from pikojax.models import catalog

    try:
        prompt_ids(tokenizer, config.run.sample_prompt, config.model.context)
    except UserError as error:  # now, and not at the first sample
        if config.run.sample_prompt != RunConfig.sample_prompt:
            raise UserError(f"run.sample_prompt: {error}") from None
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, sample_prompt=""))
    prompt, model = config.run.sample_prompt, catalog[config.model.name]
    n_tokens = config.run.sample_tokens

    def sample(params, step: int) -> str:
        return prompt + generate(model, config.model, params, tokenizer, prompt, max_tokens=n_tokens, seed=config.seed).text

    return sample
