"""Heads that guess ahead: they learn, they are the model's own or refused, and whatever they guess the text is the model's."""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_cli import here, refused  # noqa: F401 (a fixture)

from pikojax.cli import train
from pikojax.cli.main import main
from pikojax.config import UserError, config_from_dict, load_config
from pikojax.data.batches import Batch
from pikojax.formats import run as runs
from pikojax.formats.load import Loaded
from pikojax.heads_config import HeadsConfig
from pikojax.models import catalog, heads, layers
from pikojax.qtensor import dequantize, quantize
from pikojax.train import heads as training
from pikojax.train.step import init_state, make_step

GPT = catalog["gpt"]


def a_base(seed=0):
    cfg = tiny.config().model
    return Loaded("a run", "run", GPT, cfg, GPT.init(cfg, jax.random.key(seed)))


def config_of(base, n_ahead=2):
    model = dict(name="heads", n_ahead=n_ahead, d_model=base.config.d_model, vocab_size=tiny.VOCAB, context=tiny.CONTEXT)
    return tiny.config_from_dict({"model": model, "optim": {"lr": 0.02, "warmup_steps": 1}, "train": {"steps": 40, "batch_size": tiny.ROWS, "dtype": "float32"}})


def counting(seed, rows=tiny.ROWS):
    """Texts that count upwards: nothing in them is hard to foretell, once one knows the last token."""
    ids = (np.random.default_rng(seed).integers(0, tiny.VOCAB, (1, rows, 1)) + np.arange(tiny.CONTEXT + 1)) % tiny.VOCAB
    return Batch(ids[..., :-1].astype(np.int32), ids[..., 1:].astype(np.int32))


def test_heads_learn_and_their_model_does_not():
    base = a_base()
    config, before = config_of(base), jax.tree.map(np.asarray, base.params)
    step, state, losses = make_step(config, None, training.loss_of(base), base.params), init_state(config, None), []
    for i in range(40):
        state, facts = step(state, counting(i))
        losses.append(float(facts["loss"]))
    assert losses[-1] < 0.85 * np.log(tiny.VOCAB) < losses[0], "better than any guess that sees nothing"
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), before, base.params))


def test_a_loss_is_that_of_the_token_so_many_places_ahead():
    """By definition, place by place; and where a mask is off, no guess that reaches over it counts."""
    base, batch = a_base(), counting(1, rows=2)
    cfg = HeadsConfig(n_ahead=2, d_model=base.config.d_model, vocab_size=tiny.VOCAB, context=tiny.CONTEXT)
    own = jax.tree.map(lambda x: 0.3 * jax.random.normal(jax.random.key(5), x.shape), heads.MODEL.init(cfg, jax.random.key(0)))
    tokens_BT, targets_BT = batch.tokens_ABT[0], batch.targets_ABT[0]
    mask_BT = np.ones(tokens_BT.shape, bool)
    mask_BT[0, 3] = False
    for mask in (None, mask_BT):
        got, facts = training.loss_of(base)(cfg, own, (tokens_BT, targets_BT, None, mask), None, frozen=base.params)
        hidden = GPT.forward(base.config, base.params, tokens_BT)[0].hidden
        nats = []
        for b in range(2):
            for t in range(tiny.CONTEXT - 2):
                z = heads.states(own, base.params["embed"], hidden[b : b + 1, t : t + 1], targets_BT[b : b + 1, t : t + 1], 2)[0, 0]
                logp = jax.nn.log_softmax(GPT.unembed(base.config, base.params, z))
                for i in range(2):
                    if mask is None or (mask[b, t] and mask[b, t + 1 : t + 2 + i].all()):
                        nats.append(-float(logp[i, targets_BT[b, t + 1 + i]]))
        np.testing.assert_allclose(float(got), np.mean(nats), rtol=1e-5)
        assert int(facts["targets"]) == len(nats)


def test_a_print_survives_quantizing_and_tells_models_apart():
    params = [GPT.init(tiny.config(model=dict(d_model=32)).model, jax.random.key(seed)) for seed in range(6)]
    prints = [heads.print_of(p) for p in params]
    assert not any(heads.same_model(a, b) for i, a in enumerate(prints) for b in prints[:i])
    packed = quantize(params[0]["embed"].T, "q8_0")
    assert heads.same_model(prints[0], heads.print_of({"embed": packed})) and not np.array_equal(dequantize(packed).T, params[0]["embed"])


@pytest.fixture
def a_run(here):  # noqa: F811
    """The settings of a run, without what was learnt."""
    (here / "run").mkdir()
    runs.write_config(here / "run", load_config("tiny.toml", ["run.dir=run", "tokenizer.kind=word"]))
    return "run"


def settings(*words):
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return train.of_heads(parser.parse_args(words))


