"""Configs: what is wrong is found early and said in one line; what is right survives a round trip."""

import dataclasses
import os
import string
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pikojax.config import Config, GPTConfig, UserError, cache_dir, config_from_dict, differing_keys, find_config, load_config, to_dict, to_toml

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.toml"))


def wrong(*overrides: str, path=None) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message and message, "one line"
    return message


def written(folder: Path, text: str, name: str = "x.toml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "override, nearest",
    [
        ("train.stesp=3", "train.steps"),
        ("trian.steps=3", "train.steps"),
        ("model.n_head=3", "model.n_heads"),
        ("optim.learning_rat=3", "optim."),
        ("batchsize=3", "train.batch_size"),
        ("sede=1", "seed"),
        ("model.siz=tiny", "model.size"),
    ],
)
def test_an_unknown_key_names_the_nearest(override, nearest):
    message = wrong(override)
    assert override.partition("=")[0] in message and nearest in message


def test_an_unknown_key_like_nothing_lists_what_there_is():
    assert "train.steps" in wrong("zzzzqqq=1") and "seed" in wrong("zzzzqqq=1")


def test_unknown_keys_and_blocks_in_a_file_are_refused_too(tmp_path):
    assert "'optim.lr'" in wrong(path=written(tmp_path, "[optim]\nlrr = 1\n"))
    assert "'optim'" in wrong(path=written(tmp_path, "[optimm]\nlr = 1\n"))


@pytest.mark.parametrize(
    "override, wanted",
    [
        ("train.steps=many", "a whole number"),
        ("train.steps=1.5", "a whole number"),
        ("train.steps=true", "a whole number"),
        ("train.steps=[1]", "a whole number"),
        ("train.steps={a=1}", "a whole number"),
        ("train.steps=2024-01-01", "a whole number"),
        ("train.steps=", "a whole number"),
        ("optim.lr=fast", "a number"),
        ("optim.lr=nan", "finite"),
        ("optim.lr=inf", "finite"),
        ("model.bias=1", "true or false"),
        ("model.bias=maybe", "true or false"),
        ("optim.name=sgd", "adamw, muon"),
        ("optim.name=[1]", "adamw, muon"),
        ("tokenizer.kind={a=1}", "char, word"),
        ("model=3", "model.name="),
        ("model.name=gtp", "gpt"),
        ("model.name=3", "gpt"),
        ("model.size=huge", "tiny"),
        ("model.size=3", "tiny"),
        ("model.size=[1]", "tiny"),
        ("model.preset=old", "classic"),
    ],
)
def test_a_wrong_type_says_what_is_wanted(override, wanted):
    message = wrong(override)
    assert wanted in message, message


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.d_model=100", "model.n_heads=6"],
        ["model.n_heads=6", "model.n_kv_heads=4"],
        ["model.positions=rope", "model.d_model=30", "model.n_heads=6"],
        ["model.n_layers=0"],
        ["model.n_heads=0"],
        ["model.d_model=0"],
        ["model.d_model=-384"],
        ["model.vocab_size=1"],
        ["model.dropout=1"],
        ["model.softcap=0"],
        ["model.norm_eps=0"],
        ["model.rope_base=0"],
        ["optim.lr=0"],
        ["optim.beta2=1"],
        ["optim.weight_decay=-1"],
        ["optim.grad_clip=0"],
        ["optim.decay_fraction=0"],
        ["train.steps=0"],
        ["train.grad_accum=-1"],
        ["train.max_seconds=0"],
        ["train.batch_size=6", "mesh.data=4"],
        ["mesh.fsdp=0"],
        ["data.val_fraction=1"],
        ["data.stories_mb=0"],
        ["data.tokenizer_sample_mb=0"],
        ["checkpoint.keep=0"],
        ["tokenizer.vocab_size=1"],
        ["run.sample_tokens=-1"],
        ["seed=-1"],
        ["seed=4294967296"],
    ],
    ids=" ".join,
)
def test_an_impossible_value_is_named(overrides):
    message = wrong(*overrides)
    assert any(o.partition("=")[0].rpartition(".")[2] in message or "rope" in message for o in overrides), message


