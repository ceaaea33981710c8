"""Training heads that guess ahead (models/heads.py) for a model that stays as it is.

    loss = mean over heads i and places t of  −ln softmax(unembed(z_i(h_t, x_{t+1})))[x_{t+1+i}]         in nats a guess

h is the frozen model's hidden state over the text x. Another loss of the one loop (loop.py); the model's weights go into the step as
`frozen`, beside the state.

Leaves out: learning from texts that the model wrote itself; soft targets.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp

from pikojax.config import Config, UserError, load_config, require, to_dict, user_path
from pikojax.formats import checkpoints, load
from pikojax.formats import run as runs
from pikojax.models import heads
from pikojax.train.loss import mean_cross_entropy

FOLDER = "heads"  # inside the run folder of the model
OPTIM = {"name": "adamw", "lr": 1e-2, "warmup_steps": 20, "schedule": "trapezoid", "decay_fraction": 0.4, "end_lr_ratio": 0.05, "weight_decay": 0.0}
STEPS = 300


def config_for(base: str, overrides) -> Config:
    """The settings of heads for a model: a run's own data and batches, or those that `overrides` say."""
    path = user_path(base, "--heads")
    run, step = checkpoints.locate(path)
    tree = {"tokenizer": {"path": str(path)}, "run": {}, "train": {}, "checkpoint": {}}
    if runs.is_run(run):
        tree = {name: value for name, value in to_dict(runs.read_config(run)).items() if name not in ("model", "optim")}
        tree["run"]["dir"] = str(run / FOLDER)
    tree["train"] |= {"steps": STEPS, "eval_interval": STEPS // 2, "max_seconds": None, "target_val_loss": None, "offload_params": False, "offload_optimizer": False}
    tree["checkpoint"] |= {"interval": STEPS, "keep_best": False}
    tree |= {"model": {"name": "heads"}, "optim": dict(OPTIM)}
    config = load_config(tree, overrides)
    require(config.run.dir is not None, f"{base} is no run folder; say where its heads go and what they learn from, as run.dir=runs/heads data.path=book.txt")
    inside = step is None and runs.is_run(run) and user_path(config.run.dir, "run.dir").resolve() == (run / FOLDER).resolve()
    if inside or config.model.base is not None:
        return config
    return dataclasses.replace(config, model=dataclasses.replace(config.model, base=str(path)))


def open_base(config: Config):
    """(the config with what the base says, the base) of a run of heads."""
    folder = config.model.base or Path(config.run.dir).parent
    base = load.load(folder)
    base.must_foretell()
    require(getattr(base.model, "unembed", None) is not None, f"the architecture {base.config.name} does not say how it reads states out; heads are for: gpt, llama")
    cfg, own = base.config, config.model
    found = {"d_model": cfg.d_model, "vocab_size": cfg.vocab_size, "base_print": heads.print_of(base.params)}
    if own.base_print is not None and not heads.same_model(own.base_print, found["base_print"]):
        raise UserError(f"{config.run.dir} was begun for another model than {folder}; start it anew with --force")
    found["base_print"] = own.base_print or found["base_print"]
    context = min(own.context or cfg.context, cfg.context)
    return dataclasses.replace(config, model=dataclasses.replace(own, **found, context=context)), base


def loss_of(base):
    """The loss function for a model's heads; its weights come as `frozen`."""
    model, base_cfg = base.model, base.config

    def loss(cfg, params, batch, train_key=None, *, frozen, remat: bool = False):
        tokens_BT, targets_BT, segments_BT, mask_BT = batch
        n = cfg.n_ahead
        out, _ = model.forward(base_cfg, frozen, tokens_BT, segments_BT=segments_BT)
        hidden_BTD = jax.lax.stop_gradient(out.hidden)[:, :-n]
        z_BTND = heads.states(params, frozen["embed"], hidden_BTD, targets_BT[:, :-n], n)
        T, total, count = hidden_BTD.shape[1], 0.0, 0.0
        through = None if mask_BT is None else mask_BT[:, :T]
        for i in range(n):  # one head's logits at a time
            behind = slice(1 + i, 1 + i + T)
            through = None if through is None else through & mask_BT[:, behind]
            mean, facts = mean_cross_entropy(model.unembed(base_cfg, frozen, z_BTND[:, :, i]), targets_BT[:, behind], through)
            total, count = total + mean * facts["targets"], count + facts["targets"]
        return total / jnp.maximum(count, 1.0), {"targets": count}

    return loss


def load_heads(path, cfg, params: dict):
    """(config, parameters) of trained heads for the model of `cfg` and `params`, or a line why not. `path`: a run of heads, or a run that has one, or
    a checkpoint of either."""
    run, step = checkpoints.locate(user_path(path, "heads"))
    folder, step = (run / FOLDER, None) if (run / FOLDER).is_dir() else (run, step)
    if not runs.is_run(folder) or runs.read_config(folder).model.name != "heads":
        raise UserError(f"{path} has no trained heads; train them: pikojax train --heads {path}, or give --speculative heads=RUN")
    own = runs.read_config(folder).model
    for name in ("d_model", "vocab_size", "base_print"):
        require(getattr(own, name) is not None, f"the heads in {folder} are damaged: config.toml lacks model.{name}; train them anew")
    same = (own.d_model, own.vocab_size) == (cfg.d_model, cfg.vocab_size) and heads.same_model(own.base_print, heads.print_of(params))
    require(same, f"the heads in {folder} were trained for another model; train them for this one: pikojax train --heads RUN")
    return own, runs.load_run(folder, step).params
