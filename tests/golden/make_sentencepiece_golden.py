"""Makes sentencepiece.json: small models of each kind that SentencePiece trained, texts, and the ids that it gives them.

    python tests/golden/make_sentencepiece_golden.py          (needs sentencepiece; half a minute)
"""

import base64
import json
import random
import tempfile
from pathlib import Path

import sentencepiece

RULES = "FB01\t66 69\n2460\t31\nC5\tE5\n65 301\tE9\nA0\t20\n9\t20\n3000\t20\nAD\t\n"  # ﬁ ① Å é, spaces, soft hyphen
KINDS = {
    "bpe": dict(model_type="bpe", vocab_size=90),
    "bpe_bytes": dict(model_type="bpe", vocab_size=340, byte_fallback=True, remove_extra_whitespaces=False, normalization_rule_name="identity"),
    "bpe_user": dict(model_type="bpe", vocab_size=340, byte_fallback=True, user_defined_symbols=["<sep>", "ab", "he", "▁▁", "  "]),
    "unigram": dict(model_type="unigram", vocab_size=80),
    "unigram_bytes": dict(model_type="unigram", vocab_size=340, byte_fallback=True),
    "unigram_user": dict(model_type="unigram", vocab_size=90, user_defined_symbols=["<sep>", "the", "th", "\n", "▁▁"], remove_extra_whitespaces=False),
    "unigram_t5": dict(model_type="unigram", vocab_size=80, pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
    "unigram_suffix": dict(model_type="unigram", vocab_size=80, treat_whitespace_as_suffix=True),
    "unigram_bare": dict(model_type="unigram", vocab_size=80, add_dummy_prefix=False, control_symbols=["<ctl>"]),
    "char": dict(model_type="char", vocab_size=40),
}
PIECES = ["the", "th", "he", "she", "ab", "cab", "sea", "shell", "sells", "<sep>", "<ctl>", "<s>", "<0x41>", "<unk>", " ", "  ", "   ", "\n", "\t", "▁"]
PIECES += ["ﬁ", "①", "Å", "e\u0301", "\u00a0", "\u3000", "\u00ad", "中", "é", "😀", "a", "b", "e", "h", "s"]


def main():
    rng = random.Random(5)
    lines = [" ".join(rng.choice(["she", "sells", "sea", "shells", "by", "the", "shore", "a", "cab", "fin", "ten", "éa", "1"]) for _ in range(9)) for _ in range(300)]
    texts = ["", " ", "she sells"] + ["".join(rng.choices(PIECES, k=rng.choice([1, 2, 5, 9, 20]))) for _ in range(60)]
    found = {"texts": texts, "models": {}}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "corpus").write_text("\n".join(lines), encoding="utf-8")
        (Path(folder) / "rules.tsv").write_text(RULES, encoding="utf-8")
        for name, options in KINDS.items():
            model = Path(folder) / name
            rules = {} if "normalization_rule_name" in options else {"normalization_rule_tsv": f"{folder}/rules.tsv"}
            sentencepiece.SentencePieceTrainer.train(input=f"{folder}/corpus", model_prefix=str(model), minloglevel=2, hard_vocab_limit=False, **rules, **options)
            data = model.with_suffix(".model").read_bytes()
            processor = sentencepiece.SentencePieceProcessor(model_proto=data)
            found["models"][name] = {"file": base64.b64encode(data).decode(), "ids": [processor.encode(text) for text in texts]}
    target = Path(__file__).with_name("sentencepiece.json")
    target.write_text(json.dumps(found, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    print(target, target.stat().st_size, {name: len(entry["file"]) for name, entry in found["models"].items()})


if __name__ == "__main__":
    main()
