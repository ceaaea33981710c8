"""Tokenizers: text ↔ ids. `load` opens a tokenizer.json or an older kind of file; `train_…` make one.

    tok = load("tokenizer.json"); ids = tok.encode("Hello"); tok.decode(ids)
"""

_PUBLIC = {  # name → where it lives
    "Tokenizer": "pikojax.text.tokenizer",
    "load": "pikojax.text.files",
    "train_char": "pikojax.text.char",
    "train_word": "pikojax.text.word",
}


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pikojax.text' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__():
    return sorted([*globals(), *_PUBLIC])
