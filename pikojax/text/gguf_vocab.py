"""The vocabulary inside a GGUF file → the tree of a tokenizer.json.

    tokenizer.ggml.model = "llama" (SentencePiece BPE) | "gpt2" (byte-level BPE) | "t5" (Unigram) | "bert" (WordPiece)

Byte-level vocabularies name their pre-tokenizer in `tokenizer.ggml.pre`; what that name stands for is known here for the families below
and refused by name otherwise, since a wrong split gives wrong ids in silence.

Leaves out: `rwkv`, `plamo2`; reading the file (`pikojax/formats/gguf.py`).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pikojax.config import UserError, require
from pikojax.text import sentencepiece
from pikojax.text.chat import Templates
from pikojax.text.patterns import PATTERNS
from pikojax.text.rank_file import bpe_model
from pikojax.text.sentencepiece import CONTROL, NORMAL, UNKNOWN, USER_DEFINED

MOST_TOKENS = 2_000_000
SPLITS = {  # tokenizer.ggml.pre → the patterns that a text is cut by, one after the other
    **dict.fromkeys(("gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum", "modern-bert",
                     "mpt", "olmo", "jais", "trillion", "granite-docling", "roberta-bpe", "jina-v1-en", "jina-v2-code", "exaone4"), ("gpt2",)),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "dbrx", "smaug-bpe",
                     "chatglm-bpe", "glm4", "glm5", "jina-v5-nano"), ("cl100k",)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "solar-open", "megrez", "kormo", "grok-2", "f2llmv2",
                     "bailingmoe", "bailingmoe2", "llada-moe"), ("qwen2",)),
    "qwen35": ("qwen3.5",),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), ("o200k",)),
    "tekken": ("tekken",),
    **dict.fromkeys(("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"), ("number", "gpt2")),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), ("digits3", "han_kana", "deepseek3")),
    "deepseek-llm": ("newline", "cased_letters", "wide_marks", "spaces_at_end", "east_asian", "numbers"),
    "deepseek-coder": ("newline", "letters", "marks", "east_asian", "number"),
    "falcon": ("marks_and_signs", "gpt2", "ascii_digits3"),
    **dict.fromkeys(("bloom", "poro-chat", "gpt3-finnish"), ("bloom",)),
    "viking": ("bloom", "number"),
    "laguna": ("lines", "qwen2"),
}  # fmt: skip
WHOLE_FIRST = {"glm4", "glm5", "jina-v5-nano", "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken", "gpt-4o", "llama4", "kanana2"}
BEGINS = {"jina-v5-nano", "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken"}  # texts begin with <bos> unless the file says no
NFC = {"qwen2", "deepseek-r1-qwen", "qwen35", "f2llmv2"}


def tree(metadata: Mapping, file: str) -> dict | None:
    """None where the file has no vocabulary."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind is None or isinstance(kind, str) and kind in ("none", "no_vocab"):
        return None
    readers = {"llama": _sentencepiece, "t5": _sentencepiece, "gpt2": _byte_level, "bert": _word_piece}
    require(isinstance(kind, str) and kind in readers, f"{file} has a vocabulary of the kind {str(kind)[:40]!r}; there are: {', '.join(readers)}")
    return readers[kind](_Vocabulary(metadata, file))


def templates(metadata: Mapping, file: str) -> Templates | None:
    """The chat templates that stand beside the vocabulary; None where there are none."""
    key = "tokenizer.chat_template"
    named = {name.removeprefix(key).removeprefix(".") or "default": text for name, text in metadata.items() if name == key or name.startswith(key + ".")}
    sources = {name: text for name, text in named.items() if isinstance(text, str)}
    if not sources:
        return None
    v = _Vocabulary(metadata, file)
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding", "sep_token": "seperator", "cls_token": "cls", "mask_token": "mask"}
    return Templates(sources, {ours: token for ours, name in names.items() if (token := v.token(name)) is not None})


