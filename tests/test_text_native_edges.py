"""Where native code once went its own way: options that are null, special tokens spelled otherwise, maps shared by threads, no memory."""

import base64
import ctypes
import os
import subprocess
import sys
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import text_trees as trees
from test_text_native import BERT, MARKS, RANKS, attempt, kind, needs_compiler, sequence, texts

from pikojax.text import native
from pikojax.text.tokenizer import Tokenizer

AS_PYTHON_READS_IT = {
    "a space after the mark": (trees.CHAR_BPE, {"normalizer": sequence(*MARKS["normalizers"], kind("NFKC"), name="normalizers")}),
    "no unknown token": ({**trees.CHAR_BPE, "unk_token": "<none>"}, {}),
    "null for a limit": (trees.wordpiece(max_input_chars_per_word=None), {"pre_tokenizer": BERT}),
    "null for a prefix": (trees.wordpiece(continuing_subword_prefix=None), {"pre_tokenizer": BERT}),
    "null for an unknown token": (trees.wordpiece(unk_token=None), {"pre_tokenizer": BERT}),
    "null for a behavior": (trees.wordpiece(), {"pre_tokenizer": kind("Punctuation", behavior=None)}),
    "null for a space": (trees.BYTE_BPE, {"pre_tokenizer": {**trees.BYTE_LEVEL, "add_prefix_space": None}}),
    "null for lowercase": (trees.wordpiece(), {"normalizer": kind("BertNormalizer", lowercase=None), "pre_tokenizer": BERT}),
    "first, what was first having gone": (trees.CHAR_BPE, {
        "normalizer": kind("BertNormalizer"), "pre_tokenizer": {**trees.METASPACE, "prepend_scheme": "first"},
    }),
    "merges of two kinds": ({**trees.CHAR_BPE, "merges": ["l o", *trees.CHAR_BPE["merges"][1:]]}, {}),
}


@needs_compiler
@pytest.mark.parametrize("name", AS_PYTHON_READS_IT)
def test_options_are_read_as_python_reads_them(name):
    model, parts = AS_PYTHON_READS_IT[name]
    tok = Tokenizer(trees.tree(model, **parts))
    for text in [*texts(11, 60), "b\u00a0a", "a\u00a0a low", "\u0600a", "lower, low!", "Day\u2603"]:
        assert attempt(tok.encode, text, False) == attempt(tok.encode_slowly, text, False), ascii(text)


SPELLED = {  # special tokens that a text can give without holding them as they are written
    "in a word": (trees.wordpiece(), {"pre_tokenizer": BERT}, "##er", ["lower", "lowers", "er", "lower!"]),
    "before the unknown": (trees.wordpiece(), {"pre_tokenizer": BERT}, "low", ["lowX", "low", "lower"]),
    "with its space": ({**trees.CHAR_BPE}, {"pre_tokenizer": trees.METASPACE}, "▁a", ["a a", "ab", "lower a"]),
    "over what vanishes": (trees.bpe("<s>ab", ["< s", "<s >"], unk_token=None), {}, "<s>", ["<\u2603s>", "a<s>b", "<s\u2603>"]),
    "as a part": (trees.BYTE_BPE, {"pre_tokenizer": trees.BYTE_LEVEL}, "low", ["lowest lower", "xlow", "Lo"]),
    "as a part, by ranks": (RANKS, {"pre_tokenizer": trees.BYTE_LEVEL}, "low", ["lowest lower", "xlow", "Lo"]),
    "with a score": (trees.unigram(), {"pre_tokenizer": trees.METASPACE}, "▁a", ["a a", "ab", "lower a"]),
}


@needs_compiler
@pytest.mark.parametrize("name", SPELLED)
def test_special_tokens_that_are_spelled_otherwise(name):
    model, parts, special, given = SPELLED[name]
    tok = Tokenizer(trees.tree(model, added_tokens=[trees.added(special, 0)], **parts))
    assert tok._native is not None
    for text in given:
        plain = tok.encode(text, False, allowed_special=())
        assert tok.ids[special] not in plain and plain.tolist() == tok.encode_slowly(text, False, allowed_special=()).tolist(), text
    assert any(banned and encoder is not None for banned, encoder in tok._native.encoders.items())