def test_heads_that_do_not_divide_come_with_a_width_that_works():
    message = wrong("d_model=100", "n_heads=6")
    assert "96 or 102" in message
    for width in (96, 102):
        load_config(None, [f"d_model={width}", "n_heads=6"])


def test_an_override_without_a_value_is_refused():
    assert "key=value" in wrong("train.steps")


def test_a_bare_key_stands_for_the_only_block_that_has_it():
    config = load_config(None, ["d_model=96", "lr=0.5", "steps=7", "seed=9", "size=nano"])
    assert (config.model.d_model, config.optim.lr, config.train.steps, config.seed) == (96, 0.5, 7, 9)
    message = wrong("name=gpt")
    assert "model.name" in message and "optim.name" in message
    assert "tokenizer.vocab_size" in wrong("vocab_size=100")


# ---------------------------------------------------------------- values


def test_values_are_read_by_the_type_that_is_wanted():
    config = load_config(
        None, ["model.bias=True", "optim.lr=1", "data.path=1984", "train.max_seconds=none", "run.sample_prompt=\"a = 'b'\\n\"", "optim.grad_clip=None"]
    )
    assert config.model.bias is True and isinstance(config.optim.lr, float) and config.data.path == "1984"
    assert config.train.max_seconds is None and config.optim.grad_clip is None and config.run.sample_prompt == "a = 'b'\n"


@pytest.mark.parametrize("path", ["stories.txt", "/a b/c.txt", "../x#1.txt", "a=b.txt", "true", "C:\\x", "1984", "naïve.txt", "01", "1e5", "1_000"])
def test_a_path_arrives_as_it_was_typed(path):
    assert load_config(None, [f"data.path={path}"]).data.path == path


