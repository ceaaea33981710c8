"""Shows what the training loop reports: a live bar in a terminal, else a plain line now and then. Everything goes to stderr.

    with show() as report: loop.train(..., report=report)

`report(event, fields)` takes the loop's events; an event or a field it does not know is passed over, so the loop can grow. Text from a model is shown with its control characters spelled out.

Leaves out: several bars, logs (the run folder's metrics.jsonl is the log).
"""

import contextlib
import sys
import textwrap
import time
import unicodedata
from collections.abc import Callable, Iterator

PLAIN_EVERY_S = 10.0

Report = Callable[[str, dict], None]


@contextlib.contextmanager
def show() -> Iterator[Report]:
    """A `report` function for as long as the block lasts."""
    if sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            import rich.progress  # noqa: F401  without it plain lines serve

            with _live() as report:
                yield report
            return
    yield _plain()


@contextlib.contextmanager
def bar() -> Iterator[Callable[[str, int, int | None], None]]:
    """A function (stage, done, total) for work that is no training; "count" is in bytes, other stages in what they count."""
    last_s, stage_s = [time.monotonic()], {}  # when a line was last said; when each stage began

    def line(stage: str, done: int, total: int | None) -> str:
        seconds = time.monotonic() - stage_s[stage]
        factor, unit = (1e6, " MB") if stage == "count" else (1, "")
        amount = "{:,.1f}" if stage == "count" else "{:,.0f}"
        parts = [f"{stage} {amount.format(done / factor)}" + (f" of {amount.format(total / factor)}" if total else "") + unit]
        if seconds > 0.5 and done:
            rate = done / factor / seconds
            parts += [f"{rate:,.1f}{unit}/s"] + ([f"{clock((total - done) / factor / rate)} left"] if total and total >= done else [])
        return ", ".join(parts)

    if sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            console = Console(file=sys.stderr)
            with Progress(BarColumn(), TextColumn("{task.description}"), console=console, transient=True, refresh_per_second=5) as live:
                task = live.add_task("", total=None)

                def report(stage: str, done: int, total: int | None = None) -> None:
                    stage_s.setdefault(stage, time.monotonic())
                    live.update(task, description=line(stage, done, total), completed=done, total=total)

                yield report
            return

    def report(stage: str, done: int, total: int | None = None) -> None:
        stage_s.setdefault(stage, time.monotonic())
        if time.monotonic() - last_s[0] >= PLAIN_EVERY_S:
            last_s[0] = time.monotonic()
            _say(line(stage, done, total))

    yield report


def print_rich(text) -> None:
    """A rich text, or a plain string, on stdout; as wide as it is where no one looks."""
    if isinstance(text, str):
        print(text)
        return
    from rich.console import Console

    terminal = sys.stdout.isatty()
    Console(file=sys.stdout, highlight=False, width=None if terminal else 10_000, soft_wrap=not terminal).print(text)


def visible(text: str) -> str:
    """`text` with control and direction-changing characters spelled out: a model's words must not drive the terminal."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else _spelled(c) for c in text)


def _spelled(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"


def start_line(fields: dict) -> str:
    parts = [f"{fields['parameters'] / 1e6:.2f} M parameters"] if "parameters" in fields else []
    parts += [str(fields[key]) for key in ("device", "data") if fields.get(key)]
    parts += [f"run folder {fields['run']}"] if fields.get("run") else []
    parts += [f"from step {fields['step']:,}"] if fields.get("step") else []
    return ", ".join(parts)


def step_line(fields: dict, steps: int | None) -> str:
    parts = [f"step {fields['step']:,}" + (f"/{steps:,}" if steps else "")]
    parts += [f"loss {fields['loss']:.3f}"] if fields.get("loss") is not None else []
    parts += [f"{fields['tokens_per_s']:,.0f} tokens/s"] if fields.get("tokens_per_s") else []
    parts += [f"{clock(fields['eta_s'])} left"] if fields.get("eta_s") is not None else []
    return ", ".join(parts)


def eval_line(fields: dict) -> str:
    bits = fields.get("val_bits_per_byte")
    return f"step {fields['step']:,}: validation loss {fields['val_loss']:.3f}" + (f" ({bits:.3f} bits per byte)" if bits else "")


def done_line(fields: dict) -> str:
    why = {"time": "the time is up", "target": "the target is reached", "interrupted": "interrupted, saved"}
    stopped = why.get(fields.get("stopped"))
    parts = [f"{fields.get('steps', 0):,} steps in {clock(fields.get('seconds') or 0)}" + (f" ({stopped})" if stopped else "")]
    parts += [f"validation loss {fields['val_loss']:.3f}"] if fields.get("val_loss") is not None else []
    parts += [f"run folder {fields['run']}"] if fields.get("run") else []
    return ", ".join(parts)


def stopping_line(fields: dict) -> str:
    return f"{fields.get('signal', 'asked')}: saving step {fields['step']:,} and stopping; once more ends it at once"


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _plain() -> Report:
    state = {"steps": None, "last_s": -PLAIN_EVERY_S}

    def report(event: str, fields: dict) -> None:
        now_s = time.monotonic()
        if event == "start":
            state["steps"] = fields.get("steps")
            _say(start_line(fields))
        elif event == "step" and now_s - state["last_s"] >= PLAIN_EVERY_S:
            state["last_s"] = now_s
            _say(step_line(fields, state["steps"]))
        elif event == "eval":
            _say(eval_line(fields))
        elif event == "sample":
            _say(f"sample at step {fields['step']:,}:\n" + textwrap.indent(visible(fields["text"]).strip("\n"), "    "))
        elif event == "stopping":
            _say(stopping_line(fields))
        elif event == "notice":
            _say(visible(fields["text"]))
        elif event == "done":
            _say(done_line(fields))

    return report


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _live() -> Iterator[Report]:
    from rich.console import Console
    from rich.panel import Panel
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.text import Text

    console = Console(file=sys.stderr, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[status]}"))
    with Progress(*columns, console=console, transient=True, refresh_per_second=5) as bar:
        task = bar.add_task("compiling", total=None, status="")
        state = {"steps": None, "val": ""}

        def report(event: str, fields: dict) -> None:
            if event == "start":
                state["steps"] = fields.get("steps")
                console.print(Text(start_line(fields)))
            elif event == "step":
                _, _, status = step_line(fields, None).partition(", ")
                bar.update(
                    task, description=f"step {fields['step']:,}", total=state["steps"], completed=fields["step"], status=status + state["val"]
                )
            elif event == "eval":
                state["val"] = f", val {fields['val_loss']:.3f}"
                console.print(Text(eval_line(fields), style="bold"))
            elif event == "sample":
                console.print(Panel(Text(visible(fields["text"]).strip("\n")), title=f"sample, step {fields['step']:,}", title_align="left"))
            elif event == "stopping":
                console.print(Text(stopping_line(fields)))
            elif event == "notice":
                console.print(Text(visible(fields["text"])))
            elif event == "done":
                console.print(Text(done_line(fields), style="bold"))

        yield report
