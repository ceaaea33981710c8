"""results.jsonl → figure.png, table.md: each machine by itself"""

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import CYCLE, by_device, label, plt, rows_of, spread, write_tables

SIDES = ("pikojax", "llama.cpp", "transformers")


def cases_of(rows: list[dict]) -> dict[tuple, dict[str, list[dict]]]:
    """(model, prompt) → side → its turns."""
    found: dict[tuple, dict[str, list[dict]]] = {}
    for row in rows:
        found.setdefault((row["model"], row["prompt_tokens"]), {}).setdefault(row["side"], []).append(row)
    return found


def ratio(sides: dict[str, list[dict]], side: str, what: str) -> float:
    median = lambda side: statistics.median(row[what] for row in sides[side])
    return median(side) / median("llama.cpp")


def draw(ax, device: str, cases: dict) -> None:
    label(ax, device, "", "times llama.cpp")
    compared = {case: sides for case, sides in cases.items() if {"pikojax", "llama.cpp"} <= set(sides)}
    for i, (what, name) in enumerate((("decode_tokens_per_s", "writing"), ("prefill_tokens_per_s", "reading the prompt"))):
        at = [x + (i - 0.5) * 0.38 for x in range(len(compared))]
        ax.bar(at, [ratio(sides, "pikojax", what) for sides in compared.values()], width=0.36, color=CYCLE[i], label=name)
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set_xticks(range(len(compared)), [f"{model}\nafter {n:,} tokens" for model, n in compared])
    ax.legend(frameon=False)


def lines_of(cases: dict) -> list[list[str]]:
    lines = []
    for (model, prompt_tokens), sides in cases.items():
        for side in [side for side in SIDES if side in sides]:
            found = sides[side]
            median, low, high = spread([row["decode_tokens_per_s"] for row in found])
            middle = lambda name: statistics.median(row[name] for row in found)
            against = lambda what: f"{ratio(sides, side, what):.2f}×" if "llama.cpp" in sides else ""
            lines.append(
                [model, f"{prompt_tokens:,}", side, f"{median:,.1f}", f"{low:,.1f}–{high:,.1f} ({len(found)})", against("decode_tokens_per_s")]
                + [f"{middle('of_bandwidth'):.0%}" if "of_bandwidth" in found[0] else "", f"{middle('prefill_tokens_per_s'):,.0f}"]
                + [against("prefill_tokens_per_s"), f"{middle('first_token_s'):.2f}", f"{middle('peak_rss_bytes') / 1e9:.2f}"]
            )
    return lines


here, rows = rows_of(__file__)
machines = {device: cases_of(of_device) for device, of_device in by_device(rows).items()}
figure, panels = plt.subplots(len(machines), 1, figsize=(7.0, 3.9 * len(machines)), dpi=130, layout="constrained", squeeze=False)
figure.suptitle("Tokens a second, 2 threads, the same file", x=0.02, ha="left", fontsize=11)
for (device, cases), ax in zip(machines.items(), panels[:, 0], strict=True):
    draw(ax, device, cases)
figure.savefig(here / "figure.png")
header = ["model", "prompt", "side", "tokens/s", "range (turns)", "× llama.cpp", "of read bandwidth", "prompt tokens/s", "× llama.cpp"]
write_tables(here, [*header, "first token, s", "peak memory, GB"], {device: lines_of(cases) for device, cases in machines.items()}, rows)