def test_flags_are_settings_of_heads_too(a_run):
    config = settings("--heads", a_run, "--max_steps", "7", "--lr", "0.01", "--batch-size", "3", "--grad_accum", "2", "--seq_len", "16", "--checkpoint_dir", "mine", "train.steps=8")
    assert (config.train.steps, config.optim.lr, config.train.batch_size, config.train.grad_accum) == (8, 0.01, 3, 2), "what is said as a key comes last"
    assert (config.model.context, config.run.dir) == (16, "mine") and config.tokenizer.kind == "word"
    config = settings("--heads", a_run)
    assert (config.train.steps, config.optim.lr, config.run.dir) == (training.STEPS, training.OPTIM["lr"], "run/heads"), "the run's own where nothing is said"
    assert settings("--heads", a_run, "--data_dir", "book.txt").data.path == "book.txt"
    with pytest.raises(UserError, match="takes no --model_size"):
        settings("--heads", a_run, "--model_size", "tiny")


def test_the_base_is_the_model_that_was_named(a_run, here):  # noqa: F811
    assert settings("--heads", a_run).model.base is None, "which is the folder above, wherever that moves"
    assert settings("--heads", a_run, f"run.dir={here / a_run / 'heads'}").model.base is None
    assert settings("--heads", a_run, "run.dir=other/heads").model.base == a_run
    assert settings("--heads", a_run, "run.dir=other", "model.base=third").model.base == "third"
    step = settings("--heads", f"{a_run}/checkpoints/3")
    assert (step.run.dir, step.model.base, step.tokenizer.kind) == ("run/heads", "run/checkpoints/3", "word")
    with pytest.raises(UserError, match="elsewhere is no run folder; say where its heads go"):
        settings("--heads", "elsewhere")


def test_damaged_heads_are_one_line(a_run, here, capsys):  # noqa: F811
    folder, base = here / a_run / "heads", a_base()
    folder.mkdir()
    for wrong in ("zz", "0123456789abcdeg", "0" * 15, ""):
        with pytest.raises(UserError, match="model.base_print = .* the 16 hexadecimal digits"):
            HeadsConfig(base_print=wrong)
    with pytest.raises(UserError, match="d_model is not known"):
        heads.MODEL.init(HeadsConfig(), jax.random.key(0))
    whole = dict(name="heads", d_model=16, vocab_size=tiny.VOCAB, context=tiny.CONTEXT, base_print=heads.print_of(base.params))
    for name in ("d_model", "vocab_size", "base_print"):
        runs.write_config(folder, config_from_dict({"model": {key: value for key, value in whole.items() if key != name}}))
        for path in (a_run, folder, folder / "checkpoints" / "3", here / a_run / "checkpoints" / "3"):
            with pytest.raises(UserError, match=f"config.toml lacks model.{name}; train them anew"):
                training.load_heads(path, base.config, base.params)
    runs.write_config(folder, config_from_dict({"model": whole}))
    written = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(written.replace(whole["base_print"], "zz"))
    with pytest.raises(UserError, match="model.base_print = 'zz'"):
        training.load_heads(a_run, base.config, base.params)
    (folder / "config.toml").write_text(written.replace("d_model = 16", 'd_model = "none"'))
    (folder / "checkpoints" / "3").mkdir(parents=True)
    (folder / "checkpoints" / "3" / "_CHECKPOINT_METADATA").write_text("{}")
    assert "d_model is not known" in refused(capsys, "info", str(folder))


@pytest.mark.slow
def test_train_heads_and_generate_with_them(here, capsys):  # noqa: F811
    assert main(["train", "tiny.toml", "--json"]) == 0
    capsys.readouterr()
    assert "has no trained heads" in refused(capsys, "generate", "runs/tiny", "Once", "--speculative", "heads")
    assert main(["train", "--heads", "runs/tiny", "model.n_ahead=3", "train.steps=4", "train.eval_interval=2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["run"] == "runs/tiny/heads" and result["steps"] == 4 and result["val_loss"] > 0
    assert main(["train", "--resume", "runs/tiny/heads", "train.steps=5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 5
    told = []
    for how in ("off", "heads", "heads=runs/tiny/heads"):
        words = ["--max-tokens", "24", "--temperature", "1", "--speculative", how, "--json"]
        assert main(["generate", "runs/tiny", "--prompt", "Once", *words]) == 0
        told.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert told[0]["ids"] == told[1]["ids"] == told[2]["ids"] and told[1]["accepted_per_round"] >= 1
    assert "and no model" in refused(capsys, "generate", "runs/tiny/heads", "Once")
    assert main(["train", "tiny.toml", "run.dir=runs/other", "seed=7", "--json"]) == 0
    capsys.readouterr()
    assert "another model" in refused(capsys, "generate", "runs/other", "Once", "--speculative", "heads=runs/tiny")
    assert main(["train", "--heads", "runs/tiny/checkpoints/6", "run.dir=runs/other/heads", "--max_steps", "2", "--json"]) == 0  # beside a model that they are not for
    capsys.readouterr()
    assert "another model" in refused(capsys, "generate", "runs/other", "Once", "--speculative", "heads")
    assert main(["generate", "runs/tiny/checkpoints/6", "Once", "--max-tokens", "8", "--speculative", "heads=runs/other", "--json"]) == 0
    assert main(["generate", "runs/tiny/checkpoints/6", "Once", "--max-tokens", "8", "--speculative", "heads", "--json"]) == 0  # runs/tiny/heads
