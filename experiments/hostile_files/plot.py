"""results.jsonl → table.md"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import rows_of, write_table

here, rows = rows_of(__file__)
sanitized, rows = [row for row in rows if row.get("sanitized")], [row for row in rows if not row.get("sanitized")]
kinds = list(dict.fromkeys(row["kind"] for row in rows))


def line(name: str, found: list[dict]) -> list[str]:
    total = lambda key: sum(row[key] for row in found)
    worst = lambda key: max(row[key] for row in found)
    n = total("mutants")
    passed = total("run") + total("loaded")
    return [name, f"{n:,}", f"{total('refused') / n:.1%}", f"{passed:,}", f"{total('run'):,}", f"{worst('slowest_ms'):,.0f}", f"{worst('most_extra_mb'):.1f}", f"{total('offenders')}"]


header = ["damaged", "mutants", "refused in one line", "loaded", "of these run", "slowest, ms", "most memory, MB", "offenders"]
write_table(here, header, [*(line(kind, [row for row in rows if row["kind"] == kind]) for kind in kinds), line("**all**", rows)], rows)
if sanitized:
    lines = [[row["kind"], f"{row['mutants']:,}", f"{row['loaded']:,}", f"{row['run']:,}", f"{row['configs']}", f"{row['findings']}"] for row in sanitized]
    text = [["damaged, kernels under sanitizers", "mutants", "loaded", "of these run", "configs", "findings"], ["---"] * 6, *lines]
    with open(here / "table.md", "a") as file:
        file.write("\n" + "".join(f"| {' | '.join(line)} |\n" for line in text) + f"\nMeasured on: {sanitized[0]['device']}.\n")
