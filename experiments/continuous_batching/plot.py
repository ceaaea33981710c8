"""results.jsonl → figure.png, table.md"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import matplotlib.pyplot as plt
from figures import CYCLE, label, rows_of, spread, write_table

here, rows = rows_of(__file__)
streams = [row for row in rows if row["kind"] == "streams"]
churns = [row for row in rows if row["kind"] == "churn"]

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), dpi=130, layout="constrained")
label(left, "Throughput by streams, 2 threads", "requests at once", "times one request")
for i, model in enumerate(dict.fromkeys(row["model"] for row in streams)):
    found = [row for row in streams if row["model"] == model]
    left.plot([row["streams"] for row in found], [row["times_one"] for row in found], "o-", color=CYCLE[i], label=model)
if streams:
    left.set_xticks([1, 2, 4, 8])
    left.plot([1, 8], [1, 8], color="black", linewidth=0.6, linestyle=":")
    left.legend(frameon=False)
label(right, "Memory of the process under churn", "requests so far", "MB resident")
for row in churns:
    resident = row["resident_bytes"]
    right.plot([(i + 1) * row["requests"] / len(resident) for i in range(len(resident))], [b / 1e6 for b in resident], color=CYCLE[0])
    right.set_ylim(0, 1.2 * max(resident) / 1e6)
figure.savefig(here / "figure.png")

lines = []
for row in streams:
    median, low, high = spread(row["tokens_per_s"])
    same = "yes" if row["same_text"] else "no"
    lines.append([row["model"], str(row["streams"]), f"{median:,.1f}", f"{low:,.1f}–{high:,.1f}", f"{row['times_one']:.2f}×", same])
write_table(here, ["model", "streams", "tokens/s of all", "range", "times one", "text as alone"], lines, rows)
for row in churns:
    print({name: row[name] for name in ("requests", "ended", "refused", "seconds", "slots_lost", "blocks_lost", "same_text_after")})
    resident = row["resident_bytes"]
    print("MB after the first tenth and at the end:", [round(resident[i] / 1e6) for i in (len(resident) // 10, -1)])
