"""Prefill and decode against the full forward pass, and text generation against its own promises."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pikojax.config import GPTConfig, UserError
from pikojax.infer import decode
from pikojax.infer.generate import generate, stream
from pikojax.infer.sampling import make_settings, sample
from pikojax.models import catalog
from pikojax.text import train_char

GPT = catalog["gpt"]
LETTERS = "abcdefghijklmnopqrstuvwxyz .\n"
TOKENIZER = train_char([LETTERS])
WITH_EOS = train_char([LETTERS.replace("z", "")], specials=("<|endoftext|>",))  # a vocabulary of the same size
V, CONTEXT = TOKENIZER.vocab_size, 24
SMALL = dict(d_model=24, n_layers=2, n_heads=4, d_hidden=40, vocab_size=V, context=CONTEXT, tie=False)
CONFIGS = {
    "classic": GPTConfig(**SMALL, bias=True),
    "modern": GPTConfig(**SMALL, **GPTConfig.PRESETS["modern"], n_kv_heads=2),
}
NO_STOPS = np.zeros(0, np.int32)
forward = jax.jit(GPT.forward, static_argnums=0)


@functools.cache
def loud(name):
    """A config, and parameters of which every one is random and loud: no tie between logits, no silent projection."""
    cfg, rng = CONFIGS[name], np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: GPT.init(cfg, jax.random.key(0)))
    std = lambda path: 0.1 if path[-1].key == "bias" else 0.4  # a loud last bias would decide every token
    leaf = lambda path, shape: jnp.asarray(rng.normal(0, std(path), shape.shape), jnp.float32)
    return cfg, decode.ready(jax.tree_util.tree_map_with_path(leaf, shapes))


@pytest.fixture(params=CONFIGS)
def model(request):
    return loud(request.param)


def random_tokens(batch, n_tokens, seed=0):
    return np.random.default_rng(seed).integers(0, V, (batch, n_tokens)).astype(np.int32)


def prefilled(cfg, params, tokens_BT, length_B=None, **options):
    length_B = np.full(len(tokens_BT), tokens_BT.shape[1], np.int32) if length_B is None else np.asarray(length_B, np.int32)
    cache = GPT.new_cache(cfg, len(tokens_BT), CONTEXT)
    return decode.prefill(GPT, cfg, params, cache, tokens_BT, length_B, **options)


def continued(cfg, params, tokens_BT, n_steps, length_B=None, chunks=None, temperature=0.0, seed=0, stops_E=NO_STOPS, **options):
    """n_steps tokens after each row, the first one included, in the given chunks. → tokens, count a row, state"""
    batch = len(tokens_BT)
    settings, key_B = make_settings(batch, V, temperature), jax.random.split(jax.random.key(seed), batch)
    logits_BV, cache = prefilled(cfg, params, tokens_BT, length_B, **options)
    state = begun(cache, logits_BV, key_B, cache.length_B + 0, settings, stops_E)
    parts, counts = [np.asarray(state.token_B)[:, None]], [np.ones(batch, np.int32)]
    for n in chunks or [n_steps - 1]:
        drawn, state = steps(cfg, params, state, settings, key_B, stops_E, n)
        tokens_BN, count_B = drawn.tokens_BN, drawn.count_B
        parts.append(np.asarray(tokens_BN)[:, :n])
        counts.append(np.asarray(count_B))
    return np.concatenate(parts, axis=1), sum(counts), state


def begun(cache, logits_BV, key_B, position_B, settings, stops_E):
    token_B = decode.draw(logits_BV, key_B, position_B, settings)
    return decode.State(cache, token_B, position_B + 1, decode.is_stop(token_B, stops_E))


def steps(cfg, params, state, settings, key_B, stops_E, n, forward=GPT.forward, **options):
    budget_B = np.full(len(state.token_B), decode.CHUNK, np.int32)
    return decode.decode(decode.How(forward, cfg), params, None, state, settings, key_B, stops_E, budget_B, np.int32(n), **options)


def full(cfg, params, tokens_BT):
    """Logits without a cache. Always of the whole context: what comes later does not matter, and one program serves all."""
    padded_BT = np.zeros((len(tokens_BT), CONTEXT), np.int32)
    padded_BT[:, : tokens_BT.shape[1]] = tokens_BT
    return np.asarray(forward(cfg, params, padded_BT)[0].logits)[:, : tokens_BT.shape[1]]


def in_parts(cfg, params, tokens_BT, widths, cache=None):
    """Logits through a cache, so many tokens at a time."""
    cache, parts, at = cache or GPT.new_cache(cfg, len(tokens_BT), CONTEXT), [], 0
    for width in widths:
        out, cache = forward(cfg, params, tokens_BT[:, at : at + width], cache)
        parts, at = [*parts, np.asarray(out.logits)], at + width
    return np.concatenate(parts, axis=1), cache


def greedy_by_full_forward(cfg, params, ids, n_steps):
    ids = list(ids)
    for _ in range(n_steps):
        ids.append(int(full(cfg, params, np.asarray([ids]))[0, -1].argmax()))
    return ids[-n_steps:]


def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


# ---------------------------------------------------------------- the cache


def test_cached_logits_are_those_of_the_full_forward(model):
    tokens_BT = random_tokens(1, 10)
    cached_BTV, cache = in_parts(*model, tokens_BT, [4, 1, 1, 4])
    assert_close(cached_BTV, full(*model, tokens_BT))
    np.testing.assert_array_equal(cache.length_B, [10])


def test_greedy_decode_is_the_full_forward_token_for_token(model):
    tokens_BT = random_tokens(1, 5)
    expected = greedy_by_full_forward(*model, tokens_BT[0], CONTEXT - 5)
    assert len(set(expected)) > 3
    np.testing.assert_array_equal(continued(*model, tokens_BT, CONTEXT - 5)[0][0], expected)


def test_a_prompt_read_in_blocks_is_the_prompt_read_whole(model):
    tokens_BT = random_tokens(1, 23)
    for block in (8, 16):
        logits_BV, cache = prefilled(*model, tokens_BT, block=block)
        assert_close(logits_BV, full(*model, tokens_BT)[:, -1])
        np.testing.assert_array_equal(cache.length_B, [23])


def test_padding_changes_nothing(model):
    tokens_BT = random_tokens(1, 5)
    bare_BTV, bare = in_parts(*model, tokens_BT, [4, 1])
    padded_BV, cache = prefilled(*model, tokens_BT)  # a block of 16
    assert_close(padded_BV, bare_BTV[:, -1])
    assert_close(cache.k_LBGSC[:, :, :, :5], bare.k_LBGSC[:, :, :, :5])
    np.testing.assert_array_equal(cache.length_B, [5])


@pytest.mark.parametrize("model", ["modern", pytest.param("classic", marks=pytest.mark.slow)], indirect=True)
def test_rows_of_different_length_decode_as_each_would_alone(model):
    tokens_BT, length_B = random_tokens(4, 15), [15, 3, 1, 8]
    together, _, _ = continued(*model, tokens_BT, 8, length_B, block=8)
    for row, n in enumerate(length_B):
        alone, _, _ = continued(*model, tokens_BT[row : row + 1, :n], 8, block=8)
        np.testing.assert_array_equal(together[row], alone[0])


def test_rolled_back_slots_are_as_if_never_written(model):
    tokens_BT = random_tokens(1, 5)
    last = lambda cache: in_parts(*model, tokens_BT[:, 4:], [1], cache)[0]
    _, cache = in_parts(*model, tokens_BT, [4])
    _, astray = in_parts(*model, random_tokens(1, 8, seed=9), [4, 4], cache)
    np.testing.assert_array_equal(last(astray.rollback(cache.length_B)), last(cache))
    assert np.abs(last(astray.rollback(cache.length_B + 3)) - last(cache)).max() > 1e-3


def test_no_logit_depends_on_a_later_token_in_prefill_or_decode(model):
    tokens_BT = random_tokens(1, 8)
    changed_BT = tokens_BT.copy()
    changed_BT[0, 5] = (changed_BT[0, 5] + 1) % V
    for widths in ([8], [4, 4], [1] * 8):
        before, after = in_parts(*model, tokens_BT, widths)[0][0], in_parts(*model, changed_BT, widths)[0][0]
        np.testing.assert_array_equal(before[:5], after[:5])
        assert (np.abs(before[5:] - after[5:]).max(axis=1) > 1e-4).all()


def test_a_block_comes_in_few_widths():
    assert {decode.block_width(n, 64) for n in range(1, 65)} == {16, 32, 64}
    assert all(decode.block_width(n, 64) >= n for n in range(1, 65))


# ---------------------------------------------------------------- the loop


def test_where_chunks_end_changes_nothing():
    tokens_BT = random_tokens(4, 4)
    whole, _, _ = continued(*loud("modern"), tokens_BT, 16, temperature=1.0, block=8)
    for chunks in ([1] * 15, [4, 0, 11], [7, 8]):
        parts, count_B, _ = continued(*loud("modern"), tokens_BT, 16, chunks=chunks, temperature=1.0, block=8)
        np.testing.assert_array_equal(parts, whole)
        np.testing.assert_array_equal(count_B, [16] * 4)


def test_a_row_stops_at_its_stop_token_and_the_others_go_on():
    tokens_BT = random_tokens(4, 4)
    options = dict(temperature=1.5, block=8)
    free, _, _ = continued(*loud("modern"), tokens_BT, 12, **options)
    ends = lambda stop: np.asarray([[*row, stop].index(stop) + 1 for row in free]).clip(max=12)
    stop = next(token for token in free[0, 2:] if ends(token).max() == 12)  # not every row draws it
    ends_B = ends(stop)
    assert len(set(ends_B)) > 1
    tokens_BN, count_B, state = continued(*loud("modern"), tokens_BT, 12, stops_E=np.asarray([stop], np.int32), **options)
    np.testing.assert_array_equal(count_B, ends_B)
    for row in range(4):
        np.testing.assert_array_equal(tokens_BN[row, : ends_B[row]], free[row, : ends_B[row]])
    np.testing.assert_array_equal(state.cache.length_B, 4 + ends_B - 1)  # what was drawn last is not in the cache yet


def test_the_loop_ends_with_its_last_row():
    cfg, params = loud("modern")
    calls = []

    def counting(cfg, params, tokens_BT, cache=None):
        jax.debug.callback(lambda: calls.append(1))
        return GPT.forward(cfg, params, tokens_BT, cache)

    state = decode.State(GPT.new_cache(cfg, 1, CONTEXT), *map(jnp.asarray, ([0], [1], [False])))
    key_B, settings = jax.random.key(0)[None], make_settings(1, V, 0.0)
    every_token = np.arange(V, dtype=np.int32)
    drawn, state = steps(cfg, params, state, settings, key_B, every_token, 10, forward=counting)
    jax.effects_barrier()
    assert int(drawn.count_B[0]) == len(calls) == 1 and bool(state.done_B[0])


def test_a_step_reads_the_weights_where_they_lie_and_updates_the_cache_in_place():
    cfg, params = loud("modern")
    state = decode.State(GPT.new_cache(cfg, 1, CONTEXT), *map(jnp.asarray, ([0], [1], [False])))
    rest = make_settings(1, V), jax.random.key(0)[None], NO_STOPS, np.asarray([3], np.int32), np.int32(3)
    how = decode.How(GPT.forward, cfg)
    compiled = decode.decode.lower(how, params, None, state, *rest).compile().as_text()
    matrices = {"24,48", "24,24", "24,40", "40,24"}  # shapes of the blocks' weights, which nothing else has
    made = re.findall(r"= f32\[(?:1,)?([\d,]+)\]\S* ([\w-]+)\(", compiled)
    copies = [(shape, op) for shape, op in made if shape in matrices and op not in ("parameter", "get-tuple-element", "bitcast")]
    assert {shape for shape, _ in made} & matrices and not copies
    before = state.cache.k_LBGSC
    _, after = decode.decode(how, params, None, state, *rest)
    assert before.is_deleted() and not after.cache.k_LBGSC.is_deleted()


@pytest.mark.parametrize("n, power", [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128)])
def test_power_of_two(n, power):
    assert decode.power_of_two(n) == power


# ---------------------------------------------------------------- text


def write(prompt="once upon", tokenizer=TOKENIZER, name="modern", **options):
    return generate(GPT, *loud(name), tokenizer, prompt, **options)


def test_the_same_seed_writes_the_same_text_and_another_another():
    text = write(max_tokens=40, seed=5).text
    assert len(text) == 40 and write(max_tokens=40, seed=5).text == text != write(max_tokens=40, seed=6).text


def test_the_text_comes_in_pieces_the_first_of_one_token():
    pieces = list(stream(GPT, *loud("modern"), TOKENIZER, "once upon", max_tokens=30, seed=1))
    whole = write(max_tokens=30, seed=1)
    assert "".join(pieces) == whole.text == TOKENIZER.decode(whole.ids)
    assert len(pieces[0]) == 1 and len(pieces) > 2
    assert whole.prompt_tokens == 9 and whole.stopped == "max_tokens" and whole.first_token_s > 0 and whole.tokens_per_s > 0


def test_fewer_tokens_are_the_beginning_of_more():
    long = write(max_tokens=40, seed=3)
    for n in (1, 2, 17):
        assert write(max_tokens=n, seed=3).ids == long.ids[:n]


@pytest.mark.parametrize("name, temperature", [("classic", 1.0), ("modern", 0.0)])
def test_each_token_is_drawn_by_its_place_from_all_that_the_window_holds(name, temperature):
    """The definition, without cache, chunks or loop. Beyond the context the last half of the window is read again."""
    prompt, settings, draw = "the cat sat on", make_settings(1, V, temperature), jax.jit(sample)
    window, drawn = [int(i) for i in TOKENIZER.encode(prompt)], []
    for place in range(len(window), len(window) + 50):
        logits_BV = full(*loud(name), np.asarray([window]))[:, -1]
        token = int(draw(logits_BV, jax.random.fold_in(jax.random.key(3), place)[None], settings)[0])
        drawn, window = [*drawn, token], [*window, token]
        if len(window) > CONTEXT:
            window = window[-CONTEXT // 2 :]
    assert len(set(drawn)) > 3
    assert write(prompt, name=name, max_tokens=50, temperature=temperature, seed=3).ids == drawn


def test_no_new_program_for_other_lengths_settings_and_windows():
    cfg, params = loud("modern")
    traces = []

    def counted(cfg, params, tokens_BT, cache, **options):
        traces.append(tokens_BT.shape)
        return GPT.forward(cfg, params, tokens_BT, cache, **options)

    counting = GPT._replace(forward=counted)
    go = lambda prompt, **options: generate(counting, cfg, params, TOKENIZER, prompt, max_tokens=60, **options)
    go("a" * 9)
    assert sorted(traces) == [(1, 1), (1, 16)]
    for length, options in ((10, {}), (16, {"top_k": 3}), (13, {"temperature": 0.0, "seed": 8}), (11, {"top_p": 0.5})):
        go("b" * length, **options)
    assert len(traces) == 2


def test_end_of_text_ends_the_text_and_is_no_part_of_it():
    result = write("abc", WITH_EOS, max_tokens=400, temperature=2.0)
    assert result.stopped == "eos" and 0 < len(result.ids) < 400
    assert WITH_EOS.eos_id not in result.ids and "<|" not in result.text


def test_an_empty_prompt_starts_a_document():
    assert write("", max_tokens=8).ids == write("\n", max_tokens=8).ids != write("a", max_tokens=8).ids
    assert write("", WITH_EOS, max_tokens=8).ids == write("<|endoftext|>", WITH_EOS, max_tokens=8).ids
    with pytest.raises(UserError, match="the prompt is empty"):
        write("", train_char(["abc"]))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(prompt="a" * 30), "prompt has 30 tokens, the context holds 24; leave out 6 of them"),
        (dict(max_tokens=0), "max_tokens = 0; give 1 or more"),
        (dict(seed=-1), "seed = -1; give a whole number"),
        (dict(temperature=-1.0), "temperature = -1.0; give 0"),
        (dict(top_p=0.0), "top_p = 0.0; give a part"),
        (dict(top_k=0), "top_k = 0; give 1 or more"),
    ],
)
def test_mistakes_are_told_at_once_in_one_line(options, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}[^\n]*$"):
        stream(GPT, *loud("classic"), TOKENIZER, **{"prompt": "a", **options})  # the call itself, before the first piece is asked for
