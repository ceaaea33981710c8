"""Layers that see a window keep no more than that: the same text from less memory, whoever comes and goes."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pikojax.infer import decode, drafters, pool, sizes, speculation
from pikojax.infer.engine import Engine, EngineConfig
from pikojax.llama_config import LlamaConfig
from pikojax.models import catalog

LLAMA, WINDOW, RING = catalog["llama"], 100, 7  # blocks: ⌈(100 + 256) / 64⌉ + 1
MIXED, ALL = dict(n_layers=4, global_every=2), dict(n_layers=2)


def config(**more) -> LlamaConfig:
    return LlamaConfig(d_model=32, n_heads=2, n_kv_heads=1, d_head=16, d_hidden=32, vocab_size=40, context=2048, window=WINDOW, **more)


@functools.cache
def weights(cfg):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: LLAMA.init(cfg, jax.random.key(0)))
    return decode.ready(jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes))


def made(cfg, **more) -> Engine:
    return Engine(LLAMA, cfg, weights(cfg), None, EngineConfig(**{"slots": 2, "step_s": 0.05} | more))


def drafted(cfg, **more) -> Engine:
    """By a model with one of the layers, which keeps all of a text in blocks of its own."""
    small = replace(cfg, n_layers=1)
    spec = speculation.OfModel(drafters.DraftModel(LLAMA.forward, small, (2,)), LLAMA, {**weights(cfg), "blocks": weights(cfg)["blocks"][:1]})
    spec.pays = lambda *_: True
    return Engine(LLAMA, cfg, weights(cfg), None, EngineConfig(**{"slots": 2, "step_s": 0.05} | more), drafter=spec)


def ids(n: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 40, n).tolist()


@pytest.mark.parametrize("layers, cache, guesses", [(MIXED, "float32", "lookup"), pytest.param(MIXED, "float32", "early-exit=2", marks=pytest.mark.exhaustive), pytest.param(ALL, "int8", "off", marks=pytest.mark.slow), pytest.param(ALL, "float32", "draft", marks=pytest.mark.slow)])
def test_the_text_is_that_of_a_cache_that_keeps_all(layers, cache, guesses):
    """Texts that go round several times, one that ends early and one that comes into its place; with and without guesses that are rolled back."""
    cfg = config(**layers)
    asked = [(ids(700, 0), 200), (ids(30, 1), 20), (ids(500, 2), 90)]
    texts = []
    for how in (dict(rings=False, remember=False), dict(rings=True)):
        guess = {} if not how["rings"] or guesses == "draft" else {"speculative": guesses}
        many = (drafted if how["rings"] and guesses == "draft" else made)(cfg, cache=cache, **how, **guess)
        handles = [many.submit(prompt, max_tokens=n, temperature=0.9, seed=i) for i, (prompt, n) in enumerate(asked)]
        texts.append([handle.result().ids for handle in handles])
        assert sorted(many.free_rings) == [0, 1]
    assert texts[0] == texts[1] and len(set(texts[0][0])) > 10


@pytest.mark.slow
def test_rows_that_slide_wait_and_are_cancelled_leave_their_rings():
    """Beyond the context the window is read again, into a ring that may be another's before; there is not room for all at once."""
    cfg, texts = config(**ALL), []
    for rings in (False, True):
        many = made(cfg, rings=rings, context=512, cache_tokens=640, remember=False)
        handles = [many.submit(ids(300, i), max_tokens=400, temperature=0.8, seed=i, slide=True) for i in range(3)]
        gone = many.submit(ids(200, 9), max_tokens=400, slide=True)
        for _ in range(3):
            many.step()
        gone.cancel()
        texts.append([handle.result().ids for handle in handles])
        assert sorted(many.free_rings) == [0, 1] and not many.reading and not many.writing
    assert texts[0] == texts[1] and len(texts[0][0]) == 400


def test_it_is_small_and_the_others_keep_all():
    cfg = config(**MIXED)
    one = made(cfg, rings=True)
    assert one.ring == RING and one.cache.windowed.k_LBGSC.shape[:2] == (2, 1 + 2 * RING) and one.cache.k_LBGSC.shape[0] == 2
    assert one.pool.n_blocks >= 2 * 2048 // pool.BLOCK
    whole = made(cfg)
    assert whole.ring == 0 and whole.cache.windowed is None and whole.cache.k_LBGSC.shape[0] == 4


def test_rings_are_for_want_of_memory_and_beginnings_are_remembered_else(monkeypatch):
    prompt, cfg = ids(200, 0), config(**MIXED)
    for rings, cached in ((None, 192), (True, 0)):
        one = made(cfg, rings=rings)
        one.generate(prompt, max_tokens=1)
        assert one.generate(prompt, max_tokens=1).cached_tokens == cached
    monkeypatch.setattr(sizes, "memory_bytes", lambda: 4 << 20)
    assert made(cfg).ring == RING and made(cfg, rings=False).ring == 0
    assert made(cfg, context=1024).ring == 0, "little would be saved"
    assert Engine(LLAMA._replace(rings=False), cfg, weights(cfg), None, EngineConfig(slots=2)).ring == 0, "a model that knows nothing of them"


def test_memory_that_a_draft_models_cache_takes_is_counted(monkeypatch):
    """Where all of the model's layers have rings, only the draft model has blocks."""
    monkeypatch.setattr(sizes, "memory_bytes", lambda: 4 << 20)
    one = drafted(config(**ALL), rings=True, slots=64)
    held = sum(leaf.nbytes for leaf in (one.draft_cache.k_LBGSC, one.draft_cache.v_LBGSC))
    assert 2048 < one.pool.n_blocks * pool.BLOCK and held <= (1 << 20) + 64 * 1024


def test_a_call_that_fails_gives_its_rings_back(monkeypatch):
    one, cfg = made(config(**ALL), rings=True), config(**ALL)
    lost = [one.submit(ids(150, i), max_tokens=40) for i in range(2)]
    monkeypatch.setattr(decode, "decode", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("out of memory")))
    one.run()
    monkeypatch.undo()
    for handle in lost:
        with pytest.raises(RuntimeError, match="out of memory"):
            handle.result()
    assert sorted(one.free_rings) == [0, 1]
    asked = dict(max_tokens=40, temperature=0.5, seed=1)
    assert one.generate(ids(300, 3), **asked).ids == made(cfg, rings=False).generate(ids(300, 3), **asked).ids


def test_a_ring_that_is_too_short_is_found_out():
    """The first test can fail."""
    cfg = config(**ALL)
    right = made(cfg, slots=1, rings=True).generate(ids(700, 0), max_tokens=60, temperature=0).ids
    short = made(cfg, slots=1, rings=True)
    short.ring = 2
    assert short.generate(ids(700, 0), max_tokens=60, temperature=0).ids != right
