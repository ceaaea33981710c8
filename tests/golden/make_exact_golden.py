"""Makes text_exact.json: what each vocabulary's own program makes of 300 fuzzed texts, special tokens read as text.

    python tests/golden/make_exact_golden.py          (needs tokenizers, tiktoken, sentencepiece and PIKOJAX_DATA)

For each vocabulary and text the CRC-32 of the ids as Python writes their list.
"""

import json
import random
import sys
import zlib
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

from text_peers import NAMES, strings, theirs  # noqa: E402

WORDS = ("the", " and", "ing", "tokenizer", "▁the", "##ing", "2024", "return", "größer", "東京", "мир")
texts = [text.replace("\0", "") for text in strings(random.Random("golden"), 300, WORDS, ["<|endoftext|>", "<s>", "[SEP]", "<unk>"])]
ids = {name: [zlib.crc32(str(found).encode()) for found in theirs(name).plain(texts)] for name in NAMES}
lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(found, separators=(',', ':'))}" for name, found in ids.items())
body = ",\n".join(map(json.dumps, texts))
(HERE / "text_exact.json").write_text('{"texts": [\n' + body + '\n],\n"ids": {\n' + lines + "\n}}\n", encoding="utf-8")
