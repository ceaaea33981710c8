"""results.jsonl → figure.png, table.md"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import COLORS, axes, rows_of, spread, write_table

here, rows = rows_of(__file__)
names = {
    "torch eager": "torch eager",
    "torch compile": "torch compile",
    "pikojax": "pikojax",
    "torch eager, memory kept": "torch eager, memory kept in the same way",
    "pikojax without unrolling": "pikojax, layers in a loop",
    "pikojax without pieces": "pikojax, attention not in pieces",
    "pikojax without memory": "pikojax, memory not kept",
    "pikojax train": "`pikojax train`, all in all",
}
speeds = {side: [row["tokens_per_s"] for row in rows if row["side"] == side] for side in names}
figure, ax = axes("Training step, LightLLM (10.7M), float32, 2 threads", "", "tokens per second")
for i, side in enumerate(list(names)[:3]):
    ax.bar(i, spread(speeds[side])[0], color=COLORS[side], width=0.6)
    ax.scatter([i] * len(speeds[side]), speeds[side], color="black", s=14, zorder=3)
ax.set_xticks(range(3), list(names)[:3])
figure.savefig(here / "figure.png")
reference = spread(speeds["torch eager"])[0]
lines = []
floors = {side: spread([2048 / row["products_s"] for row in rows if row["side"] == f"products: {side}"]) for side in ("torch", "pikojax")}
for side, name in names.items():
    median, low, high = spread(speeds[side])
    lines.append([name, f"{median:,.0f}", f"{low:,.0f}–{high:,.0f}", f"{median / reference:.2f}×"])
for side, (median, low, high) in floors.items():
    name = f"the products with weights alone, {'JAX' if side == 'pikojax' else side}"
    lines.append([name, f"{median:,.0f}", f"{low:,.0f}–{high:,.0f}", f"{median / reference:.2f}×"])
write_table(here, ["side", "tokens/s, median", "range", "against torch eager"], lines, rows)
whole = [row for row in rows if row["side"] == "pikojax train"]
for key in ("data_wait_fraction", "first_step_warm_s"):
    print(key, spread([row[key] for row in whole]))
