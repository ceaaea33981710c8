"""Small tokenizer.json trees that use every part, and texts that are apt to show where two implementations differ."""

import json
import random

from pikojax.text.byte_level import CHARS

TRICKY = [
    "", " ", "  ", "\n", "a", " a", "a ", "Hello, world!", "  two  spaces  ", "don't I'll we've 'S 'd", "tabs\tand\r\nlines\n\n x",
    "ΑΣ ΌΣΟΣ Σ", "İstanbul ǅ ﬁne ŉ", "e\u0301 é n\u0303 ñ \u0301x", "a\u0302\u0301\u0323b", "한국어 각 ᄀ", "中文字符。日本語の、テスト！",
    "x\u200by\u200dz\ufeff", "①②Ⅷ½ ㎏ ﷺ", "１２３ 123456 12,345.67", "👩\u200d👩\u200d👧 👍🏽 🇩🇪 ☺\ufe0f", "\x00\x01\x7f\x85\xa0\u3000\u2028",
    "ʼn \u1680 \u180e \u205f", "<s>x</s>", "<s> x </s>", "a<mask>b", "a <mask> b", " <mask>  <mask> ", "[CLS] x [SEP]", "<0x41><0x0A>",
    "word<w>word <w> <w>s", "Day day DAY Daylight", "▁▁ ▁a a▁", "``quoted'' \"x\"", "a,b;c.d?e!f-g_h", "low lower lowest newer wider",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 2, "\U0001d400\U00010348\U000e0041\U0010fffd", "\ud7ff\ue000\ufffd\uffff",
    "ก็ำ ຳ नि क्षि த்ர", "\u0600\u0661 \u06dd1 \uff76\uff9e\uff9f", "é́́́", "end</w> </w>", "Ġx Ċ Â£",
]  # fmt: skip

_CHARS = (
    "abcdeéilnorstw ABCDEΣσςİıß  \t\n\r'’.,!?-_$+#▁0123Ⅷ½①ﬁñ\u0301\u0302\u0323\u200b\u200d\u00a0\u3000\u2028中文日本語のテ한각"
    "\U0001f469\U0001f3fd\U0001f1e9ก็ำक्षि\u0600\u0300\uff9e\x00\x01\x7f\x85\ufffd\ufeff"
)
_WORDS = ["low", "lower", "lowest", " new", "er", "wid", "<s>", "</s>", "<mask>", "[CLS]", "<w>", "Day", "day", "<0x41>", "``", "''", "</w>",
          "   ", "\r\n", "'s", "'LL", " ", "▁", "##er", "<unk>", "DAY", "ﬀ", "e\u0301", "Ａ"]  # fmt: skip


def fuzzed(rng: random.Random, words=()) -> str:
    """A text of a few characters and words, or one run, or characters of any plane."""
    words, parts = [*_WORDS, *words], []
    for _ in range(rng.choice((1, 3, 8, 20))):
        kind = rng.random()
        if kind < 0.4:
            parts.append(rng.choice(_CHARS))
        elif kind < 0.75:
            parts.append(rng.choice(words))
        elif kind < 0.8:
            parts.append(rng.choice(_CHARS) * rng.randrange(2, 60))
        else:
            code = rng.randrange(rng.choice((0x80, 0x250, 0x3000, 0x10000, 0x110000)))
            parts.append(chr(code) if not 0xD800 <= code < 0xE000 else "?")
    return "".join(parts)


def added(content: str, id: int, **flags) -> dict:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": id, "content": content, **plain, **flags}


def tree(model: dict, **parts) -> dict:
    names = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], **dict.fromkeys(names), "model": model, **parts}


def bpe(chars, merges, more=(), **options) -> dict:
    merges = [pair.split() for pair in merges]
    tokens = list(dict.fromkeys([*more, *chars, *("".join(pair) for pair in merges)]))
    options = {"merges": [list(pair) for pair in merges], **options}
    plain = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False}
    vocab = {token: i for i, token in enumerate(tokens)}
    return {"type": "BPE", **plain, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, **options}


