"""Which tokenizer lets a small GPT learn most? Algorithms and vocabulary sizes by bits per byte, matched in two ways: run.py [--quick]

    same text      every model reads the same number of bytes, in the same number of steps; a step is bytes / (bytes a token) tokens
    same compute   every model spends the same arithmetic: 6 · (weights that multiply) + 12 · layers · width · context a token
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import Rows, finished, run_trial

from pikojax.config import Config, load_config
from pikojax.data import open_dataset, resolve_vocab
from pikojax.text.tokenizer import EOS

HERE = Path(__file__).parent
SEEDS = (0, 1)
MATCHES = ("same text", "same compute")
VARIANTS = {  # name → kind, vocabulary, more
    "char": ("char",),
    "word, 2,048": ("word", 2048),
    "BPE, 512": ("bpe", 512),
    "BPE, 2,048": ("bpe", 2048),
    "BPE, 8,192": ("bpe", 8192),
    "WordPiece, 2,048": ("wordpiece", 2048),
    "WordPiece, 2,048, uncased": ("wordpiece", 2048, "tokenizer.lowercase=true"),
    "Unigram, 2,048": ("unigram", 2048),
}
QUICK = ["d_model=32", "n_layers=1", "n_heads=2", "context=32", "batch_size=8", "stories_mb=0.1", "val_fraction=0.2", "train.steps=4", "warmup_steps=1"]
QUICK_VARIANTS = ("word, 2,048", "BPE, 512", "WordPiece, 2,048", "Unigram, 2,048")


def settings(variant: str) -> list[str]:
    kind, *size = VARIANTS[variant]
    return [f"tokenizer.kind={kind}", *(f"tokenizer.vocab_size={size[0]}" for _ in size[:1]), *size[1:]]


def parameters(config: Config) -> tuple[int, int]:
    """All, and those of the blocks alone: without embeddings, which are also the last layer, and positions."""
    import jax

    from pikojax.models import catalog

    shapes = jax.eval_shape(lambda key: catalog[config.model.name].init(config.model, key), jax.random.key(0))
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    return count(shapes), count(shapes["blocks"])


def flops_per_token(config: Config) -> int:
    model = config.model
    return 6 * (parameters(config)[1] + model.d_model * model.vocab_size) + 12 * model.n_layers * model.d_model * model.context


def matched(config: Config, char: Config, bytes_per_token: float, match: str) -> Config:
    """The batch and steps with which `config` reads as much as, or computes as much as, the char model."""
    rows = char.train.batch_size * (1 / bytes_per_token if match == MATCHES[0] else flops_per_token(char) / flops_per_token(config))
    batch = max(1, round(rows))
    steps = max(1, round(char.train.steps * rows / batch))
    return replace(config, train=replace(config.train, batch_size=batch, steps=steps))


def resolved(overrides: list[str]) -> tuple[Config, object]:
    config = load_config(HERE / "config.toml", overrides)
    dataset = open_dataset(config)
    return resolve_vocab(config, dataset), dataset


def text_facts(dataset, stories: list[str]) -> dict:
    """What the validation stories lose: tokens that are unknown, the bytes these stand for, and whether the stories come back."""
    tokenizer, n_unknown, hidden, exact = dataset.tokenizer, 0, 0, 0
    for story in stories:
        found = tokenizer.encode_with_offsets(story, add_special_tokens=False, allowed_special=())
        unknown = found.ids == tokenizer.unk_id
        n_unknown += int(unknown.sum())
        hidden += int((found.byte_spans[unknown, 1] - found.byte_spans[unknown, 0]).sum())
        exact += tokenizer.decode(found.ids) == story
    n_bytes = dataset.val.n_bytes
    facts = {"vocabulary": dataset.vocab_size, "bytes_per_token": n_bytes / len(dataset.val), "unknown_tokens": n_unknown / len(dataset.val)}
    return facts | {"unknown_bytes": hidden / n_bytes, "exact_stories": exact / len(stories)}


def main(quick: bool) -> None:
    rows, common = Rows(HERE / "results.jsonl", quick), QUICK if quick else []
    char, characters = resolved(common)
    stories = characters.tokenizer.decode(characters.val.tokens).split(EOS)[:-1]
    for seed in SEEDS[:1] if quick else SEEDS:
        for match in MATCHES[:1] if quick else MATCHES:
            for variant in QUICK_VARIANTS if quick else VARIANTS:
                if rows.has(variant=variant, match=match, seed=seed):
                    continue
                config, dataset = resolved([*settings(variant), f"seed={seed}", *common])
                config = matched(config, char, dataset.train.n_bytes / len(dataset.train), match)
                n_tokens = config.train.steps * config.train.batch_size * config.model.context
                cost = {"bytes_seen": round(n_tokens * dataset.train.n_bytes / len(dataset.train)), "flops": n_tokens * flops_per_token(config)}
                cost |= {"batch_size": config.train.batch_size, "block_parameters": parameters(config)[1]}
                rows.append(variant=variant, match=match, seed=seed, **text_facts(dataset, stories), **cost, **finished(run_trial(config)))


if __name__ == "__main__":
    main("--quick" in sys.argv)
