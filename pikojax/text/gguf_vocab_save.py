"""A tokenizer → the metadata by which GGUF says its vocabulary: `gguf_vocab.py` the other way round.

    metadata(tok)["tokenizer.ggml.model"]  →  "llama" (pieces with bytes to fall back on) | "gpt2" (byte-level BPE)

GGUF names how text is split and what is normalized in place of spelling it out, so not every tokenizer can be said. What was written is
read back and has to give the same ids for `PROBES`; else it is refused.

Leaves out: WordPiece and Unigram vocabularies; chat templates.
"""

from collections.abc import Mapping

import numpy as np

from pikojax.config import UserError, require
from pikojax.text.gguf_vocab import NFC, SPLITS, WHOLE_FIRST, tree
from pikojax.text.patterns import PATTERNS
from pikojax.text.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from pikojax.text.tokenizer import Tokenizer

PROBES = ("", " ", "Once upon a time, there was a little girl.", "  two\n\n\nlines\t 3.14159 2026 ", "I'll we've DON'T", "naïve café Ünïcode e\u0301", "日本語 한국어 🙂\x00",
          "<s>a</s><|endoftext|>", "def f(x):\n    return x**2  # ½")  # fmt: skip


def metadata(tok: Tokenizer, n_rows: int | None = None) -> dict:
    """`n_rows`: of the embedding. Rows beyond the vocabulary get names of their own, for llama.cpp counts tokens to know the rows."""
    model, normalizer = tok.tree["model"], tok.tree.get("normalizer")
    known = isinstance(tok, Tokenizer) and model.get("type", "BPE") == "BPE"
    require(known, f"GGUF cannot say a vocabulary of the kind {model.get('type')} here; leave the tokenizer out")
    pieces = bool(model.get("byte_fallback"))
    made = {"tokenizer.ggml.model": "llama" if pieces else "gpt2"}
    made |= {"tokenizer.ggml.add_space_prefix": '"Prepend"' in repr(normalizer).replace("'", '"')} if pieces else {"tokenizer.ggml.pre": _pre(tok)}
    made |= {"tokenizer.ggml.tokens": tok.tokens, "tokenizer.ggml.token_type": np.array(_types(tok, pieces), np.int32)}
    if pieces:
        made["tokenizer.ggml.scores"] = np.array(_scores(tok), np.float32)
    else:
        made["tokenizer.ggml.merges"] = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    ids = {"bos": tok.bos_id, "eos": tok.eos_id, "padding": tok.pad_id, "unknown": tok.unk_id}
    made |= {f"tokenizer.ggml.{name}_token_id": id for name, id in ids.items() if id is not None}
    framed = tok.encode("a").tolist()
    made |= {"tokenizer.ggml.add_bos_token": tok.bos_id is not None and framed[:1] == [tok.bos_id]}
    made |= {"tokenizer.ggml.add_eos_token": tok.eos_id is not None and framed[-1:] == [tok.eos_id]}
    _prove(tok, made)
    n_left = (len(tok.tokens) if n_rows is None else n_rows) - len(tok.tokens)
    require(n_left >= 0, f"the tokenizer has {len(tok.tokens):,} tokens, {-n_left:,} more than the model; it is another model's, so leave it out")
    if n_left > 0:
        made["tokenizer.ggml.tokens"] = [*tok.tokens, *(f"[PAD{id}]" for id in range(len(tok.tokens), len(tok.tokens) + n_left))]
        made["tokenizer.ggml.token_type"] = np.append(made["tokenizer.ggml.token_type"], np.full(n_left, UNUSED, np.int32))
        if pieces:
            made["tokenizer.ggml.scores"] = np.append(made["tokenizer.ggml.scores"], np.full(n_left, -1e4, np.float32))
    return made


def _scores(tok: Tokenizer) -> list[float]:
    """A piece is merged the sooner, the higher its score. Of a list of merges the first that makes a piece says when."""
    model = tok.tree["model"]
    if "scores" in model or model.get("rank_order"):
        return model.get("scores") or [-id for id in range(tok.vocab_size)]
    first: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        first.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), rank)
    return [-first.get(token, len(model["merges"])) for token in tok.tokens]


def _types(tok: Tokenizer, pieces: bool) -> list[int]:
    model, specials = tok.tree["model"], set(tok.specials)
    defined, unused = set(model.get("user_defined", ())), set(model.get("unused", ()))
    added = {entry["content"] for entry in tok.tree.get("added_tokens") or ()}

    def one(id: int, token: str) -> int:
        if not token:
            return UNUSED
        if pieces and id == tok.unk_id:
            return UNKNOWN
        if token in specials:
            return CONTROL
        if token in defined or token in added:
            return USER_DEFINED
        if token in unused:
            return UNUSED
        return BYTE if pieces and len(token) == 6 and token.startswith("<0x") and token.endswith(">") else NORMAL

    return [one(id, token) for id, token in enumerate(tok.tokens)]


def _pre(tok: Tokenizer) -> str:
    """The name that GGUF has for the way this tokenizer splits text."""
    steps, normalizer = tok.tree.get("pre_tokenizer") or {}, tok.tree.get("normalizer")
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    splits = tuple(step["pattern"].get("Regex") for step in steps if step.get("type") == "Split")
    if not splits and any(step.get("type") == "ByteLevel" and step.get("use_regex", True) for step in steps):
        splits = (PATTERNS["gpt2"],)
    facts = splits, isinstance(normalizer, Mapping) and normalizer.get("type") == "NFC", bool(tok.tree["model"].get("ignore_merges"))
    for name, patterns in SPLITS.items():
        if facts == (tuple(PATTERNS[pattern] for pattern in patterns), name in NFC, name in WHOLE_FIRST):
            return name
    raise UserError("GGUF has no name that is known here for the way this tokenizer splits text; leave the tokenizer out")


def _prove(tok: Tokenizer, made: Mapping) -> None:
    again = Tokenizer.from_tree(tree(made, "the file to be written"))
    for text in PROBES:
        same = all(np.array_equal(tok.encode(text, add_special_tokens=framed), again.encode(text, add_special_tokens=framed)) for framed in (False, True))
        require(same, f"GGUF cannot say this tokenizer: {text[:30]!r} would become other tokens; leave the tokenizer out")
