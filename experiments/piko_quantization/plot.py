"""results.jsonl → figure.png, table.md. Losses are differences to the same seed's float32 model."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import CYCLE, label, plt, rows_of, spread, write_table

here, rows = rows_of(__file__)
rows = [row for row in rows if row["kind"] != "finished"]
floats = {row["seed"]: row["bits_per_byte"] for row in rows if row["kind"] == "formats" and row["format"] == "float32"}


def found(**key) -> list[dict]:
    return [row for row in rows if all(row.get(name) == value for name, value in key.items())]


def lost(those: list[dict]) -> list[float]:
    return [row["bits_per_byte"] - floats[row["seed"]] for row in those]


def thousandths(values: list[float]) -> str:
    median, low, high = (1000 * value for value in spread(values))
    return f"{median:+.1f} ({low:+.1f} to {high:+.1f})"


figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.8), dpi=130, layout="constrained")
label(left, "Formats, by the bits a weight takes", "bits per byte above float32", "")
names = list(dict.fromkeys(row["format"] for row in found(kind="formats") if row["format"] != "float32"))
size = {name: found(kind="formats", format=name)[0]["bits_per_weight"] for name in names}
ordered = sorted(names, key=lambda name: (size[name], name))
for i, name in enumerate(ordered):
    color = CYCLE[1] if name[0] == "q" else CYCLE[0]
    median, low, high = (max(value, 5e-5) for value in spread(lost(found(kind="formats", format=name))))
    left.plot([low, high], [i, i], color=color, lw=1.5)
    left.scatter([median], [i], color=color, s=24, zorder=3)
left.set_yticks(range(len(ordered)), [f"{name}  {size[name]:.2f}" for name in ordered], fontsize=8)
left.invert_yaxis()
left.set_xscale("log")
for color, what in ((CYCLE[0], "our own"), (CYCLE[1], "GGUF")):
    left.scatter([], [], color=color, s=24, label=what)
left.legend(frameon=False, loc="lower right")

label(middle, "Plain rounding to four bits, by group", "weights that share a scale", "bits per byte above float32")
groups = list(dict.fromkeys(row["group"] for row in found(kind="groups")))
for color, asymmetric, what in ((CYCLE[0], False, "around zero"), (CYCLE[1], True, "minimum to maximum")):
    values = [lost(found(kind="groups", group=group, asymmetric=asymmetric)) for group in groups]
    middle.plot(range(len(groups)), [spread(each)[0] for each in values], color=color, marker="o", ms=4, label=what)
    for i, each in enumerate(values):
        middle.plot([i, i], [min(each), max(each)], color=color, lw=1)
middle.set_xticks(range(len(groups)), [str(group or "all") for group in groups])
middle.set_ylim(bottom=0)
middle.legend(frameon=False)

label(right, "The same function, outliers in its weights", "bits per byte above float32", "")
harder = [name for name in dict.fromkeys(row["format"] for row in found(kind="outliers")) if name != "float32"]
for i, name in enumerate(harder):
    plain, outlier = (max(spread(lost(found(kind=kind, format=name)))[0], 5e-5) for kind in ("formats", "outliers"))
    right.plot([plain, outlier], [i, i], color="#bbbbbb", zorder=1)
    right.scatter([plain], [i], color=CYCLE[0], s=24, label="as trained" if i == 0 else None, zorder=3)
    right.scatter([outlier], [i], color=CYCLE[1], s=24, label="with outliers" if i == 0 else None, zorder=3)
right.set_yticks(range(len(harder)), harder, fontsize=9)
right.invert_yaxis()
right.set_xscale("log")
right.legend(frameon=False, loc="upper right")
figure.savefig(here / "figure.png")

lines = []
for name in ["float32", *names]:
    those = found(kind="formats", format=name)
    values, error = [row["bits_per_byte"] for row in those], spread([row["error"] for row in those])[0]
    outlier = found(kind="outliers", format=name)
    line = [
        "all weights",
        name,
        f"{those[0]['bits_per_weight']:.2f}",
        f"{error:.2%}",
        f"{spread(values)[0]:.4f}",
        thousandths(lost(those)),
    ]
    lines.append([*line, thousandths(lost(outlier)) if outlier else ""])
for asymmetric in (False, True):
    for group in groups:
        those = found(kind="groups", group=group, asymmetric=asymmetric)
        what = f"plain, {'minimum to maximum' if asymmetric else 'around zero'}, {group or 'an output'}"
        n_bits = "4" if group is None else f"{4 + (32 if asymmetric else 16) / group:.2f}"
        values = spread([row["bits_per_byte"] for row in those])[0]
        lines.append(
            [
                "groups",
                what,
                n_bits,
                f"{spread([row['error'] for row in those])[0]:.2%}",
                f"{values:.4f}",
                thousandths(lost(those)),
                "",
            ]
        )
header = [
    "what",
    "format",
    "bits a weight",
    "weight error",
    "bits per byte",
    "thousandths above float32",
    "the same with outliers",
]
write_table(here, header, lines, rows)
