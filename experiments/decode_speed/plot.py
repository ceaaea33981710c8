"""results.jsonl → figure.png, table.md"""

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import CYCLE, axes, rows_of, spread, write_table

here, rows = rows_of(__file__)
cases = list(dict.fromkeys((row["model"], row["prompt_tokens"]) for row in rows))
SIDES = ("pikojax", "llama.cpp", "transformers")


def of(case, side: str) -> list[dict]:
    return [row for row in rows if (row["model"], row["prompt_tokens"]) == case and row["side"] == side]


def ratio(case, side: str, what: str) -> float:
    median = lambda side: statistics.median(row[what] for row in of(case, side))
    return median(side) / median("llama.cpp")


figure, ax = axes("Tokens a second, 2 threads, the same file", "", "times llama.cpp")
compared = [case for case in cases if of(case, "pikojax") and of(case, "llama.cpp")]
for i, (what, label) in enumerate((("decode_tokens_per_s", "writing"), ("prefill_tokens_per_s", "reading the prompt"))):
    at = [x + (i - 0.5) * 0.38 for x in range(len(compared))]
    ax.bar(at, [ratio(case, "pikojax", what) for case in compared], width=0.36, color=CYCLE[i], label=label)
ax.axhline(1, color="black", linewidth=0.8)
ax.set_xticks(range(len(compared)), [f"{model}\nafter {n:,} tokens" for model, n in compared])
ax.legend(frameon=False)
figure.savefig(here / "figure.png")

lines = []
for case in cases:
    for side in SIDES:
        if not (found := of(case, side)):
            continue
        median, low, high = spread([row["decode_tokens_per_s"] for row in found])
        middle = lambda name: statistics.median(row[name] for row in found)
        against = lambda what: f"{ratio(case, side, what):.2f}×" if of(case, "llama.cpp") else ""
        lines.append(
            [case[0], f"{case[1]:,}", side, f"{median:,.1f}", f"{low:,.1f}–{high:,.1f} ({len(found)})", against("decode_tokens_per_s")]
            + [f"{middle('of_bandwidth'):.0%}" if "of_bandwidth" in found[0] else "", f"{middle('prefill_tokens_per_s'):,.0f}"]
            + [against("prefill_tokens_per_s"), f"{middle('first_token_s'):.2f}", f"{middle('peak_rss_bytes') / 1e9:.2f}"]
        )
header = ["model", "prompt", "side", "tokens/s", "range (turns)", "× llama.cpp", "of read bandwidth", "prompt tokens/s", "× llama.cpp"]
write_table(here, [*header, "first token, s", "peak memory, GB"], lines, rows)
