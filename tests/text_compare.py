"""Our pipeline and Hugging Face's on the same tree: what differs on a text. Nothing is left out: ids, tokens, offsets, decoding, streaming."""

import random

from text_trees import (
    BYTE_BPE, BYTE_LEVEL, BYTES_BPE, CHAR_BPE, CHARSMAP, FLAGGED, LLAMA_DECODER, METASPACE, added, bpe, regex, string, text_of, tree, unigram,
    wordlevel, wordpiece,
)  # fmt: skip

from pikojax.config import UserError
from pikojax.text.tokenizer import Tokenizer


def both(tree: dict):
    import tokenizers

    return Tokenizer.from_tree(tree), tokenizers.Tokenizer.from_str(text_of(tree))


def difference(ours, theirs, text: str, rng: random.Random, pair: str | None = None) -> str:
    """"" if all is the same."""
    add = rng.random() < 0.5
    args = (text,) if pair is None else (text, pair)
    try:
        theirs_encoded = theirs.encode(*args, add_special_tokens=add)
    except Exception as error:  # an unknown token without an unknown token, say
        try:
            ours.encode_with_offsets(*args, add_special_tokens=add)
        except UserError:
            return ""
        return f"{text!r}: theirs fails ({error}), ours does not"
    try:
        encoded = ours.encode_with_offsets(*args, add_special_tokens=add)
        ids = ours.encode_slowly(text, add_special_tokens=add).tolist() if pair is None else encoded.ids.tolist()
    except UserError as error:
        return f"{text!r}: ours fails: {error}"
    pairs = {
        "ids": (encoded.ids.tolist(), theirs_encoded.ids),
        "tokens": (encoded.tokens, theirs_encoded.tokens),
        "offsets": ([tuple(span) for span in encoded.char_spans.tolist()], theirs_encoded.offsets),
        "types": (encoded.type_ids.tolist(), theirs_encoded.type_ids),
        "mask": (encoded.special_mask.tolist(), [bool(flag) for flag in theirs_encoded.special_tokens_mask]),
        "ids alone": (ids, encoded.ids.tolist()),
    }
    for what, (mine, other) in pairs.items():
        if mine != other:
            return f"{what} of {args!r}: ours {mine}, theirs {other}; {theirs_encoded.tokens}"
    some = [rng.randrange(ours.vocab_size) for _ in range(rng.randrange(12))]
    return decoding_difference(ours, theirs, ids) or decoding_difference(ours, theirs, some)


def decoding_difference(ours, theirs, ids: list[int]) -> str:
    for skip in (False, True):
        mine = ours.decode(ids, skip_special_tokens=skip)
        stream = ours.stream(skip_special_tokens=skip)
        streamed = "".join(map(stream.push, ids)) + stream.finish()
        if streamed != mine:
            return f"streaming {ids}: {streamed!r}, not {mine!r}"
        if not ours.visible_tokens(ids, skip):
            continue  # theirs panics in some decoders when there is nothing to decode
        other = theirs.decode(ids, skip_special_tokens=skip)
        if mine != other:
            return f"decoding {ids}: ours {mine!r}, theirs {other!r}"
    return ""


def _templates() -> dict:
    def special(name, type_id=0):
        return {"SpecialToken": {"id": name, "type_id": type_id}}

    def part(name, type_id=0):
        return {"Sequence": {"id": name, "type_id": type_id}}

    return {
        "type": "TemplateProcessing",
        "single": [special("<s>"), part("A"), special("</s>", 2)],
        "pair": [special("<s>"), part("A"), special("</s>"), part("B", 3), special("</s>", 3)],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0, 1], "tokens": ["<s>", "x"]}, "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}},
    }


def _sequence(name: str, *parts: dict) -> dict:
    return {"type": "Sequence", name: list(parts)}


