"""Constrained output: whatever a model without sense draws, the text is what was asked for; what cannot be is refused in one line."""

import builtins
import json
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import text_trees
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st

from pikojax.config import UserError
from pikojax.infer.constrained import Vocabulary, make_constraint, vocabulary
from pikojax.infer.sampling import draw, make_settings, shape
from pikojax.text import load
from pikojax.text.char import CharTokenizer
from pikojax.text.token_bytes import token_bytes
from pikojax.text.tokenizer import Tokenizer

DATA = Path(os.environ.get("PIKOJAX_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data") / "tokenizers"
LETTERS = "".join(map(chr, range(32, 127))) + "\n\té中😀"
SPECIALS = [text_trees.added("<s>", 900), text_trees.added("</s>", 901)]
TOKENIZERS = {
    "byte-level": Tokenizer(text_trees.tree(text_trees.BYTE_BPE, decoder=text_trees.BYTE_LEVEL, added_tokens=SPECIALS)),
    "SentencePiece": Tokenizer(text_trees.tree(text_trees.BYTES_BPE, decoder=text_trees.LLAMA_DECODER, added_tokens=SPECIALS)),
    "char": CharTokenizer(["<|endoftext|>", *sorted(LETTERS)], ["<|endoftext|>"]),
    "char without an end": CharTokenizer(sorted(LETTERS)),
}
MORE = 20  # ids of the model's table that no token has
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["cat", "small dog", "é"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        "note": {"type": ["string", "null"], "maxLength": 3},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
}


def fits(text: str) -> bool:
    found = json.loads(text)
    good = isinstance(found, dict) and {"name", "age", "kind", "tags"} <= set(found) <= set(SCHEMA["properties"])
    good = good and isinstance(found["name"], str) and len(found["name"]) <= 8 and type(found["age"]) is int and 0 <= found["age"] <= 120
    good = good and found["kind"] in SCHEMA["properties"]["kind"]["enum"] and all(type(tag) is bool for tag in found["tags"])
    return good and len(found["tags"]) <= 3 and (found.get("note") is None or len(found["note"]) <= 3)


def words_of(name: str):
    return vocabulary(TOKENIZERS[name], TOKENIZERS[name].vocab_size + MORE)


def drawn(name: str, constraint, seed: int, most: int = 2000) -> str:
    """The text behind a prompt, each token drawn from those allowed, all alike: a model at the highest temperature."""
    tokenizer, rng = TOKENIZERS[name], np.random.default_rng(seed)
    stream = tokenizer.stream()
    prompt = stream.push(tokenizer.token_to_id("a"))
    text = ""
    for _ in range(most):
        allowed = np.flatnonzero(constraint.mask())
        id = int(rng.choice(allowed))
        constraint.advance(id)
        if id == tokenizer.eos_id:
            break
        text += stream.push(id)
        if constraint.done:
            break
    else:
        raise AssertionError(f"no end after {most} tokens: {text!r}")
    assert constraint.done and prompt == "a"
    return text + stream.finish()


guided = pytest.mark.parametrize("name", TOKENIZERS)


@guided
def test_json_is_what_the_schema_asks_for(name):
    pytest.importorskip("llguidance")
    words = words_of(name)
    found = {drawn(name, make_constraint(words, json_schema=SCHEMA if seed % 2 else json.dumps(SCHEMA)), seed) for seed in range(12)}
    assert all(map(fits, found)) and len(found) > 6


@guided
@pytest.mark.parametrize("regex", [r"[a-c]{2,4}-[0-9]{3}", r"(low|lower|lowest) x?", r"a*é😀{1,3}", r"[^a]{1,5}b"])
def test_text_is_what_the_expression_asks_for(name, regex):
    pytest.importorskip("llguidance")
    words = words_of(name)
    for seed in range(8):
        assert re.fullmatch(regex, drawn(name, make_constraint(words, regex=regex), seed))


@guided
def test_a_grammar_is_followed(name):
    pytest.importorskip("llguidance")
    grammar = 'start: pair ("," pair){0,2}\npair: "(" NUMBER ")"\nNUMBER: /[0-9]{1,3}/'
    words = words_of(name)
    for seed in range(8):
        assert re.fullmatch(r"\(\d{1,3}\)(,\(\d{1,3}\)){0,2}", drawn(name, make_constraint(words, grammar=grammar), seed))


@guided
def test_choices_are_made_exactly(name):
    words, choices = words_of(name), ["low", "lower", " lowest", "é中", "low low"]
    found = {drawn(name, make_constraint(words, choices=choices), seed) for seed in range(80)}
    alone = {"low", "low low", "lower", " lowest", "é中"}
    # without an end token a choice that begins another is over only where nothing may follow
    assert found == (alone if words.eos_ids else alone - {"low"})


@trying(max_examples=60, deadline=None)
@given(st.lists(st.text("ab é", min_size=1, max_size=6), min_size=1, max_size=5), st.integers(0, 99))
def test_any_choices_are_made_exactly(choices, seed):
    assert drawn("SentencePiece", make_constraint(words_of("SentencePiece"), choices=choices), seed) in choices


def test_no_token_leads_to_where_none_goes_on():
    words = Vocabulary([b"ab", b"a", b"bc", b"d"], {}, (), 4)  # "abc" can begin with "a" alone: nothing spells "c"
    constraint = make_constraint(words, choices=["abc", "abd"])
    assert np.flatnonzero(constraint.mask()).tolist() == [0, 1]
    constraint = make_constraint(words, choices=["abc"])
    assert np.flatnonzero(constraint.mask()).tolist() == [1]
    constraint.advance(1)
    assert np.flatnonzero(constraint.mask()).tolist() == [2]


def test_many_long_choices_are_quick():
    words = words_of("byte-level")
    constraint = make_constraint(words, choices=["a" * 200 + str(i) for i in range(1000)])
    for _ in range(50):
        constraint.advance(int(np.flatnonzero(constraint.mask())[-1]))


def test_a_model_draws_through_the_mask():
    words = words_of("byte-level")
    constraint = make_constraint(words, choices=["low", "lower", "new"])
    logits_BV = 30 * jax.random.normal(jax.random.key(0), (1, words.vocab_size))
    for step in range(9):
        shaped_BV = shape(logits_BV, make_settings(1, words.vocab_size, 5.0), None, None, jnp.asarray(constraint.mask())[None])
        constraint.advance(int(draw(shaped_BV, jax.random.split(jax.random.key(step), 1))[0]))
        if constraint.done:
            return
    raise AssertionError("no choice was made")


def test_what_is_done_wants_only_an_end():
    pytest.importorskip("llguidance")
    words = words_of("byte-level")
    eos = words.eos_ids[0]
    for constraint in (make_constraint(words, regex="a"), make_constraint(words, choices=["a"])):
        constraint.advance(TOKENIZERS["byte-level"].token_to_id("a"))
        assert constraint.done and np.flatnonzero(constraint.mask()).tolist() == [eos]
        constraint.advance(eos)
        assert constraint.done


@pytest.mark.parametrize("form", [{"choices": ["low"]}, {"regex": "low"}])
def test_a_token_that_is_not_allowed_is_refused(form):
    pytest.importorskip("llguidance")
    constraint = make_constraint(words_of("byte-level"), **form)
    for token in (TOKENIZERS["byte-level"].token_to_id("a"),):
        assert not constraint.mask()[token]
        with pytest.raises(UserError, match="^[^\n]*draw from the mask$"):
            constraint.advance(token)


DEEP = {"type": "string"}
for _ in range(3000):
    DEEP = {"type": "array", "items": DEEP}
IMPOSSIBLE = {
    "false": dict(json_schema=False),
    "contradiction": dict(json_schema={"type": "string", "minLength": 5, "maxLength": 2}),
    "unknown type": dict(json_schema={"type": "parrot"}),
    "no schema": dict(json_schema=[1]),
    "no JSON": dict(json_schema="{"),
    "too deep": dict(json_schema=DEEP),
    "regex": dict(regex="(a"),
    "look-behind": dict(regex="(?<=a)b"),
    "grammar": dict(grammar="start: nothing"),
    "no text": dict(regex=""),
    "no choice": dict(choices=[]),
    "empty choice": dict(choices=["a", ""]),
    "one text": dict(choices="abc"),
    "two forms": dict(regex="a", choices=["a"]),
    "none": {},
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_the_impossible_is_refused_in_one_line(case):
    pytest.importorskip("llguidance")
    with pytest.raises(UserError, match="^[^\n]{10,400}$"):
        make_constraint(words_of("byte-level"), **IMPOSSIBLE[case])


@pytest.mark.parametrize("form", [dict(choices=["Ω"]), dict(regex="Ω+"), dict(json_schema={"const": "Ω"})])
def test_what_the_vocabulary_cannot_spell_is_refused(form):
    pytest.importorskip("llguidance")
    with pytest.raises(UserError, match="spell"):
        constraint = make_constraint(words_of("char"), **form)
        for _ in range(3):
            constraint.advance(int(np.flatnonzero(constraint.mask())[0]))
            constraint.mask()


def test_without_llguidance_choices_are_made_and_the_rest_says_what_to_install(monkeypatch):
    real = builtins.__import__
    no = lambda name, *rest: (_ for _ in ()).throw(ImportError(name)) if name.split(".")[0] == "llguidance" else real(name, *rest)
    monkeypatch.setattr(builtins, "__import__", no)
    assert drawn("char", make_constraint(words_of("char"), choices=["ab"]), 0) == "ab"
    with pytest.raises(UserError, match=r"^regex needs llguidance.*pikojax\[text\]"):
        make_constraint(words_of("char"), regex="a")


# ---------------------------------------------------------------- the bytes of tokens

TREES = {
    "byte-level": dict(model=text_trees.BYTE_BPE, decoder=text_trees.BYTE_LEVEL),
    "SentencePiece": dict(model=text_trees.BYTES_BPE, decoder=text_trees.LLAMA_DECODER),
    "WordPiece": dict(model=text_trees.wordpiece(), decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}),
    "Metaspace": dict(model=text_trees.unigram(), decoder=text_trees.METASPACE),
    "words": dict(model=text_trees.wordlevel(), decoder=None),
}


@trying(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(TREES)), st.lists(st.integers(0, 10**6), min_size=1, max_size=12))
def test_the_bytes_of_tokens_joined_are_the_decoded_text(kind, numbers):
    tokenizer = Tokenizer(text_trees.tree(**TREES[kind], added_tokens=SPECIALS))
    adds = token_bytes(tokenizer)
    usable = [id for id, data in enumerate(adds) if data]
    ids = [usable[n % len(usable)] for n in numbers]
    joined = b"".join(adds[id] for id in ids)
    behind = tokenizer.decode([usable[0], *ids])[len(tokenizer.decode(usable[:1])) :]
    if kind == "SentencePiece" and b"".join(adds[id] for id in ids).decode("utf-8", "replace") != behind:
        assert "\ufffd" in behind  # bytes that are no character: how many replacements they show as is the decoder's affair
        return
    assert behind == joined.decode("utf-8", "replace")


@pytest.mark.parametrize("file", ["gpt2.json", "llama2.json", "fineweb_wordpiece.json", "pile_tokenizer.json", "simplestories-4096.json"])
def test_so_they_are_of_real_vocabularies(file):
    if not (DATA / file).is_file():
        pytest.skip(f"{DATA / file} is missing: shared/data is not there")
    tokenizer = load(DATA / file)
    adds, text = token_bytes(tokenizer), 'The naïve café sold 1,234 "crêpes" — {"a": [1, 2]}\n\tdone. 日本 😀'
    ids = [id for id in tokenizer.encode("x " + text, add_special_tokens=False).tolist() if id != tokenizer.unk_id]
    assert b"".join(adds[id] for id in ids[1:]).decode("utf-8", "replace") == tokenizer.decode(ids)[len(tokenizer.decode(ids[:1])) :]


def test_tokens_that_change_each_other_are_refused():
    tokenizer = Tokenizer(text_trees.tree(text_trees.CHAR_BPE, decoder={"type": "BPEDecoder", "suffix": "</w>"}))
    with pytest.raises(UserError, match="BPEDecoder"):
        vocabulary(tokenizer, 999)
