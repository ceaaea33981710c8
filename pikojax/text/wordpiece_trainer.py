"""WordPiece, the training: byte-pair encoding over characters, in which every character but a word's first carries "##".

    "hugs" starts as h ##u ##g ##s;   "##u" + "##g" → "##ug";   "h" + "##ug" → "hug"

That is how Hugging Face's WordPieceTrainer learns (the original looked for the pair that raises the likelihood most). Only the
vocabulary is kept: encoding takes the longest token that fits, so the order of the merges does not matter any more.

Leaves out: the likelihood criterion.
"""

from collections.abc import Iterable

from pikojax.text import word_splitters
from pikojax.text.bpe_trainer import Rules, learn, tree
from pikojax.text.word_counts import Progress, WordCounts, count_texts

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int = 30_000,
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    threads: int = 2,
    on_progress: Progress | None = None,
    **rules,
):
    """A WordPiece tokenizer of `texts`, split as BERT splits; see `bpe_trainer.Rules` for the other options."""
    from pikojax.text.tokenizer import Tokenizer

    splitter = word_splitters.bert(lowercase, strip_accents)
    counts = count_texts(texts, splitter, threads=threads, on_progress=on_progress)
    return Tokenizer.from_tree(wordpiece_tree(counts, vocab_size, splitter=splitter, on_progress=on_progress, **rules))


def wordpiece_tree(
    counts: WordCounts,
    vocab_size: int = 30_000,
    *,
    splitter: word_splitters.Splitter | None = None,
    unk_token: str = "[UNK]",
    on_progress: Progress | None = None,
    native: bool | None = None,
    **rules,
) -> dict:
    """The tree of a tokenizer.json; `splitter` is the one that the words were counted with."""
    rules = {"special_tokens": SPECIALS, "continuing_subword_prefix": "##"} | rules
    made = Rules(vocab_size, **rules)
    tokens, _ = learn(counts, made, by_bytes=False, on_progress=on_progress, native=native)
    model = {
        "type": "WordPiece",
        "unk_token": unk_token,
        "continuing_subword_prefix": made.continuing_subword_prefix or "",
        "max_input_chars_per_word": 100,
        "vocab": {token: i for i, token in enumerate(tokens)},
    }
    return tree(splitter or word_splitters.bert(), model, made.special_tokens, tokens)