@needs_compiler
def test_a_map_keeps_its_pages_and_forgets_long_stretches():
    from pikojax.text.char_map import CharMap

    lower = CharMap(str.lower, lambda old, new: False)
    assert lower("ÀB".encode()) == "àb".encode()
    error, library = ctypes.create_string_buffer(native.ERROR_SIZE), native.typed_library()
    sizes = np.ones(256, np.int8)  # another thread that was late, with something else to say
    assert library.pikojax_text_map_page(lower._handle, 0, sizes.ctypes.data, b"?" * 256, error) == 0
    assert lower("ÀB".encode()) == "àb".encode()

    composed = CharMap(lambda text: unicodedata.normalize("NFC", text), lambda old, new: "\u0300" in old + new)
    for n in (10, 1000):
        assert composed(("e\u0300" * n).encode()) == ("è" * n).encode()
    assert list(composed._known) == [("e\u0300" * 10).encode()]


@needs_compiler
def test_threads_fill_a_map_together():
    from pikojax.text.char_map import CharMap

    text = "".join(map(chr, range(0x100, 0xD000, 97))) * 3
    for _ in range(10):
        lower = CharMap(str.lower, lambda old, new: False)
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(lower, [text.encode()] * 8)) == {text.lower().encode()}


@needs_compiler
def test_a_page_s_sizes_live_until_they_are_read():
    """Other threads run as soon as the call begins: were the array gone, theirs would stand in its place."""
    from pikojax.text.char_map import CharMap

    class OthersRunFirst:
        def __init__(self, library):
            self.library = library

        def __getattr__(self, name):
            function = getattr(self.library, name)
            others = []
            return lambda *arguments: (others.extend(np.full(256, 7, np.int8) for _ in range(50)), function(*arguments))[1]

    upper = CharMap(str.upper, lambda old, new: False)
    upper._library = OthersRunFirst(upper._library)
    text = "".join(map(chr, range(0x100, 0x600)))
    assert upper(text.encode()).decode() == text.upper()


@needs_compiler
def test_a_table_that_points_at_itself_is_left_to_python():
    units = np.arange(256, dtype="<u4") << 10 | np.where(np.arange(256) < 128, 0, np.arange(256)).astype("<u4")  # all bytes lead everywhere
    table = base64.b64encode(np.array([1024], "<u4").tobytes() + units.tobytes() + b"x\0").decode()
    normalizer = kind("SentencePiece", precompiled_charsmap=table, add_dummy_prefix=True, remove_extra_whitespaces=True, escape_whitespaces=True)
    tok = Tokenizer(trees.tree(trees.BYTES_BPE, normalizer=normalizer))
    assert tok._native is not None, tok._planned[1]
    start = time.perf_counter()
    assert attempt(tok.encode, "lower é") == attempt(tok.encode_slowly, "lower é")
    assert time.perf_counter() - start < 2


@needs_compiler
def test_memory_that_is_not_there_is_one_line():
    """In a process of its own, with a limit on its memory: a failed allocation must not end it."""
    code = """
import resource
from pikojax.text import word_splitters
from pikojax.text.word_counts import WordCounts, count_texts
counts = count_texts(["a few words"], word_splitters.scanner("gpt2"), threads=1, native=True)
big = {b"x%030d" % i: 1 for i in range(400_000)}
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (40 << 20), -1))
try:
    counts.add(big)
except MemoryError as error:
    print("line:", error)
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc to read the size of a process from")
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    if "libasan" in environ.get("LD_PRELOAD", ""):
        pytest.skip("AddressSanitizer ends a process for which there is no memory")
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("line: not enough memory")


@needs_compiler
def test_byte_tokens_are_read_as_python_reads_them(monkeypatch):
    from pikojax.text import tokenizer as module

    names = ["<0x+A>", "<0x4a>", "<0xA+>", "<0x A>", "<0X41>", "<0x-A>", "<0x41>"]
    model = trees.bpe("ab", [], [*names, *trees.BYTES], byte_fallback=True)
    tok = Tokenizer(trees.tree(model, decoder=trees.LLAMA_DECODER))
    ids = [tok.ids[name] for name in names] * 1000
    assert tok._fast_decoder is not None
    fast = tok.decode(ids)
    monkeypatch.setattr(module, "FAST_FROM_IDS", 1 << 60)
    assert fast == tok.decode(ids)


@needs_compiler
def test_all_bytes_need_no_unknown_token():
    assert native.plan(trees.tree({**trees.BYTE_BPE, "unk_token": "<none>"}, pre_tokenizer=trees.BYTE_LEVEL))[0] is not None
    fewer = {token: i for token, i in trees.BYTE_BPE["vocab"].items() if token != "Ċ"}
    made, why = native.plan(trees.tree({**trees.BYTE_BPE, "vocab": fewer, "unk_token": "<none>"}, pre_tokenizer=trees.BYTE_LEVEL))
    assert made is None and "unknown token" in why
