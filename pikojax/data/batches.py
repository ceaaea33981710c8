"""Batches as a pure function of (seed, step): nothing to save, nothing to replay on resume.

    sample i of the run = step · A · B + its place in the batch
    epoch, turn = divmod(i, windows)            windows: how many of `context` targets the stream holds at any phase
    start       = phase(seed, epoch) + context · shuffle(turn; seed, epoch)

Each epoch cuts the stream into non-overlapping windows and visits each once, in a fresh random order; its phase (uniform
over all that fit) moves the cuts, so that over the epochs every target is seen after every length of history. `shuffle`
is a Feistel network on the window numbers with cycle walking: a bijection that is computed, so the order of a
terabyte needs no array. A batch of 8 × 256 costs well under a millisecond.

A window is `context + 1` ids: tokens the first `context`, targets the last. With `document_mask` the end-of-text tokens
tell documents apart: `segments` numbers them within the window and `mask` is off where the target opens another document.

`prefetch` makes them ready in a thread.

Leaves out: padding in training (there is none), weights of several sources.
"""

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pikojax.config import Config, require
from pikojax.data.shards import TokenStream

AHEAD = 2  # batches ready before they are asked for
ROUNDS = 6  # of the Feistel network; four are pseudo-random in theory, with ideal round functions


class Batch(NamedTuple):
    """A: micro-batches that are accumulated into one step. Where `mask` is False a target does not count."""

    tokens_ABT: np.ndarray  # int32
    targets_ABT: np.ndarray  # int32
    segments_ABT: np.ndarray | None = None  # int32
    mask_ABT: np.ndarray | None = None  # bool


def batch_at(
    stream: TokenStream, *, seed: int, step: int, grad_accum: int, batch_size: int, context: int, document_mask: bool = False
) -> Batch:
    check_length(stream, context)
    count = grad_accum * batch_size
    starts = window_starts(len(stream), seed, np.arange(step * count, (step + 1) * count, dtype=np.int64), context)
    windows = np.stack([stream.read(start, context + 1) for start in starts.tolist()])
    windows_ABW = windows.reshape(grad_accum, batch_size, context + 1)
    segments, mask = _documents(stream, windows_ABW) if document_mask else (None, None)
    return Batch(windows_ABW[..., :-1].copy(), windows_ABW[..., 1:].copy(), segments, mask)


def check_length(stream: TokenStream, context: int) -> None:
    require(
        len(stream) > context,
        f"{stream.name} has {len(stream)} tokens, one window needs {context + 1}; give more data or lower model.context",
    )


