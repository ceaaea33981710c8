"""Pre-tokenizers' patterns: cut where the peers cut, in time that grows with the text and no faster."""

import random
import time

import numpy as np
import pytest

from pikojax.config import UserError
from pikojax.text import patterns, unicode
from pikojax.text.patterns import PATTERNS, compiled, known, spans

ALL = {**{spelling: f"{name}, other words {i}" for i, (spelling, name) in enumerate(patterns._SPELLINGS.items())}}
ALL |= {pattern: name for name, pattern in PATTERNS.items()}


def pieces(name: str, text: str, peer: str = "hf") -> list[str]:
    return [text[first:last] for first, last in spans(PATTERNS[name], text, peer)]


def test_worked_examples():
    assert pieces("gpt2", "Don't  go\n\n 12ñ!?") == ["Don", "'t", " ", " go", "\n\n", " 12", "ñ", "!?"]
    assert pieces("cl100k", "HE'LL (go)\n\n 1234\r\n") == ["HE", "'LL", " (", "go", ")\n\n", " ", "123", "4", "\r\n"]
    assert pieces("cl100k", "it'\u017f") == ["it", "'\u017f"]  # the long s is an s without regard to case
    assert pieces("qwen2", "12") == ["1", "2"]
    assert pieces("o200k", "camelCaseWORD's /x/\n") == ["camel", "Case", "WORD's", " /", "x", "/\n"]
    assert pieces("tekken", "ABc1") == ["ABc", "1"]
    assert pieces("deepseek3", "_foo bar!\n") == ["_foo", " bar", "!\n"]
    assert pieces("clip", "it's  42!") == ["it", "'s", "4", "2", "!"]
    assert pieces("bloom", "a b, c") == ["a", " b", " c"]


def test_names():
    assert known(PATTERNS["gpt2"]) == "gpt2" and known(r"\p{L}+x") is None
    for spelling, name in patterns._SPELLINGS.items():
        assert known(spelling, "tiktoken") == name
    possessive = next(spelling for spelling in patterns._SPELLINGS if "{1,3}+" in spelling)
    assert known(possessive, "hf") is None  # there it takes any number of digits
    assert spans(possessive, "12345", "tiktoken") == [(0, 3), (3, 5)]


def test_spellings_mean_the_same():
    rng = random.Random(1)
    for spelling, name in patterns._SPELLINGS.items():
        if name in PATTERNS:
            for text in random_texts(300, rng):
                assert spans(spelling, text, "tiktoken") == spans(PATTERNS[name], text, "tiktoken"), ascii(text)


