"""results.jsonl → figure.png, table.md"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import CYCLE, label, plt, rows_of, spread, write_table

here, rows = rows_of(__file__)
reference = {"bpe": "tokenizers", "wordpiece": "tokenizers", "unigram": "sentencepiece"}
colors = dict(zip(("pikojax", "tokenizers", "sentencepiece", "pikojax 1 thread", "pikojax by script"), CYCLE, strict=False))
figure, panels = plt.subplots(1, 3, figsize=(10, 4), dpi=130, layout="constrained")
lines = []
for ax, (algorithm, base) in zip(panels, reference.items(), strict=True):
    mine = [row for row in rows if row["algorithm"] == algorithm]
    sides = list(dict.fromkeys(row["side"] for row in mine))
    seconds = {side: [row["seconds"] for row in mine if row["side"] == side] for side in sides}
    label(ax, algorithm, "", "seconds")
    for i, side in enumerate(sides):
        ax.bar(i, spread(seconds[side])[0], color=colors.get(side, "#444444"), width=0.6)
        ax.scatter([i] * len(seconds[side]), seconds[side], color="black", s=14, zorder=3)
        of_side = [row for row in mine if row["side"] == side]
        median, low, high = spread(seconds[side])
        ratio = f"{spread(seconds[base])[0] / median:.1f}×" if base in seconds else ""
        bits = f"{of_side[0]['bits_per_byte']:.4f}" if "bits_per_byte" in of_side[0] else ""
        peak = max(row["peak_rss_bytes"] for row in of_side) / 1e9
        lines.append([algorithm, side, f"{median:.1f}", f"{low:.1f}–{high:.1f}", ratio, f"{peak:.2f}", bits])
    ax.set_xticks(range(len(sides)), [side.replace(" ", "\n", 1) for side in sides], fontsize=8)
figure.savefig(here / "figure.png")
header = ["algorithm", "side", "seconds, median", "range", "speed against the peer", "peak memory, GB", "held-out bits per byte"]
write_table(here, header, lines, rows)
