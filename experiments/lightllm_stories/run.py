"""How well does the LightLLM model learn stories, by characters and by words? Compared by bits per byte: run.py [--quick]

Every tokenizer gets the same number of steps, so the same arithmetic in the blocks. A word stands for about five characters: its
model has seen more text by then, and plot.py also draws the loss over the bytes that were seen.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import Rows, finished, run_trial

from pikojax.config import load_config
from pikojax.data import open_dataset

HERE = Path(__file__).parent
VARIANTS = {
    "char": [],
    "word, 1,000": ["tokenizer.kind=word", "tokenizer.vocab_size=1000"],
    "word, 10,000": ["tokenizer.kind=word", "tokenizer.vocab_size=10000"],
}
QUICK = ["d_model=32", "n_layers=1", "n_heads=2", "context=32", "batch_size=2", "stories_mb=0.05", "val_fraction=0.2", "sample_tokens=5"]
QUICK += ["train.steps=4", "eval_interval=2", "sample_interval=2"]


def main(quick: bool) -> None:
    rows = Rows(HERE / "results.jsonl", quick)
    for variant, overrides in VARIANTS.items():
        if not rows.has(variant=variant):
            config = load_config(HERE / "config.toml", [*overrides, *(QUICK if quick else [])])
            result = run_trial(config, sample=True)
            rows.append(variant=variant, samples=result["samples"], **text_facts(config), **finished(result))


def text_facts(config) -> dict:
    """Bytes behind a token, and the part of the validation tokens that are `<unk>`: what bits per byte does not see."""
    dataset = open_dataset(config)
    unknown = dataset.tokenizer.token_to_id("<unk>")
    ids = dataset.val.read(0, len(dataset.val))
    rate = float((ids == unknown).mean()) if unknown is not None else 0.0
    return {"bytes_per_token": dataset.val.n_bytes / len(dataset.val), "unknown_rate": rate, "vocabulary": dataset.vocab_size}


if __name__ == "__main__":
    main("--quick" in sys.argv)
