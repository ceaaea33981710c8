"""Plug-ins: found by name, loaded when named and not before, and told apart from broken ones."""

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pikojax import plugins
from pikojax.cli import doctor
from pikojax.cli.main import main
from pikojax.config import UserError, load_config
from pikojax.models import catalog

EXAMPLE = Path(__file__).parent / "plugin_example"
ROOT = Path(__file__).parent.parent


def install(folder: Path, project: dict) -> None:
    """What an installer writes about a package, for as much as entry points need."""
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items()) for group, points in project["entry-points"].items()]
    (info / "entry_points.txt").write_text("\n".join(groups))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on sys.path in which the example is installed."""
    folder = tmp_path / "site"
    folder.mkdir()
    install(folder, tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"])
    (folder / "pikojax_example.py").write_text((EXAMPLE / "pikojax_example.py").read_text())
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "pikojax_example", raising=False)
    yield folder
    sys.modules.pop("pikojax_example", None)


def broken(site: Path, group: str, name: str, value: str) -> None:
    install(site, {"name": f"broken-{name}", "version": "1.0", "entry-points": {group: {name: value}}})


def test_a_plug_in_is_loaded_when_it_is_named_and_not_before(site):
    listed = plugins.listed()
    assert [(each["group"], each["name"], each["package"], each["version"], each["trouble"]) for each in listed] == [
        ("pikojax.kernels", "exact", "pikojax-example", "0.3", None),
        ("pikojax.models", "bigram", "pikojax-example", "0.3", None),
        ("pikojax.tokenizers", "Bytes", "pikojax-example", "0.3", None),
    ]
    assert "bigram" in catalog and list(catalog) == ["gpt", "llama", "bert", "bigram"]
    load_config(None, [])
    assert catalog["gpt"] and "pikojax_example" not in sys.modules
    config = load_config(None, ["model.name=bigram", "model.context=8"])
    assert type(config.model).__name__ == "BigramConfig" and "pikojax_example" in sys.modules
    assert catalog["bigram"].config_class is type(config.model)
    with pytest.raises(UserError, match="unknown key 'model.n_heads'"):
        load_config(None, ["model.name=bigram", "model.n_heads=2"])


def test_an_unknown_name_is_told_what_there_is(site):
    with pytest.raises(UserError, match="did you mean 'bigram'"):
        load_config(None, ["model.name=bigrams"])
    with pytest.raises(UserError, match="no model 'x'; there are: gpt, llama, bert, bigram"):
        catalog["x"]


def test_a_model_of_a_plug_in_trains_and_writes(site, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = "model.name=bigram context=16 stories_mb=0.05 steps=4 batch_size=4 eval_interval=2 sample_tokens=8 optim.lr=0.1".split()
    assert main(["train", *settings, "run.dir=out", "grad_accum=1", "--json"]) == 0
    assert main(["generate", "out", "Once", "--max-tokens", "5", "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert '"steps": 4' in out[0] and '"text"' in out[1]


def test_a_tokenizer_of_a_plug_in_is_what_its_file_names(site, tmp_path, capsys):
    from pikojax.text import load

    file = tmp_path / "tokenizer.json"
    file.write_text('{"version": "1.0", "model": {"type": "Bytes"}}')
    tok = load(file)
    assert tok.encode("hé").tolist() == [104, 195, 169] and tok.decode([195, 169]) == "é"
    assert main(["tokenizer", "info", str(file)]) == 0 and "bytes" in capsys.readouterr().out
    assert load(tok.save(tmp_path / "again.json")).encode("a").tolist() == [97]
    file.write_text('{"version": "1.0", "model": {"type": "Byte"}}')
    with pytest.raises(UserError, match="type 'Byte'; the types known here are: BPE, WordPiece, Unigram, WordLevel"):
        load(file)


def test_broken_plug_ins_hurt_nobody_who_does_not_name_them(site, tmp_path):
    (site / "raising.py").write_text("raise RuntimeError('two\\nlines')")
    (site / "nothing.py").write_text("MODEL = 3")
    (site / "package").mkdir()
    (site / "package" / "__init__.py").write_text("raise SystemExit('imported')")
    broken(site, "pikojax.models", "gone", "no_such_module:MODEL")
    broken(site, "pikojax.models", "inner", "package.gone:MODEL")
    broken(site, "pikojax.models", "raising", "raising:MODEL")
    broken(site, "pikojax.models", "nothing", "nothing:MODEL")
    broken(site, "pikojax.tokenizers", "lost", "raising:nothing")
    troubles = {each["name"]: each["trouble"] for each in plugins.listed()}
    assert troubles["gone"] == "there is no module no_such_module" and troubles["inner"] == "there is no module package.gone"
    assert troubles["raising"] is troubles["bigram"] is None and "raising" not in sys.modules and "package" not in sys.modules
    assert load_config(None, ["model.name=bigram"]).model.name == "bigram"
    for name, part in (("gone", "ModuleNotFoundError"), ("raising", "RuntimeError: two lines"), ("nothing", "brings no model with a config_class")):
        with pytest.raises(UserError, match=part) as error:
            load_config(None, [f"model.name={name}"])
        assert "\n" not in str(error.value) and "uninstall" in str(error.value)
    with pytest.raises(UserError, match="the plug-in 'nothing' brings no Model: it lacks config_class, init"):
        catalog["nothing"]
    file = tmp_path / "tokenizer.json"
    file.write_text('{"model": {"type": "lost"}}')
    assert main(["tokenizer", "info", str(file)]) == 2


def test_two_plug_ins_of_one_name_are_not_guessed_between(site):
    broken(site, "pikojax.models", "bigram", "other:MODEL")
    with pytest.raises(UserError, match="'bigram' is a plug-in of .*pikojax-example .* uninstall one of them"):
        catalog["bigram"]
    assert {each["trouble"] for each in plugins.listed() if each["name"] == "bigram"} == {"other:MODEL has the same name", "pikojax_example:BIGRAM has the same name"}


def test_what_is_built_in_comes_first(site):
    broken(site, "pikojax.models", "gpt", "no_such_module:MODEL")
    broken(site, "pikojax.tokenizers", "WordLevel", "no_such_module:MODEL")
    from pikojax.text import train_char

    assert load_config(None, []).model.name == "gpt" and catalog["gpt"].config_class.__name__ == "GPTConfig"
    tok = train_char(["ab"])
    assert type(tok).from_tree(tok.to_json()).encode("ba").tolist() == [1, 0]
    assert list(catalog) == ["gpt", "llama", "bert", "bigram"]


def test_doctor_lists_them_and_loads_none(site):
    broken(site, "pikojax.models", "gone", "no_such_module:MODEL")
    code = "import sys; from pikojax.cli import doctor; found = doctor.facts(measure=False); print(found['plugins']); print(*found['to_fix']); print('pikojax_example' in sys.modules)"
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{site}", "JAX_PLATFORMS": "cpu", "CXX": "/nonexistent"}  # nothing is to be compiled here
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    *_, listed, fixes, loaded = done.stdout.splitlines()
    assert "'name': 'bigram', 'value': 'pikojax_example:BIGRAM', 'package': 'pikojax-example', 'version': '0.3', 'trouble': None" in listed
    assert "plug-in gone: there is no module no_such_module; mend or uninstall broken-gone" in fixes and loaded == "False"
    assert "pikojax.tokenizers: Bytes = pikojax_example:bytes_from_tree, of pikojax-example 0.3" in map(doctor._plugin, plugins.listed())


def test_kernels_of_a_plug_in_run_where_they_are_named(site, monkeypatch, capsys):
    import jax
    import numpy as np

    from pikojax.kernels import dispatch, matmul, prepare
    from pikojax.qtensor import dequantize, quantize

    w = quantize(jax.random.normal(jax.random.key(0), (64, 16)), "q8_0")
    x = jax.random.normal(jax.random.key(1), (3, 64))
    exact = np.asarray(x, np.float64) @ np.asarray(dequantize(w), np.float64)
    monkeypatch.setenv("PIKOJAX_KERNELS", "exact")
    assert {"op": "matmul", "kernel": "exact"}.items() <= dispatch.listed()[0].items() and "pikojax_example" not in sys.modules
    assert dispatch.best_here("matmul") == "exact"
    assert prepare(w) is w and dispatch.choose("matmul", x, w, None) == "exact"
    assert np.abs(np.asarray(matmul(x, w)) - exact).max() < 1e-5
    broken(site, "pikojax.kernels", "empty", "json:JSONDecoder")
    monkeypatch.setenv("PIKOJAX_KERNELS", "empty")
    assert dispatch.choose("matmul", x, w, None) == "reference" and "brings no matmul" in capsys.readouterr().err
    monkeypatch.setattr(importlib.import_module("pikojax.kernels.matmul"), "why_not_here", lambda: None)
    assert dispatch.best_here("matmul") == "native"  # so weights are still prepared for it
    monkeypatch.setenv("PIKOJAX_KERNELS", "exakt")
    with pytest.raises(UserError, match="PIKOJAX_KERNELS=exakt names no kernels; choose from auto, .*empty, exact"):
        matmul(x, w)
