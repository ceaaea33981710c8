"""What one request does never reaches another: its mistakes, its constraint, its sliding, its reader who leaves."""

import dataclasses
import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pikojax.config import UserError, require
from pikojax.infer import constrained, decode, drafters, engine, pool, request, speculation
from pikojax.infer.engine import Busy, Engine, EngineConfig
from pikojax.llama_config import LlamaConfig
from pikojax.models import cache as kv
from pikojax.models import catalog
from pikojax.models.layers import Output
from pikojax.text import train_char

LLAMA = catalog["llama"]
TOKENIZER = train_char(["abcdefghijklmnopqrstuvwxyz .,!?'-0123456789\n"])
CFG = LlamaConfig(d_model=32, n_layers=1, n_heads=2, n_kv_heads=1, d_head=16, d_hidden=32, vocab_size=TOKENIZER.vocab_size, context=256)


@functools.cache
def weights():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: LLAMA.init(CFG, jax.random.key(0)))
    return decode.ready(jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.25, leaf.shape), jnp.float32), shapes))


def made(drafter=None, **config) -> Engine:
    return Engine(LLAMA, CFG, weights(), TOKENIZER, EngineConfig(**{"slots": 2, **config}), drafter=drafter)


def ids(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, CFG.vocab_size, n).tolist()


def counting(cfg, params, tokens_BT, cache=None, **_):
    """A model that counts up and begins again."""
    logits_BTV = 9 * jax.nn.one_hot((tokens_BT + 1) % cfg.vocab_size, cfg.vocab_size)
    return Output(logits_BTV, jnp.zeros((*tokens_BT.shape, cfg.d_model)), {}), kv.advance(cache, tokens_BT.shape[1])


def test_a_row_that_has_all_it_may_draw_keeps_it_while_others_go_on(monkeypatch):
    """The first row's guesses are all right, the second has none at first: one call draws all that it may for the first, and goes on."""
    monkeypatch.setattr(engine, "FIRST_ROUNDS", decode.CHUNK)
    counts, n = list(range(CFG.vocab_size)), 150  # beyond what a row draws before the other is there
    many = Engine(LLAMA._replace(forward=counting), CFG, weights(), None, EngineConfig(slots=2, step_s=10), drafter=speculation.OfText(drafters.Lookup((7,))))
    fast, late = (many.submit(prompt, max_tokens=n, temperature=0.0) for prompt in (2 * counts, [5]))
    many.run()
    assert fast.result().ids == (4 * counts)[:n] and late.result().ids == (4 * counts)[6 : n + 6]
    assert fast.result().accepted_per_round > 3


def test_a_row_that_slides_waits_for_room_that_others_still_read():
    prompt = ids(200)
    many = made(context=256, cache_tokens=320)
    many.generate(prompt, max_tokens=1)  # from now on its blocks are known, and shared
    first, second = many.submit(prompt, max_tokens=120, slide=True), many.submit(prompt + [1], max_tokens=55)
    many.run()
    assert len(first.result().ids) == 120 and len(second.result().ids) == 55
    everything = many.pool.take(many.pool.n_free)  # each block once, and all of them
    assert sorted(everything) == list(range(1, many.pool.n_blocks))
    solo = made(context=256, cache_tokens=320, slots=1, remember=False)
    assert first.result().ids == solo.generate(prompt, max_tokens=120, slide=True).ids


def test_a_constraint_that_fails_ends_its_own_request_alone(monkeypatch):
    many = made()
    free, held = many.submit("the dog", max_tokens=60, seed=4), many.submit("the cat", choices=["yes, it is"], max_tokens=9)  # who writes already
    mask = constrained.Choices.mask

    def fails_later(self):
        require(self.at == 0, "nothing may follow")
        return mask(self)

    monkeypatch.setattr(constrained.Choices, "mask", fails_later)
    many.run()
    with pytest.raises(UserError, match="nothing may follow"):
        held.result()
    assert free.result().ids == made(slots=1).generate("the dog", max_tokens=60, seed=4).ids


