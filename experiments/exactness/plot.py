"""results.jsonl → table.md"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import rows_of, write_table

here, rows = rows_of(__file__)
lines = [["texts", row["weights"], row["way"], f"{row['prompts']:,} prompts, {row['tokens']:,} tokens", f"{row['differing']} differ"] for row in rows if row["kind"] == "text"]
for row in (row for row in rows if row["kind"] == "draws"):
    how = row["drafter"] if row["verified"] else f"{row['drafter']}, guesses unseen"
    found = "texts that cannot be" if row["standard_deviations"] is None else f"χ² {row['standard_deviations']:+.1f} standard deviations, {row['accepted_per_round']:.2f} tokens a round"
    lines.append(["draws", "float32", how, f"{row['draws']:,} texts", found])
write_table(here, ["what", "weights", "way", "of", "found"], lines, rows)
