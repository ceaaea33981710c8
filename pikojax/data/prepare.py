"""From text to token files, once: split, make the tokenizer, encode, keep the result in a cache, map it into memory.

    documents → one UTF-8 file with the byte where each begins → training part | validation part → train.bin | val.bin

Split. Several documents: the last `val_fraction` (0.1) of them are for validation. One document: the last `val_fraction` of
its characters (nanoGPT's split of a text). Tokenizer: `char` takes every character of the data; the other kinds are made from
the first `data.tokenizer_sample_mb` of the training part. Several documents are each followed by "<|endoftext|>", one special
token more; a single one has none. With `tokenizer.path` nothing is made: documents end with that tokenizer's own end-of-text
token, if it has one, and what it would put around a text (as [CLS]) is left out. A special token that happens to stand in a text is plain text.

Nothing is held in memory but a few megabytes at a time, and of a folder of text files one file. A cache entry is a folder named by a hash of all that it depends on,
made beside its place and renamed into it; one that is damaged is made again; the oldest beyond 10 GB go.

Ready-made tokens (`shards`, `bin`) are mapped where they lie; the vocabulary is `tokenizer.path`'s or `model.vocab_size`.
"""

import dataclasses
import hashlib
import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pikojax import text
from pikojax.config import Config, UserError, require, user_path
from pikojax.data import cache, sources
from pikojax.data.batches import check_length
from pikojax.data.corpus import Part, chunks, gather, split_parts
from pikojax.data.shards import Piece, TokenStream, bin_splits, npy_splits
from pikojax.text.cuts import last_place
from pikojax.text.tokenizer import EOS, UNK, Tokenizer
from pikojax.text.word import safe_cut as safe_cut_of_words

FORMAT = 1  # of a cache entry; raise it when what is written, or how text is split, changes
FLUSH_TOKENS = 2**20


class Dataset(NamedTuple):
    train: TokenStream
    val: TokenStream
    tokenizer: Tokenizer | None  # None: ready-made tokens without one
    vocab_size: int
    description: str  # one line for a person
    facts: dict  # the same for a program; `unk_rate`: the share of <unk> in the validation split (None: unknown)


def open_dataset(config: Config) -> Dataset:
    source = sources.find(config.data)
    given = text.load(user_path(config.tokenizer.path, "tokenizer.path")) if config.tokenizer.path else None
    if source.kind in ("shards", "bin"):
        dataset = _ready_made(config, source, given)
    else:
        entry = cache.entry(_cache_key(config, source, given), lambda folder: _build(config, source, given, folder))
        dataset = _from_entry(config, source, entry)
    check_length(dataset.train, config.model.context)
    require(len(dataset.val) > 1, f"{dataset.val.name} has {len(dataset.val)} tokens; raise data.val_fraction or give more data")
    return dataset


def resolve_vocab(config: Config, dataset: Dataset) -> Config:
    """The config with `model.vocab_size` filled in."""
    size = config.model.vocab_size
    require(
        size is None or size >= dataset.vocab_size,
        f"model.vocab_size = {size} is below the tokenizer's {dataset.vocab_size}; set model.vocab_size=none to take the tokenizer's",
    )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=size or dataset.vocab_size))


# ---------------------------------------------------------------- ready-made tokens


def _ready_made(config: Config, source: sources.Source, tokenizer: Tokenizer | None) -> Dataset:
    size = tokenizer.vocab_size if tokenizer else config.model.vocab_size
    require(
        size is not None,
        f"{config.data.path} holds ready-made tokens whose vocabulary is unknown; set model.vocab_size, or tokenizer.path to their tokenizer",
    )
    splits = (npy_splits if source.kind == "shards" else bin_splits)(list(source.files), config.data.val_fraction)
    names = (f"the {split} split of {config.data.path}" for split in ("training", "validation"))
    eos_id = tokenizer.eos_id if tokenizer else None
    train, val = (TokenStream(pieces, size, eos_id=eos_id, name=name) for pieces, name in zip(splits, names))
    for stream in (train, val):
        stream.check()
    return _dataset(train, val, tokenizer, size, f"{config.data.path} ({source.kind}, {len(source.files)} files)", None)


def _dataset(train, val, tokenizer, vocab_size, what, unk_rate) -> Dataset:
    facts = {f"{name}_tokens": len(stream) for name, stream in (("train", train), ("val", val))}
    facts |= {f"{name}_bytes": stream.n_bytes for name, stream in (("train", train), ("val", val))}
    facts |= {f"{name}_documents": stream.n_documents for name, stream in (("train", train), ("val", val))}
    facts |= {"vocab_size": vocab_size, "unk_rate": unk_rate}
    line = f"{what}: {len(train):,} training and {len(val):,} validation tokens, vocabulary {vocab_size:,}"
    if unk_rate:
        unk = tokenizer.id_to_token(tokenizer.unk_id)
        line += f", {100 * unk_rate:.2g}% of the validation tokens are {unk} (its bits per byte leave those words out)"
    return Dataset(train, val, tokenizer, vocab_size, line, facts)


# ---------------------------------------------------------------- text