@pytest.mark.parametrize(
    "pattern, text, expected",
    [
        (r"[a-c&&[^b]]+", "abcab", [(0, 1), (2, 4)]),
        (r"[^(\s|[.,])]+", "a b|c.d", [(0, 1), (2, 3), (4, 5), (6, 7)]),
        (r"\p{^L}|\PL", "a1", [(1, 2)]),
        (r"(?i:ab)c", "ABcabC", [(0, 3)]),
        (r"(?i)k", "kK\u212a", [(0, 1), (1, 2), (2, 3)]),
        (r"(?<w>\w)(?<x>!)", "a!", [(0, 2)]),
        (r"a{,2}b", "aaab", [(1, 4)]),
        (r"x{2}?", "xxx", [(0, 2), (3, 3)]),
        (r"\x41|\x{1F600}|\u00e9|\t", "A😀é\t", [(0, 1), (1, 2), (2, 3), (3, 4)]),
        (r"^b|a$", "a\nb", [(0, 1), (2, 3)]),
        (r"\bb\B", "ab bb", [(3, 4)]),
        (r"b*", "abba", [(0, 0), (1, 3), (4, 4)]),
        (r"\w|[\w]", "²é", [(0, 1), (1, 2)]),
        (r"[\w]", "²é", [(1, 2)]),
        (r"\R", "\r\n\n", [(0, 2), (2, 3)]),
        (r"[[:punct:]]", "a+!", [(1, 2), (2, 3)]),
        (r"\p{Han}+", "ab中文", [(2, 4)]),
    ],
)
def test_syntax(pattern, text, expected):
    pytest.importorskip("regex")
    assert spans(pattern, text) == expected
    peer = pytest.importorskip("tokenizers")
    split = peer.pre_tokenizers.Split(peer.Regex(pattern), "removed", invert=True)
    assert [span for _, span in split.pre_tokenize_str(text)] == [(first, last) for first, last in expected if first < last]


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a)\1", r"\X", r"\K", r"(?x: a)", r"(?<=a", "a)", "[a", "[]a]", "*a", "a{", r"\p{Klingon}", r"\p", r"a\G", "(" * 60 + ")" * 60, "x" * 30_000, "a{99999}", "(?i)straße", "[z-a]", "\\",
        "(?i:ss)", r"(?i)\p{Lu}", "(?(1)a|b)", r"[a-\d]", "[" * 100, r"\xff", "(?i)[a-é]", "(?:", "(?", r"\p{space}", r"\p{L",
        "|".join(map(chr, range(0x4E00, 0x4F80))), "ab" * 9000, "a" + "*" * 1900, "(?i)[" + " -~" * 600, "|".join(f"[{chr(i)}-{chr(i + 50)}]" for i in range(0x4E00, 0x4EC0)),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name_and_at_once(pattern):
    start_s = time.perf_counter()
    with pytest.raises(UserError) as caught:
        compiled(pattern)
    message = str(caught.value)
    assert time.perf_counter() - start_s < 1 and "\n" not in message and len(message) < 300 and repr(pattern[:60])[:-1] in message


@pytest.mark.parametrize("pattern", [r"(?:a+)+b", r"(?:\p{L}|\p{L}\p{L})+!", r"(?:(?:x{1,900}){1,900}){1,900}!"])
def test_a_pattern_that_would_not_end_is_stopped(pattern, monkeypatch):
    pytest.importorskip("regex")
    monkeypatch.setattr(patterns, "LIMIT_S", 0.3)
    start_s = time.perf_counter()
    try:
        compiled(pattern)("a" * 5000 + "x" * 5000)
    except UserError as error:
        assert "took more than" in str(error) and "\n" not in str(error)
    assert time.perf_counter() - start_s < 3


def test_a_pattern_has_one_time_limit_for_all_pieces_of_a_text(monkeypatch):
    pytest.importorskip("regex")
    monkeypatch.setattr(patterns, "LIMIT_S", 0.5)
    find, slow, start_s = compiled(r"(?:\p{L}|\p{L}\p{L})+!"), "a" * 25, time.perf_counter()
    with patterns.time_limit(), pytest.raises(UserError, match="took more than"):
        for _ in range(10_000):
            find(slow)
    assert time.perf_counter() - start_s < 2


def test_text_may_hold_lone_surrogates():
    assert pieces("gpt2", "a\ud800b") == ["a", "\ud800", "b"]


@pytest.mark.parametrize("char", [*"aAǅʰ中1½Ⅷ_-.$ \n\r\t\0'²\u0301\u0903\u00a0\u2028\u200d\ue000😀\u0378", " \n", "a ", "'s", "aA", "\n "])
@pytest.mark.parametrize("name", ["gpt2", "cl100k", "o200k", "deepseek3", "word"])
def test_long_runs_take_no_longer_than_other_text(name, char):
    find, text = compiled(PATTERNS[name]), char * (100_000 // len(char))
    spent_s = []
    for _ in range(3):
        start_s = time.perf_counter()
        find(text + "a")
        spent_s.append(time.perf_counter() - start_s)
    assert min(spent_s) < 0.2  # 2 s for the megabyte on a slow, busy machine; it takes half of it here


# ---------------------------------------------------------------- live

USUAL = " \t\n\r'’sStTdDmMlLrReEvVkK\u212aſaA1234 .,!?/-_éß\u0301中あ가٠😀\u200d\u00a0\u3000\u2028\x85ǅʰ²Ⅳ[](){}|<>$+^~`"
GROUPS = ["'s", "'S", "'ll", "'LL", "'re", "'Ve", "'ſ", "'t", "  \n", "\r\n", " \n \n", "123456", "<|endoftext|>"]


def random_texts(n: int, rng: random.Random):
    _, first = np.unique(unicode.kinds()[0], return_index=True)
    of_a_kind = [chr(code) for code in first.tolist() if not 0xD800 <= code < 0xE000]
    for _ in range(n):
        parts = []
        for _ in range(rng.choice([1, 2, 3, 5, 8, 13, 30])):
            kind = rng.random()
            if kind < 0.5:
                parts.append(rng.choice(USUAL) * rng.choice([1, 1, 1, 2, 5]))
            elif kind < 0.65:
                parts.append(rng.choice(GROUPS))
            elif kind < 0.85:
                parts.append(rng.choice(of_a_kind))
            else:
                parts.append(chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])))
        yield "".join(parts)


@pytest.mark.parametrize("n", [300, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("pattern", ALL, ids=ALL.values())
def test_hugging_face_cuts_at_the_same_places(pattern, n):
    peer = pytest.importorskip("tokenizers")
    if known(pattern) is None:
        pytest.importorskip("regex")
    split, find = peer.pre_tokenizers.Split(peer.Regex(pattern), "removed", invert=True), compiled(pattern)
    for text in random_texts(n, random.Random(n)):
        assert find(text) == [span for _, span in split.pre_tokenize_str(text)], ascii(text)


@pytest.mark.parametrize("n", [300, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["gpt2", "cl100k", "qwen2", "o200k", "tekken"])
def test_tiktoken_cuts_at_the_same_places(name, n):
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([a]): a for a in range(256)} | {bytes([a, b]): 256 + 256 * a + b for a in range(256) for b in range(256)}
    peer = tiktoken.Encoding("pairs", pat_str=PATTERNS[name], mergeable_ranks=ranks, special_tokens={})  # any two bytes join
    whole = tiktoken.Encoding("whole", pat_str=r"[\s\S]+", mergeable_ranks=ranks, special_tokens={}).encode_ordinary
    find = compiled(PATTERNS[name], "tiktoken")
    for text in random_texts(n, random.Random(n)):
        assert [id for first, last in find(text) for id in whole(text[first:last])] == peer.encode_ordinary(text), ascii(text)