def test_configs_are_frozen_hashable_and_equal_by_value():
    a, b = load_config(None, ["steps=3"]), load_config(None, ["steps=3"])
    assert a == b and hash(a) == hash(b) and a != load_config(None, ["steps=4"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.train.steps = 5


# ---------------------------------------------------------------- groups and bases


def test_a_preset_and_a_size_stand_below_what_is_said_outright(tmp_path):
    path = written(tmp_path, '[model]\npreset = "modern"\nsize = "nano"\nn_layers = 7\nqk_norm = false\n')
    model = load_config(path).model
    assert (model.positions, model.norm, model.activation, model.qk_norm) == ("rope", "rmsnorm", "relu2", False)
    assert (model.d_model, model.n_heads, model.n_layers) == (192, 3, 7)


def test_a_size_on_the_command_line_replaces_the_files_own(tmp_path):
    path = written(tmp_path, "[model]\nd_model = 96\nn_heads = 2\nn_layers = 1\nactivation = 'relu2'\n")
    model = load_config(path, ["model.size=nano", "model.preset=classic"]).model
    assert (model.d_model, model.n_layers, model.n_heads) == (192, 4, 3)
    assert load_config(path, ["model.n_layers=9", "model.size=nano"]).model.n_layers == 9, "a key beats a group, wherever it stands"
    child = written(tmp_path, 'base = "x.toml"\n[model]\nsize = "nano"\n', "child.toml")
    assert load_config(child).model.d_model == 192
    assert load_config(path, ["model.preset=modern"]).model.d_model == 96, "only what the group says"


@pytest.mark.parametrize("size", GPTConfig.SIZES)
@pytest.mark.parametrize("preset", GPTConfig.PRESETS)
def test_every_size_and_preset_is_possible(size, preset):
    model = load_config(None, [f"model.size={size}", f"model.preset={preset}"]).model
    assert {key: getattr(model, key) for key in GPTConfig.SIZES[size]} == GPTConfig.SIZES[size]
    assert {key: getattr(model, key) for key in GPTConfig.PRESETS[preset]} == GPTConfig.PRESETS[preset]


def test_a_base_file_is_read_below_its_child(tmp_path):
    written(tmp_path, 'seed = 3\n[train]\nsteps = 5\nbatch_size = 2\n[model]\npreset = "modern"\nd_model = 96\n', "base.toml")
    written(tmp_path, 'base = "base.toml"\n[train]\nsteps = 6\n', "middle.toml")
    config = load_config(written(tmp_path, 'base = "middle.toml"\nseed = 4\n'), ["train.batch_size=8"])
    assert (config.seed, config.train.steps, config.train.batch_size) == (4, 6, 8)
    assert (config.model.d_model, config.model.positions) == (96, "rope")


def test_a_shipped_config_can_be_a_base_from_anywhere(tmp_path):
    child = written(tmp_path, 'base = "configs/lightllm.toml"\n[train]\nsteps = 6\n')
    assert load_config(child).model == load_config("lightllm").model and load_config(child).train.steps == 6


@pytest.mark.parametrize(
    "text, part",
    [
        ('base = "x.toml"', "own base"),
        ('base = "nowhere.toml"', "no config file"),
        ("base = 3", "base"),
        ("base = ['a']", "base"),
        ("seed = ", "not valid TOML"),
        ("seed = 1\nseed = 2", "not valid TOML"),
        ("train = 5", "[train]"),
        ("[seed]\na = 1", "seed"),
        ("[[model]]\nn_layers = 1", "model"),
        ("[train.steps]\na = 1", "train.steps"),
        ("[data]\npath = [1, 2]", "give text"),
        ("[run]\ndir = true", "give text"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, text, part):
    assert part in wrong(path=written(tmp_path, text))


def test_a_block_over_a_value_in_the_base_is_one_line(tmp_path):
    written(tmp_path, "train = 5\n", "base.toml")
    assert "train" in wrong(path=written(tmp_path, 'base = "base.toml"\n[train]\nsteps = 1\n'))
    assert "train" in wrong("train.steps=3", path=tmp_path / "base.toml")


def test_bases_in_a_circle_are_one_line(tmp_path):
    written(tmp_path, 'base = "a.toml"', "b.toml")
    assert "base" in wrong(path=written(tmp_path, 'base = "b.toml"', "a.toml"))


def test_a_file_that_is_no_text_or_no_file(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    assert "not valid TOML" in wrong(path=tmp_path / "x.toml")
    assert "lightllm" in wrong(path=tmp_path), "a folder: the shipped names are offered"
    assert "lightllm" in wrong(path="lightlm")


# ---------------------------------------------------------------- shipped


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_each_shipped_config_is_valid_and_found_by_name_from_any_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(path)
    for name in (path.stem, path.name, f"configs/{path.name}"):
        assert load_config(name) == config
    assert path.read_text(encoding="utf-8").startswith("# "), "each says what it is for"


def test_a_file_here_beats_a_shipped_one_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "seed = 77\n", "lightllm.toml")
    assert find_config("lightllm.toml") == Path("lightllm.toml") and load_config("lightllm.toml").seed == 77


def test_lightllm_is_the_model_that_is_measured():
    config = load_config("configs/lightllm.toml")
    model = config.model
    assert (model.n_layers, model.n_heads, model.d_model, model.context, model.vocab_size) == (6, 6, 384, 256, 65)
    assert (model.bias, model.tie, model.dropout, model.activation) == (False, True, 0.0, "gelu")
    assert (model.positions, model.norm, model.d_hidden, model.n_kv_heads) == ("learned", "layernorm", 1536, 6)
    assert (config.optim.name, config.train.batch_size, config.train.grad_accum) == ("adamw", 8, 1)


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_configs_survive_to_toml(path, tmp_path):
    config = load_config(path)
    assert load_config(written(tmp_path, to_toml(config))) == config
    assert config_from_dict(to_dict(config)) == config


def test_differing_keys_are_named_with_both_values():
    a, b = load_config("lightllm"), load_config("lightllm", ["optim.lr=0.5", "seed=4", "train.steps=9"])
    assert differing_keys(a, b, ["optim", "seed"]) == ["optim.lr: 0.001 → 0.5", "seed: 0 → 4"]
    assert differing_keys(a, a, [f.name for f in dataclasses.fields(Config)]) == []


def leaf_values():
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    numbers = st.one_of(st.integers(-3, 2000).map(str), st.floats(allow_nan=True).map(repr))
    return st.one_of(text, numbers, st.sampled_from(["true", "none", "[1]", '"x"', "{a=1}", "1979-05-27", "0x10", "gpt", "tiny", "modern", "a\nb", "\x00"]))


KEYS = [f"{f.name}.{g.name}" for f in dataclasses.fields(Config) if f.name != "seed" for g in dataclasses.fields(getattr(Config(), f.name))]
overrides_strategy = st.lists(
    st.one_of(
        st.builds("{}={}".format, st.sampled_from([*KEYS, "seed", "model.size", "model.preset", "model", "train", "base"]), leaf_values()),
        st.builds("{}={}".format, st.text(string.ascii_lowercase + "._ ", max_size=15), leaf_values()),
        st.text(max_size=20),
    ),
    max_size=4,
)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(overrides_strategy)
def test_no_override_raises_anything_but_one_line(overrides):
    try:
        config = load_config(None, overrides)
    except UserError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert config_from_dict(to_dict(config)) == config


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])), st.floats(1e-12, 1e12), st.one_of(st.none(), st.floats(1e-9, 1e9)))
def test_any_text_and_number_survives_to_toml(tmp_path_factory, prompt, path, lr, clip):
    import tomllib

    start = Config()
    config = dataclasses.replace(
        start,
        run=dataclasses.replace(start.run, sample_prompt=prompt),
        data=dataclasses.replace(start.data, path=path),
        optim=dataclasses.replace(start.optim, lr=lr, grad_clip=clip),
    )
    read = config_from_dict(tomllib.loads(to_toml(config)))
    assert read.run.sample_prompt == prompt and read.optim == config.optim
    assert read.data.path == (None if path.lower() == "none" else path), "only `none` cannot be a path"


