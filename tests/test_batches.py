"""Batches: a pure function of (seed, step); every window once an epoch, every validation target once."""

import threading
import time

import numpy as np
import pytest

from pikojax.config import UserError, config_from_dict
from pikojax.data import TokenStream, batch_at, eval_batches, prefetch
from pikojax.data.batches import window_starts

EOS = 9
STARTS_10_000 = [5853, 1245, 9309, 6941, 2057, 1340]  # samples 0, 1, 2, 154, 155 and a million
STARTS_HUGE = [707991094455, 674129048978, 326930470913]


def stream_of(n, vocab_size=None):
    return TokenStream.of(np.arange(n), vocab_size)


def test_targets_are_the_next_tokens():
    batch = batch_at(stream_of(1000), seed=1, step=5, grad_accum=2, batch_size=3, context=16)
    assert batch.tokens_ABT.shape == (2, 3, 16) and batch.tokens_ABT.dtype == batch.targets_ABT.dtype == np.int32
    np.testing.assert_array_equal(batch.targets_ABT, batch.tokens_ABT + 1)
    np.testing.assert_array_equal(batch.tokens_ABT - batch.tokens_ABT[..., :1], np.broadcast_to(np.arange(16), (2, 3, 16)))
    assert batch.segments_ABT is None and batch.mask_ABT is None


def test_the_order_is_fixed_for_ever():
    """A resumed run, perhaps under a newer version, must see the same data: these numbers may not change."""
    assert window_starts(10_000, 7, np.array([0, 1, 2, 154, 155, 10**6]), 64).tolist() == STARTS_10_000
    assert window_starts(10**12, 2**32 - 1, np.array([0, 10**9, 10**13]), 1024).tolist() == STARTS_HUGE


def test_batches_depend_on_seed_and_step_alone():
    def firsts(seed, steps, stream, **shape):
        return np.concatenate([batch_at(stream, seed=seed, step=s, context=8, **shape).tokens_ABT[..., 0].ravel() for s in steps])

    shape = dict(grad_accum=2, batch_size=4)
    straight = firsts(3, range(40), stream_of(999), **shape)
    np.testing.assert_array_equal(firsts(3, range(17, 40), stream_of(999), **shape), straight[17 * 8 :])
    np.testing.assert_array_equal(firsts(3, range(40), stream_of(999), grad_accum=1, batch_size=8), straight)
    assert (firsts(4, range(40), stream_of(999), **shape) != straight).mean() > 0.9


@pytest.mark.parametrize("length", [65, 66, 129, 130, 193, 1000, 64 * 100 + 1, 12_345])
def test_an_epoch_visits_each_window_once_and_stays_inside(length):
    context, n_windows = 64, max(1, (length - 64) // 64)
    phases = set()
    for epoch in range(5):
        starts = np.sort(window_starts(length, 11, np.arange(epoch * n_windows, (epoch + 1) * n_windows), context))
        assert (np.diff(starts) == context).all()  # all different, side by side
        assert starts[0] >= 0 and starts[-1] + context + 1 <= length
        phases.add(int(starts[0]))
    assert len(phases) > 1 or length == 65


def test_each_order_is_different_and_even():
    n_windows, epochs = 10, 2000
    starts = window_starts(64 * 11, 5, np.arange(n_windows * epochs), 64).reshape(epochs, n_windows)
    orders = (starts - starts.min(1, keepdims=True)) // 64
    counts = np.stack([np.bincount(orders[:, place], minlength=n_windows) for place in range(n_windows)])
    expected = epochs / n_windows
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 81 + 5 * np.sqrt(2 * 81), counts  # 9 × 9 degrees of freedom
    pairs = np.bincount(orders[:, 0] * n_windows + orders[:, 1], minlength=100).reshape(10, 10)
    off = pairs[~np.eye(10, dtype=bool)]
    assert ((off - epochs / 90) ** 2 / (epochs / 90)).sum() < 89 + 5 * np.sqrt(2 * 89)
    assert np.bincount(starts.min(1), minlength=64).max() < 5 * epochs / 64  # phases spread


def test_a_huge_stream_needs_no_huge_array():
    begin = time.perf_counter()
    starts = window_starts(10**13, 0, np.arange(8) + 10**9, 256)
    assert time.perf_counter() - begin < 0.5 and len(set(starts)) == 8


def test_document_mask_keeps_documents_apart():
    tokens = [1, 2, EOS, 3, EOS, 4, 5, 6, EOS, 7, 8, 1, 2]
    batch = batch_at(TokenStream.of(tokens, eos_id=EOS), seed=0, step=0, grad_accum=1, batch_size=1, context=12, document_mask=True)
    assert batch.tokens_ABT[0, 0].tolist() == tokens[:12]
    assert batch.segments_ABT.dtype == np.int32 and batch.mask_ABT.dtype == bool
    assert batch.segments_ABT[0, 0].tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3]
    assert np.flatnonzero(~batch.mask_ABT[0, 0]).tolist() == [2, 4, 8]  # what follows an end is another document's
    with pytest.raises(UserError, match="document_mask needs an end-of-text token"):
        batch_at(stream_of(100), seed=0, step=0, grad_accum=1, batch_size=1, context=12, document_mask=True)


