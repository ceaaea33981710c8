"""The engine: a request's text is the same alone and in any company, however its prompt is read and whatever guesses; nothing is lost."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pikojax.config import UserError
from pikojax.infer import calls, decode, drafters, pool, speculation
from pikojax.infer.engine import Busy, Engine, EngineConfig
from pikojax.kernels import kv_write, prepare_tree
from pikojax.llama_config import LlamaConfig
from pikojax.models import catalog
from pikojax.quant import quantize_tree
from pikojax.text import train_char

LLAMA = catalog["llama"]
TOKENIZER = train_char(["abcdefghijklmnopqrstuvwxyz .,!?'-0123456789\n"])
CFG = LlamaConfig(d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, d_head=16, d_hidden=96, vocab_size=TOKENIZER.vocab_size, context=192)
V = CFG.vocab_size
WAYS = {"float32": "float32", "q4_0": "int8"}  # weights: cache, the default of each


@functools.cache
def weights(kind: str, seed: int = 0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: LLAMA.init(CFG, jax.random.key(0)))
    params = decode.ready(jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.25, leaf.shape), jnp.float32), shapes))
    return params if kind == "float32" else prepare_tree(quantize_tree(params, kind))


def engine(kind="float32", drafter=None, **config) -> Engine:
    return Engine(LLAMA, CFG, weights(kind), TOKENIZER, EngineConfig(**{"slots": 2, **config}), drafter=drafter)


def prompts(n=6):
    """One shorter than a block of the cache, one that is whole blocks, one that begins like another; one that repeats itself."""
    rng = np.random.default_rng(1)
    one = rng.integers(0, V, 130).tolist()
    return [one[:7], one[:65], one[:130], one[:70] + [3, 4, 5], rng.integers(0, V, 64).tolist(), ([5, 9, 2, 7] * 12)[:45]][:n]


def texts(engine: Engine, temperature: float, asked=None, n_tokens=24) -> list[list[int]]:
    handles = [engine.submit(ids, max_tokens=n_tokens, temperature=temperature, seed=i) for i, ids in enumerate(asked or prompts())]
    engine.run()
    return [handle.result().ids for handle in handles]


@functools.cache
def alone(kind: str, temperature: float) -> list[list[int]]:
    solo = engine(kind, slots=1, remember=False)
    return [solo.generate(ids, max_tokens=24, temperature=temperature, seed=i).ids for i, ids in enumerate(prompts())]


def guesses(name: str):
    """The last one's weights are the model's own in float32: mostly right, and then wrong."""
    if name == "draft":
        spec = speculation.OfModel(drafters.DraftModel(LLAMA.forward, CFG, widths=(3,)), LLAMA, weights("float32"))
        spec.pays = lambda *_: True  # it costs as much as the model
        return spec
    return speculation.Speculation(drafters.EarlyExit(1, (2,))) if name == "early-exit" else speculation.OfText(drafters.Lookup((0, 3)))


# ---------------------------------------------------------------- the same text


slow = functools.partial(pytest.param, marks=pytest.mark.slow)
rarely = functools.partial(pytest.param, marks=pytest.mark.exhaustive)


@pytest.mark.parametrize("kind, temperature", [slow("float32", 0.0), rarely("float32", 1.0), rarely("q4_0", 0.0), ("q4_0", 1.0)])
def test_text_is_the_same_in_any_company_and_from_shared_beginnings(kind, temperature):
    many = engine(kind)
    assert many.dtype == WAYS[kind] and len({tuple(ids) for ids in alone(kind, temperature)}) == 6
    assert texts(many, temperature) == alone(kind, temperature)
    again = [many.submit(ids, max_tokens=24, temperature=temperature, seed=i) for i, ids in enumerate(prompts())]
    many.run()
    assert [h.result().ids for h in again] == alone(kind, temperature)
    assert [h.result().cached_tokens for h in again] == [0, 64, 128, 64, 0, 0]


@pytest.mark.parametrize(
    "name, kind, temperature",
    [slow("lookup", "float32", 0.0), ("early-exit", "q4_0", 1.0), slow("draft", "float32", 0.0), rarely("lookup", "q4_0", 1.0), rarely("early-exit", "float32", 0.0), rarely("draft", "q4_0", 1.0)],
)
def test_guesses_change_no_text(name, kind, temperature):
    spec = guesses(name)
    drafting = engine(kind, spec)
    assert texts(drafting, temperature) == alone(kind, temperature)
    if name == "draft" and kind == "float32":
        assert drafting.submit(prompts()[0], max_tokens=24, temperature=0).result().accepted_per_round > 3


@pytest.mark.exhaustive  # tests/test_drafters.py has it of a toy model
def test_a_loop_that_keeps_guesses_unseen_is_found_out(monkeypatch):
    """The test above can fail: a drafter whose guesses are taken for granted writes other text."""
    monkeypatch.setattr(jnp, "cumprod", lambda x, axis: jnp.ones_like(x))
    jax.clear_caches()
    try:
        assert texts(engine("float32", guesses("early-exit")), 0.0) != alone("float32", 0.0)
    finally:
        monkeypatch.undo()
        jax.clear_caches()


@pytest.mark.slow
def test_a_cancelled_neighbour_changes_nothing():
    many = engine("q4_0", slots=3, step_s=1e-9)  # a token a step
    handles = [many.submit(ids, max_tokens=24, temperature=1.0, seed=i) for i, ids in enumerate(prompts())]
    for step in range(40):
        many.step()
        if step == 16:
            assert handles[1]._request in many.writing and handles[5]._request in many.waiting
            handles[1].cancel()
            handles[5].cancel()  # still waiting
    many.run()
    for i, handle in enumerate(handles):
        got = handle.result()
        expected = alone("q4_0", 1.0)[i]
        assert (got.ids == expected and got.stopped == "max_tokens") if i not in (1, 5) else (got.stopped == "cancelled" and expected[: len(got.ids)] == got.ids)


@pytest.mark.exhaustive  # tests/test_drafters.py has it of a toy model, by every drafter
def test_draws_follow_the_models_distribution_with_guesses_too():
    """One token drawn 2,000 times behind the same prompt, the drafter's guess verified each time: χ² does not reject."""
    ids, params = prompts()[0], weights("float32")
    logits_BTV = np.asarray(LLAMA.forward(CFG, params, jnp.asarray([ids]))[0].logits)
    drafting = engine("float32", guesses("early-exit"), slots=64, queue=5000)
    handles = [drafting.submit(ids, max_tokens=3, temperature=1.0, seed=seed) for seed in range(2000)]
    drafting.run()
    drawn = np.asarray([h.result().ids for h in handles])
    p = np.exp(logits_BTV[0, -1] - logits_BTV[0, -1].max())
    assert chi_square(drawn[:, 0], p / p.sum()) < 4
    first = np.bincount(drawn[:, 0]).argmax()  # of those that drew it, the second token: the first that was verified
    then = np.asarray(LLAMA.forward(CFG, params, jnp.asarray([[*ids, first]]))[0].logits)[0, -1]
    p = np.exp(then - then.max())
    assert chi_square(drawn[drawn[:, 0] == first, 1], p / p.sum()) < 4


