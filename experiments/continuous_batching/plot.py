"""results.jsonl → figure.png, table.md: each machine by itself"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import CYCLE, by_device, label, plt, rows_of, spread, write_tables

here, rows = rows_of(__file__)
machines = by_device(rows)
of_kind = lambda rows, kind: [row for row in rows if row["kind"] == kind]


def draw(left, right, device: str, rows: list[dict]) -> None:
    label(left, f"Throughput by streams: {device}", "requests at once", "times one request")
    streams = of_kind(rows, "streams")
    for i, model in enumerate(dict.fromkeys(row["model"] for row in streams)):
        found = [row for row in streams if row["model"] == model]
        left.plot([row["streams"] for row in found], [row["times_one"] for row in found], "o-", color=CYCLE[i], label=model)
    if streams:
        left.set_xticks([1, 2, 4, 8])
        left.plot([1, 8], [1, 8], color="black", linewidth=0.6, linestyle=":")
        left.legend(frameon=False)
    label(right, "Memory of the process under churn", "requests so far", "MB resident")
    for row in of_kind(rows, "churn"):
        resident = row["resident_bytes"]
        right.plot([(i + 1) * row["requests"] / len(resident) for i in range(len(resident))], [b / 1e6 for b in resident], color=CYCLE[0])
        right.set_ylim(0, 1.2 * max(resident) / 1e6)


def lines_of(rows: list[dict]) -> list[list[str]]:
    lines = []
    for row in of_kind(rows, "streams"):
        median, low, high = spread(row["tokens_per_s"])
        same = "yes" if row["same_text"] else "no"
        lines.append([row["model"], str(row["streams"]), f"{median:,.1f}", f"{low:,.1f}–{high:,.1f}", f"{row['times_one']:.2f}×", same])
    return lines


figure, panels = plt.subplots(len(machines), 2, figsize=(10, 4.0 * len(machines)), dpi=130, layout="constrained", squeeze=False)
for (device, of_device), (left, right) in zip(machines.items(), panels, strict=True):
    draw(left, right, device, of_device)
figure.savefig(here / "figure.png")
tables = {device: lines_of(of_device) for device, of_device in machines.items()}
write_tables(here, ["model", "streams", "tokens/s of all", "range", "times one", "text as alone"], tables, rows)
for row in of_kind(rows, "churn"):
    print(row["device"], {name: row[name] for name in ("requests", "ended", "refused", "seconds", "slots_lost", "blocks_lost", "same_text_after")})
    resident = row["resident_bytes"]
    print("MB after the first tenth and at the end:", [round(resident[i] / 1e6) for i in (len(resident) // 10, -1)])
