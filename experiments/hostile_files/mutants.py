"""Tiny models and tokenizers in every format that is read, ways to damage their files, and what has to hold of each damaged one.

    seed = SEEDS["gguf"](folder)           →    a model in `folder`; seed.damaged is the file to damage, seed.opened what is loaded
    mutant(seed.content, rng)              →    bytes: flipped, cut, spliced, with lengths and counts at their extremes, …
    outcome(seed, run=True)                →    "run" | "loaded" | "refused"; raises `Broken` for anything else

Number i of a kind is always the same mutant: random.Random(f"{kind} {i}").

Leaves out: several files damaged at once, files of more than a few KB (a claim of 2⁶³ things fits into 8 bytes).
"""

import base64
import copy
import functools
import json
import random
import struct
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import pikojax
from pikojax.config import GPTConfig, LlamaConfig, UserError
from pikojax.formats import gguf_save, hf_write
from pikojax.models import catalog
from pikojax.text import load as load_tokenizer
from pikojax.text import rank_file
from pikojax.text.byte_level import CHARS

TEXT = "Once upon a time, <s> a b  c\n1 + 23 é 中文 ▁ <mask>\u0000"
EXTREMES = [0, 1, 2, 3, 7, 8, 9, 12, 31, 32, 33, 255, 256, 1 << 15, 1 << 16, 1 << 20, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
            1 << 40, 1 << 48, 1 << 61, 1 << 62, 1 << 63, (1 << 63) - 1, (1 << 64) - 1, (1 << 64) - 32]  # fmt: skip
ODD = [None, True, False, -1, 0, 1, 2, 2**31, 10**30, 1e308, 1e-320, "", "x", "\n", "▁", "\ud800", [], [[]], [1], ["a", "b"], {}, {"type": "x"}, {"a": 1}]
SNIPPETS = [b"0", b"-1", b"1e999", b"[", b"]", b"{", b"}", b"{}", b"null", b'"', b",", b"9" * 18, b"\n", b" ", b"\0", b"\xff", b"\xef\xbb\xbf", b"\\ud800", b"[" * 3000]


class Seed(NamedTuple):
    opened: Path  # what is loaded
    damaged: Path  # the file that is damaged
    is_model: bool

    @property
    def content(self) -> bytes:
        return self.damaged.read_bytes()


class Broken(Exception):
    """What a file must not do."""


# ---------------------------------------------------------------- seeds


@functools.cache
def _llama(**more):
    cfg = LlamaConfig(d_model=32, n_layers=1, n_heads=2, n_kv_heads=1, d_hidden=32, vocab_size=24, context=16, tie=False, **more)
    return cfg, jax.tree.map(np.asarray, jax.jit(catalog["llama"].init, static_argnums=0)(cfg, jax.random.key(0)))


PIECES = ["<unk>", "<s>", "</s>", "▁", *"abcdefgh", "▁a", "ab", "▁ab", "cd", "▁b", "bc", "ef", "gh", "efgh", ".", ",", "é"]


def _gguf(folder: Path, type: str, **more) -> Seed:
    words = {"model": "llama", "tokens": PIECES, "scores": -np.arange(24, dtype=np.float32), "token_type": np.array([2, 3, 3] + [1] * 21, np.int32),
             "bos_token_id": 1, "eos_token_id": 2, "add_bos_token": True}  # fmt: skip
    words = {f"tokenizer.ggml.{name}": value for name, value in words.items()} | {"tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}"}
    gguf_save.save(folder / "m.gguf", *_llama(**more), type, words)
    return Seed(folder / "m.gguf", folder / "m.gguf", True)


def _folder(folder: Path, damaged: str, moe: bool = False) -> Seed:
    cfg, params = _llama(n_experts=2, n_experts_used=1) if moe else _llama()
    hf_write.write(folder / "hf", cfg, params, template="{{ messages }}")
    (folder / "hf" / "tokenizer.json").write_text(json.dumps(_unigram()))
    return Seed(folder / "hf", folder / "hf" / damaged, True)


def _gpt2(folder: Path) -> Seed:
    cfg = GPTConfig(d_model=16, n_layers=1, n_heads=2, vocab_size=24, context=16, bias=True)
    hf_write.write(folder / "hf", cfg, jax.tree.map(np.asarray, jax.jit(catalog["gpt"].init, static_argnums=0)(cfg, jax.random.key(0))))
    return Seed(folder / "hf", folder / "hf" / "config.json", True)


def _llama2c(folder: Path, damaged: str) -> Seed:
    rng, D, F, V, T = np.random.default_rng(0), 8, 8, 262, 16
    n = V * D + D + D * D * 2 + D * D + D + 3 * F * D + D + 2 * T * 2  # one layer, 2 heads of 4, one of them of keys and values
    (folder / "m.bin").write_bytes(struct.pack("<7i", D, F, 1, 2, 1, V, T) + rng.standard_normal(n, np.float32).tobytes())
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", " a", "b"]
    (folder / "tokenizer.bin").write_bytes(struct.pack("<i", 6) + b"".join(struct.pack("<fi", -i, len(piece)) + piece.encode() for i, piece in enumerate(pieces)))
    return Seed(folder / "m.bin", folder / damaged, True)


