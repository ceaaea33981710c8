"""What do positions, residuals, layer normalization and heads each contribute? One change at a time, three seeds: run.py [--quick]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trials import Rows, finished, run_trial

from pikojax.config import load_config

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
VARIANTS = {  # group / name → overrides of the classic model
    "baseline": [],
    "positions: sinusoidal": ["positions=sinusoidal"],
    "positions: rotary": ["positions=rope"],
    "positions: none": ["positions=none"],
    "residuals: none": ["residual=false"],
    "residuals and normalization: none": ["residual=false", "norm=none"],
    "normalization: none": ["norm=none"],
    "normalization: RMS, no weights": ["norm=rmsnorm"],
    "heads: 1": ["n_heads=1"],
    "heads: 2": ["n_heads=2"],
    "heads: 8": ["n_heads=8"],
    "heads: 4, sharing 2 keys": ["n_kv_heads=2"],
    "queries and keys normalized": ["qk_norm=true"],
    "activation: ReLU²": ["activation=relu2"],
    "projections start at zero": ["zero_init=true"],
    "biases": ["bias=true"],
    "untied head": ["tie=false"],
    "optimizer: AdamW": ["optim.name=adamw", "lr=1e-3", "weight_decay=0.1"],
    "modern": ["preset=modern"],
    "modern with AdamW": ["preset=modern", "optim.name=adamw", "lr=1e-3", "weight_decay=0.1"],
}
QUICK = ["d_model=32", "n_layers=1", "n_heads=2", "context=32", "train.steps=3", "batch_size=2", "stories_mb=0.05", "eval_interval=3"]


def main(quick: bool) -> None:
    rows = Rows(HERE / "results.jsonl", quick)
    for seed in SEEDS[:1] if quick else SEEDS:
        for variant, overrides in list(VARIANTS.items())[: 2 if quick else None]:
            if not rows.has(variant=variant, seed=seed):
                config = load_config(HERE / "config.toml", [*overrides, f"seed={seed}", *(QUICK if quick else [])])
                rows.append(variant=variant, seed=seed, **finished(run_trial(config)))


if __name__ == "__main__":
    main("--quick" in sys.argv)