def chi_square(drawn, p) -> float:
    """How many standard deviations Σ (seen − expected)² / expected is above what it should be; rare tokens are counted as one."""
    seen, expected = np.bincount(drawn, minlength=len(p)).astype(float), p * len(drawn)
    rare = expected < 5
    seen, expected = np.append(seen[~rare], seen[rare].sum()), np.append(expected[~rare], expected[rare].sum())
    seen, expected = seen[expected > 0], expected[expected > 0]
    degrees = len(seen) - 1
    return (((seen - expected) ** 2 / expected).sum() - degrees) / np.sqrt(2 * degrees)


# ---------------------------------------------------------------- what was asked for


def test_stop_strings_stop_ids_and_text_that_ends():
    free = engine().generate("the cat", max_tokens=60, temperature=1.0, seed=3)
    stop = free.text[20:23]
    held = engine().generate("the cat", max_tokens=60, temperature=1.0, seed=3, stop=[stop, "never comes"])
    assert held.stopped == "stop" and held.text == free.text[: free.text.index(stop)]
    at_once = engine().submit("the cat", max_tokens=60, temperature=1.0, seed=3, stop_ids=[free.ids[0]]).result()
    assert (at_once.stopped, at_once.ids, at_once.text) == ("eos", [], "")
    by_id = engine().generate("the cat", max_tokens=60, temperature=1.0, seed=3, stop_ids=[free.ids[9]])
    assert by_id.stopped == "eos" and by_id.ids == free.ids[: free.ids.index(free.ids[9])]