def _cache_key(config: Config, source: sources.Source, given: Tokenizer | None) -> dict:
    data, tokenizer = config.data, config.tokenizer
    key = {"format": FORMAT, "kind": source.kind, "val_fraction": data.val_fraction}
    if source.kind == "stories":
        code = sorted(Path(__file__).parent.glob("stor*.py"))  # another grammar is another corpus
        key |= {"seed": data.stories_seed, "mb": data.stories_mb, "code": [cache.digest(file) for file in code]}
    elif source.kind == "hf":
        key |= {"name": data.path, "split": data.hf_split, "field": data.text_field}
    else:
        key |= {"files": [cache.fingerprint(file) for file in source.files], "field": data.text_field}
    if given is not None:  # what it was read as: its name, and files beside it, may have had a say in that
        key["tokenizer"] = hashlib.sha256(json.dumps(given.to_json()).encode()).hexdigest()
    elif tokenizer.kind == "char":
        key["tokenizer"] = "char"
    else:
        key["tokenizer"] = [tokenizer.kind, tokenizer.vocab_size, data.tokenizer_sample_mb]
        if tokenizer.kind == "wordpiece":
            key["tokenizer"].append(tokenizer.lowercase)
    return key


def _build(config: Config, source: sources.Source, given: Tokenizer | None, folder: Path) -> dict:
    """Everything of a cache entry, into `folder`; returns what to remember about it."""
    if source.kind == "text" and len(source.files) == 1:
        whole = Part(source.files[0], np.array([0, source.files[0].stat().st_size]))
    else:
        whole = gather(sources.documents(config.data), folder / "text.tmp")
    require(whole.n_documents > 0, f"{config.data.path} has no text; give data with documents in it")
    several = whole.n_documents > 1
    train, val = split_parts(whole, 0.1 if config.data.val_fraction is None else config.data.val_fraction)
    tokenizer = _train_tokenizer(config, whole, train, (EOS,) if several else ()) if given is None else given
    tokenizer.save(folder / "tokenizer.json")
    eos_id = tokenizer.eos_id if several else None
    facts = {"dtype": "<u2" if tokenizer.vocab_size <= 2**16 else "<u4", "eos_id": eos_id}
    for name, part in (("train", train), ("val", val)):
        n_tokens, n_unk = _encode(tokenizer, part, eos_id, facts["dtype"], folder / f"{name}.bin")
        facts[name] = {"tokens": n_tokens, "unk": n_unk, "bytes": part.n_bytes, "documents": part.n_documents}
    (folder / "text.tmp").unlink(missing_ok=True)
    return facts


def _train_tokenizer(config: Config, whole: Part, train: Part, specials: tuple[str, ...]) -> Tokenizer:
    kind, size = config.tokenizer.kind, config.tokenizer.vocab_size
    if kind == "char":
        return text.train_char((chunk for chunk, _ in chunks(whole, len)), specials)
    sample = train.first_bytes(int(config.data.tokenizer_sample_mb * 1e6))
    learn, cut = {
        "word": (partial(text.train_word, specials=(UNK, *specials)), safe_cut_of_words),
        "bpe": (partial(text.train_bpe, special_tokens=specials), last_place),
        "wordpiece": (partial(text.train_wordpiece, special_tokens=("[UNK]", *specials), lowercase=config.tokenizer.lowercase), last_place),
        "unigram": (partial(text.train_unigram, special_tokens=(UNK, *specials)), last_place),
    }[kind]
    try:
        return learn((chunk for chunk, _ in chunks(sample, cut)), size)
    except UserError as error:
        raise UserError(f"tokenizer.kind = {kind}: {error}") from None


def _encode(tokenizer: Tokenizer, part: Part, eos_id: int | None, dtype: str, file: Path) -> tuple[int, int]:
    n_tokens = n_unk = held = 0
    parts: list[np.ndarray] = []
    end = np.array([] if eos_id is None else [eos_id], np.int32)
    with open(file, "wb") as out:

        def flush():
            nonlocal n_tokens, n_unk
            ids = np.concatenate(parts) if parts else end[:0]
            n_tokens += len(ids)
            n_unk += 0 if tokenizer.unk_id is None else int(np.count_nonzero(ids == tokenizer.unk_id))
            out.write(ids.astype(dtype).tobytes())
            parts.clear()

        for chunk, ends_document in chunks(part, tokenizer.safe_cut):
            parts.append(tokenizer.encode(chunk, add_special_tokens=False, allowed_special=()))
            held += len(parts[-1])
            if ends_document:
                parts.append(end)
            if held > FLUSH_TOKENS:
                flush()
                held = 0
        flush()
    return n_tokens, n_unk


def _from_entry(config: Config, source: sources.Source, entry: cache.Entry) -> Dataset:
    facts, tokenizer = entry.facts, text.load(entry.folder)
    what = {
        "stories": f"{config.data.stories_mb:g} MB of stories (seed {config.data.stories_seed})",
        "hf": f"{config.data.path}, split {config.data.hf_split}",
    }.get(source.kind, f"{config.data.path} ({source.kind})")
    streams = []
    for name, split in (("train", "training"), ("val", "validation")):
        counts = facts[name]
        piece = Piece(str(entry.folder / f"{name}.bin"), facts["dtype"], 0, counts["tokens"])
        details = dict(eos_id=facts["eos_id"], n_bytes=counts["bytes"], n_documents=counts["documents"])
        streams.append(TokenStream([piece], tokenizer.vocab_size, name=f"the {split} split of {what}", **details))
    unk_rate = facts["val"]["unk"] / max(1, facts["val"]["tokens"])
    return _dataset(*streams, tokenizer, tokenizer.vocab_size, what, unk_rate)
