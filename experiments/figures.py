"""How the experiments draw and tabulate, so that their figures look alike. Reads rows; never measures."""

import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from trials import read  # noqa: E402

COLORS = {"pikojax": "#0b6e99", "torch": "#c8553d", "torch eager": "#c8553d", "torch compile": "#e09f3e"}
CYCLE = ["#0b6e99", "#c8553d", "#6a994e", "#e09f3e", "#7b5ea7", "#444444"]


def rows_of(script: str) -> tuple[Path, list[dict]]:
    here = Path(script).parent
    rows = read(here / "results.jsonl")
    if not rows:
        raise SystemExit(f"{here / 'results.jsonl'} is empty: run run.py first")
    return here, rows


def by_device(rows: list[dict]) -> dict[str, list[dict]]:
    """What was measured on each machine, by itself: numbers of two must never meet in one ratio."""
    return {device: [row for row in rows if row["device"] == device] for device in dict.fromkeys(row["device"] for row in rows)}


def axes(title: str, x: str, y: str, size=(7.0, 4.2)):
    figure, ax = plt.subplots(figsize=size, dpi=130, layout="constrained")
    label(ax, title, x, y)
    return figure, ax


def label(ax, title: str, x: str, y: str) -> None:
    ax.set_title(title, loc="left", fontsize=11)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


def spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def write_table(here: Path, header: list[str], lines: list[list[str]], rows: list[dict]) -> None:
    """table.md, with the devices and versions that the rows were measured on below it."""
    text = _table(header, lines)
    where = sorted({f"{row['device']}; jax {row['versions']['jax']}, Python {row['versions']['python']}" for row in rows})
    _write(here, [*text, "", "Measured on: " + " · ".join(where) + "."])


def write_tables(here: Path, header: list[str], lines_of: dict[str, list[list[str]]], rows: list[dict]) -> None:
    """table.md with a section for each device."""
    text = []
    for device, lines in lines_of.items():
        versions = sorted({f"jax {v['jax']}, Python {v['python']}" for v in (row["versions"] for row in rows if row["device"] == device)})
        text += [f"### {device}", "", *_table(header, lines), "", "With " + " · ".join(versions) + ".", ""]
    _write(here, text[:-1])


def _table(header: list[str], lines: list[list[str]]) -> list[str]:
    rows = ["| " + " | ".join(line) + " |" for line in (header, *lines)]
    return [rows[0], "|" + " --- |" * len(header), *rows[1:]]


def _write(here: Path, text: list[str]) -> None:
    (here / "table.md").write_text("\n".join(text) + "\n")
    print((here / "table.md").read_text())
