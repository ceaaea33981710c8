"""Name → `Model`. A built-in architecture is a module of this folder that defines `MODEL`; a plug-in is an entry point."""

from collections.abc import Iterator, Mapping
from importlib import import_module

from pikojax import plugins
from pikojax.config import BESIDES, MODEL_BLOCKS, require

ENCODERS = ("bert",)  # which make no text: nothing trains them or asks them for tokens, so that no run's config names them


class Catalog(Mapping):
    """Loads an architecture when it is asked for, and no other."""

    def __getitem__(self, name: str):
        if name in MODEL_BLOCKS or name in ENCODERS or name in BESIDES:
            return import_module(f"pikojax.models.{name}").MODEL
        model = plugins.load("pikojax.models", name)
        require(model is not None, f"no model {name!r}; there are: {', '.join(self)}")
        missing = [part for part in ("config_class", "init", "forward", "new_cache", "axes") if not hasattr(model, part)]
        require(not missing, f"the plug-in {name!r} brings no Model: it lacks {', '.join(missing)}; mend or uninstall it")
        return model

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*MODEL_BLOCKS, *ENCODERS, *plugins.names("pikojax.models")]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in list(iter(self))


catalog = Catalog()