# ---------------------------------------------------------------- caches


def test_the_cache_is_private_and_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("PIKOJAX_CACHE", str(tmp_path / "c"))
    folder = cache_dir("data")
    assert folder == tmp_path / "c" / "data" and folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("PIKOJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_dir("jax") == tmp_path / "x" / "pikojax" / "jax"


def test_a_cache_that_others_can_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PIKOJAX_CACHE", str(tmp_path / "c"))
    cache_dir("data").chmod(0o777)
    with pytest.raises(UserError, match="chmod 700"):
        cache_dir("data")


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PIKOJAX_CACHE", str(tmp_path / "file" / "c"))
    with pytest.raises(UserError, match="PIKOJAX_CACHE"):
        cache_dir("data")
    monkeypatch.setenv("PIKOJAX_CACHE", os.devnull)
    with pytest.raises(UserError):
        cache_dir("data")


def test_a_check_for_exploding_losses_can_be_turned_off():
    assert load_config("lightllm", ["train.max_loss_jump=none"]).train.max_loss_jump is None


def test_a_path_of_ones_own_takes_the_place_of_the_configs_stories():
    assert load_config("lightllm").data.source == "stories"
    assert load_config("lightllm", ["data.path=book.txt"]).data.source == "auto"
    assert load_config("lightllm", ["data.path=book.txt", "data.source=jsonl"]).data.source == "jsonl"
    assert load_config("lightllm", ["data.path=book.txt", "source=stories"]).data.source == "stories", "a contradiction stays one"


def test_a_list_of_numbers_survives_the_file():
    config = config_from_dict({"model": {"name": "llama", "d_model": 16, "n_heads": 2, "rope_divisors": [1, 1.5, 8, 8.0]}})
    assert config.model.rope_divisors == (1.0, 1.5, 8.0, 8.0) and hash(config.model) is not None
    assert config_from_dict(tomllib.loads(to_toml(config))) == config
    for wrong, said in (("x", "give a list"), ([1, "x"], "give a number"), ([1.0], "4 numbers above 0")):
        with pytest.raises(UserError, match=said):
            config_from_dict({"model": {"name": "llama", "d_model": 16, "n_heads": 2, "rope_divisors": wrong}})