def _tree(model: dict, **parts) -> dict:
    flags = {"single_word": False, "lstrip": True, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": 0, "content": "<s>", **flags}, {"id": 1, "content": "<mask>", **flags}]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": model, **parts}


def _unigram() -> dict:
    vocab = [[token, -0.5 * i] for i, token in enumerate(["<s>", "<mask>", *PIECES[3:]])]
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}}  # fmt: skip
    normalizer = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]}
    return _tree({"type": "Unigram", "unk_id": 0, "vocab": vocab}, normalizer=normalizer, pre_tokenizer=space, decoder=space, post_processor=template)


def _bpe() -> dict:
    tokens = ["<s>", "<mask>", *sorted(CHARS), "Ġa", "ab", "Ġab"]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    split = {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}| ?\\p{L}+|\\s+"}, "behavior": "Isolated", "invert": False}
    vocab = {token: i for i, token in enumerate(tokens)}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
             "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": [["Ġ", "a"], ["a", "b"], ["Ġa", "b"]]}  # fmt: skip
    return _tree(model, pre_tokenizer={"type": "Sequence", "pretokenizers": [split, level | {"use_regex": False}]}, decoder=level, post_processor=level)


def _word_piece() -> dict:
    vocab = {token: i for i, token in enumerate(["[UNK]", "[CLS]", "[SEP]", *"abcdefgh", "##a", "##b", "once", "up", "##on", ",", "1"])}
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab}
    frame = {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}
    return _tree(model, added_tokens=[], normalizer=normalizer, pre_tokenizer={"type": "BertPreTokenizer"}, post_processor=frame, decoder={"type": "WordPiece", "prefix": "##", "cleanup": True})


def _sentencepiece() -> bytes:
    field = lambda number, data: bytes([number << 3 | 2, *([len(data)] if len(data) < 128 else [len(data) & 127 | 128, len(data) >> 7])]) + data
    kinds = [2, 3, 3] + [1] * (len(PIECES) - 3)
    pieces = [field(1, piece.encode()) + b"\x15" + struct.pack("<f", -i) + bytes([0x18, kind]) for i, (piece, kind) in enumerate(zip(PIECES, kinds, strict=True))]
    return b"".join(field(1, piece) for piece in pieces) + field(2, bytes([0x18, 2])) + field(3, field(1, b"identity") + bytes([0x18, 1, 0x20, 1, 0x28, 1]))


def _ranks() -> bytes:
    """A rank file has as many tokens as its kind; the smallest kind there is has 50,000, so this adds one."""
    rank_file._KINDS["tiny"] = (259, "gpt2", {"<|endoftext|>": 259})
    tokens = [bytes([byte]) for byte in range(256)] + [b"ab", b" a", b" ab"]
    return b"".join(base64.b64encode(token) + b" %d\n" % i for i, token in enumerate(tokens))


def _tokenizer(folder: Path, files: dict[str, bytes | dict], damaged: str | None = None) -> Seed:
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    first = folder / next(iter(files))
    return Seed(first, folder / (damaged or first.name), False)


