"""pikojax: a small, complete LLM stack in JAX.

`import pikojax` is cheap: public names load when they are first used, JAX when something first computes.
"""

__version__ = "0.1.0"

_PUBLIC = {  # name → where it lives
    "Config": "pikojax.config",
    "UserError": "pikojax.config",
    "load": "pikojax.formats.load",
    "load_config": "pikojax.config",
    "catalog": "pikojax.models",
}


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pikojax' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__():
    return sorted([*globals(), *_PUBLIC])
