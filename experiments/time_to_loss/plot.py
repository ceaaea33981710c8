"""results.jsonl → figure.png, table.md"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import COLORS, axes, rows_of, spread, write_table

here, rows = rows_of(__file__)
seeds = sorted({row["seed"] for row in rows})
figure, ax = axes("To the loss that nanoGPT's CPU recipe ends with", "seed", "seconds, start of the process to its end")
lines = []
for seed in seeds:
    pair = {row["side"]: row for row in rows if row["seed"] == seed}
    for offset, side in ((-0.2, "torch"), (0.2, "pikojax")):
        row = pair[side]
        ax.bar(seed + offset, row["wall_s"], width=0.36, color=COLORS[side], label=side if seed == seeds[0] else None)
        ax.annotate(f"{row['val_loss']:.3f}\n{row['steps']} steps", (seed + offset, row["wall_s"]), ha="center", va="bottom", fontsize=8)
    mine, theirs = pair["pikojax"], pair["torch"]
    lines.append([str(seed), f"{theirs['val_loss']:.3f}", f"{theirs['wall_s']:.0f}", f"{mine['val_loss']:.3f}", f"{mine['wall_s']:.0f}",
                  str(mine["steps"]), f"{mine['parameters']:,} / {theirs['parameters']:,}", f"{mine['wall_ratio']:.2f}×" if mine["wall_ratio"] else "missed"])  # fmt: skip
ax.set_xticks(seeds)
ax.margins(y=0.2)
ax.legend(frameon=False)
figure.savefig(here / "figure.png")
median, low, high = spread([row["wall_ratio"] for row in rows if row.get("wall_ratio")])
lines.append(["**median**", "", "", "", "", "", "", f"**{median:.2f}×** ({low:.2f}–{high:.2f})"])
header = ["seed", "loss, torch", "s, torch", "loss, pikojax", "s, pikojax", "steps, pikojax", "parameters, ours / torch", "wall-clock ratio"]
write_table(here, header, lines, rows)