def window_starts(length: int, seed: int, samples: np.ndarray, context: int) -> np.ndarray:
    """Where the window of each sample of the run begins, in a stream of `length` ids."""
    n_windows = max(1, (length - context) // context)  # so many fit at every phase up to context - 1
    n_phases = length - n_windows * context
    epochs, turns = np.divmod(samples, n_windows)
    out = np.empty(len(samples), np.int64)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        keys = _mix(np.array([seed, epoch], np.uint64), np.arange(ROUNDS + 1, dtype=np.uint64))
        phase = int(keys[ROUNDS]) * n_phases >> 64
        out[here] = phase + context * _shuffle(turns[here], n_windows, keys[:ROUNDS])
    return out


def eval_batches(stream: TokenStream, *, batch_size: int, context: int, document_mask: bool = False) -> Iterator[Batch]:
    """The whole split once, A = 1, in non-overlapping windows: every id but the first is a target exactly once.

    The end is padded to whole batches, where `mask` is off."""
    n_targets = len(stream) - 1
    require(n_targets > 0, f"{stream.name} has {len(stream)} tokens; at least 2 are needed to measure a loss")
    n_rows = -(-n_targets // context)
    for first in range(0, n_rows, batch_size):
        windows_BW = np.zeros((batch_size, context + 1), np.int32)
        mask_BT = np.zeros((batch_size, context), bool)
        for row in range(min(batch_size, n_rows - first)):
            start = (first + row) * context
            n = min(context, n_targets - start)
            windows_BW[row, : n + 1] = stream.read(start, n + 1)
            mask_BT[row, :n] = True
        segments = None
        if document_mask:
            segments, same_document = _documents(stream, windows_BW)
            mask_BT &= same_document
            segments = segments[None]
        yield Batch(windows_BW[None, :, :-1].copy(), windows_BW[None, :, 1:].copy(), segments, mask_BT[None])


def _documents(stream: TokenStream, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which document of its window each token belongs to (an end-of-text token to the one it ends), and whether the
    target belongs to the same."""
    require(
        stream.eos_id is not None,
        f"document_mask needs an end-of-text token between documents, {stream.name} has none; set data.document_mask=false",
    )
    ends = windows[..., :-1] == stream.eos_id
    return np.cumsum(ends, -1, dtype=np.int32) - ends, ~ends


# ---------------------------------------------------------------- made ready ahead of the step


def prefetch(stream: TokenStream, config: Config, first_step: int, put: Callable[[Batch], Any] = lambda batch: batch) -> "Prefetch":
    """The batches of first_step, first_step + 1, … without end, each handed to `put` (which moves it to the device)."""
    return Prefetch(stream, config, first_step, put)


class Prefetch:
    """Batches made ready by one thread, `AHEAD` of the step, so that the device never waits for data.

    What goes wrong in the thread is raised where its batch is asked for. `waited_s` adds up how long the consumer stood
    waiting. Use it as a context manager: leaving the block ends the thread at once.
    """

    def __init__(self, stream: TokenStream, config: Config, first_step: int, put: Callable[[Batch], Any]):
        self.waited_s = 0.0
        self._ready: queue.Queue = queue.Queue(AHEAD)
        self._closed = threading.Event()
        self._error: BaseException | None = None
        arguments = dict(
            seed=config.seed,
            grad_accum=config.train.grad_accum,
            batch_size=config.train.batch_size,
            context=config.model.context,
            document_mask=config.data.document_mask,
        )

        def produce():
            try:
                for step in itertools.count(first_step):
                    if not self._offer(put(batch_at(stream, step=step, **arguments))):
                        return
            except BaseException as error:  # also KeyboardInterrupt and MemoryError: the consumer must not wait for ever
                self._error = error
                self._offer(None)

        self._thread = threading.Thread(target=produce, name="pikojax-prefetch", daemon=True)
        self._thread.start()

    def __iter__(self):
        return self

    def __next__(self):
        if self._closed.is_set():
            raise StopIteration
        start = time.perf_counter()
        batch = self._ready.get()
        self.waited_s += time.perf_counter() - start
        if batch is None:
            self.close()
            raise self._error
        return batch

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        self._closed.set()
        while self._thread.is_alive():
            while not self._ready.empty():  # a full queue would hold the thread up
                self._ready.get_nowait()
            self._thread.join(0.01)

    def _offer(self, batch) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(batch, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


# ---------------------------------------------------------------- randomness without state


def _mix(words: np.ndarray, counters: np.ndarray) -> np.ndarray:
    """64 random bits for each counter under a key of some words: SplitMix64's finalizer, chained."""
    state = counters.astype(np.uint64)
    for word in words:
        state = (state ^ word) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


def _shuffle(turns: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """A random bijection of 0 … n-1, evaluated at `turns`: walk a Feistel cycle over 2^2k ≥ n until it is back below n."""
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    bits, low = np.uint64(half), np.uint64((1 << half) - 1)
    x = turns.astype(np.uint64)
    walking = np.ones(len(x), bool)
    while walking.any():
        left, right = x[walking] >> bits, x[walking] & low
        for key in keys:
            left, right = right, left ^ (_mix(keys[:1], right ^ key) & low)
        x[walking] = left << bits | right
        walking = x >= n
    return x.astype(np.int64)
