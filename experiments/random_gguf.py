"""A GGUF file of any size with random weights, for what is measured of loading and speed: random_gguf.py OUT.gguf [TYPE]

    write("1b.gguf", "q4_0")     →  2048 wide, 16 layers, 32 heads (8 of keys and values), 8192 hidden, 32,000 tokens: 1.1 billion weights

Every matrix is of the one type (llama.cpp's own tools would give the head more bits). The codes of packed weights are drawn as bytes, and only
scales are numbers, so that a gigabyte takes seconds; weights have about the spread of a trained model's. The vocabulary is made up of a
byte each and of strings of one to three letters, with and without a space before them, in SentencePiece's way: any text can be
read, and llama.cpp takes the file too.
"""

import itertools
import sys
from pathlib import Path
from string import ascii_lowercase

sys.path.insert(0, str(Path(__file__).resolve().parent))
import trials  # noqa: F401 (which finds pikojax)

import numpy as np

from pikojax.config import LlamaConfig, require
from pikojax.formats import gguf_save
from pikojax.qtensor import FORMATS, QTensor
from pikojax.text.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN

LARGE = LlamaConfig(d_model=2048, n_layers=16, n_heads=32, n_kv_heads=8, d_hidden=8192, vocab_size=32_000, context=4096, tie=False, norm_eps=1e-5)
STD = 0.02
SPREAD = {"q4_0": 4.6, "q8_0": 73.9}  # of the codes when all their bytes are equally likely


def write(path: str | Path, type: str, cfg: LlamaConfig = LARGE, seed: int = 0) -> int:
    """The bytes written. `type`: q4_0, q8_0, f16 or f32."""
    require(type in (*SPREAD, "f16", "f32"), f"random weights are made as {', '.join(SPREAD)}, f16 or f32, not as {type!r}")
    return gguf_save.save(path, cfg, random_params(cfg, type, np.random.default_rng(seed)), None, vocabulary(cfg.vocab_size), f"random-{type}")


def random_params(cfg: LlamaConfig, type: str, rng: np.random.Generator) -> dict:
    D, F, V, HC, GC = cfg.d_model, cfg.d_hidden, cfg.vocab_size, cfg.n_heads * cfg.d_head, cfg.n_kv_heads * cfg.d_head
    norm = lambda: {"scale": np.ones(D, np.float32)}
    shapes = {"q": (D, HC), "k": (D, GC), "v": (D, GC), "out": (HC, D), "gate": (D, F), "up": (D, F), "down": (F, D)}
    block = lambda: {name: {"kernel": _matrix(*shape, type, rng)} for name, shape in shapes.items()} | {"norm1": norm(), "norm2": norm()}
    embed = _matrix(D, V, type, rng)
    stem = {"embed": embed if type in FORMATS else embed.T, "norm": norm()} | ({} if cfg.tie else {"head": _matrix(D, V, type, rng)})
    return stem | {"blocks": tuple(block() for _ in range(cfg.n_layers))}


def _matrix(K: int, N: int, type: str, rng: np.random.Generator):
    """[K, N], or a QTensor of that shape."""
    if type not in FORMATS:
        return (STD * rng.standard_normal((N, K), np.float32)).astype({"f16": np.float16, "f32": np.float32}[type]).T
    n_blocks, n_bytes = K // FORMATS[type].block_weights, FORMATS[type].block_bytes
    blocks = np.frombuffer(rng.bytes(N * n_blocks * n_bytes), np.uint8).reshape(N, n_blocks, n_bytes).copy()
    scales = (STD / SPREAD[type] * rng.uniform(0.7, 1.3, (N, n_blocks, 1))).astype(np.float16)
    blocks[..., :2] = scales.view(np.uint8)
    return QTensor(blocks.reshape(N, -1), None, None, type, (K, N))


def vocabulary(size: int) -> dict:
    """GGUF's metadata of a SentencePiece vocabulary: 3 control tokens, 256 bytes, then the pieces, the shorter the sooner they are made."""
    letters = [*ascii_lowercase, *ascii_lowercase.upper(), *"0123456789.,!?'\"-:;()\n"]
    words = itertools.chain(("▁", *letters), *([space + "".join(word) for word in itertools.product(ascii_lowercase, repeat=n) for space in ("▁", "")] for n in (1, 2, 3)))
    pieces = list(itertools.islice(dict.fromkeys(words), size - 259))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    require(len(tokens) == size, f"a vocabulary of {size:,} cannot be made up here; wanted 260 to {len(tokens):,}")
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(pieces)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "add_bos_token": True, "add_eos_token": False, "add_space_prefix": True}
    made = {"model": "llama", "tokens": tokens, "scores": -np.arange(size, dtype=np.float32), "token_type": np.array(types, np.int32), **ids}
    return {f"tokenizer.ggml.{name}": value for name, value in made.items()}


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit(__doc__.splitlines()[0])
    print(f"{write(sys.argv[1], (sys.argv[2:] or ['q4_0'])[0]):,} bytes")
