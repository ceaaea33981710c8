"""results.jsonl → figure.png (a roofline) and table.md"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import CYCLE, axes, rows_of, spread, write_table

here, rows = rows_of(__file__)
formats = list(dict.fromkeys(row["format"] for row in rows))
marks = dict(zip(sorted({row["size"] for row in rows}), "osD^"))
bandwidth, peak = (spread([row[key] for row in rows])[0] for key in ("read_bandwidth_gb_per_s", "peak_gop_per_s"))
figure, ax = axes("Products with quantized weights, 2 threads", "operations per byte of weights", "GOP/s", size=(8.0, 4.8))
reach = np.geomspace(0.4, 3000, 200)
ax.plot(
    reach, np.minimum(reach * bandwidth, peak), color="black", lw=1, label=f"{bandwidth:.0f} GB/s, {peak:,.0f} GOP/s (medians)"
)
colors = {"float32": "0.6"} | dict(zip((format for format in formats if format != "float32"), CYCLE))
for format, color in colors.items():
    for size, mark in marks.items():
        own = [row for row in rows if (row["format"], row["size"]) == (format, size)]
        x = [2 * row["rows"] * size * size / row["weight_bytes"] for row in own]
        ax.scatter(
            x, [row["gop_per_s"] for row in own], color=color, marker=mark, s=22, label=format if size == max(marks) else None
        )
ax.set(xscale="log", yscale="log")
ax.legend(fontsize=7, frameon=False)
figure.savefig(here / "figure.png")

lines = []
for key in dict.fromkeys((row["rows"], row["size"], row["format"]) for row in sorted(rows, key=lambda r: (r["rows"], r["size"]))):
    own = [row for row in rows if (row["rows"], row["size"], row["format"]) == key]
    plain = [row["call_s"] for row in rows if (row["rows"], row["size"], row["format"]) == (*key[:2], "float32")]
    middle = {
        name: spread([row[name] for row in own])[0]
        for name in ("call_s", "gb_per_s", "of_bandwidth", "gop_per_s", "nmse", "peak_gop_per_s")
    }
    against = f"{spread(plain)[0] / middle['call_s']:.1f}×" if plain else "–"
    of_peak = "–" if key[2] == "float32" else f"{middle['gop_per_s'] / middle['peak_gop_per_s']:.0%}"
    speeds = [f"{middle['gb_per_s']:.1f}", f"{middle['of_bandwidth']:.0%}", f"{middle['gop_per_s']:,.0f}", of_peak]
    lines.append([str(key[0]), str(key[1]), key[2], f"{middle['call_s'] * 1e6:,.0f}", *speeds, against, f"{middle['nmse']:.1e}"])
header = [
    "rows",
    "K = N",
    "format",
    "µs",
    "GB/s of weights",
    "of bandwidth",
    "GOP/s",
    "of int8 peak",
    "against XLA float32",
    "NMSE",
]
write_table(here, header, lines, rows)
