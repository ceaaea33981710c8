"""results.jsonl → figure.png, table.md"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import matplotlib.pyplot as plt
from figures import CYCLE, label, rows_of, spread, write_table

here, rows = rows_of(__file__)
texts, couplings = [row for row in rows if row["kind"] == "text"], [row for row in rows if row["kind"] == "coupling"]

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.4), dpi=120, layout="constrained")
label(left, "The same random numbers, two distributions", "total variation between them", "share of draws that agree")
at = [i / 100 for i in range(101)]
left.plot(at, [1 - d for d in at], color="black", linestyle=":", linewidth=1, label="1 − d: rejection sampling")
left.plot(at, [(1 - d) / (1 + d) for d in at], color="black", linewidth=1, label="(1 − d) / (1 + d)")
for i, draw in enumerate(("one number", "noise a token")):
    found = [row for row in couplings if row["draw"] == draw]
    left.plot([row["d"] for row in found], [row["agree"] for row in found], "o", color=CYCLE[i], label=draw)
    for row in found:
        left.plot([row["d"]] * 2, [min(row["agree_each"]), max(row["agree_each"])], color=CYCLE[i], linewidth=1)
left.legend(frameon=False)

label(middle, "Tokens a round, a story", "temperature", "tokens a round")
for i, drafter in enumerate(dict.fromkeys(row["drafter"] for row in texts)):
    found = [row for row in texts if row["drafter"] == drafter and row["text"] == "a story"]
    found = sorted(found, key=lambda row: row["temperature"])
    if found:
        tokens = [row["accepted_per_round"] for row in found]
        middle.plot([row["temperature"] for row in found], tokens, "o-", color=CYCLE[i], label=drafter)
if any(row["text"] == "a story" for row in texts):
    middle.legend(frameon=False)
else:
    middle.text(0.5, 0.5, "not measured yet", ha="center", transform=middle.transAxes, color="0.5")

label(right, "Against plain decoding", "tokens a round", "times plain decoding")
for i, drafter in enumerate(dict.fromkeys(row["drafter"] for row in texts)):
    found = [row for row in texts if row["drafter"] == drafter]
    right.plot([row["accepted_per_round"] for row in found], [row["speedup"] for row in found], "o", color=CYCLE[i], label=drafter)
right.axhline(1, color="black", linewidth=0.8)
right.legend(frameon=False)
figure.savefig(here / "figure.png")

lines = []
for row in texts:
    _, low, high = spread([a / b for a, b in zip(row["decode_tokens_per_s_each"], row["plain_tokens_per_s_each"], strict=True)])
    lines.append(
        [row["model"], row["text"], f"{row['temperature']:g}", row["drafter"], f"{row['accepted_per_round']:.2f}"]
        + [f"{row['plain_tokens_per_s']:,.1f}", f"{row['decode_tokens_per_s']:,.1f}", f"{row['speedup']:.2f}×", f"{low:.2f}–{high:.2f}"]
        + ["yes" if row["same_text"] else "no"]
    )
header = ["model", "text", "temperature", "drafter", "tokens a round", "plain tokens/s", "tokens/s", "against plain", "range", "same text"]
write_table(here, header, lines, rows)
