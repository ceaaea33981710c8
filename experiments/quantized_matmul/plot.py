"""results.jsonl → figure.png (a roofline for each machine) and table.md"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import CYCLE, by_device, label, rows_of, spread, write_tables

HEADER = "rows|K = N|format|µs|GB/s of weights|of bandwidth|GOP/s|of int8 peak|against XLA float32|NMSE".split("|")


def roofline(ax, device: str, rows: list[dict], colors: dict, marks: dict) -> None:
    bandwidth, peak = (spread([row[key] for row in rows])[0] for key in ("read_bandwidth_gb_per_s", "peak_gop_per_s"))
    label(ax, device, "operations per byte of weights", "GOP/s")
    reach = np.geomspace(0.4, 3000, 200)
    roof = f"{bandwidth:.0f} GB/s, {peak:,.0f} GOP/s (medians)"
    ax.plot(reach, np.minimum(reach * bandwidth, peak), color="black", lw=1, label=roof)
    for format, color in colors.items():
        for size, mark in marks.items():
            own = [row for row in rows if (row["format"], row["size"]) == (format, size)]
            x, y = [2 * row["rows"] * size * size / row["weight_bytes"] for row in own], [row["gop_per_s"] for row in own]
            ax.scatter(x, y, color=color, marker=mark, s=22, label=format if size == max(marks) else None)
    ax.set(xscale="log", yscale="log")
    ax.legend(fontsize=7, frameon=False)


def table_lines(rows: list[dict]) -> list[list[str]]:
    lines = []
    for key in dict.fromkeys((row["rows"], row["size"], row["format"]) for row in sorted(rows, key=lambda r: (r["rows"], r["size"]))):
        own = [row for row in rows if (row["rows"], row["size"], row["format"]) == key]
        plain = [row["call_s"] for row in rows if (row["rows"], row["size"], row["format"]) == (*key[:2], "float32")]
        names = ("call_s", "gb_per_s", "of_bandwidth", "gop_per_s", "nmse", "peak_gop_per_s")
        middle = {name: spread([row[name] for row in own])[0] for name in names}
        against = f"{spread(plain)[0] / middle['call_s']:.1f}×" if plain else "–"
        of_peak = "–" if key[2] == "float32" else f"{middle['gop_per_s'] / middle['peak_gop_per_s']:.0%}"
        speeds = [f"{middle['gb_per_s']:.1f}", f"{middle['of_bandwidth']:.0%}", f"{middle['gop_per_s']:,.0f}", of_peak]
        start = [str(key[0]), str(key[1]), key[2], f"{middle['call_s'] * 1e6:,.0f}"]
        lines.append([*start, *speeds, against, f"{middle['nmse']:.1e}"])
    return lines


def main() -> None:
    here, rows = rows_of(__file__)
    formats = [format for format in dict.fromkeys(row["format"] for row in rows) if format != "float32"]
    colors = {"float32": "0.6"} | dict(zip(formats, CYCLE))
    marks = dict(zip(sorted({row["size"] for row in rows}), "osD^"))
    machines = by_device(rows)
    figure, panels = plt.subplots(1, len(machines), figsize=(6.4 * len(machines), 4.8), dpi=130, layout="constrained", sharey=True, squeeze=False)
    figure.suptitle("Products with quantized weights, 2 threads", fontsize=11)
    for ax, (device, own) in zip(panels[0], machines.items(), strict=True):
        roofline(ax, device, own, colors, marks)
    figure.savefig(here / "figure.png")
    write_tables(here, HEADER, {device: table_lines(own) for device, own in machines.items()}, rows)


main()
