"""results.jsonl → figure.png, table.md"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import CYCLE, label, plt, rows_of, spread, write_table

here, rows = rows_of(__file__)
variants = list(dict.fromkeys(row["variant"] for row in rows))
matches = list(dict.fromkeys(row["match"] for row in rows))
figure, panels = plt.subplots(1, len(matches), figsize=(10, 4.4), dpi=130, layout="constrained", sharey=True, squeeze=False)


def values(variant: str, match: str) -> list[float]:
    return [row["val_bits_per_byte"] for row in rows if (row["variant"], row["match"]) == (variant, match) and "diverged" not in row]


for ax, match in zip(panels[0], matches, strict=True):
    label(ax, match, "bits per byte (less is better, if nothing is hidden)", "")
    for i, variant in enumerate(variants):
        found, row = values(variant, match), next(row for row in rows if row["variant"] == variant)
        hides = row["unknown_tokens"] > 0 or row["exact_stories"] < 1
        ax.scatter(found, [i] * len(found), s=34, color=CYCLE[1] if hides else CYCLE[0], facecolors="none" if hides else None, zorder=3)
    ax.set_yticks(range(len(variants)), variants, fontsize=9)
panels[0][0].invert_yaxis()
figure.suptitle("filled: the text comes back exactly; hollow: some of it is hidden from the loss", fontsize=9, x=0.01, ha="left")
figure.savefig(here / "figure.png")

lines = []
for variant in variants:
    row = next(row for row in rows if row["variant"] == variant)
    line = [variant, f"{row['vocabulary']:,}", f"{row['bytes_per_token']:.2f}", f"{row['unknown_tokens']:.2%}", f"{row['unknown_bytes']:.2%}", f"{row['exact_stories']:.0%}"]
    line += [f"{row.get('parameters', 0):,}", f"{row['block_parameters']:,}"]
    for match in matches:
        found = values(variant, match)
        line.append("–" if not found else "{:.3f} ({:.3f}–{:.3f})".format(*spread(found)))
    lines.append(line)
header = ["tokenizer", "vocabulary", "bytes per token", "unknown tokens", "bytes in them", "stories that come back", "parameters", "of the blocks"]
write_table(here, [*header, *(f"bits per byte, {match}" for match in matches)], lines, rows)
