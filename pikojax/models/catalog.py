"""Name → `Model`. A built-in architecture is a module of this folder that defines `MODEL`; a plug-in is an entry point."""

from collections.abc import Iterator, Mapping
from importlib import import_module

from pikojax.config import MODEL_BLOCKS, UserError


class Catalog(Mapping):
    """Loads an architecture when it is asked for, and no other."""

    def __getitem__(self, name: str):
        if name in MODEL_BLOCKS:
            return import_module(f"pikojax.models.{name}").MODEL
        from importlib.metadata import entry_points

        for entry in entry_points(group="pikojax.models"):
            if entry.name == name:
                return entry.load()
        raise UserError(f"no model {name!r}; there are: {', '.join(self)}")

    def __iter__(self) -> Iterator[str]:
        from importlib.metadata import entry_points

        return iter([*MODEL_BLOCKS, *(entry.name for entry in entry_points(group="pikojax.models"))])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in list(iter(self))


catalog = Catalog()
