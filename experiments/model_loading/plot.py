"""results.jsonl → table.md"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import rows_of, spread, write_table

here, rows = rows_of(__file__)
lines = []
for model in dict.fromkeys(row["model"] for row in rows):
    found = [row for row in rows if row["model"] == model]
    seconds, low, high = spread([row["load_s"] for row in found])
    size, weights = found[0]["file_bytes"], found[0]["weights_bytes"]
    growth, peak = (max(row[name] for row in found) for name in ("growth_bytes", "peak_bytes"))
    lines.append([model, f"{size / 1e6:,.0f}", f"{weights / 1e6:,.0f}", f"{seconds:.2f}", f"{low:.2f}–{high:.2f}", f"{growth / weights:.2f}×", f"{peak / weights:.2f}×", f"{growth / size:.2f}×"])
header = ["model", "file, MB", "weights in memory, MB", "s", "range", "growth, of the weights", "peak, of the weights", "growth, of the file"]
write_table(here, header, lines, rows)
