"""results.jsonl → figure.png, table.md. All is measured from the same model in float32, on the same tokens."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import CYCLE, label, plt, rows_of, write_table

here, rows = rows_of(__file__)
whole = next(row for row in rows if row["format"] == "float32")
usual = next((row["calibration_tokens"] for row in rows if row["method"] == "importance"), 0)  # the other amounts are of one format
SIDES = {("pikojax", "nearest"): (CYCLE[0], "o"), ("pikojax", "importance"): (CYCLE[2], "s"), ("pikojax", "feedback"): (CYCLE[3], "D"),
         ("llama.cpp", "nearest"): (CYCLE[1], "x"), ("llama.cpp", "importance"): (CYCLE[4], "+")}  # fmt: skip


def found(side: str, method: str) -> dict:
    """Format → row; of several amounts of text the usual one."""
    return {row["format"]: row for row in rows if (row["side"], row["method"]) == (side, method) and row["format"] != "float32" and row.get("calibration_tokens", usual) == usual}


formats = sorted({row["format"] for row in rows} - {"float32"}, key=lambda name: (found("pikojax", "nearest")[name]["bits_per_weight"], name))
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.8), dpi=130, layout="constrained", width_ratios=(5, 4, 3))
label(left, "Formats and methods", "KL divergence from float32, nats a token", "")
for side, (color, marker) in SIDES.items():
    those = found(*side)
    places = [formats.index(name) for name in those]
    left.scatter([row["kl_mean"] for row in those.values()], places, color=color, marker=marker, s=26, label=", ".join(side), zorder=3)
left.set_yticks(range(len(formats)), [f"{name}  {found('pikojax', 'nearest')[name]['bits_per_weight']:.2f}" for name in formats], fontsize=8)
left.invert_yaxis()
left.set_xscale("log")
left.legend(frameon=False, fontsize=8)

label(middle, "What bits buy", "bits a weight, all counted", "perplexity above float32")
for side, (color, marker) in SIDES.items():
    those = sorted(found(*side).values(), key=lambda row: row["bits_per_weight"])
    gguf = [row for row in those if row["format"].startswith("q")]
    above = [max(row["perplexity"] / whole["perplexity"] - 1, 1e-5) * 100 for row in gguf]
    middle.scatter([row["bits_per_weight"] for row in gguf], above, color=color, marker=marker, s=26)
middle.set_yscale("log")
middle.set_ylabel("perplexity above float32, %")

label(right, "How much text to calibrate on (q4_0)", "tokens", "KL divergence")
amounts = sorted((row["calibration_tokens"], row["kl_mean"]) for row in rows if (row["format"], row["method"], row["side"]) == ("q4_0", "feedback", "pikojax"))
if amounts:
    right.plot(*zip(*amounts), color=CYCLE[3], marker="D", ms=5, label="feedback")
    right.axhline(found("pikojax", "nearest")["q4_0"]["kl_mean"], color=CYCLE[0], lw=1, label="nearest")
    right.axhline(found("pikojax", "importance")["q4_0"]["kl_mean"], color=CYCLE[2], lw=1, label="importance")
    right.set_xscale("log", base=2)
    right.set_ylim(bottom=0)
    right.legend(frameon=False, fontsize=8)
figure.savefig(here / "figure.png")


def line(row: dict) -> list[str]:
    kl = f"{1000 * row['kl_mean']:.2f} ± {1000 * row['kl_mean_error']:.2f}" if "kl_mean" in row else ""
    above = f"{100 * (row['perplexity'] / whole['perplexity'] - 1):+.2f}%" if "kl_mean" in row else ""
    amount = row.get("calibration_tokens", usual)
    same = f"{row['same_top_rate']:.2%}" if "kl_mean" in row else ""
    method = row["method"] + (f", {amount:,} tokens" if amount != usual else "")
    return [row["format"], row["side"], method, f"{row['bits_per_weight']:.3f}", f"{row['file_bytes'] / 1e6:.2f}", f"{row['perplexity']:.4f}", above, kl, same]


order = {name: i for i, name in enumerate(["float32", *formats])}
lines = [line(row) for row in sorted(rows, key=lambda row: (order[row["format"]], row["side"] == "llama.cpp", list(SIDES).index((row["side"], row["method"])), row.get("calibration_tokens", 0)))]
header = ["format", "by", "method", "bits a weight", "MB", "perplexity", "above float32", "KL, thousandths of a nat", "same top token"]
write_table(here, header, lines, rows)
