"""Plug-ins: what another package adds under a name, through Python's entry points; loaded when it is named, and not before.

    [project.entry-points."pikojax.models"]          [project.entry-points."pikojax.tokenizers"]
    mamba = "my_package.mamba:MODEL"                 Syllables = "my_package.syllables:from_tree"

    [project.entry-points."pikojax.kernels"]
    vulkan = "my_package.vulkan:KERNELS"

A model is a `Model` (see `pikojax/models`) and is chosen by `model.name = "mamba"`. A tokenizer is a function from the tree of a
tokenizer.json to a tokenizer, and its name is the `model.type` in that file. Kernels are an object with `matmul(x, w, layer)`,
`decode_attention(…)` or both, chosen by PIKOJAX_KERNELS=vulkan (see `pikojax/kernels/dispatch.py`). What is built in comes first: no plug-in can take its place.

Leaves out: hooks, versions of an interface, switching plug-ins off (uninstall the package).
"""

from importlib import metadata
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Any

from pikojax.checked import UserError, require

GROUPS = ("pikojax.models", "pikojax.tokenizers", "pikojax.kernels")


def names(group: str) -> list[str]:
    return sorted({point.name for point in metadata.entry_points(group=group)})


def load(group: str, name: str) -> Any | None:
    """What the plug-in called `name` brings; None if there is none."""
    found = {point.value: point for point in metadata.entry_points(group=group) if point.name == name}
    if not found:
        return None
    where = " and ".join(f"{_package(point)[0]} ({point.value})" for point in found.values())
    require(len(found) == 1, f"{name!r} is a plug-in of {where}; uninstall one of them")
    (point,) = found.values()
    try:
        return point.load()
    except Exception as error:  # whatever a stranger's module raises while it is imported
        package, version = _package(point)
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"the plug-in {name!r} of {package} {version} does not load: {said:.300}; mend or uninstall {package}") from None


def listed() -> list[dict[str, str | None]]:
    """Every plug-in, with what is wrong with it as far as that shows without loading it."""
    points = {(group, point.name, point.value): point for group in GROUPS for point in metadata.entry_points(group=group)}
    out = []
    for (group, name, value), point in sorted(points.items()):
        package, version = _package(point)
        rivals = [other for g, n, other in points if (g, n) == (group, name) and other != value]
        trouble = f"{rivals[0]} has the same name" if rivals else _missing(point)
        out.append({"group": group, "name": name, "value": value, "package": package, "version": version, "trouble": trouble})
    return out


def _package(point: metadata.EntryPoint) -> tuple[str, str]:
    found = point.dist
    return (found.metadata["Name"], found.version) if found is not None else ("an unknown package", "")


def _missing(point: metadata.EntryPoint) -> str | None:
    """The module that is not there. Looks for the file, as importing it, or what it is in, would run it."""
    try:
        parts = point.module.split(".")
    except AttributeError:
        return "it is not written module:name"
    path = None
    for i in range(len(parts)):
        module = ".".join(parts[: i + 1])
        try:
            spec = find_spec(module) if path is None else PathFinder.find_spec(module, path)
        except Exception as error:  # broken finders, folders that may not be read
            return " ".join(f"{type(error).__name__}: {error}".split())
        if spec is None:
            return f"there is no module {module}"
        path = spec.submodule_search_locations
        if path is None and i + 1 < len(parts):
            return f"there is no module {'.'.join(parts[: i + 2])}"
    return None
