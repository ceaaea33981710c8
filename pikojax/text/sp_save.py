"""A SentencePiece tree as Hugging Face's parts can say it, and back.

    score order → a list of merges: every split of every piece into two pieces, the highest score first
    {"type": "SentencePiece", …} → Precompiled, Strip, Replace, Prepend, as transformers' converters write them

The two rules differ rarely: a list of merges knows no ties, Hugging Face's table of replacements goes by graphemes. So that our
own `load` loses nothing, the file keeps the private keys of the model, and the normalizer's as `sentencepiece`.
Leaves out: user-defined pieces that overlap with others; there they are added tokens, cut out before the normalizer.
"""

from collections.abc import Mapping

SPACE = "▁"
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}


def spell_out(tree: Mapping) -> dict:
    """For a file that others read."""
    tree, model = dict(tree), dict(tree["model"])
    normalizer = tree.get("normalizer")
    if normalizer and normalizer.get("type") == "SentencePiece":
        tree["normalizer"] = {**_normalizer(normalizer), "sentencepiece": normalizer}
    ids = {token: i for i, (token, _) in enumerate(model["vocab"])} if isinstance(model["vocab"], list) else model["vocab"]
    user_defined = [{"id": ids[token], "content": token, **_FLAGS} for token in model.get("user_defined", ())]
    tree["added_tokens"] = sorted([*tree["added_tokens"], *user_defined], key=lambda entry: entry["id"])
    if model.get("type") == "BPE" and not model.get("merges") and (model.get("score_order") or model.get("rank_order")):
        model["merges"] = _merges(model)
    return tree | {"model": model}


def restore(tree: dict) -> dict:
    """The tree that `spell_out` was given."""
    model, normalizer = tree["model"], tree.get("normalizer")
    if isinstance(normalizer, dict) and isinstance(normalizer.get("sentencepiece"), dict):
        tree = tree | {"normalizer": normalizer["sentencepiece"]}
    user_defined, added = model.get("user_defined"), tree.get("added_tokens")
    if isinstance(user_defined, list) and isinstance(added, list):
        kept = [entry for entry in added if not (isinstance(entry, dict) and entry.get("content") in user_defined)]
        tree = tree | {"added_tokens": kept}
    return tree


def _merges(model: Mapping) -> list[list[str]]:
    vocab = model["vocab"]
    never = {*model.get("reserved", ()), *model.get("user_defined", ())}
    score = model["scores"].__getitem__ if model.get("score_order") else lambda id: -id
    found = []
    for token, id in vocab.items():
        if token in never:
            continue
        splits = ((token[:at], token[at:]) for at in range(1, len(token)))
        pairs = [(left, right) for left, right in splits if left in vocab and right in vocab and not {left, right} & never]
        found += [(-score(id), len(left), len(right), vocab[left], vocab[right], left, right) for left, right in pairs]
    return [[left, right] for *_, left, right in sorted(found)]


def _normalizer(normalizer: Mapping) -> dict:
    """The parts of Hugging Face's nearest to a `SentencePiece` normalizer, as transformers' converters write them."""
    steps: list[dict] = []
    if normalizer["precompiled_charsmap"]:
        steps.append({"type": "Precompiled", "precompiled_charsmap": normalizer["precompiled_charsmap"]})
    if normalizer["remove_extra_whitespaces"]:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if normalizer["add_dummy_prefix"] and not normalizer["treat_whitespace_as_suffix"]:
        steps.append({"type": "Prepend", "prepend": SPACE})
    if normalizer["escape_whitespaces"]:
        steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    if normalizer["add_dummy_prefix"] and normalizer["treat_whitespace_as_suffix"]:
        steps.append({"type": "Replace", "pattern": {"Regex": r"\z"}, "content": SPACE})
    return {"type": "Sequence", "normalizers": steps}
