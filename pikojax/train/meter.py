"""Looks at a running training without holding it up: losses, speed, and whether it has gone wrong.

The facts of a step are fetched LAG steps later, when the device has long finished with them and has the next steps queued;
that also keeps the host from running ahead without end. Time is counted from one fetch to another, without the
first step (it holds the compilation) and without what `paused` covers.

    smoothed ← 0.95 · smoothed + 0.05 · loss        exploded: loss > smoothed + train.max_loss_jump, once warmed up
"""

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator

import jax

from pikojax.config import Config, UserError

LAG = 2  # steps between handing one to the device and looking at its facts
SMOOTHING = 0.95
MIN_WARMUP_STEPS = 20  # a first few losses are no measure of what is usual


class TrainingDiverged(UserError):
    """The loss became NaN or exploded. `step` is the step whose loss it was."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class Meter:
    def __init__(self, config: Config, smoothed: float | None, on_log: Callable[[dict], None]):
        self.config, self.smoothed, self.on_log = config, smoothed, on_log
        self.tokens_per_step = config.train.batch_size * config.train.grad_accum * config.model.context
        self.step_s: float | None = None  # smoothed, for the time left
        self.timed_steps, self.timed_s = 0, 0.0
        self._pending: deque = deque()
        self._losses: list[float] = []  # since the last line
        self._mark_s: float | None = None  # when the time of the steps since the last line began to count
        self._mark_step: int | None = None

    @property
    def tokens_per_s(self) -> float | None:
        """Over all steps but the first, without evaluations, samples and saves."""
        return self.timed_steps * self.tokens_per_step / self.timed_s if self.timed_s else None

    def add(self, step: int, facts: dict) -> None:
        """Takes note that `step` was handed to the device; `facts` are its results to come."""
        self._pending.append((step, facts))
        while len(self._pending) > LAG:
            self._take()

    def drain(self) -> None:
        while self._pending:
            self._take()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Waits for the steps under way; what is done inside does not count as their time."""
        self.drain()
        began_s = time.perf_counter()
        yield
        if self._mark_s is not None:
            self._mark_s += time.perf_counter() - began_s

    def _take(self) -> None:
        step, facts = self._pending.popleft()
        facts = {name: float(value) for name, value in jax.device_get(facts).items()}
        now_s = time.perf_counter()
        self._check(step, facts)
        loss = facts["loss"]
        self.smoothed = loss if self.smoothed is None else SMOOTHING * self.smoothed + (1 - SMOOTHING) * loss
        self._losses.append(loss)
        first = self._mark_s is None
        if first:
            self._mark_s, self._mark_step = now_s, step
        if step % self.config.train.log_interval == 0 or step == 1:
            self._log(step, facts, now_s)

    def _log(self, step: int, facts: dict, now_s: float) -> None:
        steps, seconds = step - self._mark_step, now_s - self._mark_s
        per_s = None
        if steps and seconds > 0:
            self.timed_steps, self.timed_s = self.timed_steps + steps, self.timed_s + seconds
            per_s = steps * self.tokens_per_step / seconds
            self.step_s = seconds / steps if self.step_s is None else 0.7 * self.step_s + 0.3 * seconds / steps
        mean = math.fsum(self._losses) / len(self._losses)
        self._losses, self._mark_s, self._mark_step = [], now_s, step
        self.on_log(
            {
                "step": step,
                "loss": mean,
                "lr": facts["lr"],
                "grad_norm": facts["grad_norm"],
                "tokens": step * self.tokens_per_step,
                "tokens_per_s": per_s,
            }
        )

    def _check(self, step: int, facts: dict) -> None:
        loss, limit = facts["loss"], self.config.train.max_loss_jump
        warm = step > max(self.config.optim.warmup_steps, MIN_WARMUP_STEPS)
        before = "" if self.smoothed is None else f" (before: {self.smoothed:.3f})"
        if not math.isfinite(loss):
            raise TrainingDiverged(f"the loss became {loss} at step {step}{before}", step)
        if not math.isfinite(facts["grad_norm"]):
            raise TrainingDiverged(f"the gradient became {facts['grad_norm']} at step {step}, loss {loss:.3f}{before}", step)
        if warm and limit is not None and self.smoothed is not None and loss > self.smoothed + limit:
            raise TrainingDiverged(f"the loss exploded to {loss:.3f} at step {step}{before}", step)
