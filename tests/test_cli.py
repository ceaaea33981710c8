"""The command: what it prints where, its exit codes, how flags become settings, and each verb from end to end on a tiny model."""

import argparse
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pikojax
from pikojax.cli import main as command
from pikojax.cli import quickstart, train
from pikojax.cli.main import VERBS, main
from pikojax.config import UserError, cache_dir, load_config, to_toml
from pikojax.infer.request import Generation
from pikojax.native import build

ROOT = Path(__file__).parent.parent
TINY = """
[data]
stories_mb = 0.1
[model]
preset = "modern"
d_model = 32
n_layers = 1
n_heads = 2
context = 32
[train]
steps = 6
batch_size = 2
eval_interval = 3
log_interval = 2
[checkpoint]
interval = 3
[run]
sample_tokens = 8
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with a tiny config in it, and no environment variable left behind."""
    monkeypatch.chdir(tmp_path)
    for name in ("PJRT_NPROC", "JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIKOJAX_COMPILE_CACHE", "0")
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path


def start(*args: str, **kwargs) -> subprocess.Popen:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **kwargs.pop("env", {})}
    return subprocess.Popen([sys.executable, "-m", "pikojax", *args], stdout=-1, stderr=-1, text=True, env=environ, **kwargs)


def refused(capsys, *args: str) -> str:
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("pikojax: ") and err.count("\n") == 1, err
    return err


# ---------------------------------------------------------------- the frame


def test_help_names_every_verb_in_a_line_and_version_says_it(capsys):
    assert main([]) == main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in VERBS:
        lines = [line for line in text.splitlines() if line.startswith(f"  {verb} ")]
        assert len(lines) >= 1 and len(lines[0]) <= 120, verb
    assert {file.stem for file in (ROOT / "pikojax/cli").glob("*.py")} == {*VERBS, "__init__", "main", "progress", "startup"}
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"pikojax {pikojax.__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "--threads" in text and "--json" in text and f"pikojax {verb}" in text


