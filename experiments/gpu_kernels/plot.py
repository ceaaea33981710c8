"""results.jsonl → figure.png, table.md"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import CYCLE, axes, rows_of, write_table

here, rows = rows_of(__file__)
good = [row for row in rows if "error" not in row]
copy_gb = max(row["gb_per_s"] for row in good if row["part"] == "copy")
products = [row for row in good if row["part"] == "matmul"]
peak = max(row["tflop_per_s"] for row in products if row["kernel"] == "jnp")
few = [row for row in products if row["rows"] <= 16]
figure, ax = axes("Weights read by a few rows", "rows of activations", "share of the bandwidth of a copy")
for color, kernel in zip(CYCLE, sorted({row["kernel"] for row in few if "int" in row["format"]})):
    for marker, format in (("o", "int4_g128"), ("s", "int8")):
        points = sorted(
            (row["rows"], row["gb_per_s"] / copy_gb) for row in few if (row["kernel"], row["format"]) == (kernel, format)
        )
        if points:
            ax.plot(*zip(*points), marker=marker, color=color, label=f"{kernel}, {format}")
ax.axhline(0.75, color="black", linewidth=0.8, linestyle="--")
ax.set_ylim(0)
ax.legend(fontsize=8, frameon=False)
figure.savefig(here / "figure.png")
lines = [["a copy", "", "", "", "", f"{copy_gb:,.0f}", "1.00", ""]]
for row in sorted(rows, key=lambda row: (row["part"], row.get("format", ""), row.get("rows", 0), row.get("kernel", ""))):
    if row["part"] == "copy":
        continue
    name = [row["part"], row["kernel"], row["format"], str(row.get("rows", ""))]
    if "error" in row:
        lines.append([*name, "", "", "", row["error"].replace("|", "/")[:120]])
        continue
    compute = f"{row['tflop_per_s'] / peak:.2f} of bf16's {peak:,.0f} TFLOP/s" if row.get("rows", 0) > 16 else ""
    lines.append([*name, f"{row['us']:,.1f}", f"{row['gb_per_s']:,.0f}", f"{row['gb_per_s'] / copy_gb:.2f}", compute])
write_table(here, ["part", "kernel", "format", "rows", "µs", "GB/s", "of the copy", "note"], lines, rows)
