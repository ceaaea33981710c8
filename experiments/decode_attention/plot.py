"""results.jsonl → figure.png, table.md: each machine by itself"""

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import CYCLE, by_device, label, plt, rows_of, spread, write_tables

CACHES = ("float32", "bfloat16", "int8", "int4")
XLA = ("XLA, head-major", "XLA, slot-major")


def draw(ax, device: str, found: dict, shapes: list) -> None:
    label(ax, device, "slots filled, new tokens", "times XLA's float32 attention")
    for i, cache in enumerate(CACHES):
        at = [x + (i - 1.5) * 0.2 for x in range(len(shapes))]
        ratios = [statistics.median(found[*s, XLA[0]]["call_us"]) / statistics.median(found[*s, cache]["call_us"]) for s in shapes]
        ax.bar(at, ratios, width=0.2, color=CYCLE[i], label=cache)
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set_xticks(range(len(shapes)), [f"{slots:,}\n{n}" for slots, n in shapes])
    ax.legend(frameon=False, title="cache")


def lines_of(found: dict, shapes: list) -> list[list[str]]:
    lines = []
    for shape in shapes:
        for side in [side for side in (*CACHES, *XLA) if (*shape, side) in found]:
            row = found[*shape, side]
            median, low, high = spread(row["call_us"])
            one = found.get((shape[0], 1, side), row)
            lines.append(
                [f"{shape[0]:,}", str(shape[1]), side, f"{median:,.0f}", f"{low:,.0f}–{high:,.0f}", f"{row['gb_per_s']:.1f}"]
                + [f"{row['of_bandwidth']:.0%}", f"{statistics.median(found[*shape, XLA[0]]['call_us']) / median:.1f}×"]
                + [f"{median / statistics.median(one['call_us']):.2f}×"]
                + ([f"{row['nmse']:.1e}", f"{row['nmse_kernel']:.1e}"] if "nmse" in row else ["", ""])
            )
    return lines


here, rows = rows_of(__file__)
machines = by_device(rows)
figure, panels = plt.subplots(len(machines), 1, figsize=(7.0, 3.9 * len(machines)), dpi=130, layout="constrained", squeeze=False)
figure.suptitle("Attention of 32 heads (8 of keys and values, 64 wide), 2 threads", x=0.02, ha="left", fontsize=11)
tables = {}
for (device, of_device), ax in zip(machines.items(), panels[:, 0], strict=True):
    found = {(row["slots"], row["rows"], row["side"]): row for row in of_device}
    shapes = sorted({(row["slots"], row["rows"]) for row in of_device})
    draw(ax, device, found, shapes)
    tables[device] = lines_of(found, shapes)
figure.savefig(here / "figure.png")
header = ["slots", "tokens", "cache", "µs a call", "range", "GB/s", "of read bandwidth", "against XLA", "against one token", "NMSE", "of the kernel"]
write_tables(here, header, tables, rows)
