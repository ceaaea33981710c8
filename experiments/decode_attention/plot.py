"""results.jsonl → figure.png, table.md"""

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import CYCLE, axes, rows_of, spread, write_table

here, rows = rows_of(__file__)
CACHES = ("float32", "bfloat16", "int8", "int4")
found = {(row["slots"], row["rows"], row["side"]): row for row in rows}
shapes = sorted({(row["slots"], row["rows"]) for row in rows})


def xla(shape):
    return found[*shape, "XLA, head-major"]


figure, ax = axes("Attention of 32 heads (8 of keys and values, 64 wide), 2 threads", "slots filled, new tokens", "times XLA's float32 attention")
for i, cache in enumerate(CACHES):
    at = [x + (i - 1.5) * 0.2 for x in range(len(shapes))]
    ratios = [statistics.median(xla(s)["call_us"]) / statistics.median(found[*s, cache]["call_us"]) for s in shapes]
    ax.bar(at, ratios, width=0.2, color=CYCLE[i], label=cache)
ax.axhline(1, color="black", linewidth=0.8)
ax.set_xticks(range(len(shapes)), [f"{slots:,}\n{n}" for slots, n in shapes])
ax.legend(frameon=False, title="cache")
figure.savefig(here / "figure.png")

lines = []
for shape in shapes:
    for side in [side for side in (*CACHES, "XLA, head-major", "XLA, slot-major") if (*shape, side) in found]:
        row = found[*shape, side]
        median, low, high = spread(row["call_us"])
        one = found.get((shape[0], 1, row["side"]), row)
        lines.append(
            [f"{shape[0]:,}", str(shape[1]), row["side"], f"{median:,.0f}", f"{low:,.0f}–{high:,.0f}", f"{row['gb_per_s']:.1f}"]
            + [f"{row['of_bandwidth']:.0%}", f"{statistics.median(xla(shape)['call_us']) / median:.1f}×"]
            + [f"{median / statistics.median(one['call_us']):.2f}×"]
            + ([f"{row['nmse']:.1e}", f"{row['nmse_kernel']:.1e}"] if "nmse" in row else ["", ""])
        )
header = ["slots", "tokens", "cache", "µs a call", "range", "GB/s", "of read bandwidth", "against XLA", "against one token", "NMSE", "of the kernel"]
write_table(here, header, lines, rows)
