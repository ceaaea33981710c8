"""Requests as rows of one call's arrays: what the host knows of each, padded to a batch that programs exist for.

    batch = power of two ≥ requests        a row too many is no request: it is done, and writes where nothing is kept (pool.NOWHERE)

Leaves out: what the arrays are for (decode.py), who takes part (engine.py).
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from pikojax.infer import decode, pool
from pikojax.infer.request import Request
from pikojax.infer.sampling import Seen, Settings


def rows(requests: Sequence[Request], batch: int, of: Callable, pad, dtype=np.int32) -> np.ndarray:
    """`of` each request, then `pad`."""
    return np.asarray([of(r) for r in requests] + [pad] * (batch - len(requests)), dtype)


def keys(requests: Sequence[Request], batch: int) -> np.ndarray:
    return rows(requests, batch, lambda r: r.key, np.zeros(2, np.uint32), np.uint32)


def settings(requests: Sequence[Request], batch: int) -> Settings:
    padded = [*requests, *[requests[0]] * (batch - len(requests))]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *[r.settings for r in padded])


def stops(requests: Sequence[Request], batch: int) -> np.ndarray:
    """int32 [batch, E], −1 where a row has fewer."""
    most = decode.power_of_two(max(1, *(len(r.stop_ids) for r in requests)))
    return rows(requests, batch, lambda r: [*r.stop_ids, *[-1] * (most - len(r.stop_ids))], [-1] * most)


def extras(requests: Sequence[Request], batch: int, vocab_size: int):
    """(Seen, bias, allowed), each None where no request has any."""

    def table(of: Callable, default, dtype):
        if all(of(r) is None for r in requests):
            return None
        default_V = np.full(vocab_size, default, dtype)
        return rows(requests, batch, lambda r: default_V if of(r) is None else of(r), default_V, dtype)

    prompt_BV, drawn_BV = table(lambda r: r.prompt_V, False, bool), table(lambda r: r.drawn_V, 0, np.int32)
    seen = None if prompt_BV is None else Seen(prompt_BV, drawn_BV)
    return seen, table(lambda r: r.bias_V, 0, np.float32), table(lambda r: r.allowed_V, True, bool)


def block_table(requests: Sequence[Request], batch: int, width: int) -> np.ndarray:
    table_BN = np.full((batch, width), pool.NOWHERE, np.int32)
    for i, request in enumerate(requests):
        table_BN[i, : len(request.blocks)] = request.blocks
    return table_BN


def ring_table(requests: Sequence[Request], batch: int, width: int, ring: int) -> np.ndarray:
    """Each request's own `ring` blocks, again and again."""
    table_BN = np.full((batch, width), pool.NOWHERE, np.int32)
    for i, request in enumerate(requests):
        table_BN[i] = np.resize(1 + request.ring * ring + np.arange(ring), width)
    return table_BN


def how(requests: Sequence[Request], forward, cfg, drafter) -> decode.How:
    """The program that can tell what these requests want told."""
    tops = [r.options.logprobs for r in requests if r.options.logprobs is not None]
    n_top = min(decode.power_of_two(max(1, *tops)), cfg.vocab_size) if tops else None
    return decode.How(forward, cfg, drafter, n_top, any(r.options.uncertainty for r in requests))
