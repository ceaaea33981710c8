"""A tree as Hugging Face's tokenizers can read it: what is ours alone is spelt out as near as its parts can.

    rank order → the list of merges that does the same, as far as a list can        SentencePiece's own: see sp_save.py

Leaves out: nothing of ours; private keys stay in the file, where others pass them over.
"""

from collections.abc import Mapping

from pikojax.text.models import SENTENCEPIECE


def to_hugging_face(tree: Mapping) -> dict:
    model = tree.get("model", {})
    if any(model.get(key) for key in SENTENCEPIECE) or (tree.get("normalizer") or {}).get("type") == "SentencePiece":
        from pikojax.text.sp_save import spell_out

        return spell_out(tree)
    if not model.get("rank_order") or model.get("merges"):
        return dict(tree)
    from pikojax.text.bpe import derive_merges

    merges = [list(pair) for pair in derive_merges(model["vocab"])]
    return {**tree, "model": {**model, "merges": merges}}
