"""Data: from files, a dataset or the built-in stories to batches of tokens. `open_dataset` is the way in."""

_PUBLIC = {  # name → where it lives
    "Batch": "pikojax.data.batches",
    "Dataset": "pikojax.data.prepare",
    "TokenStream": "pikojax.data.shards",
    "batch_at": "pikojax.data.batches",
    "documents": "pikojax.data.sources",
    "eval_batches": "pikojax.data.batches",
    "open_dataset": "pikojax.data.prepare",
    "prefetch": "pikojax.data.batches",
    "resolve_vocab": "pikojax.data.prepare",
}


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pikojax.data' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__():
    return sorted([*globals(), *_PUBLIC])
