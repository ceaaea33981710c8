"""tiktoken's rank files: one line a token, base64 of its bytes and its rank, which is its id.

    "IQ== 0"  → the token b"!" has the id 0;    merging: of all neighbours whose bytes joined are a token, the lowest rank first

The file says nothing about how text is cut before merging nor which special tokens there are: that follows from the name
(cl100k_base.tiktoken), or from the number of tokens where the name says nothing. `read` gives a tokenizer.json's tree whose model
has `rank_order`: which pairs merge is decided by the token they make, not by a list of merges. The two differ rarely, and
tiktoken does the former.

Leaves out: special tokens of encodings that are not listed here, which a rank file cannot name.
"""

import binascii
import functools
from pathlib import Path

from pikojax.config import UserError, require
from pikojax.text.hf_json import read_up_to
from pikojax.text.patterns import PATTERNS

MAX_BYTES = 64 << 20
_LLAMA3 = "begin_of_text end_of_text reserved_special_token_0 reserved_special_token_1 finetune_right_pad_id step_id start_header_id " \
    "end_header_id eom_id eot_id python_tag"  # fmt: skip
_KINDS = {  # name → number of ranks, pattern, special tokens after them
    "gpt2": (50256, "gpt2", {"<|endoftext|>": 50256}),
    "r50k_base": (50256, "gpt2", {"<|endoftext|>": 50256}),
    "p50k_base": (50280, "gpt2", {"<|endoftext|>": 50256}),
    "p50k_edit": (50280, "gpt2", {"<|endoftext|>": 50256, "<|fim_prefix|>": 50281, "<|fim_middle|>": 50282, "<|fim_suffix|>": 50283}),
    "cl100k_base": (
        100256,
        "cl100k",
        {"<|endoftext|>": 100257, "<|fim_prefix|>": 100258, "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260, "<|endofprompt|>": 100276},
    ),
    "o200k_base": (199998, "o200k", {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}),
    "llama3": (
        128000,
        "cl100k",
        {f"<|{name}|>": 128000 + i for i, name in enumerate([*_LLAMA3.split(), *(f"reserved_special_token_{i}" for i in range(2, 247))])},
    ),
    "qwen": (
        151643,
        "qwen2",
        {f"<|{name}|>": 151643 + i for i, name in enumerate(["endoftext", "im_start", "im_end", *(f"extra_{i}" for i in range(205))])},
    ),
}
_FIRST = {"llama3": "<|begin_of_text|>"}  # what stands before every text


def looks_like(head: bytes) -> bool:
    """Whether a file that begins so is a rank file: base64, a space, a number."""
    token, _, rank = head.split(b"\n")[0].strip().partition(b" ")
    try:
        return rank.isdigit() and len(rank) < 9 and bool(binascii.a2b_base64(token, strict_mode=True))
    except ValueError:
        return False


def read(path: str | Path) -> dict:
    """The tree of a rank file."""
    path = Path(path)
    ranks = read_ranks(path)
    name = kind_of(path, len(ranks))
    n_ranks, pattern, specials = _KINDS[name]
    said = f"{path} holds {len(ranks)} tokens, {name} has {n_ranks}; the file is cut short or altered: fetch it again"
    require(len(ranks) == n_ranks, said)
    clash = next((special for special, id in specials.items() if id in ranks), None)
    require(clash is None, f"{path} gives the id of {clash} to a plain token; it is not {name}: name the file for what it is")
    chars = byte_chars()
    vocab = {"".join(map(chars.__getitem__, token)): rank for rank, token in sorted(ranks.items())} | specials  # whose ids stand apart
    split = {"type": "Split", "pattern": {"Regex": PATTERNS[pattern]}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, "content": special, **flags} for special, id in specials.items()],
        "normalizer": {"type": "NFC"} if name == "qwen" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": _template(_FIRST[name], specials[_FIRST[name]]) if name in _FIRST else None,
        "decoder": byte_level | {"add_prefix_space": True, "use_regex": True},
        "model": bpe_model(vocab, rank_order=True, ignore_merges=True),
    }


def bpe_model(vocab: dict[str, int], **more) -> dict:
    plain = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    return plain | {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": []} | more


def _template(token: str, id: int) -> dict:
    """A post-processor that puts `token` before each text."""
    first, second = (
        [{"SpecialToken": {"id": token, "type_id": i}}, {"Sequence": {"id": part, "type_id": i}}] for i, part in enumerate("AB")
    )
    special = {token: {"id": token, "ids": [id], "tokens": [token]}}
    return {"type": "TemplateProcessing", "single": first, "pair": first + second, "special_tokens": special}


def read_ranks(path: Path) -> dict[int, bytes]:
    """Rank → the token's bytes; all 256 single bytes are there, no token and no rank twice."""
    try:
        data = read_up_to(path, MAX_BYTES, "a rank file")
    except OSError as error:
        raise UserError(f"cannot read the rank file {path} ({error.strerror}); give a file that can be read") from None
    ranks: dict[int, bytes] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        encoded, _, rank = line.strip().partition(b" ")
        try:
            token = binascii.a2b_base64(encoded, strict_mode=True)
            good = rank.isdigit() and len(rank) < 9 and token != b"" and int(rank) not in ranks
        except ValueError:
            good = False
        require(good, f"{path}: line {number} is not a token in base64 and a rank of its own; the file is cut short or no rank file")
        ranks[int(rank)] = token
    require(bool(ranks), f"{path} is empty; a rank file has a line for each token")
    require(len(set(ranks.values())) == len(ranks), f"{path} has a token with two ranks; fetch the file again")
    n_bytes = sum(len(token) == 1 for token in ranks.values())
    require(n_bytes == 256, f"{path} has {n_bytes} of the 256 single bytes, so it cannot encode every text; fetch the file again")
    require(max(ranks) < 2 * len(ranks) + 1000, f"{path} has the rank {max(ranks)} among {len(ranks)} tokens; fetch the file again")
    return ranks


def kind_of(path: Path, n_ranks: int) -> str:
    """Which of the known encodings it is: by the file's name, else by how many tokens it has."""
    stem = path.name.lower()
    named = next((name for name in sorted(_KINDS, key=len, reverse=True) if name in stem), None)
    counted = next((name for name, (count, _, _) in _KINDS.items() if count == n_ranks), None)
    known = ", ".join(_KINDS)
    remedy = f"known are {known}: put one of these into the file's name"
    require(bool(named or counted), f"{path} has {n_ranks} tokens and a name that does not say how text is cut; {remedy}")
    return named or counted


@functools.cache
def byte_chars() -> list[str]:
    """GPT-2's printable character for each byte: itself where it prints, else the next code point from U+0100 on."""
    prints = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in prints]
    return [chr(byte) if byte in prints else chr(256 + others.index(byte)) for byte in range(256)]
