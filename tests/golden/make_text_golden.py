"""Makes text_pipeline.json: what tokenizers makes of the tricky texts with every small tree of tests/text_compare.py.

    python tests/golden/make_text_golden.py          (needs tokenizers)

For each tree and text the CRC-32 of the ids as Python writes their list; null where tokenizers refuses the text.
"""

import json
import sys
import zlib
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

import tokenizers  # noqa: E402
from text_compare import trees  # noqa: E402
from text_trees import TRICKY, text_of  # noqa: E402


def ids_of(tokenizer, text: str) -> int | None:
    try:
        return zlib.crc32(str(tokenizer.encode(text).ids).encode())
    except Exception:
        return None


found = {}
for name, tree in trees().items():
    tokenizer = tokenizers.Tokenizer.from_str(text_of(tree))
    found[name] = [ids_of(tokenizer, text) for text in TRICKY]
lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(ids, separators=(',', ':'))}" for name, ids in found.items())
(HERE / "text_pipeline.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")