class _Vocabulary:
    def __init__(self, metadata: Mapping, file: str):
        self.metadata, self.file = metadata, file
        self.tokens = self.strings("tokens")
        require(0 < len(self.tokens) <= MOST_TOKENS, f"{file} has no list of tokens, or one of more than {MOST_TOKENS:,}; download it again")
        types = self.numbers("token_type")
        self.types = [NORMAL] * len(self.tokens) if types is None else [int(kind) for kind in types]

    def get(self, name: str, default=None):
        return self.metadata.get(f"tokenizer.ggml.{name}", default)

    def strings(self, name: str) -> list[str]:
        found = self.get(name)
        good = isinstance(found, Sequence) and not isinstance(found, (str, bytes))
        made = list(found) if good and len(found) <= 4 * MOST_TOKENS else []
        require(good and all(isinstance(text, str) for text in made), f"{self.file} has no list of {name}; download it again")
        return made

    def numbers(self, name: str) -> list[float] | None:
        """One finite number for each token."""
        found = self.get(name)
        if found is None:
            return None
        listed = found.ndim == 1 and found.dtype.kind in "iuf" if isinstance(found, np.ndarray) else isinstance(found, list)
        require(listed and len(found) == len(self.tokens), f"{self.file} has {len(self.tokens):,} tokens and no {name} for each of them; download it again")
        made = found.tolist() if isinstance(found, np.ndarray) else found
        good = all(type(n) in (int, float) and math.isfinite(n) for n in made)
        require(good, f"{self.file} has a {name} that is no number; download it again")
        return made

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name, default)
        require(isinstance(value, bool), f"{self.file} has {name} = {str(value)[:40]!r}, wanted true or false; download it again")
        return value

    def id_of(self, name: str) -> int | None:
        i = self.get(f"{name}_token_id")
        require(i is None or type(i) is int and 0 <= i < len(self.tokens), f"{self.file} has {name}_token_id = {' '.join(str(i).split())[:40]}, its tokens are 0 to {len(self.tokens) - 1}")
        return i

    def token(self, name: str) -> str | None:
        i = self.id_of(name)
        return None if i is None else self.tokens[i]

    def named(self, made: dict) -> dict:
        """With the tokens that begin, end and fill texts, for whoever asks the tokenizer."""
        names = {f"{name}_token": token for name, field in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")) if (token := self.token(field)) is not None}
        return {**made, "model": {**made["model"], "names": names}} if names else made

    def unique(self) -> dict[str, int]:
        vocab = {token: i for i, token in enumerate(self.tokens)}
        if len(vocab) < len(self.tokens):
            again = next(token for i, token in enumerate(self.tokens) if vocab[token] != i)
            raise UserError(f"{self.file} has the token {again[:40]!r} twice; download it again")
        return vocab


def _sentencepiece(v: _Vocabulary) -> dict:
    unigram = v.get("model") == "t5"
    scores = v.numbers("scores")
    require(scores is not None, f"{v.file} has no score for each token; download it again")
    unknown = v.id_of("unknown")
    types = [UNKNOWN if i == unknown else NORMAL if kind == UNKNOWN else kind for i, kind in enumerate(v.types)] if unknown is not None else v.types
    charsmap = v.get("precompiled_charsmap", np.zeros(0, np.uint8))
    good = isinstance(charsmap, np.ndarray) and charsmap.ndim == 1 and charsmap.dtype in (np.uint8, np.int8)
    require(good, f"{v.file} has a precompiled_charsmap that is no array of bytes; download it again")
    spec = {
        "pieces": list(zip(v.tokens, map(float, scores), types, strict=True)),
        "model_type": 1 if unigram else 2,
        "suffix": False,
        "byte_fallback": any(kind == sentencepiece.BYTE for kind in types),
        "bos": v.token("bos"),
        "eos": v.token("eos"),
        "name": "",
        "charsmap": charsmap.tobytes(),
        "remove_extra": v.flag("remove_extra_whitespaces", unigram),
        "escape": True,
        "dummy_prefix": v.flag("add_space_prefix", True),
    }
    return v.named({**sentencepiece.to_tree(spec, v.file), "post_processor": _frame(v, begins=not unigram, ends=unigram)})


def _frame(v: _Vocabulary, begins: bool, ends: bool) -> dict | None:
    """What puts <bos> before a text and <eos> behind it, as the file says, else as given."""
    asked = {name: v.flag(f"add_{name}_token", usual) for name, usual in (("bos", begins), ("eos", ends))}
    for name in asked:
        missing = v.get(f"add_{name}_token") is True and v.id_of(name) is None
        require(not missing, f"{v.file} has add_{name}_token and no {name}_token_id; download it again")
    before, behind = (v.id_of(name) if asked[name] else None for name in ("bos", "eos"))
    if before is None and behind is None:
        return None
    piece = lambda id, type: [] if id is None else [{"SpecialToken": {"id": v.tokens[id], "type_id": type}}]
    text = lambda name, type: [*piece(before, type), {"Sequence": {"id": name, "type_id": type}}, *piece(behind, type)]
    special = {v.tokens[i]: {"id": v.tokens[i], "ids": [i], "tokens": [v.tokens[i]]} for i in (before, behind) if i is not None}
    return {"type": "TemplateProcessing", "single": text("A", 0), "pair": text("A", 0) + text("B", 1), "special_tokens": special}


def _added(v: _Vocabulary) -> list[dict]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": i, "content": token, **flags, "special": kind in (CONTROL, UNKNOWN)}
        for i, (token, kind) in enumerate(zip(v.tokens, v.types, strict=True))
        if kind in (CONTROL, UNKNOWN, USER_DEFINED) and token
    ]


