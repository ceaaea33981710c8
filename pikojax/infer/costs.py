"""What a round of each width costs, learnt from calls that mix them, and among which widths the next call chooses.

    rounds_W · each = seconds          least squares over the calls of late; a width that was not seen costs what was expected
    expected = 1 + 0.07 k + what k guesses read of weights / what a step reads

`each` alone would never be put right by a drafter that seems to pay: where all rounds have guesses, nothing tells what a plain one costs. So
calls of plain rounds are put in where the last are long ago.

Leaves out: how often guesses are right (decode.py counts, for each row).
"""

from dataclasses import dataclass

import numpy as np

from pikojax.infer.sizes import weight_bytes

ROW = 0.07  # what one more row is expected to cost of a round
FADE = 0.98  # what a call leaves of what is remembered
PLAIN = 0.02  # the least share of what is remembered that comes from plain rounds
HELD = 1e-3  # how near costs are held to what was expected, as a share of what is remembered
LEAST = 0.1  # of what was expected: noise puts no cost below it


@dataclass
class Costs:
    widths: tuple[int, ...]
    expected: np.ndarray  # in any unit

    def __post_init__(self):
        self.products, self.sums = np.zeros((len(self.widths),) * 2), np.zeros(len(self.widths))
        self.known = False

    @classmethod
    def of(cls, spec, params) -> "Costs":
        """`spec`: a speculation.Speculation, or None."""
        if spec is None:
            return cls((0,), np.ones(1))
        widths, whole = spec.drafter.widths, weight_bytes(params)
        return cls(widths, np.asarray([1 + ROW * k + spec.bytes_of(params, k) / whole for k in widths]))

    @property
    def each(self) -> np.ndarray:
        """Seconds, once there are any."""
        if not self.known:
            return self.expected
        scale = self.sums @ self.expected / (self.expected @ self.products @ self.expected)
        near = HELD * np.trace(self.products) / len(self.widths)
        found = np.linalg.solve(self.products + near * np.eye(len(self.widths)), self.sums + near * scale * self.expected)
        return np.maximum(found, LEAST * scale)

    def to_choose_by(self) -> np.ndarray:
        """For decode's choice of a width."""
        plain_W = np.asarray(self.widths) == 0
        if self.products.diagonal()[plain_W].sum() <= PLAIN * np.trace(self.products) and plain_W.any():
            return np.where(plain_W, self.each, np.inf)
        return self.each

    def learn(self, rounds_W: np.ndarray, seconds: float) -> None:
        rounds_W = rounds_W.astype(np.float64)
        if rounds_W.sum() == 0:
            return
        weight = 1 / rounds_W.sum()  # a long call is no more certain about a round than a short one
        self.products = FADE * self.products + weight * np.outer(rounds_W, rounds_W)
        self.sums = FADE * self.sums + weight * rounds_W * seconds
        self.known = True

    def rounds_in(self, seconds: float, at_first: int, most: int) -> int:
        return at_first if not self.known else int(np.clip(seconds / self.each[0], 1, most))