@pytest.mark.slow
def test_log_probabilities_and_confidence_come_with_each_token():
    got = engine().generate("the cat", max_tokens=6, temperature=0, logprobs=3, uncertainty=True)
    ids = TOKENIZER.encode("the cat").tolist()
    logits_BTV = np.asarray(LLAMA.forward(CFG, weights("float32"), jnp.asarray([[*ids, *got.ids]]))[0].logits)[0, len(ids) - 1 : -1]
    logp = logits_BTV - np.log(np.exp(logits_BTV).sum(-1, keepdims=True))
    np.testing.assert_allclose([own for own, _ in got.logprobs], logp.max(-1), atol=1e-4)
    for (_, best), row in zip(got.logprobs, logp, strict=True):
        assert list(best) == np.argsort(-row)[:3].tolist() and list(best.values()) == sorted(best.values(), reverse=True)
    np.testing.assert_allclose([c[0] for c in got.confidence], np.exp(logp.max(-1)), atol=1e-4)
    np.testing.assert_allclose([c[1] for c in got.confidence], -(np.exp(logp) * logp).sum(-1), atol=1e-3)


@pytest.mark.slow
def test_penalties_and_bias_hold_with_guesses_as_without():
    asked = dict(max_tokens=30, temperature=0, repetition_penalty=1.3, frequency_penalty=0.5, logit_bias={7: 4.0})
    plain = engine().generate(prompts()[5], **asked)
    assert plain.ids != engine().generate(prompts()[5], max_tokens=30, temperature=0).ids
    assert engine("float32", guesses("lookup")).generate(prompts()[5], **asked).ids == plain.ids


def test_choices_are_kept_beside_requests_without_any():
    many = engine()
    held = [many.submit("is it so? ", choices=["yes", "no", "not now"], temperature=2.0, seed=seed) for seed in range(6)]
    free = many.submit(prompts()[0], max_tokens=24, temperature=0.0, seed=0)
    many.run()
    assert {h.result().text for h in held} <= {"yes", "no", "not now"} and len({h.result().text for h in held}) > 1
    assert free.result().ids == alone("float32", 0.0)[0]


def test_text_streams_in_pieces_that_make_the_whole():
    handle = engine(step_s=1e-6).submit("once upon", max_tokens=30, temperature=1.0)
    pieces = list(handle)
    assert len(pieces) > 5 and "".join(pieces) == handle.result().text == engine().generate("once upon", max_tokens=30, temperature=1.0).text


# ---------------------------------------------------------------- many, and mistakes


def test_nothing_is_lost_by_many_that_come_and_go():
    rng, many = np.random.default_rng(0), engine("q4_0", slots=4, cache_tokens=700, queue=1000, step_s=0.005)
    handles = []
    for _ in range(150):
        ids = rng.integers(0, V, rng.integers(1, 150)).tolist()
        handles.append(many.submit(ids, max_tokens=int(rng.integers(1, 30)), temperature=1.0, seed=int(rng.integers(100)), stop_ids=[3]))
        for _ in range(rng.integers(0, 3)):
            many.step()
        if rng.random() < 0.3:
            handles[rng.integers(len(handles))].cancel()
    many.run()
    assert all(h.done for h in handles) and {h.result().stopped for h in handles} >= {"max_tokens", "eos", "cancelled"}
    assert not (many.waiting or many.reading or many.writing)
    assert many.pool.n_free == many.pool.n_blocks - 1
    assert sorted(many.pool.take(many.pool.n_free)) == list(range(1, many.pool.n_blocks)) and not many.pool._nodes


def test_one_requests_failure_is_its_own(monkeypatch):
    many = engine()
    bad = many.submit(prompts()[0], max_tokens=24, temperature=0.0)
    good = many.submit(prompts()[1], max_tokens=24, temperature=0.0, seed=1)
    monkeypatch.setattr(bad._request.text, "push", lambda id: (_ for _ in ()).throw(UserError("no such text")))
    many.run()
    assert good.result().ids == alone("float32", 0.0)[1]
    with pytest.raises(UserError, match="no such text"):
        bad.result()
    assert many.pool.n_free == many.pool.n_blocks - 1


def test_a_call_that_fails_on_the_device_loses_its_requests_and_no_later_one(monkeypatch):
    many = engine(step_s=1e-9)  # not all in one step
    lost = many.submit(prompts()[0], max_tokens=24, temperature=0.0)
    many.step()
    run = decode.decode

    def fails(*arguments, **options):
        run(*arguments, **options)  # takes the cache
        raise RuntimeError("out of memory")

    monkeypatch.setattr(decode, "decode", fails)
    many.step()
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="out of memory"):
        lost.result()
    assert many.generate(prompts()[1], max_tokens=24, temperature=0.0, seed=1).ids == alone("float32", 0.0)[1]


