"""Token for token: every vocabulary of the test data against the program it was made for, on real, hand-picked and fuzzed texts.

The slow half runs 200,000 texts a vocabulary; another PIKOJAX_FUZZ_SEED gives others, PIKOJAX_FUZZ_TEXTS more or fewer. A difference is
shown by the smallest text that has it. tests/golden/text_exact.json keeps what the peers said, for where they are not installed.

    bytes that are no UTF-8: no peer reads them (tiktoken's private way takes all that follows as one piece), so of these it is asked
    that native and Python code agree, that they come back as they were, and that text before and behind a special token is as without them
"""

import json
import os
import random
import zlib
from pathlib import Path

import pytest
from text_peers import DATA, NAMES, ours, smallest, strings, theirs
from text_relatives import FAMILIES

from pikojax.native import build
from pikojax.text import load

GOLDEN = Path(__file__).parent / "golden" / "text_exact.json"
SEED = int(os.environ.get("PIKOJAX_FUZZ_SEED", "0"))
MANY = int(os.environ.get("PIKOJAX_FUZZ_TEXTS", "200000"))
BLOCK = 5000
BYTE_LEVEL = ("pile_tokenizer.json", "gpt2.json", "cl100k_base.tiktoken")
slow = pytest.mark.slow


def fuzzed(name: str, n: int, seed) -> list[str]:
    tok, rng = ours(name), random.Random(f"{seed} {name}")
    words = [tok.decode([i]) or tok.tokens[i] for i in rng.sample(range(tok.vocab_size), min(3000, tok.vocab_size))]
    made = strings(rng, n, words, tok.specials)
    # sentencepiece takes a zero as the end of a text
    return [text.replace("\0", "") for text in made] if name.endswith(".model") else made


def assert_the_peer_s_ids(name: str, texts: list[str]) -> None:
    """By the native code in a batch, special tokens as such and as text, and back."""
    tok, peer = ours(name), theirs(name)
    plain = tok.encode_batch(texts, threads=2, add_special_tokens=False, allowed_special=())
    special_ids = {tok.ids[token] for token in tok.specials}
    spelled = tok.tokens[tok.unk_id] if (tok.tree["model"].get("type") == "Unigram" and tok.unk_id in special_ids) else None

    def differ(text: str, mine: list[int], other: list[int]) -> bool:
        """That text gives no special token is promised here, and by no peer: Unigram's takes the written <unk> for one, and spells it with its neighbours."""
        return mine != other and not special_ids & set(other) and not (spelled and spelled in text)

    def alone(text: str) -> tuple[list[int], list[int]]:
        mine, other = tok.encode(text, False, ()).tolist(), peer.plain([text])[0]
        return mine, other if differ(text, mine, other) else mine

    for text, mine, other in zip(texts, plain, peer.plain(texts), strict=True):
        if differ(text, mine.tolist(), other):
            pytest.fail(_shown(name, text, alone))
    ids = [each.tolist() for each in plain]
    if peer.encode is not None:
        ids = [each.tolist() for each in tok.encode_batch(texts, threads=2, add_special_tokens=False)]
        for text, mine, other in zip(texts, ids, peer.encode(texts), strict=True):
            if mine != other:
                pytest.fail(_shown(name, text, lambda t: (tok.encode(t, False).tolist(), peer.encode([t])[0])))
    for mine, other in zip(some := ids[::10], peer.decode(some), strict=True):
        assert tok.decode(mine) == other, (name, mine)


def _shown(name: str, text: str, both) -> str:
    def differs(shorter: str) -> bool:
        mine, other = both(shorter)
        return mine != other

    text = smallest(text, differs) if differs(text) else text
    mine, other = both(text)
    tokens = ours(name).tokens
    return f"{name}, {text!a}: ours {mine} {[tokens[i] for i in mine]}, theirs {other} {[tokens[i] for i in other]} (alike alone: {mine == other})"


def assert_the_oracle_s_ids(name: str, texts: list[str | bytes]) -> None:
    tok = ours(name)
    for allowed in ("all", ()):
        for text, mine in zip(texts, tok.encode_batch(texts, add_special_tokens=False, allowed_special=allowed), strict=True):
            other = tok.encode_slowly(text, add_special_tokens=False, allowed_special=allowed)
            assert mine.tolist() == other.tolist(), f"{name}, allowed_special={allowed}: {text!a}"


# ---------------------------------------------------------------- texts of all kinds