MERGES = ["l o", "lo w", "e r", "n e", "ne w", "w i", "d er", "wi der", "o w", "a a", "aa aa", "aaaa aa", "e s", "es t", "low est", "Ġ low"]
BYTE_BPE = bpe(CHARS, [*MERGES, "Ġ a", "Ã ©", "Ġ Ġ", "ĠĠ ĠĠ"], ["<s>", "</s>", "<mask>"])
LINES_BPE = bpe(CHARS, [*MERGES, "Ġ a", "Ã ©", "Ġ Ġ", "ĠĠ ĠĠ", "Ċ Ċ"], ["<s>", "</s>", "<mask>"])
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDE é中▁.,'"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
CHAR_BPE = bpe(LETTERS, MERGES[:-1] + ["▁ low", "▁ a", "▁ ▁"], ["<unk>", "<s>", "</s>"], unk_token="<unk>")
BYTES_BPE = bpe(LETTERS, CHAR_BPE["merges"] and [" ".join(pair) for pair in CHAR_BPE["merges"]], ["<unk>", "<s>", "</s>", *BYTES],
                unk_token="<unk>", fuse_unk=True, byte_fallback=True)  # fmt: skip


def wordpiece(**options) -> dict:
    words = ["low", "##er", "##est", "new", "wid", "day", "Day", "中", "é", "e", "[", "]", "CLS", "##s", "##e", "##w", "##o", "l", "a", "##a", "##aa"]
    tokens = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", *words, *(c for c in "bcdfghijkmnopqrstuvwxyz.,!?'-123σ" if c not in words)]
    vocab = {token: i for i, token in enumerate(tokens)}
    options = {"unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 20, **options}
    return {"type": "WordPiece", **options, "vocab": vocab}


def unigram(bytes_too=False, **options) -> dict:
    entries = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)] + ([(token, 0.0) for token in BYTES] if bytes_too else [])
    words = "▁ ▁low er est ▁new ▁a a aa aaa b c d e é ▁D ay 中 文 l o w n s t r i . , ' <0x41 ▁▁".split()
    entries += [(word, -2.0 - 0.25 * (i % 7)) for i, word in enumerate(words)]
    return {"type": "Unigram", "unk_id": 0, "byte_fallback": bytes_too, "vocab": [list(entry) for entry in entries], **options}


def wordlevel() -> dict:
    words = ["<unk>", "low", "lower", "day", "Day", "a", "b", ",", ".", " ", "中", "'"]
    return {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"}


def regex(pattern: str) -> dict:
    return {"Regex": pattern}


def string(text: str) -> dict:
    return {"String": text}


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
LLAMA_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": string("▁"), "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}
FLAGGED = [
    added("<s>", 900), added("</s>", 901), added("<mask>", 902, lstrip=True), added("<w>", 903, single_word=True, special=False),
    added("Day", 904, normalized=True, special=False), added("``", 905, rstrip=True, special=False), added("</w>x", 906, special=False),
    added("</w>", 907, lstrip=True, rstrip=True, special=False), added("DAY light", 908, normalized=True, special=False), added("ﬀ", 909, normalized=True, special=False),
]  # fmt: skip


def charsmap(entries: dict[str, str]) -> str:
    """A table of replacements like SentencePiece's, in base64; a double array made the slow way."""
    import base64

    texts, places = b"", {}
    for key, value in entries.items():
        places[key.encode()] = len(texts)
        texts += value.encode() + b"\0"
    nodes: dict[bytes, set[int]] = {b"": set()}
    for key in places:
        for n in range(len(key)):
            nodes.setdefault(key[:n], set()).add(key[n])
            nodes.setdefault(key[: n + 1], set())
    units, used, queue = {0: 0}, {0}, [(b"", 0)]
    while queue:
        prefix, at = queue.pop(0)
        labels = sorted(nodes[prefix]) + ([0] if prefix in places else [])
        if not labels:
            continue
        offset = next(o for o in range(1, 1 << 20) if all((at ^ o ^ label) not in used for label in labels))
        units[at] = units.get(at, 0) | offset << 10 | (0x100 if prefix in places else 0)
        for label in labels:
            child = at ^ offset ^ label
            used.add(child)
            if label == 0:
                units[child] = 0x80000000 | places[prefix]
            else:
                units[child] = label
                queue.append((prefix + bytes([label]), child))
    size = max(units) + 1
    size += -size % 256
    array = b"".join(units.get(i, 0x7F).to_bytes(4, "little") for i in range(size))
    return base64.b64encode(len(array).to_bytes(4, "little") + array + texts).decode()


CHARSMAP = charsmap({"ﬁ": "fi", "①": "1", "\u00e9": "e\u0301", "e\u0301": "\u00e9", "\r": " ", "\t": " ", "\u200b": "", "Ａ": "A", "㎏": "kg",
                     "½": "1⁄2", "\xa0": " ", "ﬀ": "ff", "e": "e", "ﷺ": "صلى الله عليه وسلم", "\u0301": ""})  # fmt: skip


def text_of(tree: dict) -> str:
    return json.dumps(tree)