@pytest.mark.parametrize(
    "args, part",
    [
        (["trian"], "did you mean 'train'"),
        (["zzz"], "the verbs are: quickstart"),
        (["train", "--max_step", "3"], "did you mean '--max_steps'"),
        (["train", "--max_steps", "many"], "train.steps = 'many'"),
        (["train", "a.toml", "b.toml"], "got 2 configs"),
        (["train", "nowhere.toml"], "lightllm"),
        (["train", "tiny.toml", "d_model=100", "n_heads=6"], "96 or 102"),
        (["train", "tiny.toml", "train.stesp=6"], "did you mean 'train.steps'"),
        (["train", "tiny.toml", "data.path=nowhere.txt"], "nowhere.txt"),
        (["train", "tiny.toml", "--threads", "0"], "--threads 0"),
        (["train", "tiny.toml", "--threads", "two"], "--threads"),
        (["train", "tiny.toml", "--device", "abacus"], "cpu"),
        (["train", "--resume", "nowhere"], "nowhere/config.toml"),
        (["train", "--resume"], "checkpoints/config.toml"),
        (["bench"], "what"),
        (["bench", "train", "tiny.toml", "--steps", "0"], "--steps 0"),
        (["quickstart", "--minutes", "0"], "--minutes 0"),
        (["quickstart", "--dir", "."], "exists"),
        (["quickstart", "stesp=3"], "did you mean"),
        (["quickstart", "run.dir=mine"], "--dir"),
        (["train", "tiny.toml", "data.path=" + "x" * 300], "too long"),
        (["train", "tiny.toml", "run.dir=~nobody-of-this-name/runs"], "run.dir"),
        (["train", "tiny.toml", "optim.lr=1" + "0" * 400], "digits"),
        (["train", "tiny.toml", "train.steps=3000000000"], "less than"),
        (["generate", "nowhere", "Once"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_2(args, part, here, capsys):
    assert part in refused(capsys, *args)


def test_a_device_that_is_not_there_is_one_line(here, capsys, monkeypatch):
    import jax

    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert "--device tpu" in refused(capsys, "train", "tiny.toml", "--device", "tpu")

    def broken():
        raise RuntimeError("no backend\nat all")

    monkeypatch.setattr(jax, "default_backend", broken)
    assert "no backend at all" in refused(capsys, "train", "tiny.toml", "--device", "gpu")


def fake_verb(monkeypatch, run):
    module = argparse.Namespace(HELP="", __doc__="", add_arguments=lambda parser: None, run=run)
    monkeypatch.setattr(command, "_load", lambda verb: module)


def test_json_is_one_line_alone_on_stdout_and_valid(here, capsys, monkeypatch):
    def run(args):
        print("for people")
        return {"a": math.nan, "b": np.float32(1.5), "c": [np.arange(2), math.inf], "d": Path("x"), "e": "é\n"}

    fake_verb(monkeypatch, run)
    assert main(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "for people\n" and out.count("\n") == 1
    assert json.loads(out, parse_constant=lambda name: pytest.fail(name)) == {"a": None, "b": 1.5, "c": [[0, 1], None], "d": "x", "e": "é\n"}
    assert main(["doctor"]) == 0 and capsys.readouterr().out == "for people\n"


@pytest.mark.parametrize("outcome, code", [({"stopped": "interrupted"}, 130), ({"stopped": "steps"}, 0), (None, 0), (KeyboardInterrupt(), 130)])
def test_an_interrupt_is_exit_130(outcome, code, here, monkeypatch):
    def run(args):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    fake_verb(monkeypatch, run)
    assert main(["doctor"]) == code


def test_a_bug_keeps_its_traceback(here, monkeypatch):
    fake_verb(monkeypatch, lambda args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])


def test_a_reader_that_goes_away_is_no_error():
    process = start("--help")
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("words", [["--version"], ["--help"]])
def test_a_full_disk_is_one_line(words):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "pikojax", *words], stdout=full, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2 and done.stderr == "pikojax: the output: No space left on device; make room, or write elsewhere\n"


# ---------------------------------------------------------------- startup


# ---------------------------------------------------------------- flags and configs


def parsed(*args: str) -> argparse.Namespace:
    return command._parse("train", train, list(args))


def test_the_flags_have_their_defaults_where_no_config_is_given(here):
    config, resume = train.resolve(parsed())
    assert (config.model.d_model, config.model.n_layers, config.model.n_heads) == (768, 10, 12)
    assert (config.train.batch_size, config.train.grad_accum, config.train.steps) == (4, 16, 50_000)
    assert (config.optim.lr, config.model.context, config.run.dir, config.data.path) == (6e-4, 512, "checkpoints", None)
    assert resume is None


@pytest.mark.parametrize("dash", ["_", "-"])
def test_each_flag_sets_its_key_with_and_without_a_config(dash, here):
    flags = "--model_size=nano --batch_size=3 --grad_accum 2 --lr 1e-2 --max_steps 9 --seq_len 64 --data_dir 1e5 --checkpoint_dir out"
    flags = flags.replace("_", dash).split()
    for source in ([], ["tiny.toml"]):
        config, _ = train.resolve(parsed(*source, *flags))
        assert (config.model.d_model, config.model.context, config.data.path, config.run.dir) == (192, 64, "1e5", "out")
        assert (config.train.batch_size, config.train.grad_accum, config.train.steps, config.optim.lr) == (3, 2, 9, 1e-2)


def test_with_a_config_only_the_flags_that_are_given_count(here):
    config, _ = train.resolve(parsed("--batch_size", "5", "tiny.toml", "--json", "optim.lr=0.5"))
    assert config == load_config("tiny.toml", ["train.batch_size=5", "optim.lr=0.5", "run.dir=runs/tiny"])


def test_a_setting_beats_a_flag(here):
    assert train.resolve(parsed("--max_steps", "5", "train.steps=7"))[0].train.steps == 7


def test_resume_takes_the_runs_own_config_wherever_the_run_lies_now(here):
    (here / "moved/checkpoints/40").mkdir(parents=True)
    (here / "moved/config.toml").write_text(to_toml(load_config("tiny.toml", ["run.dir=runs/before", "optim.lr=0.25"])))
    for path in ("moved", "moved/checkpoints/40"):
        config, resume = train.resolve(parsed("--resume", path, "train.steps=99"))
        assert (config.run.dir, config.optim.lr, config.train.steps, str(resume)) == ("moved", 0.25, 99, path)
    assert train.resolve(parsed("tiny.toml", "--resume")) == (load_config("tiny.toml", ["run.dir=runs/tiny"]), Path("runs/tiny"))
    config, resume = train.resolve(parsed("--resume", "train.steps=99", "--checkpoint_dir", "moved"))
    assert (config.train.steps, config.optim.lr, resume) == (99, 0.25, Path("moved"))


# ---------------------------------------------------------------- the verbs


def test_train_resume_generate_from_end_to_end(here, capsys):
    assert main(["train", "tiny.toml", "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert out.count("\n") == 1 and result["stopped"] == "steps" and result["steps"] == 6
    assert result["run"] == "runs/tiny" and result["seconds"] > 0 and 0 < result["val_loss"] < 10 and result["parameters"] > 1000
    assert result["val_bits_per_byte"] > 0 and result["tokens_per_s"] > 0
    assert "d_model = 32" in err and "sample at step 3" in err and "validation loss" in err
    run = here / "runs/tiny"
    assert {"config.toml", "metrics.jsonl", "tokenizer.json", "samples.txt", "checkpoints"} <= {file.name for file in run.iterdir()}
    saved = (run / "config.toml").read_text()
    assert to_toml(load_config(run / "config.toml")) in saved and "vocab_size = 6" in saved, "resolved"

    assert "--force" in refused(capsys, "train", "tiny.toml")
    assert (run / "config.toml").read_text() == saved

    assert main(["train", "--resume", "runs/tiny", "train.steps=8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 8
    assert main(["train", "tiny.toml", "--force", "train.steps=1"]) == 0
    out = capsys.readouterr().out
    assert load_config(run / "config.toml").train.steps == 1 and "steps = 1\n" in out, "the config is printed"

    assert main(["generate", "runs/tiny", "--prompt", "Once", "--max-tokens", "5", "--seed", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["ids"]) <= 5 and isinstance(told["text"], str)


@pytest.mark.slow
def test_a_run_folder_may_be_called_checkpoints_and_the_table_may_be_larger_than_the_vocabulary(here, capsys):
    flags = ["--model_size", "nano", "--batch_size", "1", "--grad_accum", "1", "--seq_len", "16", "--max_steps", "2"]
    small = ["d_model=16", "n_layers=1", "n_heads=2", "model.vocab_size=3000", "stories_mb=0.02", "val_fraction=0.3", "sample_tokens=40"]
    assert main(["train", *flags, *small]) == 0, "most of 3,000 ids are in no tokenizer: a sample that drew one would fail"
    assert main(["train", "--resume", "train.steps=3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 3
    assert main(["generate", "checkpoints", "Once", "--max-tokens", "4"]) == 0


@pytest.mark.slow
def test_a_sample_prompt_that_the_text_cannot_write_is_noticed_before_training(here, capsys):
    (here / "lower.txt").write_text("abcdefgh ijklmnop\n" * 400)
    text = ["train", "tiny.toml", "data.path=lower.txt", "data.val_fraction=0.3"]
    assert "run.sample_prompt" in refused(capsys, *text, "run.sample_prompt=XYZ")
    assert not (here / "runs").exists()
    assert main([*text, "train.steps=1"]) == 0, "the prompt that nobody asked for is left out"


@pytest.mark.slow
def test_bench_on_several_devices(here):
    done = start("bench", "train", "tiny.toml", "--steps", "1", "mesh.data=2", env={"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"})
    out, err = done.communicate(timeout=120)
    assert done.returncode == 0 and "tokens/s" in out, err


def test_bench_measures_the_bare_step_and_leaves_no_folder(here, capsys):
    before = sorted(here.iterdir())
    assert main(["bench", "train", "tiny.toml", "--steps", "3", "--json", "seed=4"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert {"tokens_per_s", "step_s", "loss", "parameters", "compile_s", "device"} <= set(result)
    assert result["tokens_per_s"] == pytest.approx(2 * 32 / result["step_s"]) and "tokens/s" in err
    assert sorted(here.iterdir()) == before


@pytest.mark.slow
def test_ctrl_c_saves_and_exits_130(here):
    process = start("train", "tiny.toml", "train.steps=100000", "train.eval_interval=100000", "--json", cwd=here)
    for line in process.stderr:
        if line.startswith("step "):
            break
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    result = json.loads(out)
    assert process.returncode == 130 and result["stopped"] == "interrupted"
    assert (here / f"runs/tiny/checkpoints/{result['steps']}").is_dir()


@pytest.mark.slow
def test_a_second_start_compiles_nothing(here):
    env = {"PIKOJAX_CACHE": str(here / "cache"), "PIKOJAX_COMPILE_CACHE": "1"}
    build.library("flash"), build.library("gemm")  # by the tests' own cache, where they are for others too
    (here / "cache").mkdir(mode=0o700)
    shutil.copytree(cache_dir("native"), here / "cache/native")
    assert start("bench", "train", "tiny.toml", "--steps", "1", cwd=here, env=env).wait(timeout=120) == 0
    kept = sorted((here / "cache/jax").rglob("*-cache"))
    assert kept
    assert start("bench", "train", "tiny.toml", "--steps", "1", cwd=here, env=env).wait(timeout=120) == 0
    assert sorted((here / "cache/jax").rglob("*-cache")) == kept


# ---------------------------------------------------------------- quickstart


def test_quickstart_is_as_long_as_the_time_allows():
    config = load_config("quickstart", ["train.steps=5000"])
    fitted = quickstart.fit_to_time(config, step_s=0.1, budget_s=100)
    assert 100 / 0.1 * 0.6 < fitted.train.steps < 100 / 0.1 and 100 <= fitted.train.max_seconds <= 130
    assert 3 <= fitted.train.steps // fitted.train.eval_interval <= 5
    assert quickstart.fit_to_time(config, step_s=50.0, budget_s=-3).train.max_seconds > 0
    assert fitted.model == config.model
    said = load_config("quickstart", ["eval_interval=7", "checkpoint.interval=9"])
    fitted = quickstart.fit_to_time(said, 0.1, 100, {"eval_interval", "interval"})
    assert (fitted.train.eval_interval, fitted.checkpoint.interval) == (7, 9), "what was asked for stays"
    assert quickstart.fit_to_time(config, step_s=0.001, budget_s=100).train.steps == 5000, "no longer than it was meant to be"


def test_a_text_that_ends_at_once_has_no_speed():
    ended = Generation("", [], "eos", 4, 0.1, None)
    assert quickstart.speed_of(ended) == "no tokens to time"
    assert quickstart.speed_of(ended._replace(tokens_per_s=1234.5, accepted_per_round=2.0)) == "1,234 tokens/s, 2.00 tokens a round"


def test_quickstart_never_takes_a_folder_that_exists(here):
    assert quickstart.free_folder(Path("first")) == Path("first")
    (here / "first").mkdir()
    (here / "first-2").write_text("")
    assert quickstart.free_folder(Path("first")) == Path("first-3")


def test_what_quickstart_suggests_can_be_typed(here):
    (here / "a b").mkdir()
    (here / "a b/config.toml").write_text(to_toml(load_config("tiny.toml")))
    lines = [line.strip() for line in quickstart.next_steps(Path("a b"), "pikojax").splitlines() if line.startswith("  pikojax ")]
    assert len(lines) >= 4
    for line in lines:
        _, verb, *rest = shlex.split(line)
        args = command._parse(verb, command._load(verb), rest)
        if verb == "train":
            train.resolve(args)


@pytest.mark.exhaustive  # .ci/run makes one too
def test_quickstart_from_an_empty_folder(here):
    small = ["stories_mb=0.3", "d_model=32", "n_heads=2", "n_layers=1", "context=32", "batch_size=4"]
    process = start("quickstart", "--minutes", "5", "train.steps=40", *small, cwd=here)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    run = here / "pikojax-quickstart"
    assert (run / "samples.txt").read_text().count("=== step") >= 4 and (run / "curves.png").stat().st_size > 1000
    assert "Try next" in out and "pikojax-quickstart --prompt" in out and err.count("sample at step") >= 4


def test_user_errors_stay_one_line_even_if_their_text_is_not(here, capsys, monkeypatch):
    def run(args):
        raise UserError("a\nb")

    fake_verb(monkeypatch, run)
    assert refused(capsys, "doctor") == "pikojax: a b\n"