@pytest.mark.parametrize("length", [2, 8, 9, 10, 63, 64, 65, 66, 100, 129])
def test_evaluation_counts_every_target_once(length):
    seen = []
    for batch in eval_batches(stream_of(length), batch_size=4, context=8):
        assert batch.tokens_ABT.shape == batch.targets_ABT.shape == batch.mask_ABT.shape == (1, 4, 8)
        np.testing.assert_array_equal(batch.targets_ABT[batch.mask_ABT], batch.tokens_ABT[batch.mask_ABT] + 1)
        seen += batch.targets_ABT[batch.mask_ABT].tolist()
    assert seen == list(range(1, length))


def test_evaluation_with_documents_leaves_out_their_first_tokens():
    tokens = np.array([1, 2, EOS, 3, EOS, 4, 5, 6, EOS, 7])
    batches = list(eval_batches(TokenStream.of(tokens, eos_id=EOS), batch_size=2, context=4, document_mask=True))
    targets = np.concatenate([b.targets_ABT[b.mask_ABT] for b in batches])
    assert targets.tolist() == [2, EOS, EOS, 5, 6, EOS]
    assert batches[0].segments_ABT.shape == (1, 2, 4)


def test_too_little_data_is_said():
    with pytest.raises(UserError, match="has 64 tokens, one window needs 65"):
        batch_at(stream_of(64), seed=0, step=0, grad_accum=1, batch_size=1, context=64)
    with pytest.raises(UserError, match="at least 2"):
        list(eval_batches(stream_of(1), batch_size=1, context=4))


def test_a_batch_costs_less_than_a_millisecond():
    stream = stream_of(1_000_000)
    times = []
    for step in range(50):
        begin = time.perf_counter()
        batch_at(stream, seed=0, step=step, grad_accum=1, batch_size=8, context=256)
        times.append(time.perf_counter() - begin)
    assert np.median(times) < 1e-3, np.median(times)


# ---------------------------------------------------------------- prefetch


@pytest.fixture
def config():
    return config_from_dict({"model": {"context": 8}, "train": {"batch_size": 2, "grad_accum": 2}})


def producers():
    return [thread for thread in threading.enumerate() if thread.name == "pikojax-prefetch"]


def test_prefetch_gives_the_batches_of_the_steps(config):
    stream = stream_of(1000)
    with prefetch(stream, config, 5, lambda batch: (threading.current_thread().name, batch)) as batches:
        for step in range(5, 12):
            where, batch = next(batches)
            assert where == "pikojax-prefetch"
            expected = batch_at(stream, seed=config.seed, step=step, grad_accum=2, batch_size=2, context=8)
            np.testing.assert_array_equal(batch.tokens_ABT, expected.tokens_ABT)
    assert not producers()


def test_prefetch_stays_two_ahead(config):
    made = []
    with prefetch(stream_of(1000), config, 0, made.append) as batches:
        deadline = time.monotonic() + 5
        while len(made) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.15)
        assert len(made) == 3  # two ready, one more waits for its place
        assert batches.waited_s == 0


def test_a_slow_consumer_never_waits(config):
    with prefetch(stream_of(1000), config, 0) as batches:
        next(batches)
        first_s = batches.waited_s
        for _ in range(10):
            time.sleep(0.02)  # the step
            next(batches)
        assert batches.waited_s - first_s < 0.05 * 10 * 0.02  # 5% of the steps, on a busy machine


def test_an_error_in_the_thread_surfaces(config):
    bad = TokenStream.of(np.full(1000, 7), vocab_size=5)
    with prefetch(bad, config, 0) as batches:
        with pytest.raises(UserError, match="the id 7, the vocabulary has 5"):
            next(batches)
    assert not producers()

    def put(batch):
        raise RuntimeError("no room on the device")

    with pytest.raises(RuntimeError, match="no room"), prefetch(stream_of(1000), config, 0, put) as batches:
        for _ in batches:
            pass


def test_prefetch_closes_at_once(config):
    batches = prefetch(stream_of(1000), config, 0)
    next(batches)
    time.sleep(0.05)  # the queue is full again, the thread waits for a place
    begin = time.perf_counter()
    batches.close()
    assert time.perf_counter() - begin < 0.3 and not producers()
    assert list(batches) == []
    batches.close()  # twice is fine