def _byte_level(v: _Vocabulary) -> dict:
    pre = v.get("pre")
    require(isinstance(pre, str) and pre in SPLITS, f"{v.file} splits text as {str(pre)[:40]!r}, which is not known here; known are: {', '.join(sorted(SPLITS))}")
    merges = v.strings("merges")
    splits = [{"type": "Split", "pattern": {"Regex": PATTERNS[name]}, "behavior": "Isolated", "invert": False} for name in SPLITS[pre]]
    byte_level = {"type": "ByteLevel", "add_prefix_space": v.flag("add_space_prefix", False), "trim_offsets": True, "use_regex": False}
    model = bpe_model(v.unique(), ignore_merges=pre in WHOLE_FIRST)
    return v.named({
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(v),
        "normalizer": {"type": "NFC"} if pre in NFC else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "post_processor": _frame(v, begins=pre in BEGINS, ends=False),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {**model, "merges": merges},
    })  # fmt: skip


def _word_piece(v: _Vocabulary) -> dict:
    """Tokens that begin a word carry ▁ in GGUF, and those that continue one nothing; in BERT's files it is nothing and ##."""
    whole = lambda token: token[:1] == "[" and token[-1:] == "]" and len(token) > 2  # [CLS] and its like
    plain = lambda token, kind: token if kind != NORMAL or whole(token) else token[1:] if token[:1] == "▁" else "##" + token
    v.tokens = [plain(token, kind) for token, kind in zip(v.tokens, v.types, strict=True)]
    vocab, cls, sep = v.unique(), v.id_of("cls"), v.id_of("seperator")  # as the format spells it
    cls, sep = v.id_of("bos") if cls is None else cls, v.id_of("eos") if sep is None else sep
    unknown = v.token("unknown") or "[UNK]"
    require(unknown in vocab, f"{v.file} has no unknown token; download it again")
    template = _frame(v, begins=False, ends=False)
    if cls is not None and sep is not None:
        piece = lambda id, kind: {"SpecialToken": {"id": v.tokens[id], "type_id": kind}}
        text = lambda name, kind: {"Sequence": {"id": name, "type_id": kind}}
        single = [piece(cls, 0), text("A", 0), piece(sep, 0)]
        special = {v.tokens[i]: {"id": v.tokens[i], "ids": [i], "tokens": [v.tokens[i]]} for i in (cls, sep)}
        template = {"type": "TemplateProcessing", "single": single, "pair": [*single, text("B", 1), piece(sep, 1)], "special_tokens": special}
    lower = not any(any(char.isupper() for char in token) for token, kind in zip(v.tokens, v.types, strict=True) if kind == NORMAL and not whole(token))
    return v.named({
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(v),
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": lower},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab},
    })  # fmt: skip
