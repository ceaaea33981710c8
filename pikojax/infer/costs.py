"""What a round of each width costs, learnt from calls that mix them, and among which widths the next call chooses.

    start + rounds_W · each = seconds    least squares over the calls of late
    expected                             of a width that was not seen for some hundreds of calls: what a trial took before the first call, and before
                                         that 1 + 0.07 k + what k guesses read of weights / what a step reads

The trial is needed because more tokens at once cost next to nothing where memory is slow, and nearly as much each where weights lie in a cache.
`each` alone would never be put right by a drafter that seems to pay: where all rounds have guesses, nothing tells what a plain one costs. So
calls of plain rounds are put in where the last are long ago.

Leaves out: how often guesses are right (decode.py counts, for each row).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pikojax.infer.sizes import weight_bytes

ROW = 0.07  # what one more row is expected to cost of a round
FADE = 0.98  # what a call leaves of what is remembered
PLAIN = 0.02  # the least share of what is remembered that comes from plain rounds
HELD = 1e-3  # how near costs are held to what was expected, as a share of what is remembered
LEAST = 0.1  # of what was expected, or taken: noise puts no cost below it
STALL = 3.0  # times what a call should have taken: more of it is not believed
TRIALS, TRIAL_S, TRIAL_ROUNDS = 3, 0.02, 16  # of a width; how long each, whichever is less, and a round at least


@dataclass
class Costs:
    widths: tuple[int, ...]
    expected: np.ndarray  # in any unit

    def __post_init__(self):
        self.products, self.sums = np.zeros((len(self.widths),) * 2), np.zeros(len(self.widths))
        self.known = self.settled = False  # from any call; from a trial of each width
        self.start_s = 0.0  # of a call, whatever its rounds

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
        return np.maximum(found, LEAST * scale * self.expected)

    def to_choose_by(self) -> np.ndarray:
        """For decode's choice of a width."""
        plain_W = np.asarray(self.widths) == 0
        if self.products.diagonal()[plain_W].sum() <= PLAIN * np.trace(self.products) and plain_W.any():
            return np.where(plain_W, self.each, np.inf)
        return self.each

    def try_each(self, once: Callable) -> None:
        """`once(n_rounds, costs_W)` → (rounds_W, seconds) of a call that leaves nothing behind."""
        only = np.where(np.eye(len(self.widths), dtype=bool), 1.0, np.inf)
        n_rounds, starts, trials = np.ones(len(only), int), [], [[] for _ in only]
        for _ in range(TRIALS):  # apart in time, as what holds a machine up lasts a while; the first tells how many rounds the others have
            starts.append(once(0, only[0])[1])
            for w, only_W in enumerate(only):
                rounds_W, seconds = once(int(n_rounds[w]), only_W)
                if rounds_W.sum() > 0:
                    trials[w].append((rounds_W, seconds))
                    n_rounds[w] = np.clip(TRIAL_S * rounds_W.sum() / max(seconds - min(starts), 1e-6), 1, TRIAL_ROUNDS)
        self.start_s = min(starts)
        for found in filter(None, trials):
            self.learn(*min(found, key=lambda trial: (trial[1] - self.start_s) / trial[0].sum()))
        self.settled = self.known
        self.expected = self.each if self.known else self.expected

    def learn(self, rounds_W: np.ndarray, seconds: float) -> None:
        rounds_W, seconds = rounds_W.astype(np.float64), max(seconds - self.start_s, LEAST * seconds)
        if rounds_W.sum() == 0:
            return
        if self.settled:
            seconds = min(seconds, STALL * float(rounds_W @ self.each))  # whatever held the machine up, it was not the rounds
        weight = 1 / rounds_W.sum()  # a long call is no more certain about a round than a short one
        self.products = FADE * self.products + weight * np.outer(rounds_W, rounds_W)
        self.sums = FADE * self.sums + weight * rounds_W * seconds
        self.known = True

    def rounds_in(self, seconds: float, at_first: int, most: int) -> int:
        return at_first if not self.known else int(np.clip(seconds / self.each[0], 1, most))