@pytest.mark.parametrize(
    "options, said",
    [
        ({"max_tokens": 2.5}, "max_tokens = 2.5"), ({"max_tokens": "5"}, "max_tokens = '5'"), ({"max_tokens": None}, "max_tokens = None"),
        ({"seed": 1.5}, "seed = 1.5"), ({"seed": None}, "seed = None"), ({"temperature": "hot"}, "temperature = 'hot'"),
        ({"temperature": None}, "temperature = None"), ({"top_k": "9"}, "top_k = '9'"), ({"stop": 5}, "stop = 5"), ({"stop_ids": "ab"}, "no token id"),
        ({"stop_ids": 1.5}, "no token id"), ({"logit_bias": {"5": 1}}, "no token id"), ({"logit_bias": [1, 2]}, "a mapping"),
        ({"logit_bias": {5: float("nan")}}, "nan in logit_bias"), ({"logit_bias": {5: float("inf")}}, "inf in logit_bias"), ({"logprobs": 1.5}, "logprobs = 1.5"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_to_whoever_made_it(options, said):
    one = made()
    with pytest.raises(UserError, match=said) as error:
        one.submit("once", **options)
    assert "\n" not in str(error.value) and not one.waiting


@pytest.mark.parametrize("prompt, said", [(None, "no token id"), (5.5, "no token id"), ([1.7], "1.7 is no token id"), ([True], "True"), ([], "no tokens"), ([-1], "none of the model's")])
def test_a_prompt_is_text_or_token_ids(prompt, said):
    with pytest.raises(UserError, match=said):
        made().submit(prompt)


def test_a_prompt_may_be_what_a_tokenizer_gives():
    one = made()
    assert one.generate(TOKENIZER.encode("once"), max_tokens=5, seed=1).ids == one.generate("once", max_tokens=5, seed=1).ids


def test_the_last_text_is_there_for_a_reader_in_another_thread(monkeypatch):
    """A reader who looks in while a request ends sees either that it goes on, or all of its text."""
    one = made(slots=1)
    handle, ending, may_end = one.submit("once upon", max_tokens=12), threading.Event(), threading.Event()
    finish = request.Continuation.finish

    def slow(self):
        ending.set()
        may_end.wait(10)
        return finish(self)

    monkeypatch.setattr(request.Continuation, "finish", slow)
    driver = threading.Thread(target=one.run)
    driver.start()
    assert ending.wait(60)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.extend(handle))
    reader.start()
    reader.join(0.2)
    may_end.set()
    driver.join(60)
    reader.join(60)
    assert "".join(read) == handle.result().text and len(handle.result().ids) == 12


def test_a_stream_that_nobody_listens_to_any_more_gives_its_slot_back():
    one = made(slots=1, step_s=0.001)
    for _ in one.stream("once", max_tokens=200):
        break
    assert not one.step() and not one.writing and not one.reading and one.pool.n_free == one.pool.n_blocks - 1
    assert len(one.generate("twice", max_tokens=3).ids) == 3


def test_no_more_wait_than_the_queue_holds_though_nobody_steps():
    one = made(slots=2, queue=4)
    handles = [one.submit("once", max_tokens=2) for _ in range(6)]
    with pytest.raises(Busy):
        one.submit("once")
    one.run()
    assert all(handle.done for handle in handles) and pool.NOWHERE not in one.pool._free


def test_a_prompt_is_read_in_pieces_that_a_step_has_time_for_while_others_write():
    one = made(step_s=0.03)
    one.read_token_s = 0.001
    assert one._read_block() == decode.BLOCK
    one.writing.append(object())
    assert one._read_block() == 16
    one.read_token_s = 0.0003
    assert one._read_block() == 64
    one.read_token_s = 1e-9
    assert one._read_block() == decode.BLOCK


# ---------------------------------------------------------------- what cannot be


def test_a_stream_that_nobody_began_to_read_ends_its_request():
    one = made(slots=1)
    text = one.stream("once", max_tokens=200)
    del text
    assert not one.step() and not one.waiting


def test_garbage_collected_within_a_step_harms_nobody(monkeypatch):
    """A stream nobody holds any more may be found at any moment, here while the prompt of its request is read."""
    one = made(slots=2, remember=False)
    dropped, other = [one.stream(ids(20), max_tokens=50)], one.submit(ids(20, 1), max_tokens=8, temperature=0)
    extend = decode.extend
    monkeypatch.setattr(decode, "extend", lambda *arrays: (dropped.clear(), extend(*arrays))[1])
    assert len(other.result().ids) == 8
    one.run()
    assert not one.writing and sorted(one.free_rings) == [0, 1]


def test_a_text_that_ended_before_its_logits_broke_is_whatever_a_call_brought(monkeypatch):
    """The same request, its stop token in the same call as what is no number, and in another."""

    def broken(cfg, params, tokens_BT, cache=None, **_):
        out, cache = counting(cfg, params, tokens_BT, cache)
        return out._replace(logits=jnp.where(tokens_BT[..., None] >= 12, jnp.nan, out.logits)), cache

    for rounds in (1, decode.CHUNK):
        monkeypatch.setattr(engine, "FIRST_ROUNDS", rounds)
        one = Engine(LLAMA._replace(forward=broken), CFG, weights(), TOKENIZER, EngineConfig(slots=1))
        assert one.generate([5], max_tokens=30, temperature=0, stop=TOKENIZER.decode([8])).ids == [6, 7, 8]
        handle = one.submit([5], max_tokens=30, temperature=0)
        with pytest.raises(UserError, match="logits are no numbers"):
            handle.result()
        assert [i for piece in handle._request.written for i in piece.ids] == [6, 7, 8, 9, 10, 11, 12]


def test_logits_that_are_no_numbers_end_their_request_alone():
    cfg, bad, fine = dataclasses.replace(CFG, tie=False), 30, dict(max_tokens=8, temperature=0, logit_bias={30: float("-inf")})
    params = {**weights(), "head": weights()["embed"].T, "embed": weights()["embed"].at[bad].set(jnp.nan)}
    two = Engine(LLAMA, cfg, params, TOKENIZER, EngineConfig(slots=2, remember=False))
    for prompt, options in (([bad, 1], fine), ([2, 1], fine | {"logit_bias": {bad: 1000}})):  # in the prompt; or drawn, and read in the next step
        ill, well = two.submit(prompt, **options), two.submit([2, 1], **fine)
        assert len(well.result().ids) == 8
        with pytest.raises(UserError, match="logits are no numbers"):
            ill.result()


@pytest.mark.parametrize(
    "prompt, options, said",
    [
        (5, {}, "5 is no token id"),
        ([1], {"stop_ids": 3}, "3 in stop_ids is no token id"),
        ([1], {"temperature": 1e39}, "temperature = 1e.39; give 0"),
        ([1], {"temperature": 10**400}, "give 0"),
        ([1], {"logit_bias": {0: 1e39}}, "in logit_bias; give a number"),
        ([1], {"logit_bias": {0: 10**400}}, "in logit_bias; give a number"),
        ([1], {"top_k": 2.7}, "top_k = 2.7; give 1 or more, a whole number"),
        ([1], {"presence_penalty": -1e39}, "presence_penalty = -1e.39"),
    ],
)
def test_what_no_request_can_ask(prompt, options, said):
    with pytest.raises(UserError, match=said):
        made().submit(prompt, **options)


def test_a_forbidden_token_stays_forbidden_at_any_temperature():
    ids = made().generate([1, 2], max_tokens=12, temperature=1e6, logit_bias={0: float("-inf")}).ids
    assert 0 not in ids
