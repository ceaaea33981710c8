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
    text = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    text += ["| " + " | ".join(line) + " |" for line in lines]
    where = sorted({f"{row['device']}; jax {row['versions']['jax']}, Python {row['versions']['python']}" for row in rows})
    (here / "table.md").write_text("\n".join([*text, "", "Measured on: " + " · ".join(where) + "."]) + "\n")
    print((here / "table.md").read_text())
