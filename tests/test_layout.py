"""The shape of the source: who may import whom, how long a file and a function may get, what an import costs."""

import ast
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pikojax"
ROWS = "checked plugins llama_config heads_config config native qtensor kernels text data models quant formats train tune memory infer retrieve serve cli".split()
TOP_LEVEL = {"pikojax", "experiments", "tests", "configs", "pyproject.toml", "README.md", "LICENSE"}
FILES = sorted(PACKAGE.rglob("*.py"))


@functools.cache
def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("this is no git checkout")
    return [name for name in done.stdout.split("\0") if name]


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file) for file in FILES}


def imported(source: str, modules: set[str]) -> set[str]:
    """Every module of the package that the source imports, at any depth, or names in a string (to import by it)."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are written out in full"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & modules
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(".") > 1 and node.value in modules:
            found.add(node.value)
    return {name for name in found if name.split(".")[0] == "pikojax"}


def row(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def wrong_imports(module: str, source: str, modules: set[str]) -> list[str]:
    own = row(module)
    wrong = []
    for name in sorted(imported(source, modules)):
        other = row(name)
        if own == "piko":
            good = name.startswith("pikojax.piko.")
        elif own in ("", "__main__"):  # the package itself names things lazily and belongs to no row
            good = other != "piko"
        else:
            good = other == "" or (other in ROWS and ROWS.index(other) <= ROWS.index(own))
        if not good:
            wrong.append(f"{module} imports {name}")
    return wrong


def test_a_file_imports_only_from_rows_above_its_own():
    unknown = [m for m in MODULES if row(m) not in (*ROWS, "", "__main__", "piko")]
    assert not unknown, "these stand in no row"
    assert [line for file in FILES for line in wrong_imports(module_name(file), file.read_text(encoding="utf-8"), MODULES)] == []


@pytest.mark.parametrize(
    "module, source, expected",
    [
        ("pikojax.data.a", "from pikojax.text import char", []),
        ("pikojax.data.a", "def f():\n    from pikojax.train.loop import train", ["pikojax.data.a imports pikojax.train.loop"]),
        ("pikojax.text.a", "import pikojax.cli.main as m", ["pikojax.text.a imports pikojax.cli.main"]),
        ("pikojax.text.a", "load('pikojax.models.gpt')", ["pikojax.text.a imports pikojax.models.gpt"]),
        ("pikojax.piko.a", "from pikojax.config import require", ["pikojax.piko.a imports pikojax.config"]),
        ("pikojax.cli.a", "from pikojax.piko import b", ["pikojax.cli.a imports pikojax.piko"]),
        ("pikojax.train.a", "from pikojax import __version__", []),
    ],
)
def test_the_import_rule_sees_what_it_should(module, source, expected):
    assert wrong_imports(module, source, {"pikojax.models.gpt", *MODULES}) == expected


def test_files_and_functions_stay_short_enough_to_read_in_one_sitting():
    long = []
    for file in FILES:
        source = file.read_text(encoding="utf-8")
        n_lines = source.count("\n")
        long += [f"{file.relative_to(ROOT)}: {n_lines} lines"] if n_lines > 400 else []
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno + 1 > 60:
                long.append(f"{file.relative_to(ROOT)}: {node.name} has {node.end_lineno - node.lineno + 1} lines")
    assert long == []


def test_each_file_opens_with_what_it_does():
    assert [str(file) for file in FILES if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))] == []


def test_the_top_level_holds_nothing_else():
    tops = {name.split("/")[0] for name in tracked()}
    assert {name for name in tops if not name.startswith(".")} - TOP_LEVEL == set()


def run_python(code: str) -> str:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True).stdout


HEAVY = ("jax", "jaxlib", "flax", "optax", "orbax", "numpy", "rich", "matplotlib")


@pytest.mark.parametrize(
    "what, limit_s",
    [("import pikojax, pikojax.config", 0.2), ("from pikojax.cli.main import main; main(['--help'])", 0.3)],
)
def test_a_start_is_quick_and_loads_nothing_heavy(what, limit_s):
    code = (
        "import sys, time, io, contextlib; start_s = time.process_time()\n"  # of this process: others may be busy beside the test
        f"with contextlib.redirect_stdout(io.StringIO()):\n    {what}\n"
        f"print(time.process_time() - start_s, *[m for m in {HEAVY} if m in sys.modules])"
    )
    runs = [run_python(code).split() for _ in range(5)]
    assert {tuple(loaded) for _, *loaded in runs} == {()}
    assert min(float(seconds) for seconds, *_ in runs) < limit_s


def test_every_public_name_leads_somewhere():
    run_python("import pikojax\nfor name in pikojax._PUBLIC: assert getattr(pikojax, name) is not None and name in dir(pikojax)")


# ---------------------------------------------------------------- README


def readme_tree() -> set[str]:
    """The files that README.md's annotated tree names: the fenced block that begins with `pikojax/`, two spaces a level."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"^```[a-z]*\n(pikojax/\n.*?)^```", text, re.M | re.S)
    assert block, "README.md has no fenced block that begins with `pikojax/`"
    folders, files = [], set()
    for line in block[1].splitlines():
        if not line.strip():
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, note = line.strip().partition("  ")
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name.rstrip("/"))
        else:
            assert note.strip(), f"the tree says nothing about {name}"
            files |= {"/".join([*folders, each]) for each in name.split(", ")}
    return files


def test_the_tree_in_the_readme_is_the_tree():
    exist = {name for name in tracked() if name.startswith("pikojax/") and not name.endswith(("__init__.py", "__main__.py"))}
    tree = readme_tree()
    assert sorted(exist - tree) == [], "missing in README.md's tree"
    assert sorted(tree - exist) == [], "in README.md's tree only"


def test_ci_runs_the_command_of_the_readme():
    done = subprocess.run(["bash", ".ci/run", "--print-test-command"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    command = done.stdout.strip()
    assert "\n" not in command and "[test]" in command and "bin/pytest" in command
    assert (ROOT / "README.md").read_text(encoding="utf-8").count(f"\n{command}\n") == 1
