"""results.jsonl → figure.png, table.md"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from figures import COLORS, axes, rows_of, spread, write_table

here, rows = rows_of(__file__)
peers = {row["vocabulary"]: row["library"] for row in rows if row.get("library", "pikojax") != "pikojax"}


def values(vocabulary: str, ours: bool, what: str, text: str = "mixed", threads: int = 1) -> list[float]:
    of = [row for row in rows if row.get("vocabulary") == vocabulary and (row["library"] == "pikojax") == ours]
    return [row[what] for row in of if (row["text"], row["threads"]) == (text, threads) and what in row]


def shown(found: list[float], digits: int = 1) -> str:
    if not found:
        return "–"
    median, low, high = spread(found)
    return f"{median:,.{digits}f}" + (f" ({low:,.{digits}f}–{high:,.{digits}f})" if len(found) > 1 else "")


def ratio(mine: list[float], other: list[float]) -> str:
    return f"{spread(mine)[0] / spread(other)[0]:.1f}×" if mine and other else "–"


def alike(vocabulary: str) -> str:
    """Whether both sides gave the same ids and, decoded, the same text, on each text that both finished."""
    of: dict[tuple, dict] = {}
    for row in rows:
        for what in ("ids", "decoded"):
            if row.get("vocabulary") == vocabulary and what in row:
                of.setdefault((what, row["text"], row["corpus"]), {}).setdefault(row["library"], set()).add(row[what])
    if not any(len(each) > 1 for each in of.values()):
        return "not compared"
    return "yes" if all(len(set.union(*each.values())) == 1 for each in of.values()) else "NO"


lines, names = [], list(dict.fromkeys(row["vocabulary"] for row in rows if "vocabulary" in row))
for name in names:
    one, other = (values(name, ours, "encode_mb_per_s") for ours in (True, False))
    two, other_two = (values(name, ours, "encode_mb_per_s", threads=2) for ours in (True, False))
    decode, other_decode = (values(name, ours, "decode_mb_per_s") for ours in (True, False))
    load, other_load = ([1000 * seconds for seconds in values(name, ours, "load_s")] for ours in (True, False))
    long, other_long = (values(name, ours, "encode_mb_per_s", "no spaces") for ours in (True, False))
    word = values(name, True, "encode_mb_per_s", "one word")
    lines.append([
        name, peers.get(name, "–"), shown(one), shown(other), f"**{ratio(one, other)}**", f"{shown(two)}, {ratio(two, one)}", shown(other_two),
        shown(decode, 0), ratio(decode, other_decode), f"{shown(long)} / {shown(word)}", shown(other_long), f"{shown(load, 0)} / {shown(other_load, 0)}", alike(name),
    ])  # fmt: skip
header = ["vocabulary", "peer", "encode, MB/s", "peer's", "ratio", "2 threads, against 1", "peer's", "decode, MB/s", "against the peer's",
          "25 MB without spaces / letters only, MB/s", "peer's, without spaces", "open, ms: ours / peer's", "same ids and text"]  # fmt: skip
write_table(here, header, lines, rows)
floors = [row for row in rows if row["text"] == "floor"]
versions = sorted({f"{row['library']} {row['library_version']}" for row in rows if row.get("library_version")})
about = f"{rows[0]['documents']:,} documents, {next(row['mb'] for row in rows if row['text'] == 'mixed'):.1f} MB, {rows[0]['multilingual']:.0%} of it multilingual"
said = [f"{what} {shown([row[key] for row in floors])}" for what, key in (
    ("reading memory (GB/s)", "read_gb_per_s"), ("checking UTF-8 (MB/s)", "utf8_check_mb_per_s"), ("str to UTF-8 (MB/s)", "utf8_copy_mb_per_s"))]  # fmt: skip
with (here / "table.md").open("a") as file:
    file.write(f"\nCorpus: {about}. Peers: {', '.join(versions) or 'none'}. One thread's floor: {'; '.join(said)}.\n")

figure, ax = axes("Encoding, one thread, the same ids", "", "MB of text in a second", (8.5, 4.2))
for i, name in enumerate(names):
    for offset, ours in ((-0.2, False), (0.2, True)):
        if found := values(name, ours, "encode_mb_per_s"):
            color = COLORS["pikojax" if ours else "torch"]
            ax.bar(i + offset, spread(found)[0], width=0.38, color=color, label=("pikojax" if ours else "peer") if i == 0 else None)
            ax.scatter([i + offset] * len(found), found, color="black", s=8, zorder=3)
ax.set_xticks(range(len(names)), [f"{name.rsplit('.', 1)[0]}\n{peers.get(name, '')}" for name in names], fontsize=7, rotation=20)
ax.legend(frameon=False)
figure.savefig(here / "figure.png")
