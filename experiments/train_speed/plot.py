"""results.jsonl → figure.png, table.md"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import COLORS, axes, rows_of, spread, write_table

here, rows = rows_of(__file__)
MODELS = {"lightllm": "LightLLM (10.7M)", "large": "768 wide (42.7M)"}
COMPARED = ("torch eager", "torch compile", "pikojax")
ONCE = {
    "torch eager, memory kept": "torch eager, memory kept in the same way",
    "pikojax without products": "pikojax, XLA's products",
    "pikojax without unrolling": "pikojax, layers in a loop",
    "pikojax without memory": "pikojax, memory not kept",
    "pikojax train": "`pikojax train`, all in all",
    "products: torch": "the products with weights alone, torch",
    "products: XLA": "the products with weights alone, XLA",
    "products: pikojax": "the products with weights alone, ours",
}


def speeds(model: str, side: str) -> list[float]:
    chosen = [row for row in rows if (row["model"], row["side"]) == (model, side)]
    return [2048 / row["products_s"] if "products_s" in row else row["tokens_per_s"] for row in chosen]


lines = []
figure, ax = axes("Training step, float32, 2 threads", "", "times torch eager")
for m, (model, name) in enumerate(MODELS.items()):
    reference = spread(speeds(model, "torch eager"))[0]
    for i, side in enumerate(COMPARED):
        ratios = [speed / reference for speed in speeds(model, side)]
        ax.bar(4 * m + i, spread(ratios)[0], color=COLORS[side], width=0.8, label=side if m == 0 else None)
        ax.scatter([4 * m + i] * len(ratios), ratios, color="black", s=14, zorder=3)
    for side in (*COMPARED, *(ONCE if model == "lightllm" else ())):
        if found := speeds(model, side):
            median, low, high = spread(found)
            range_of = f"{low:,.0f}–{high:,.0f}" if len(found) > 1 else "one turn"
            lines.append([name, ONCE.get(side, side), f"{median:,.0f}", range_of, f"{median / reference:.2f}×"])
ax.set_xticks([1, 5], MODELS.values())
ax.legend()
figure.savefig(here / "figure.png")
write_table(here, ["model", "side", "tokens/s, median", "range", "against torch eager"], lines, rows)
for row in rows:
    if row["side"] == "pikojax train":
        print({key: row[key] for key in ("data_wait_fraction", "first_step_warm_s")})
