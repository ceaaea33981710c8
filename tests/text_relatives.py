"""Trees of well-known families, made of the vocabularies that the test data has: the parts are the family's, the tokens another's.

    tree("llama3") = GPT-2's vocabulary + the Split that Llama 3 has + ignore_merges

Leaves out: the families' own vocabularies, and their templates.
"""

import base64
import functools
import io
import json
from pathlib import Path

from text_trees import BYTE_LEVEL, CHARSMAP, LLAMA_DECODER, METASPACE, added, regex, string

from pikojax.text.patterns import PATTERNS

MARKS = {"type": "Replace", "pattern": string(" "), "content": "▁"}


def sequence(name: str, *parts: dict) -> dict:
    return {"type": "Sequence", name: list(parts)}


def split(*patterns: str, behavior: str = "Isolated", **more) -> dict:
    parts = [{"type": "Split", "pattern": regex(PATTERNS[name]), "behavior": behavior, "invert": behavior == "Removed"} for name in patterns]
    return {"pre_tokenizer": sequence("pretokenizers", *parts, BYTE_LEVEL | {"use_regex": False}), **more}


@functools.cache
def charsmap() -> dict:
    """SentencePiece's nmt_nfkc, out of a model that it makes here; without the library a small table."""
    try:
        import sentencepiece
    except ImportError:
        return {"type": "Precompiled", "precompiled_charsmap": CHARSMAP}
    made = io.BytesIO()
    lines = iter(["a few words to learn from", "and a few more words"])
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=made, vocab_size=20, hard_vocab_limit=False, minloglevel=2)
    content = made.getvalue()
    at = content.rindex(b"\x0a\x08nmt_nfkc") + 10  # field 1, eight letters
    assert content[at] == 0x12  # field 2 of the normalizer: the table, and its length
    size = shift = 0
    while True:
        at += 1
        size, shift = size | (content[at] & 127) << shift, shift + 7
        if content[at] < 128:
            return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(content[at + 1 : at + 1 + size]).decode()}


def unigram(model: dict, **options) -> dict:
    """A BPE vocabulary as Unigram pieces, the shorter the likelier."""
    pieces = [[token, 0.0 if i < 3 else -4.0 - i / 4000] for token, i in sorted(model["vocab"].items(), key=lambda item: item[1])]
    return {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False, **options}


NFC, LOWER, NFKD, ACCENTS = {"type": "NFC"}, {"type": "Lowercase"}, {"type": "NFKD"}, {"type": "StripAccents"}
QUOTES = [{"type": "Replace", "pattern": string(mark), "content": '"'} for mark in ("``", "''")]
SPACES = {"type": "Replace", "pattern": regex(r"\s+"), "content": " "}
AFTER_SPACES = {"type": "Split", "pattern": string(" "), "behavior": "MergedWithPrevious", "invert": False}
DIGIT = {"type": "Digits", "individual_digits": True}
BERT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
FLAGGED = [added("<mask>", 60000, lstrip=True), added("<w>", 60001, single_word=True, special=False), added("ﬁne", 60002, normalized=True, special=False),
           added("  ", 60003, special=False), added("<r>", 60004, rstrip=True), added("\n\n\n", 60005, normalized=True, special=False)]  # fmt: skip
FAMILIES = {  # name → whose vocabulary, what is changed
    "llama3": ("gpt2.json", lambda model: split("cl100k", model=model | {"ignore_merges": True})),
    "qwen2": ("gpt2.json", lambda model: split("qwen2", normalizer=NFC)),
    "qwen3.5": ("gpt2.json", lambda model: split("qwen3.5", normalizer=NFC)),
    "gpt-4o": ("pile_tokenizer.json", lambda model: split("o200k")),
    "mistral nemo": ("pile_tokenizer.json", lambda model: split("tekken", added_tokens=FLAGGED)),
    "deepseek": ("pile_tokenizer.json", lambda model: split("digits3", "han_kana", "deepseek3")),
    "neox": ("gpt2.json", lambda model: {"normalizer": NFC, "added_tokens": FLAGGED}),
    "starcoder": ("gpt2.json", lambda model: {"pre_tokenizer": sequence("pretokenizers", DIGIT, BYTE_LEVEL)}),
    "roberta": ("gpt2.json", lambda model: {"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}, "added_tokens": FLAGGED}),
    "clip": ("gpt2.json", lambda model: split("clip", behavior="Removed", normalizer=sequence("normalizers", NFC, SPACES, LOWER))),
    "bert uncased": ("bert_base_cased.json", lambda model: {"normalizer": BERT}),
    "bert accents": ("bert_base_cased.json", lambda model: {"normalizer": BERT | {"lowercase": False, "strip_accents": True}, "added_tokens": FLAGGED}),
    "mistral": ("llama2.json", lambda model: {"normalizer": None, "pre_tokenizer": METASPACE | {"prepend_scheme": "first", "split": False}}),
    "llama2 in words": ("llama2.json", lambda model: {"normalizer": None, "pre_tokenizer": METASPACE, "added_tokens": FLAGGED}),
    "gemma": ("llama2.json", lambda model: {"normalizer": MARKS, "pre_tokenizer": AFTER_SPACES,
                                            "decoder": sequence("decoders", *LLAMA_DECODER["decoders"][:3])}),
    "xlnet": ("llama2.json", lambda model: {"model": unigram(model), "normalizer": sequence("normalizers", *QUOTES, NFKD, ACCENTS, LOWER),
                                            "pre_tokenizer": METASPACE, "decoder": METASPACE}),
    "t5": ("llama2.json", lambda model: {"model": unigram(model), "normalizer": charsmap(), "decoder": METASPACE,
                                         "pre_tokenizer": sequence("pretokenizers", {"type": "WhitespaceSplit"}, METASPACE)}),
    "xlm": ("llama2.json", lambda model: {"model": unigram(model), "pre_tokenizer": METASPACE, "decoder": METASPACE, "normalizer": sequence(
        "normalizers", charsmap(), {"type": "Strip", "strip_left": False, "strip_right": True}, {"type": "Replace", "pattern": regex(" {2,}"), "content": "▁"})}),
    "unigram with bytes": ("llama2.json", lambda model: {"model": unigram(model, byte_fallback=True), "normalizer": MARKS}),
}  # fmt: skip


def tree(family: str, tokenizers: Path) -> dict:
    vocabulary, change = FAMILIES[family]
    base = json.loads((tokenizers / vocabulary).read_bytes())
    return base | change(base["model"])