@pytest.mark.parametrize("name", NAMES)
def test_what_the_peers_said_once(name):
    """CRC-32 of the ids of 300 fuzzed texts (tests/golden/make_exact_golden.py), by native and by Python code."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    tok = ours(name)
    for text, expected in zip(golden["texts"], golden["ids"][name], strict=True):
        for encode in (tok.encode, tok.encode_slowly):
            assert zlib.crc32(str(encode(text, False, ()).tolist()).encode()) == expected, f"{name}: {text!a}"


@pytest.mark.parametrize("name", NAMES)
def test_fuzzed_texts(name):
    assert_the_peer_s_ids(name, fuzzed(name, 2000, "fast"))


@pytest.mark.parametrize("n", [150, pytest.param(5000, marks=slow)])
@pytest.mark.parametrize("name", FAMILIES)
def test_fuzzed_texts_of_other_families(name, n):
    texts = fuzzed(name, n, (SEED, "family"))
    assert_the_peer_s_ids(name, texts)
    assert_the_oracle_s_ids(name, texts[:: n // 50])


@pytest.mark.parametrize("name", NAMES)
def test_fuzzed_texts_in_python(name):
    assert_the_oracle_s_ids(name, fuzzed(name, 300, "python"))


@slow
@pytest.mark.parametrize("name", NAMES)
def test_many_fuzzed_texts(name):
    for done in range(0, MANY, BLOCK):
        texts = fuzzed(name, min(BLOCK, MANY - done), (SEED, done))
        assert_the_peer_s_ids(name, texts)
        assert_the_oracle_s_ids(name, texts[::20])


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=slow)], ids=["some", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_real_texts(name, whole):
    files = sorted((DATA / "text").glob("*.txt"))
    if not files:
        pytest.skip(f"no {DATA / 'text'}")
    texts = [file.read_text(encoding="utf-8") for file in files]
    if not whole:
        texts = [text[:40_000] for text in texts]
    assert_the_peer_s_ids(name, texts + [line for text in texts for line in text.splitlines(keepends=True)][:20_000])
    if whole:
        assert_the_oracle_s_ids(name, [text[:60_000] for text in texts])


@pytest.mark.parametrize("vocabulary, name", [("gpt-2", "gpt2.json"), ("llama-spm", "llama2.model"), ("llama-spm", "llama2.json")])
def test_the_cases_beside_the_gguf_vocabularies(vocabulary, name):
    given, expected = (DATA / "gguf" / f"ggml-vocab-{vocabulary}.gguf.{end}" for end in ("inp", "out"))
    if not given.exists():
        pytest.skip(f"no {given}")
    texts = given.read_text(encoding="utf-8").removesuffix("\n__ggml_vocab_test__\n").split("\n__ggml_vocab_test__\n")
    lines = [[int(word) for word in line.split()] for line in expected.read_text().removesuffix("\n").split("\n")]
    assert len(texts) == len(lines) == 46
    tok = ours(name)
    for text, ids in zip(texts, lines, strict=True):
        for encode in (tok.encode, tok.encode_slowly):
            assert encode(text, add_special_tokens=False).tolist() == ids, repr(text)


# ---------------------------------------------------------------- bytes


BAD = (b"", b"\xff", b"\xc3", b"\xe4\xb8", b"\xf0\x9f\x98", b"\x80", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80")


def broken(text: str, rng: random.Random) -> bytes:
    """Bytes cut, changed, doubled or put in."""
    data = bytearray(text.encode())
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.randrange(3)] = rng.choice((*BAD, rng.randbytes(3)))
    return bytes(data)


@pytest.mark.parametrize("n", [1000, pytest.param(20_000, marks=slow)])
@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_bytes_that_are_no_utf8(name, n):
    tok, rng = ours(name), random.Random(f"{SEED} bytes")
    texts = [broken(text, rng) for text in fuzzed(name, n, "bytes")]
    for data, ids in zip(texts, tok.encode_batch(texts, threads=2, add_special_tokens=False, allowed_special=()), strict=True):
        assert tok.decode_bytes(ids) == data and tok.decode(ids) == data.decode("utf-8", "replace"), data
    assert_the_oracle_s_ids(name, texts[::10])


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_text_given_as_bytes_is_the_text(name):
    tok = ours(name)
    for text in fuzzed(name, 300, "as bytes"):
        assert tok.encode(text.encode(), False).tolist() == tok.encode(text, False).tolist() and tok.decode_bytes(tok.encode(text, False, ())) == text.encode()


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_broken_bytes_beside_a_special_token_stay_on_their_side(name):
    tok, rng = ours(name), random.Random(3)
    token = next(token for token in tok.specials if not tok._added.by_id[tok.ids[token]].rstrip)
    texts = fuzzed(name, 200, "sides")
    for left, right in zip(texts[:100], texts[100:], strict=True):
        left, right = broken(left, rng), right.encode()
        left, right = (part.replace(special.encode(), b"") for part in (left, right) for special in [token])
        expected = [*tok.encode(left, False).tolist(), tok.ids[token], *tok.encode(right, False).tolist()]
        assert tok.encode(left + token.encode() + right, False).tolist() == expected, (left, right)


# ---------------------------------------------------------------- long runs


@slow
@pytest.mark.parametrize("name", NAMES)
def test_long_runs(name):
    """One character, or two in turn, many thousand times: no cliff in time and the peer's ids."""
    texts = [unit * (30_000 // len(unit)) for unit in ("a", " ", "\n", "0", "=", "é", "中", "👍", "ab", "a ", " \n", "\u0301", "한", ".,", "ا", "\xa0")]
    assert_the_peer_s_ids(name, texts)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "llama2.model" else slow) for name in NAMES])
def test_a_tokenizer_that_was_saved_gives_the_same_ids(name, tmp_path):
    tok, texts = ours(name), fuzzed(name, 300, "saved")
    again = load(tok.save(tmp_path / "saved.json"))
    assert [ids.tolist() for ids in again.encode_batch(texts)] == [ids.tolist() for ids in tok.encode_batch(texts)]


@pytest.mark.skipif(build.find_compiler()[0] is None, reason=f"{build.find_compiler()[1]}")
@pytest.mark.parametrize("name", NAMES)
def test_the_native_code_serves(name):
    assert ours(name)._native is not None, ours(name)._planned[1]
