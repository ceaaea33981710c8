"""results.jsonl → figure.png, table.md"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import matplotlib.pyplot as plt
from figures import CYCLE, label, rows_of, spread, write_table

here, rows = rows_of(__file__)
texts, couplings, curves = ([row for row in rows if row["kind"] == kind] for kind in ("text", "coupling", "curve"))

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

COLOR = dict(zip(("lookup", "heads", "draft", "early-exit=1"), CYCLE))
label(middle, "A story by a trained model, k guesses each round", "k", "tokens a round")
for drafter in COLOR:
    for temperature, style in ((0.0, "o-"), (1.0, "o:")):
        found = sorted((row for row in curves if row["drafter"] == drafter and row["temperature"] == temperature), key=lambda row: row["guesses"])
        middle.plot([row["guesses"] for row in found], [row["accepted_per_round"] for row in found], style, color=COLOR[drafter], label=drafter if style == "o-" else None)
middle.plot([], [], "k:", label="at temperature 1")
middle.set_xticks([1, 2, 3, 4])
middle.legend(frameon=False)

label(right, "Against plain decoding", "tokens a round", "times plain decoding")
for drafter in COLOR:
    for made, style in ((texts, "o"), (curves, "+")):
        found = [row for row in made if row["drafter"] == drafter]
        right.plot([row["accepted_per_round"] for row in found], [row["speedup"] for row in found], style, color=COLOR[drafter], label=drafter if style == "o" else None)
right.plot([], [], "k+", label="k guesses each round")
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
for row in curves:
    _, low, high = spread([a / b for a, b in zip(row["decode_tokens_per_s_each"], row["plain_tokens_per_s_each"], strict=True)])
    lines.append(
        [row["model"], row["text"], f"{row['temperature']:g}", f"{row['drafter']}, always {row['guesses']}", f"{row['accepted_per_round']:.2f}"]
        + [f"{row['plain_tokens_per_s']:,.1f}", f"{row['decode_tokens_per_s']:,.1f}", f"{row['speedup']:.2f}×", f"{low:.2f}–{high:.2f}"]
        + ["yes" if row["same_text"] else "no"]
    )
header = ["model", "text", "temperature", "drafter", "tokens a round", "plain tokens/s", "tokens/s", "against plain", "range", "same text"]
write_table(here, header, lines, rows)
