"""Ctrl-C and SIGTERM as a wish: finish the step, save, stop. A second one ends the process as it always would."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Asked:
    """`name` is the signal that came, None so far."""

    name: str | None = None


@contextlib.contextmanager
def catch() -> Iterator[Asked]:
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may set handlers; a caller elsewhere stops by time or steps
        return

    def note(number, _):
        asked.name = signal.Signals(number).name
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each in before:
        signal.signal(each, note)
    try:
        yield asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
