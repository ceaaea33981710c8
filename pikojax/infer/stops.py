"""Stop strings: text as it comes, held back while it may still become one of the strings that end it.

    stops ["\\nUser:"]    push "Hi\\n" → "Hi"    push "Us" → ""    push "ually" → "\\nUsually"    …    push "\\nUser: x" → "", stopped

Each string has a Knuth–Morris–Pratt automaton: how many of its characters the text so far ends with. The text stops at the first place
where a string is complete, the longest where two are complete at once, so how it is cut into pieces changes nothing. What is held back is
the longest beginning of a string that the text ends with. A stop string itself is never shown.

Leaves out: stop tokens (the decode loop sees those), patterns.
"""

from collections.abc import Sequence

from pikojax.config import require


class StopStrings:
    """For one text: `push` each piece, then `finish`."""

    def __init__(self, stops: str | Sequence[str]):
        self.stops = [stops] if isinstance(stops, str) else list(stops)
        good = all(isinstance(stop, str) and stop for stop in self.stops)
        require(good, f"stop = {self.stops!r:.60}; give strings of one character or more")
        self.stopped_by: str | None = None
        self._back = [_fallbacks(stop) for stop in self.stops]
        self._matched = [0] * len(self.stops)
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """(text that no longer can become a stop string, whether one is complete). After that, nothing more is shown."""
        if self.stopped_by is not None:
            return "", True
        text, seen = self._held + piece, len(self._held)
        for end, char in enumerate(piece, seen + 1):
            for i, stop in enumerate(self.stops):
                self._matched[i] = _step(stop, self._back[i], self._matched[i], char)
            complete = [stop for stop, n in zip(self.stops, self._matched, strict=True) if n == len(stop)]
            if complete:
                self.stopped_by, self._held = max(complete, key=len), ""
                return text[: end - len(self.stopped_by)], True
        safe = len(text) - max(self._matched, default=0)
        self._held = text[safe:]
        return text[:safe], False

    def finish(self) -> str:
        """What was held back for a stop string that did not come."""
        rest, self._held = self._held, ""
        return rest


def _step(stop: str, back: list[int], matched: int, char: str) -> int:
    while matched and stop[matched] != char:
        matched = back[matched - 1]
    return matched + (stop[matched] == char)


def _fallbacks(stop: str) -> list[int]:
    """Of each beginning of `stop`: the length of the longest shorter one that it ends with."""
    back, matched = [0], 0
    for char in stop[1:]:
        matched = _step(stop, back, matched, char)
        back.append(matched)
    return back
