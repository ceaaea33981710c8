"""The coloured view: the whole text is shown, and nothing in a text or a vocabulary acts."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pikojax.text import train_char
from pikojax.text.tokenizer import Tokenizer
from pikojax.text.view import pieces, spelled, to_html, to_terminal, to_text

EVIL = "<script>alert(1)</script>"
TEXT = f"Hi é🙂\x1b[31m\x07 \u202eabc\u2028 {EVIL}\n\t\"' onmouseover=x &amp; [bold]b[/bold]"


def byte_level(*specials: str) -> Tokenizer:
    from pikojax.text.byte_level import CHARS  # each byte's character

    vocab = {token: i for i, token in enumerate([*specials, *CHARS])}
    added = [{"id": i, "content": token, "special": True, "normalized": False} for i, token in enumerate(specials)]
    model = {"type": "BPE", "vocab": vocab | {"Hi": len(vocab)}, "merges": [["H", "i"]]}
    part = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    return Tokenizer.from_tree({"added_tokens": added, "pre_tokenizer": part, "decoder": part, "model": model})


@pytest.fixture(scope="module")
def tok():
    return byte_level(EVIL, "</b><img src=x onerror=alert(1)>")


class Page(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.text, self.inside = [], [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.inside = self.inside or tag == "p"

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "p"

    def handle_data(self, data):
        self.text += data if self.inside else ""


def acts(text: str) -> list[str]:
    return [c for c in text if re.match(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", c)]


def test_the_pieces_are_the_whole_text_token_by_token(tok):
    found = pieces(tok, "Hi é🙂")
    assert b"".join(piece.data for piece in found) == "Hi é🙂".encode()
    assert [piece.data for piece in found] == [b"Hi", b" ", b"\xc3", b"\xa9", b"\xf0", b"\x9f", b"\x99", b"\x82"], "parts of a character are bytes"
    assert [piece.id for piece in found] == tok.encode("Hi é🙂").tolist()


@settings(deadline=None, max_examples=100)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_nothing_is_lost_and_nothing_acts(tok, text):
    found = pieces(tok, text + EVIL)
    assert b"".join(piece.data for piece in found) == (text + EVIL).encode()
    page = to_html(found, text)
    assert not acts(page) and set(Page(page).tags) == {"html", "head", "meta", "title", "style", "body", "h1", "div", "p", "b"}
    assert not acts(to_text(found)) and not acts(str(to_terminal(found)))


def test_the_page_holds_no_tag_of_a_text_or_of_a_vocabulary(tok):
    page = to_html(pieces(tok, TEXT), EVIL)
    seen = Page(page)
    assert "script" not in seen.tags and "img" not in seen.tags and page.count("<script") == 0
    assert {name for _, name, _ in seen.attributes} == {"lang", "charset", "http-equiv", "content", "class", "title"}
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in seen.attributes
    assert seen.text.strip("\n").startswith("Hi \\xc3\\xa9\\xf0\\x9f\\x99\\x82\\x1b[31m\\x07 ") and EVIL in seen.text, "a tag of the text's is text"
    titles = [value for tag, name, value in seen.attributes if name == "title"]
    assert any(re.fullmatch(r"id \d+, token Hi, bytes 48 69", title) for title in titles)
    assert any(title == f"id 0, token {EVIL}, bytes {EVIL.encode().hex(' ')}" for title in titles)


def test_what_a_tokenizer_adds_and_what_it_leaves_out_can_be_told_apart():
    vocab = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "hi": 3, "you": 4}
    added = [{"id": i, "content": f"[{name}]", "special": True} for i, name in enumerate(("UNK", "CLS", "SEP"))]
    tree = {
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
    }
    found = pieces(Tokenizer.from_tree(tree), " Hi  you ")
    assert [(piece.id, piece.data) for piece in found] == [(1, b""), (None, b" "), (3, b"Hi"), (None, b"  "), (4, b"you"), (2, b""), (None, b" ")]
    assert [piece.special for piece in found if piece.id is not None] == [True, False, False, True]
    assert to_text(found).count("[CLS]▏") == 1 and "5 tokens" not in to_html(found) and "4 tokens" in to_html(found)


def test_characters_and_bytes_are_told_apart(tok):
    assert spelled("a\x1b\x85\u202e\U000e0001é") == "a\\x1b\\x85\\u202e\\U000e0001é"
    chars = pieces(train_char(["é🙂"]), "🙂é")
    assert [piece.data.decode() for piece in chars] == ["🙂", "é"]


def test_the_terminal_gets_colours_and_no_markup(tok):
    rich = pytest.importorskip("rich.console")
    import io

    out = io.StringIO()
    rich.Console(file=out, force_terminal=True, color_system="truecolor", width=1000).print(to_terminal(pieces(tok, TEXT)))
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert "\\x1b[31m\\x07" in text and "[bold]b[/bold]" in text and not acts(text)
    assert len(set(re.findall(r"48;2;[0-9;]+", out.getvalue()))) == 6
