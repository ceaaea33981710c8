"""Named values of a file that somebody else wrote: each is checked when it is taken, and what is left in the end must mean nothing.

    fields = Fields({"hidden_size": 64, "wobble": 3}, "config.json", "config.json has ")
    fields.needed("hidden_size")  →  64          fields.done()  →  UserError: config.json has wobble = 3, which is not known here …

Leaves out: what the fields mean (`hf_config.py`, `gguf_config.py`).
"""

from collections.abc import Callable, Collection, Mapping

from pikojax.config import UserError, require

ABSENT = object()


class Fields:
    """`said` stands before a name in what is said of it. `plain` makes a value of what the file has, or `ABSENT`: an absent field is its default. A
    field that is not known may stand there if its value `is_nothing`, or it is one of the `neutral` ones, which change no answer."""

    def __init__(
        self, raw: Mapping, file: str, said: str, neutral: Collection[str] = (),
        plain: Callable = lambda value: value, is_nothing: Callable = lambda value: value in (None, False, [], {}, "", 0),
    ):  # fmt: skip
        self.raw, self.file, self.said, self.plain, self.is_nothing = raw, file, said, plain, is_nothing
        self.left = set(raw) - set(neutral)

    def _take(self, name: str, default, good: Callable, wanted: str):
        self.left.discard(name)
        value = self.plain(self.raw.get(name, ABSENT))
        value = default if value is ABSENT else value
        require(value is None or good(value), f"{self.said}{short(name)} = {short(value)}; wanted {wanted}")
        return value

    def whole(self, name: str, default: int | None = None, most: int = 1 << 24, least: int = 1) -> int | None:
        good = lambda value: type(value) is int and least <= value <= most
        return self._take(name, default, good, f"one whole number from {least} to {most:,}")

    def needed(self, name: str, most: int = 1 << 24) -> int:
        value = self.whole(name, most=most)
        require(value is not None, f"{' lacks '.join(self.said.rsplit(' has ', 1))}{name}; download it again")
        return value

    def number(self, name: str, default: float | None = None) -> float | None:
        value = self._take(name, default, is_positive, "a number above 0, below 1e12")
        return None if value is None else float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._take(name, default, lambda value: isinstance(value, bool), "true or false")
        return default if value is None else value

    def text(self, name: str) -> str | None:
        return self._take(name, None, lambda value: isinstance(value, str), "text")

    def mapping(self, name: str) -> Mapping | None:
        return self._take(name, None, lambda value: isinstance(value, Mapping), "an object")

    def list_of(self, name: str) -> list | None:
        return self._take(name, None, lambda value: isinstance(value, list), "a list")

    def numbers(self, name: str, most: int = 4096) -> tuple[float, ...] | None:
        good = lambda value: isinstance(value, list) and 0 < len(value) <= most and all(map(is_positive, value))
        value = self._take(name, None, good, f"a list of numbers above 0, {most:,} at most")
        return None if value is None else tuple(map(float, value))

    def must_be(self, name: str, only) -> None:
        """Here 0 and false are a value like others."""
        self.left.discard(name)
        value = self.raw.get(name, only)
        require(isinstance(value, (int, float)) and value == only, f"{self.said}{name} = {short(value)}; wanted {only}")

    def done(self) -> None:
        unknown = sorted(name for name in self.left if not self.is_nothing(self.raw[name]))
        if unknown:
            raise UserError(f"{self.said}{short(unknown[0])} = {short(self.raw[unknown[0]])}, which is not known here and may change what the model says")


def is_positive(value) -> bool:
    return type(value) in (int, float) and 0 < value < 1e12


def short(value) -> str:
    """A value of a file for an error line: one line, not long."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(str(value)[:200].split())[:40])
