"""One call of an engine's decode program: its operands, from what requests hold on the host, and what is its own, taken back.

    begin    the rows' state as the program takes it
    run      rounds → tokens; cache and what a drafter keeps go in and come back
    try_out  before a program's first use it is compiled by a call without rounds, so that a round's time is its own; and where a drafter, or a
             number of rows, is new, rounds of each width are timed. Nothing of that stays: the next call begins where the requests stand, and draws the same again

Leaves out: what the tokens mean to a request (engine.py), what one row holds (rows.py).
"""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from pikojax.infer import decode, rows


class Call(NamedTuple):
    program: tuple  # what it is compiled for, once
    run: Callable[[int, np.ndarray], tuple[decode.Drawn, decode.State, float]]  # (rounds, costs_W) → drawn, state, seconds
    operands: Callable[[int, np.ndarray], tuple]  # decode.decode's, of the same


def begin(engine, how: decode.How, requests: list, batch: int, spec) -> Call:
    """A call to be run once, as it takes the engine's cache. `spec`: a speculation.Speculation, or None."""
    row = functools.partial(rows.rows, requests, batch)
    seen, bias_BV, allowed_BV = rows.extras(requests, batch, engine.cfg.vocab_size)
    done_B = row(lambda r: False, True, bool)
    state = decode.State(engine._view(requests, batch), row(lambda r: r.window[-1], 0), row(lambda r: len(r.ids), 0), done_B, seen)
    if spec:
        right_B, tested_B = row(lambda r: r.right, 0, np.float32), row(lambda r: r.tested, 0, np.float32)
        state = state._replace(draft=spec.enter(engine, requests, batch), right_B=right_B, tested_B=tested_B)
    budget_B = row(lambda r: min(decode.CHUNK, r.left, engine.context - r.length), 0)
    fixed = rows.settings(requests, batch), rows.keys(requests, batch), rows.stops(requests, batch), budget_B
    weights = engine.params, spec.params if spec else None
    operands = lambda n_rounds, costs_W: (how, *weights, state, *fixed, np.int32(n_rounds), costs_W.astype(np.float32), bias_BV, allowed_BV)

    def run(n_rounds: int, costs_W: np.ndarray):
        began_s = time.perf_counter()
        drawn, after = decode.decode(*operands(n_rounds, costs_W))
        drawn = jax.tree.map(np.asarray, drawn)
        seconds = time.perf_counter() - began_s
        engine._keep(after.cache)
        if spec:
            spec.keep(engine, after)
        return drawn, after, seconds

    program = how, batch, fixed[2].shape, *(extra is None for extra in (seen, bias_BV, allowed_BV))
    return Call(program, run, operands)


def try_out(again: Callable[[], Call], costs) -> None:
    """`again` begins the same call anew. `costs`: a costs.Costs, or None where calls tell nothing of rounds."""

    def once(n_rounds: int, costs_W: np.ndarray):
        drawn, _, seconds = again().run(n_rounds, costs_W)
        return drawn.rounds_W, seconds

    once(0, np.ones(1 if costs is None else len(costs.widths)))
    if costs is not None and not costs.known:
        costs.try_each(once)
