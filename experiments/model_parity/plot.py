"""results.jsonl → table.md"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import rows_of, write_table

here, rows = rows_of(__file__)
found = {(row["case"], row["format"], row["path"]): row for row in rows}
parity = [case for case in dict.fromkeys(row["case"] for row in rows) if (case, "huggingface", "whole") in found]


def delta(case: str, format: str, path: str) -> str:
    row = found.get((case, format, path))
    return "—" if row is None else f"{row['max_delta']:.1e}"


lines = []
for case in parity:
    whole = found[case, "huggingface", "whole"]
    ways = [delta(case, format, path) for format in ("huggingface", "gguf") for path in ("whole", "cached", "padded")]
    lines.append([case, *ways, delta(case, "gguf", "read by llama.cpp"), f"{whole['largest_logit']:.1f}"])
header = ["architecture", "folder: whole", "cached", "padded", "GGUF: whole", "cached", "padded", "by llama.cpp", "largest logit"]
write_table(here, header, lines, rows)
text = (here / "table.md").read_text()
spoken = [row for row in rows if row["path"] == "llama.cpp"]
if spoken:
    table = ["", "| model | file | tokens | the same as llama.cpp's, from the first | its two best logits apart, where ours differ |", "| --- | --- | --- | --- | --- |"]
    for row in spoken:
        margin = "" if row["margin_where_apart"] is None else f"{row['margin_where_apart']:.4f}"
        table.append(f"| {row['case']} | {row['format']} | {row['tokens']} | {row['same_tokens']} | {margin} |")
    (here / "table.md").write_text(text + "\n".join(table) + "\n")
