"""curves.png: loss, bits per byte, learning rate and speed over the steps, read from metrics.jsonl alone.

Leaves out: anything interactive; metrics.jsonl (or TensorBoard) is for that.
"""

from pathlib import Path

from pikojax.formats import run as runs
from pikojax.train import metrics

TRAIN, VALIDATION, QUIET = "#4C78A8", "#E45756", "#8A8F98"


def draw(run: Path) -> Path | None:
    """Writes RUN/curves.png; None where there is nothing to draw yet. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: no window system, no state shared with a user's own plots

    lines = metrics.read(run / runs.METRICS)
    steps = [line for line in lines if line.get("loss") is not None]
    evals = [line for line in lines if line.get("val_loss") is not None]
    if not steps:
        return None
    figure = Figure(figsize=(11, 7.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    _losses(panels[0, 0], steps, evals)
    _bits(panels[0, 1], steps, evals)
    _line(panels[1, 0], steps, "lr", "learning rate", TRAIN)
    panels[1, 0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _line(panels[1, 1], [s for s in steps if s.get("tokens_per_s")], "tokens_per_s", "tokens per second", TRAIN)
    panels[1, 1].yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    for panel in panels.flat:
        _style(panel, steps[-1]["step"])
    figure.suptitle(_title(run, steps, evals), x=0.01, ha="left", fontsize=13, fontweight="bold", parse_math=False)
    beside = run / f".{runs.CURVES}"
    figure.savefig(beside, dpi=130, format="png")
    return beside.replace(run / runs.CURVES)


def _losses(panel, steps, evals) -> None:
    xs, ys = _series(steps, "loss")
    window = max(1, len(ys) // 40)
    if window > 1:
        panel.plot(xs, ys, color=TRAIN, alpha=0.3, linewidth=0.9)
        panel.plot(xs, _smooth(ys, window), color=TRAIN, linewidth=1.8, label="training, smoothed")
    else:
        panel.plot(xs, ys, color=TRAIN, linewidth=1.8, label="training")
    if evals:
        xs, ys = _series(evals, "val_loss")
        panel.plot(xs, ys, color=VALIDATION, linewidth=1.8, marker="o", markersize=3.5, label="validation")
        _mark_best(panel, xs, ys)
    panel.set_title("loss, nats per token", loc="left")
    panel.legend(frameon=False, loc="upper right")


def _bits(panel, steps, evals) -> None:
    measured = [line for line in evals if line.get("val_bits_per_byte") is not None]
    if measured:
        xs, ys = _series(measured, "val_bits_per_byte")
        panel.plot(xs, ys, color=VALIDATION, linewidth=1.8, marker="o", markersize=3.5)
        _mark_best(panel, xs, ys)
        panel.set_title("validation, bits per byte", loc="left")
    else:  # nothing evaluated yet, or tokens whose text is unknown
        _line(panel, steps, "grad_norm", "norm of the gradient", TRAIN)


def _mark_best(panel, xs, ys) -> None:
    best = min(range(len(ys)), key=ys.__getitem__)
    panel.annotate(
        f"{ys[best]:.3f}",
        (xs[best], ys[best]),
        xytext=(0, 7),
        textcoords="offset points",
        ha="right" if xs[best] > 0.5 * xs[-1] else "left",
        va="bottom",
        color=VALIDATION,
        fontweight="bold",
    )


def _line(panel, lines, key: str, title: str, color: str) -> None:
    panel.plot(*_series(lines, key), color=color, linewidth=1.6)
    panel.set_title(title, loc="left")
    if key != "grad_norm":
        panel.set_ylim(bottom=0)


def _series(lines, key: str) -> tuple[list, list]:
    told = [line for line in lines if line.get(key) is not None]
    return [line["step"] for line in told], [line[key] for line in told]


def _smooth(values: list[float], window: int) -> list[float]:
    """The mean over the `window` values before and after each; at the ends over fewer, as many on either side."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    reach = [min(window, i, len(values) - 1 - i) for i in range(len(values))]
    return [(sums[i + r + 1] - sums[i - r]) / (2 * r + 1) for i, r in enumerate(reach)]


def _style(panel, last_step: int) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(QUIET)
    panel.tick_params(colors="#444")
    panel.grid(axis="y", color="#E6E8EB", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.set_xlim(0, last_step * 1.01)
    panel.set_xlabel("step", color="#444")
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _title(run: Path, steps, evals) -> str:
    parts = [run.resolve().name, f"{steps[-1]['step']:,} steps", f"{steps[-1]['tokens'] / 1e6:,.1f}M tokens"]
    if evals:
        parts.append(f"validation loss {evals[-1]['val_loss']:.3f}")
    return "   ·   ".join(parts)
