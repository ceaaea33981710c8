"""results.jsonl → figure.png, table.md, samples.md"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import CYCLE, label, plt, rows_of, write_table

here, rows = rows_of(__file__)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), dpi=130, layout="constrained", sharey=True)
label(left, "LightLLM on stories", "training steps (2,048 tokens each)", "bits per byte, validation")
label(right, "", "megabytes of text seen", "")
lines, samples = [], ["# What each model wrote", ""]
for row, color in zip(rows, CYCLE, strict=False):
    steps, tokens, bits = ([point[i] for point in row["curve"]] for i in (0, 1, 4))
    left.plot(steps, bits, color=color, marker="o", ms=3, label=row["variant"])
    right.plot([n * row["bytes_per_token"] / 1e6 for n in tokens], bits, color=color, marker="o", ms=3)
    lines.append([row["variant"], f"{row['vocabulary']:,}", f"{row['parameters']:,}", f"{row['bytes_per_token']:.2f}",
                  f"{100 * row['unknown_rate']:.2f}%", f"{row['val_loss']:.3f}", f"{row['val_bits_per_byte']:.3f}"])  # fmt: skip
    samples += [f"## {row['variant']}", "", "```text", row["samples"].strip(), "```", ""]
left.legend(frameon=False)
figure.savefig(here / "figure.png")
(here / "samples.md").write_text("\n".join(samples))
header = ["tokenizer", "vocabulary", "parameters", "bytes a token", "unknown", "nats a token", "bits per byte"]
write_table(here, header, lines, rows)