def test_room_for_a_long_context_takes_no_memory_before_it_is_used():
    resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
    if kv_write.dispatch.best_here("decode_attention") != "native":
        pytest.skip("without native code it does")
    before = resident()
    cache = kv_write.empty((8, 4096, 2, 64, 64), "float32")
    jax.block_until_ready(cache)
    assert cache.nbytes == 1 << 30 and resident() - before < cache.nbytes // 8
    assert not np.any(cache[3, 1000])


def test_a_full_queue_refuses_and_takes_again():
    small = engine(slots=1, queue=1, step_s=1e-6)
    first = small.submit("a", max_tokens=100)
    small.step()
    second = small.submit("b", max_tokens=3)
    with pytest.raises(Busy, match="waiting already"):
        small.submit("d", max_tokens=3)
    small.run()
    assert first.done and second.done and small.submit("d", max_tokens=3).result().ids


@pytest.mark.parametrize(
    "prompt, options, said",
    [
        ([], {}, "the prompt has no tokens"),
        ([V], {}, f"token {V} is none of"),
        ("a" * 200, {}, "leave out 8 of them"),
        ("a", {"logprobs": 21}, "logprobs = 21"),
        ("a", {"logit_bias": {-1: 2.0}}, "token -1 in logit_bias"),
        ("a", {"min_p": 2.0}, "min_p = 2.0"),
        ("a", {"stop": [""]}, "give strings of one character"),
    ],
)
def test_mistakes_are_told_at_once(prompt, options, said):
    with pytest.raises(UserError, match=said):
        engine().submit(prompt, **options)


def test_what_cannot_be_is_refused_by_name():
    for config, said in (({"speculative": "magic"}, "magic is unknown"), ({"speculative": "early-exit=2"}, "has 2 layers"), ({"context": 500}, "holds up to 192")):
        with pytest.raises(UserError, match=said):
            engine(**config)
    with pytest.raises(UserError, match="has one layer, and none to leave out; give lookup"):
        speculation.make("early-exit", LLAMA, dataclasses.replace(CFG, n_layers=1), None)
    with pytest.raises(UserError, match="raise cache_tokens"):
        engine(cache_tokens=64).submit("a" * 100)


# ---------------------------------------------------------------- the pool


def test_a_pool_shares_beginnings_and_forgets_the_oldest_end_first():
    B = pool.BLOCK
    here, text = pool.Pool(5), list(range(3 * B))
    mine = here.take(3)
    here.publish(text, mine)
    assert here.match(text[: 2 * B + 5]) == mine[:2]
    here.release(mine[:2])
    here.release(mine)
    assert here.n_free == 4 and here.take(5) is None
    assert len(here.take(2)) == 2  # one was free; of the three known ones the text's end went
    assert here.match(text) == mine[:2]


def test_what_hung_on_a_forgotten_beginning_is_not_found():
    B = pool.BLOCK
    here = pool.Pool(4)
    first = here.take(2)
    here.publish([1] * B + [2] * B, first)
    here.release(first)
    here.match([1] * B)  # the beginning is in use: the end goes
    (other,) = here.take(2)[:1]
    assert here.match([1] * B + [2] * B) == first[:1] and other != first[0]


@pytest.mark.slow
def test_no_copy_of_weights_or_cache_in_the_loop_with_guesses():
    drafting = engine("q4_0", speculation.OfText(drafters.Lookup((0, 3))))
    request = drafting.submit(prompts()[0], max_tokens=10)._request
    drafting.step()
    spec = drafting.speculation
    how = decode.How(LLAMA.forward, CFG, spec.drafter)
    text = decode.decode.lower(*calls.begin(drafting, how, [request], 1, spec).operands(3, np.ones(2))).compile().as_text()
    import re

    cache = drafting.cache.k_LBGSC.data.shape
    pattern = rf"= s8\[{','.join(map(str, cache))}\]\S* copy\("
    tiles = {tuple(leaf.shape) for leaf in jax.tree.leaves(drafting.params["blocks"]) if leaf.dtype == jnp.uint8}
    weights_pattern = "|".join(rf"= u8\[{','.join(map(str, shape))}\]\S* (?:copy|fusion)\(" for shape in tiles)
    assert not re.findall(pattern, text) and not re.findall(weights_pattern, text)
