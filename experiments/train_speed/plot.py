"""results.jsonl → figure.png, table.md: each machine by itself"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import COLORS, by_device, label, plt, rows_of, spread, write_tables

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


def speeds(rows: list[dict], model: str, side: str) -> list[float]:
    chosen = [row for row in rows if (row["model"], row["side"]) == (model, side)]
    return [2048 / row["products_s"] if "products_s" in row else row["tokens_per_s"] for row in chosen]


def reference_of(rows: list[dict], model: str) -> float:
    """Every round begins with it, so a machine that has rows of a model has one of this."""
    return spread(speeds(rows, model, "torch eager"))[0]


def draw(ax, device: str, rows: list[dict]) -> None:
    label(ax, device, "", "times torch eager")
    for m, model in enumerate(MODELS):
        for i, side in enumerate(COMPARED):
            if not (found := speeds(rows, model, side)):
                continue
            ratios = [speed / reference_of(rows, model) for speed in found]
            ax.bar(4 * m + i, spread(ratios)[0], color=COLORS[side], width=0.8, label=side if m == 0 else None)
            ax.scatter([4 * m + i] * len(ratios), ratios, color="black", s=14, zorder=3)
    ax.set_xticks([1, 5], MODELS.values())
    ax.set_xlim(-0.6, 6.6)
    ax.legend()


def lines_of(rows: list[dict]) -> list[list[str]]:
    lines = []
    for model, name in MODELS.items():
        for side in (*COMPARED, *(ONCE if model == "lightllm" else ())):
            if found := speeds(rows, model, side):
                median, low, high = spread(found)
                range_of = f"{low:,.0f}–{high:,.0f}" if len(found) > 1 else "one turn"
                lines.append([name, ONCE.get(side, side), f"{median:,.0f}", range_of, f"{median / reference_of(rows, model):.2f}×"])
    return lines


machines = by_device(rows)
figure, panels = plt.subplots(len(machines), 1, figsize=(7.0, 3.6 * len(machines)), dpi=130, layout="constrained", squeeze=False)
figure.suptitle("Training step, float32, 2 threads", x=0.02, ha="left", fontsize=11)
for (device, of_device), ax in zip(machines.items(), panels[:, 0], strict=True):
    draw(ax, device, of_device)
figure.savefig(here / "figure.png")
tables = {device: lines_of(of_device) for device, of_device in machines.items()}
write_tables(here, ["model", "side", "tokens/s, median", "range", "against torch eager"], tables, rows)
for row in rows:
    if row["side"] == "pikojax train":
        print(row["device"], {key: row[key] for key in ("data_wait_fraction", "first_step_warm_s")})
