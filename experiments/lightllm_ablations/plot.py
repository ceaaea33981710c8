"""results.jsonl → figure.png, table.md"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import axes, rows_of, spread, write_table

here, rows = rows_of(__file__)
variants = list(dict.fromkeys(row["variant"] for row in rows))
found = {v: [row["val_bits_per_byte"] for row in rows if row["variant"] == v and "diverged" not in row] for v in variants}
size = {v: next((f"{row['parameters']:,}" for row in rows if row["variant"] == v and "parameters" in row), "–") for v in variants}
base, base_low, base_high = spread(found["baseline"])
figure, ax = axes("One change at a time: validation loss on stories", "bits per byte (less is better)", "", size=(7.4, 6.4))
lines = []
for i, variant in enumerate(variants):
    values = found[variant]
    diverged = sum(row["variant"] == variant and "diverged" in row for row in rows)
    if not values:
        lines.append([variant, size[variant], "diverged", "", ""])
        continue
    median, low, high = spread(values)
    better = "#6a994e" if high < base_low else "#c8553d" if low > base_high else "#777777"  # grey: no seed tells it from the baseline
    ax.plot([low, high], [i, i], color=better, lw=2)
    ax.scatter(values, [i] * len(values), color=better, s=20, zorder=3)
    note = f", {diverged} diverged" if diverged else ""
    lines.append([variant, size[variant], f"{median:.3f}", f"{low:.3f}–{high:.3f}{note}", f"{median - base:+.3f}"])
ax.axvline(base, color="black", lw=0.8, ls=":")
ax.set_yticks(range(len(variants)), variants, fontsize=9)
ax.invert_yaxis()
figure.savefig(here / "figure.png")
write_table(here, ["variant", "parameters", "bits per byte, median", "range over seeds", "against baseline"], lines, rows)