def _gpt2_files() -> dict:
    vocab = _bpe()["model"]["vocab"]
    return {"vocab.json": vocab, "merges.txt": "#version: 0.2\nĠ a\na b\nĠa b\n".encode(), "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False}}


_BERT = "\n".join(_word_piece()["model"]["vocab"]).encode() + b"\n"
SEEDS = {  # kind → what puts its seed into an empty folder
    "gguf": lambda folder: _gguf(folder, "f32"),
    "gguf packed": lambda folder: _gguf(folder, "q4_0"),
    "gguf of experts": lambda folder: _gguf(folder, "q8_0", n_experts=2, n_experts_used=1),
    "safetensors": lambda folder: _folder(folder, "model.safetensors"),
    "safetensors of experts": lambda folder: _folder(folder, "model.safetensors", moe=True),
    "config.json": lambda folder: _folder(folder, "config.json"),
    "config.json of experts": lambda folder: _folder(folder, "config.json", moe=True),
    "config.json of GPT-2": _gpt2,
    "llama2.c": lambda folder: _llama2c(folder, "m.bin"),
    "llama2.c tokenizer": lambda folder: _llama2c(folder, "tokenizer.bin"),
    "tokenizer.json, BPE": lambda folder: _tokenizer(folder, {"tokenizer.json": _bpe()}),
    "tokenizer.json, Unigram": lambda folder: _tokenizer(folder, {"tokenizer.json": _unigram()}),
    "tokenizer.json, WordPiece": lambda folder: _tokenizer(folder, {"tokenizer.json": _word_piece()}),
    "tokenizer.model": lambda folder: _tokenizer(folder, {"tokenizer.model": _sentencepiece()}),
    "tiktoken": lambda folder: _tokenizer(folder, {"tiny.tiktoken": _ranks()}),
    "vocab.txt": lambda folder: _tokenizer(folder, {"vocab.txt": _BERT}),
    "vocab.json": lambda folder: _tokenizer(folder, _gpt2_files()),
    "merges.txt": lambda folder: _tokenizer(folder, _gpt2_files(), "merges.txt"),
}


# ---------------------------------------------------------------- damage


def mutant(content: bytes, rng: random.Random) -> bytes:
    if content[:1] == b"{" and rng.random() < 0.5:
        return _odd_json(json.loads(content), rng)
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if len(data) < 16:
            break
        rng.choice(_DAMAGES)(data, rng)
    return bytes(data)


def _somewhere(data: bytearray, rng: random.Random) -> int:
    """More often near the beginning, where claims stand."""
    return rng.randrange(min(len(data), rng.choice((16, 200, 2000, len(data)))))


def _flip(data, rng):
    data[_somewhere(data, rng)] ^= 1 << rng.randrange(8)


def _byte(data, rng):
    data[_somewhere(data, rng)] = rng.choice((0, 1, 2, 8, 9, 127, 128, 255, rng.randrange(256)))


def _cut(data, rng):
    del data[_somewhere(data, rng) :]


def _remove(data, rng):
    at = _somewhere(data, rng)
    del data[at : at + rng.choice((1, 4, 8, rng.randrange(1, 300)))]


def _splice(data, rng):
    at, source, n = _somewhere(data, rng), _somewhere(data, rng), rng.choice((4, 8, rng.randrange(1, 300)))
    data[at : at + rng.choice((0, n))] = data[source : source + n]


def _snippet(data, rng):
    at = _somewhere(data, rng)
    data[at : at + rng.choice((0, 1))] = rng.choice(SNIPPETS)


def _claim(data, rng):
    """A number that looks like a length, a count or a type becomes another."""
    width, kind = rng.choice(((8, "<Q"), (8, "<Q"), (4, "<I")))
    start = _somewhere(data, rng)
    for at in range(start, min(start + 400, len(data) - width)):
        (value,) = struct.unpack_from(kind, data, at)
        if value < 1 << 16 and data[at]:
            near = [value + 1, max(value - 1, 0), 2 * value]
            struct.pack_into(kind, data, at, (rng.choice((*EXTREMES, *near))) % (1 << 8 * width))
            return


_DAMAGES = (_flip, _byte, _byte, _cut, _remove, _splice, _splice, _snippet, _claim, _claim, _claim, _claim)


def _odd_json(tree, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 4))):
        node = tree
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.8:
                node = node[key]
                continue
            kind = rng.randrange(4)
            if kind == 0:
                del node[key]
            elif kind == 1 and isinstance(node, dict):
                node[str(rng.choice(ODD[:15])) if rng.random() < 0.5 else key + "x"] = node[key]
            elif kind == 2 and type(node[key]) in (int, float):
                node[key] = rng.choice((node[key] + 1, node[key] - 1, -node[key], node[key] * 2, node[key] + 0.5, *EXTREMES))
            else:
                node[key] = copy.deepcopy(rng.choice(ODD))
            break
    return json.dumps(tree).encode("utf-8", "surrogatepass")


# ---------------------------------------------------------------- what has to hold


def outcome(seed: Seed, run: bool = True) -> str:
    """With `run` a model that loads computes logits of a few tokens, and a tokenizer goes there and back."""
    try:
        return _tried(seed, run)
    except UserError as error:
        return _refused(error)


def _refused(error: UserError) -> str:
    said = str(error)
    if "\n" in said or len(said) > 700 or not said.isprintable():
        raise Broken(f"said {said!r:.300}") from None
    return "refused"


def _tried(seed: Seed, run: bool) -> str:
    if not seed.is_model:
        tok = load_tokenizer(seed.opened)
        _use(tok)
        return "run"
    loaded = pikojax.load(seed.opened, ready=run)
    try:
        if loaded.tokenizer is not None:
            _use(loaded.tokenizer)
        _ = loaded.chat_templates, loaded.eos_ids
    except UserError as error:
        refused = _refused(error)
        if seed.damaged != seed.opened and "tokenizer" in seed.damaged.name:
            return refused  # of a model whose own file is damaged it refuses a part, and the rest is tried
    if run:
        V, T = loaded.config.vocab_size, min(4, loaded.config.context)
        logits_BTV = np.asarray(loaded.logits(np.linspace(0, V - 1, T, dtype=np.int32)[None]))
        if logits_BTV.shape != (1, T, V):
            raise Broken(f"logits of shape {logits_BTV.shape}")
    return "run" if run else "loaded"


def _use(tok) -> None:
    ids = tok.encode(TEXT)
    if len(ids) and not (0 <= ids.min() and ids.max() < max(tok.vocab_size, 1)):
        raise Broken(f"ids from {ids.min()} to {ids.max()} of {tok.vocab_size}")
    if not isinstance(tok.decode(ids), str):
        raise Broken("decoded to no text")
