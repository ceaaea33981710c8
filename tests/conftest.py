"""Strictness for every test: mixed dtypes and implicit rank promotion are errors, as they hide mistakes elsewhere."""

import importlib.util
import os
import sys
from pathlib import Path

import jax
import pytest

if importlib.util.find_spec("pikojax") is None:  # a checkout that is not installed can be tested too
    sys.path.insert(0, str(Path(__file__).parent.parent))

from pikojax.native import cpu  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="session")
def cache_of_the_tests(tmp_path_factory):
    """No test reads or fills the caches of the person who runs it; what one test has compiled the others need not."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    with pytest.MonkeyPatch.context() as patch:
        if "PIKOJAX_CACHE" not in os.environ:
            shared = tmp_path_factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else tmp_path_factory.getbasetemp()
            (shared / "cache").mkdir(mode=0o700, exist_ok=True)  # what one has built the others need not
            patch.setenv("PIKOJAX_CACHE", str(shared / "cache"))
        yield


@pytest.fixture(params=["best", *(pytest.param(path, marks=pytest.mark.exhaustive) for path in cpu.PATHS)])
def path(request, monkeypatch):
    """The path of native code that this processor takes; the exhaustive tests force each that it can run."""
    if request.param != "best":
        if not cpu.PATHS[request.param] <= cpu.features():
            pytest.skip(f"this processor has no {request.param}")
        monkeypatch.setenv("PIKOJAX_CPU", request.param)
    return cpu.chosen_path()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    if jax.default_backend() != "gpu":
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no GPU here"))
    if "exhaustive" not in config.option.markexpr:  # every shape and format of every kernel: by hand, when a kernel changes
        left_out = [item for item in items if "exhaustive" in item.keywords]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if "exhaustive" not in item.keywords]
