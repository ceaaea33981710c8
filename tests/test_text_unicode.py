"""The tables of Unicode: what the peers say, whatever this Python knows."""

import random
import unicodedata

import numpy as np
import pytest

from pikojax.text import unicode
from pikojax.text.unicode import classes, hf_scripts, lower, members, normalize

SURROGATES = range(0xD800, 0xE000)


def test_the_table_agrees_with_unicodedata_where_nothing_changed_since_the_oldest_python():
    old = unicodedata.ucd_3_2_0  # every Python has this version too
    categories = [unicodedata.category(chr(code)) for code in range(unicode.N_CODES)]
    changed = 0
    for name in unicode.CATEGORIES:
        mine = members(name)
        for code in np.flatnonzero(mine):
            code = int(code)
            if name != "Cn" and categories[code] != "Cn" and name != categories[code]:
                assert old.category(chr(code)) in ("Cn", categories[code]), hex(code)
                changed += 1
    assert changed < 30  # a handful was moved to another category since


def test_every_code_point_has_one_category():
    assert (np.sum([members(name) for name in unicode.CATEGORIES], axis=0) == 1).all()
    assert (np.sum([members(name, "tiktoken") for name in unicode.CATEGORIES], axis=0) == 1).all()
    assert members("nonsense") is None and members("") is None


@pytest.mark.parametrize("peer", ["hf", "tiktoken"])
def test_the_bits_of_some_characters(peer):
    u, table = unicode, classes(peer)
    assert table.dtype == np.uint16 and table.shape == (0x110000,) and table.flags.c_contiguous and not table.flags.writeable
    regex = u.L | u.N | u.M | u.P | u.S | u.SPACE | u.UPPER | u.LOWER | u.OTHER | u.WORD | u.HAN
    expected = {
        "a": u.L | u.LOWER | u.WORD, "ǅ": u.L | u.UPPER | u.WORD, "中": u.L | u.OTHER | u.WORD | u.HAN, "٣": u.N | u.WORD,
        "\u0301": u.M | u.WORD, "_": u.P | u.WORD, "$": u.S, "\n": u.SPACE, "\x85": u.SPACE, "\u3000": u.SPACE, "\x1c": 0, "\u200b": 0,
        "\U0010fffe": 0, "\U00010d50": u.L | u.UPPER | u.WORD,  # a letter since Unicode 16
    }  # fmt: skip
    for char, bits in expected.items():
        assert table[ord(char)] & regex == bits, char
    assert bool(table[ord("²")] & u.WORD) == (peer == "hf")


def test_the_bert_parts_have_tables_of_their_own():
    table = classes()
    has = lambda char, bit: bool(table[ord(char)] & bit)  # noqa: E731
    assert all(has(char, unicode.PUNCTUATION) for char in "!$+<=>^`|~«。") and not has("€", unicode.PUNCTUATION)
    assert has("中", unicode.CJK) and not has("あ", unicode.CJK) and not has("。", unicode.CJK)
    assert has("\x00", unicode.CONTROL) and has("\ufffd", unicode.CONTROL) and has("\u200d", unicode.CONTROL)
    assert not any(has(char, unicode.CONTROL) for char in "\t\n\ra\u0378")
    assert has("\u0301", unicode.MARK) and not has("\u0903", unicode.MARK)
    assert has("\u2028", unicode.RUST_SPACE) and not has("\x1c", unicode.RUST_SPACE)


def test_scripts_as_hugging_face_groups_them():
    script = {char: int(hf_scripts()[ord(char)]) for char in "A中あアーя \n"}
    assert script["中"] == script["あ"] == script["ア"] == script["ー"] and script[" "] == 0
    assert len({script["A"], script["中"], script["я"]}) == 3


def test_lower_case_is_each_characters_own():
    assert lower("ΟΔΥΣΣΕΥΣ İI ẞ Ǆ") == "οδυσσευσ i̇i ß ǆ"
    assert lower("ABC") == "abc" and lower("é") == "é" and lower("") == ""
    assert lower("\U00010d50Ａ") == "\U00010d70ａ"  # Unicode 16, newer than some Pythons
    for char in map(chr, [*range(0x250), *range(0x1E00, 0x2000), *range(0x10400, 0x10430)]):
        assert lower("中" + char) == "中" + ("σ" if char == "Σ" else char.lower())


def test_normalization_leaves_alone_what_the_peer_does_not_know():
    assert normalize("NFC", "e\u0301 Å") == "é Å" and normalize("NFKC", "ﬁ①") == "fi1" and normalize("NFD", "\uac01") == "\u1100\u1161\u11a8"
    new = "\U00011938"  # Dives Akuru, Unicode 13: decomposes in Python, not in tokenizers
    assert unicodedata.normalize("NFD", new) != new and normalize("NFD", f"é{new}é") == f"e\u0301{new}e\u0301"
    mark = "\u0898"  # a combining class since Unicode 14: a starter there
    assert normalize("NFC", f"e{mark}\u0301") == f"e{mark}\u0301" and normalize("NFD", f"e\u0301{mark}\u0323") == f"e\u0301{mark}\u0323"


# ---------------------------------------------------------------- live


def random_texts(n: int, seed: int):
    rng = random.Random(seed)
    _, first = np.unique(unicode.kinds()[0], return_index=True)
    usual = [code for code in first.tolist() if code not in SURROGATES]
    marks = np.flatnonzero(members("M") | members("normal")).tolist()
    for _ in range(n):
        pools = rng.choices([usual, marks, range(0xD800), range(0xE000, 0x110000), range(0x20, 0x500)], k=rng.choice([1, 2, 3, 5, 8, 20]))
        yield "".join(chr(rng.choice(pool)) for pool in pools)


@pytest.mark.parametrize("n", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_normalizers_live(n):
    peer = pytest.importorskip("tokenizers").normalizers
    forms = {form: getattr(peer, form)() for form in ("NFC", "NFD", "NFKC", "NFKD")}
    lowercase = peer.Lowercase()
    for text in random_texts(n, seed=n):
        for form, normalizer in forms.items():
            assert normalize(form, text) == normalizer.normalize_str(text), (form, ascii(text))
        assert lower(text) == lowercase.normalize_str(text), ascii(text)


@pytest.mark.slow
def test_every_code_point_live():
    peer = pytest.importorskip("tokenizers")
    forms = {form: getattr(peer.normalizers, form)() for form in ("NFC", "NFD", "NFKC", "NFKD")}
    lowercase, spaces, digits = peer.normalizers.Lowercase(), peer.pre_tokenizers.WhitespaceSplit(), peer.pre_tokenizers.Digits(False)
    punctuation = peer.pre_tokenizers.Punctuation()
    is_space, is_digit, is_mark = members("rust_space"), members("rust_numeric"), members("bert_punctuation")
    for code in range(unicode.N_CODES):
        char = chr(code)
        if code in SURROGATES:
            continue
        assert lower(char) == lowercase.normalize_str(char)
        assert (len(spaces.pre_tokenize_str(f"a{char}a")) == 2) == is_space[code]
        assert (len(digits.pre_tokenize_str(f"a{char}a")) == 3) == is_digit[code]
        assert (len(punctuation.pre_tokenize_str(f"a{char}a")) == 3) == is_mark[code]
        for form, normalizer in forms.items():
            assert normalize(form, char) == normalizer.normalize_str(char), (form, hex(code))