def trees() -> dict[str, dict]:
    """One tree for each part and option."""
    found = _model_trees()
    normalizers = {
        "NFC": {"type": "NFC"}, "NFD": {"type": "NFD"}, "NFKC": {"type": "NFKC"}, "NFKD": {"type": "NFKD"}, "Lowercase": {"type": "Lowercase"},
        "Nmt": {"type": "Nmt"}, "StripAccents": {"type": "StripAccents"}, "Strip": {"type": "Strip", "strip_left": True, "strip_right": True},
        "StripLeft": {"type": "Strip", "strip_left": True, "strip_right": False}, "Prepend": {"type": "Prepend", "prepend": "▁x"},
        "Replace": {"type": "Replace", "pattern": string("''"), "content": '"a'}, "ByteLevel": {"type": "ByteLevel"},
        "ReplaceEmpty": {"type": "Replace", "pattern": string(""), "content": "e"},
        "ReplaceRegex": {"type": "Replace", "pattern": regex(r"\s+"), "content": "▁"},
        "Remove": {"type": "Replace", "pattern": regex("[aeiou]"), "content": ""},
        "Precompiled": {"type": "Precompiled", "precompiled_charsmap": CHARSMAP},
        "BertNormalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "BertCased": {"type": "BertNormalizer", "clean_text": False, "handle_chinese_chars": True, "strip_accents": None, "lowercase": False},
        "BertAccents": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": False, "strip_accents": True, "lowercase": False},
        "NFD+StripAccents+Lower": _sequence("normalizers", {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}),
        "T5": _sequence("normalizers", {"type": "Precompiled", "precompiled_charsmap": CHARSMAP}, {"type": "Strip", "strip_left": False, "strip_right": True},
                        {"type": "Replace", "pattern": regex(" {2,}"), "content": "▁"}),
    }  # fmt: skip
    for name, part in normalizers.items():
        found[f"normalizer {name}"] = tree(BYTES_BPE, normalizer=part, decoder=LLAMA_DECODER, added_tokens=FLAGGED)
    isolated = {"type": "Split", "pattern": regex(r"\p{N}{1,3}"), "behavior": "Isolated", "invert": False}
    splits = {
        "Whitespace": {"type": "Whitespace"}, "WhitespaceSplit": {"type": "WhitespaceSplit"}, "Bert": {"type": "BertPreTokenizer"},
        "Digits": {"type": "Digits", "individual_digits": False}, "Digit": {"type": "Digits", "individual_digits": True},
        "UnicodeScripts": {"type": "UnicodeScripts"}, "CharDelimiterSplit": {"type": "CharDelimiterSplit", "delimiter": "e"},
        "FixedLength": {"type": "FixedLength", "length": 3}, "Metaspace": METASPACE, "first": METASPACE | {"prepend_scheme": "first"},
        "never": METASPACE | {"prepend_scheme": "never"}, "unsplit": METASPACE | {"split": False},
        "legacy": {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True},
        "ScriptsMetaspaceFirst": _sequence("pretokenizers", {"type": "UnicodeScripts"}, METASPACE | {"prepend_scheme": "first"}),
        "DigitsWhitespacePunctuation": _sequence("pretokenizers", {"type": "Whitespace"}, {"type": "Digits", "individual_digits": True},
                                                 {"type": "Punctuation", "behavior": "Isolated"}),
        "Sequence": _sequence("pretokenizers", isolated, METASPACE),
    }  # fmt: skip
    for behavior in ("Removed", "Isolated", "Contiguous", "MergedWithPrevious", "MergedWithNext"):
        splits[f"Punctuation{behavior}"] = {"type": "Punctuation", "behavior": behavior}
        for invert in (False, True):
            for name, pattern in (("regex", regex(r"\p{L}+|\s")), ("string", string("e")), ("empty", regex("e?"))):
                splits[f"Split {name} {behavior} {invert}"] = {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
    for name, part in splits.items():
        found[f"pre_tokenizer {name}"] = tree(BYTES_BPE, pre_tokenizer=part, decoder=LLAMA_DECODER, added_tokens=FLAGGED)
    found["first after NFKC"] = tree(BYTES_BPE, normalizer={"type": "BertNormalizer"} | normalizers["BertNormalizer"], pre_tokenizer=splits["first"],
                                     added_tokens=FLAGGED)  # fmt: skip
    return found | _byte_level_trees() | _decoder_trees() | _processor_trees()


def _model_trees() -> dict[str, dict]:
    partial = bpe("abcdelow▁", ["l o", "lo w"], ["<unk>", "<0xC3>", "<0xA9>"], unk_token="<unk>", byte_fallback=True)
    prefixed = bpe(["l", "##o", "##w", "lo", "low", "##e", "##r", "##er", "e", "a", "##a", "##aa"], [], ["<unk>"], unk_token="<unk>") | {
        "continuing_subword_prefix": "##", "merges": [["l", "##o"], ["lo", "##w"], ["##e", "##r"], ["##a", "##a"]]}  # fmt: skip
    suffixed = bpe(["l", "o", "w", "w</w>", "e", "r", "r</w>", "a", "a</w>"], ["l o", "lo w", "lo w</w>", "e r</w>", "low er</w>", "a a", "a a</w>"],
                   ["<unk>"], unk_token="<unk>", end_of_word_suffix="</w>")  # fmt: skip
    models = {
        "char": CHAR_BPE, "fused": CHAR_BPE | {"fuse_unk": True}, "no unk": CHAR_BPE | {"unk_token": None}, "bytes": BYTES_BPE, "partial": partial,
        "partial fused": partial | {"fuse_unk": True}, "prefixed": prefixed, "suffixed": suffixed,
        "ignore_merges": CHAR_BPE | {"ignore_merges": True, "merges": [["l", "o"], ["e", "r"]]},
        "legacy merges": CHAR_BPE | {"merges": [" ".join(pair) for pair in CHAR_BPE["merges"]]},
        "merges twice": CHAR_BPE | {"merges": CHAR_BPE["merges"] + CHAR_BPE["merges"][:3]},
        "WordPiece": wordpiece(), "WordPiece empty prefix": wordpiece(continuing_subword_prefix=""), "Unigram": unigram(), "Unigram bytes": unigram(True),
        "Unigram no unk": unigram(unk_id=None), "WordLevel": wordlevel(), "Unigram unk 5": unigram(unk_id=5),
    }  # fmt: skip
    found = {f"model {name}": tree(model, pre_tokenizer={"type": "WhitespaceSplit"}) for name, model in models.items()}
    for name in ("char", "bytes", "partial", "Unigram", "Unigram bytes"):
        found[f"model {name} whole"] = tree(models[name], decoder=LLAMA_DECODER, normalizer={"type": "Replace", "pattern": string(" "), "content": "▁"})
        found[f"model {name} added"] = tree(models[name], pre_tokenizer=METASPACE, added_tokens=FLAGGED)
    lower = {"type": "Lowercase"}
    found["added after lower"] = tree(BYTES_BPE, normalizer=lower, added_tokens=FLAGGED)
    twice = [added("low", 3), added("low", 4, special=False), added("Day", 9, special=False, normalized=True), added("Day", 9, special=False), added("<s>", 70000)]
    found["added twice"] = tree(CHAR_BPE, normalizer=lower, added_tokens=twice)
    found["added gaps"] = tree(wordpiece(), pre_tokenizer={"type": "Whitespace"}, added_tokens=[added("<mask>", 5000), added("[CLS]", 2), added("<w>", 100)])
    return found


def _byte_level_trees() -> dict[str, dict]:
    found = {}
    for name, options in {"plain": {}, "space": {"add_prefix_space": True}, "whole": {"use_regex": False}, "both": {"use_regex": False, "add_prefix_space": True}}.items():
        part = BYTE_LEVEL | options
        for trim, add in ((True, True), (True, False), (False, True)):
            processor = BYTE_LEVEL | {"trim_offsets": trim, "add_prefix_space": add}
            found[f"ByteLevel {name} {trim} {add}"] = tree(BYTE_BPE, pre_tokenizer=part, post_processor=processor, decoder=BYTE_LEVEL, added_tokens=FLAGGED)
    found["ByteLevel normalizer"] = tree(BYTE_BPE, normalizer={"type": "ByteLevel"}, decoder=BYTE_LEVEL, added_tokens=FLAGGED)
    cl100k = {"type": "Split", "behavior": "Isolated", "invert": False, "pattern": regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")}  # fmt: skip
    steps = _sequence("pretokenizers", cl100k, BYTE_LEVEL | {"use_regex": False})
    found["llama 3"] = tree(BYTE_BPE | {"ignore_merges": True}, pre_tokenizer=steps, decoder=BYTE_LEVEL, post_processor=_sequence("processors", BYTE_LEVEL, _templates()))
    return found


def _decoder_trees() -> dict[str, dict]:
    steps = LLAMA_DECODER["decoders"]
    decoders = {
        "WordPiece": {"type": "WordPiece", "prefix": "##", "cleanup": True}, "WordPiece raw": {"type": "WordPiece", "prefix": "e", "cleanup": False},
        "Metaspace": METASPACE, "Metaspace never": METASPACE | {"prepend_scheme": "never"}, "BPEDecoder": {"type": "BPEDecoder", "suffix": "e"},
        "CTC": {"type": "CTC", "pad_token": "a", "word_delimiter_token": "w", "cleanup": True}, "ByteFallback": {"type": "ByteFallback"},
        "CTC raw": {"type": "CTC", "pad_token": "low", "word_delimiter_token": "▁", "cleanup": False}, "Fuse": {"type": "Fuse"},
        "Strip": {"type": "Strip", "content": "e", "start": 1, "stop": 0}, "Replace": {"type": "Replace", "pattern": string("er"), "content": "xyz"},
        "Replace regex": {"type": "Replace", "pattern": regex("[aeiou]+"), "content": "-"},
        "Strip both": _sequence("decoders", steps[2], {"type": "Strip", "content": "a", "start": 2, "stop": 0}),
        "Fuse Replace": _sequence("decoders", steps[1], steps[2], {"type": "Replace", "pattern": string("lol"), "content": "o"}),
        "Fuse Replace regex": _sequence("decoders", steps[2], {"type": "Replace", "pattern": regex("e+"), "content": "o"}),
        "Gemma": _sequence("decoders", *steps[:3]), "ByteLevel": BYTE_LEVEL,
        "Fuse WordPiece": _sequence("decoders", steps[2], {"type": "WordPiece", "prefix": "l", "cleanup": True}),
        "Fuse Metaspace": _sequence("decoders", steps[2], METASPACE), "Fuse CTC": _sequence("decoders", steps[2], {"type": "CTC", "pad_token": "lo",
                                                                                             "word_delimiter_token": "e", "cleanup": True}),
        "Fuse BPE": _sequence("decoders", steps[2], {"type": "BPEDecoder", "suffix": "lo"}),
        "nested": _sequence("decoders", _sequence("decoders", steps[0]), LLAMA_DECODER),
    }  # fmt: skip
    return {f"decoder {name}": tree(BYTES_BPE, decoder=part, added_tokens=FLAGGED[:4]) for name, part in decoders.items()}


def _processor_trees() -> dict[str, dict]:
    ends = {"sep": ["</s>", 2], "cls": ["<s>", 1]}
    processors = {
        "Template": _templates(), "Bert": {"type": "BertProcessing", **ends},
        "Roberta": {"type": "RobertaProcessing", **ends, "trim_offsets": True, "add_prefix_space": True},
        "Roberta raw": {"type": "RobertaProcessing", **ends, "trim_offsets": False, "add_prefix_space": False},
        "Sequence": _sequence("processors", BYTE_LEVEL | {"add_prefix_space": True}, _templates()),
    }  # fmt: skip
    return {f"post_processor {name}": tree(BYTE_BPE, pre_tokenizer=BYTE_LEVEL, post_processor=part, decoder=BYTE_LEVEL) for name, part in processors.items()}
