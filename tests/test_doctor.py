"""`pikojax doctor` reports what it finds, also where something is broken, and names what to mend."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pikojax.cli import doctor
from pikojax.native import build

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def cache():
    """That of all tests: compiling everything anew takes a minute, and tests/test_native.py sees to that with small sources."""
    return os.environ["PIKOJAX_CACHE"]


def run_doctor(cache, *arguments, **environ):
    """(the JSON object on the last line of stdout, all of stdout, stderr) of a command that must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "pikojax", "doctor", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PIKOJAX_CACHE": str(cache), **environ},
        capture_output=True,
        text=True,
        timeout=400,  # what no test has needed yet is compiled first, perhaps beside other tests
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    last = done.stdout.splitlines()[-1]
    return json.loads(last) if "--json" in arguments else None, done.stdout, done.stderr


@pytest.mark.slow
def test_json_is_one_object_with_what_was_measured(cache):
    import jax

    found, out, _ = run_doctor(cache, "--json")
    assert len(out.splitlines()) == 1
    assert found["jax"] == jax.__version__
    assert found["devices"][0]["platform"] == "cpu" and found["devices"][0]["count"] >= 1
    assert set(found["native"]) == set(build.LIBRARIES)
    assert 0.1 < found["read_bandwidth_gb_per_s"] < 10_000
    assert 0.1 < found["read_bandwidth_in_jit_gb_per_s"] < 10_000
    native = next(cache for cache in found["caches"] if cache["name"] == "native")
    assert native["private"] and (native["bytes"] > 0 or found["compiler"]["command"] is None)
    assert found["memory"]["total_bytes"] is None or found["memory"]["total_bytes"] > 2**28


def test_what_is_broken_is_a_fact(cache):
    found, _, _ = run_doctor(cache, "--json", "--no-measure", JAX_PLATFORMS="abacus", CXX="/nonexistent")
    assert found["devices"] == [] and "abacus" in found["devices_error"]
    assert all(how.startswith("none: CXX=/nonexistent") for how in found["native"].values())
    assert found["read_bandwidth_gb_per_s"] is None
    fixes = "; ".join(found["to_fix"])
    assert "JAX does not start" in fixes and fixes.count("/nonexistent") == 1


def test_a_wrong_path_or_an_open_cache_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PIKOJAX_CACHE", str(tmp_path))
    monkeypatch.setenv("PIKOJAX_CPU", "mmx")
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "file").write_bytes(b"12345")
    (tmp_path / "open").chmod(0o777)
    found = doctor.facts(measure=False)
    (cache,) = [cache for cache in found["caches"] if cache["name"] == "open"]
    assert (cache["private"], cache["bytes"]) == (False, 5)
    assert found["native"]["bandwidth"].startswith("none: PIKOJAX_CPU=mmx")
    fixes = "; ".join(found["to_fix"])
    assert f"chmod 700 {tmp_path / 'open'}" in fixes and "PIKOJAX_CPU=mmx" in fixes


def test_extras_say_which_pip_extra_brings_them(monkeypatch):
    monkeypatch.setitem(doctor.EXTRAS, "plot", {"numpy": "numpy", "a-thing": "no_such_module"})
    found = doctor.facts(measure=False)
    assert found["extras"]["plot"]["a-thing"] is None and found["extras"]["plot"]["numpy"]
    (row,) = [value for label, value in doctor._rows(found) if label == "extra plot"]
    assert "missing a-thing: pip install 'pikojax[plot]'" in row
    assert not any("a-thing" in fix for fix in found["to_fix"])  # a choice, not a fault


def test_plugins_are_listed_not_loaded(tmp_path, monkeypatch):
    folder = tmp_path / "other-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[pikojax.models]\nmamba = no_such_module:model\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = doctor.facts(measure=False)
    (point,) = found["plugins"]
    assert point == {
        "group": "pikojax.models",
        "name": "mamba",
        "value": "no_such_module:model",
        "package": "other",
        "version": "1.0",
        "trouble": "there is no module no_such_module",
    }
    assert "plug-in mamba: there is no module no_such_module; mend or uninstall other" in found["to_fix"]
    assert ("plug-in", "pikojax.models: mamba = no_such_module:model, of other 1.0: there is no module no_such_module") in doctor._rows(found)


def test_text_ends_with_what_to_fix(capsys, monkeypatch):
    args = argparse.Namespace(json=False, no_measure=True, threads=None)
    doctor.run(args)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["pikojax", doctor.pikojax.__version__]
    assert lines[-1].startswith(("nothing to fix", "to fix: "))
    monkeypatch.setattr(doctor, "_to_fix", lambda found: ["one thing", "another"])
    doctor.run(args)
    assert capsys.readouterr().out.splitlines()[-1] == "to fix: one thing; another"


def test_help_needs_no_jax():
    code = "import sys, pikojax.cli.doctor; print([m for m in ('jax', 'numpy', 'rich', 'ctypes') if m in sys.modules])"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
