"""Vocabularies as their first publications had them: BERT's vocab.txt, GPT-2's vocab.json with merges.txt.

    vocab.txt    one WordPiece a line, the line's number is its id          → BertNormalizer, BertPreTokenizer, [CLS] … [SEP]
    vocab.json   {"!": 0, …}; merges.txt "Ġ t" a line, the first merge first → byte-level BPE; with </w> at ends of words, CLIP's

How text is prepared is not in these files. A `tokenizer_config.json` beside them is asked for the class, lower-casing and
special tokens; without one they follow from the vocabulary: BERT's is lower-cased if no piece has a capital, a vocabulary with
`</w>` is CLIP's, one with `<s>` and `</s>` RoBERTa's, else GPT-2's.

Leaves out: other models' ways of preparing text; their tokenizer.json has it.
"""

import io
from pathlib import Path

from pikojax.config import UserError, require
from pikojax.text import hf_json
from pikojax.text.hf_json import read_up_to
from pikojax.text.patterns import PATTERNS
from pikojax.text.rank_file import bpe_model

MAX_BYTES = 64 << 20
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def read_text(path: Path) -> str:
    try:
        return io.TextIOWrapper(io.BytesIO(read_up_to(path, MAX_BYTES, "a vocabulary")), "utf-8").read()  # with every kind of line end as \n
    except OSError as error:
        raise UserError(f"cannot read the vocabulary {path} ({error.strerror}); give a file that can be read") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; give a vocabulary as it was published") from None


def _config(folder: Path) -> dict:
    """`tokenizer_config.json` beside a vocabulary; {} where there is none."""
    file = folder / "tokenizer_config.json"
    return read_json(file) if file.exists() else {}


def read_json(path: Path) -> dict:
    tree = hf_json.parsed(read_text(path).encode(), path, "give the file as it was published")
    require(isinstance(tree, dict), f"{path} holds no JSON object; give the file as it was published")
    return tree


def _added(contents: list[str], vocab: dict[str, int], **flags) -> list[dict]:
    found = sorted((vocab[content], content) for content in contents if content in vocab)
    return [{"id": id, "content": content, **_FLAGS, **flags.get(content, {})} for id, content in found]


# ---------------------------------------------------------------- BERT


def looks_like_bert(head: bytes) -> bool:
    """Whether a file that begins so is a vocab.txt: short lines, [PAD] or [UNK] among the first."""
    lines = head.split(b"\n")[:200]
    return any(line.strip() in (b"[PAD]", b"[UNK]") for line in lines)


def read_bert(path: str | Path) -> dict:
    path = Path(path)
    text, config = read_text(path), _config(path.parent)
    lines = text.split("\n")
    tokens = lines[:-1] if lines[-1] == "" else lines
    vocab = {token: id for id, token in enumerate(tokens)}  # of a token that stands twice the last counts, as for BERT
    require("[UNK]" in vocab, f"{path} has no [UNK] line; a BERT vocabulary has one")
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    has_capitals = any(token != token.lower() for token in vocab if not (token.startswith("[") and token.endswith("]")))
    lowercase = config.get("do_lower_case", not has_capitals)
    require(isinstance(lowercase, bool), f"{path.parent / 'tokenizer_config.json'}: do_lower_case = {lowercase!r}; give true or false")
    strip = config.get("strip_accents") if isinstance(config.get("strip_accents"), bool) else None
    chinese = config.get("tokenize_chinese_chars", True) is not False
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": chinese}
    normalizer |= {"strip_accents": strip, "lowercase": lowercase}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(specials, vocab),
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _bert_template(vocab) if "[CLS]" in vocab and "[SEP]" in vocab else None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": model,
    }


def _bert_template(vocab: dict[str, int]) -> dict:
    def special(token: str, type_id: int) -> dict:
        return {"SpecialToken": {"id": token, "type_id": type_id}}

    single = [special("[CLS]", 0), {"Sequence": {"id": "A", "type_id": 0}}, special("[SEP]", 0)]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}, special("[SEP]", 1)]
    ids = {token: {"id": token, "ids": [vocab[token]], "tokens": [token]} for token in ("[CLS]", "[SEP]")}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": ids}


# ---------------------------------------------------------------- GPT-2, RoBERTa, CLIP, Qwen 2


def read_gpt2(vocab_path: str | Path, merges_path: str | Path | None = None) -> dict:
    """From vocab.json and the merges.txt beside it."""
    vocab_path = Path(vocab_path)
    merges_path = Path(merges_path) if merges_path else vocab_path.with_name("merges.txt")
    vocab, config = read_json(vocab_path), _config(vocab_path.parent)
    good = bool(vocab) and all(type(id) is int and 0 <= id < 2 * len(vocab) + 1000 for id in vocab.values())
    require(good and len(set(vocab.values())) == len(vocab), f"{vocab_path} does not give each token an id of its own; fetch it again")
    merges = _merges(merges_path, vocab, vocab_path)
    kind = _kind(vocab, config)
    tree = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": _BYTE_LEVEL}
    tree |= {"post_processor": None, "decoder": _BYTE_LEVEL, "model": bpe_model(vocab, merges=merges)}
    prefix_space = config.get("add_prefix_space") is True
    if prefix_space:
        tree["pre_tokenizer"] = _BYTE_LEVEL | {"add_prefix_space": True}
    if kind == "clip":
        _make_clip(tree, vocab)
    elif kind == "roberta":
        mask = {"<mask>": {"lstrip": True}}
        tree["added_tokens"] = _added(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], vocab, **mask)
        tree["post_processor"] = {
            "type": "RobertaProcessing",
            "sep": ["</s>", vocab["</s>"]],
            "cls": ["<s>", vocab["<s>"]],
            "trim_offsets": True,
            "add_prefix_space": prefix_space,
        }
    elif kind == "qwen2":
        split = {"type": "Split", "pattern": {"Regex": PATTERNS["qwen2"]}, "behavior": "Isolated", "invert": False}
        byte_level = _BYTE_LEVEL | {"use_regex": False}
        tree["normalizer"] = {"type": "NFC"}
        tree["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, byte_level]}
        tree["added_tokens"] = _added(["<|endoftext|>"], vocab)
    else:
        tree["added_tokens"] = _added(["<|endoftext|>"], vocab)
    _add_from_config(tree, config, vocab_path)
    return tree


def _kind(vocab: dict, config: dict) -> str:
    name = str(config.get("tokenizer_class", "")).removesuffix("Fast").removesuffix("Tokenizer").lower()
    if name in ("gpt2", "clip", "qwen2", "roberta"):
        require(name != "roberta" or {"<s>", "</s>"} <= vocab.keys(), "RoBERTa's vocabulary needs <s> and </s>; give its own vocab.json")
        return name
    if "!</w>" in vocab:
        return "clip"
    return "roberta" if {"<s>", "</s>", "<mask>"} <= vocab.keys() else "gpt2"


def _merges(path: Path, vocab: dict, vocab_path: Path) -> list[list[str]]:
    merges = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.startswith("#version") or not line:
            continue
        pair = line.split(" ")
        require(len(pair) == 2, f"{path}: line {number} is {line[:40]!r}; each line has two tokens and a space between them")
        missing = next((token for token in (*pair, "".join(pair)) if token not in vocab), None)
        said = f"{path}: line {number} merges {line[:40]!r}, but {vocab_path.name} lacks {str(missing)[:40]!r}"
        require(missing is None, f"{said}; both must be of one model")
        merges.append(pair)
    return merges


def _make_clip(tree: dict, vocab: dict[str, int]) -> None:
    first, last = "<|startoftext|>", "<|endoftext|>"
    require(first in vocab and last in vocab, f"CLIP's vocabulary needs {first} and {last}; give its own vocab.json")
    pattern = "<\\|startoftext\\|>|<\\|endoftext\\|>|" + PATTERNS["clip"]
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True}
    spaces = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    tree["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}, spaces, {"type": "Lowercase"}]}
    tree["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL]}
    tree["model"] |= {"unk_token": last, "continuing_subword_prefix": "", "end_of_word_suffix": "</w>"}
    tree["added_tokens"] = _added([first, last], vocab)
    tree["post_processor"] = {
        "type": "RobertaProcessing",
        "sep": [last, vocab[last]],
        "cls": [first, vocab[first]],
        "trim_offsets": False,
        "add_prefix_space": False,
    }


def _add_from_config(tree: dict, config: dict, vocab_path: Path) -> None:
    """The added tokens that tokenizer_config.json or added_tokens.json list with their ids."""
    listed = config.get("added_tokens_decoder")
    entries = dict(listed) if isinstance(listed, dict) else {}
    file = vocab_path.with_name("added_tokens.json")
    if not entries and file.exists():
        entries = {str(id): {"content": content} for content, id in read_json(file).items()}
    by_content = {entry["content"]: entry for entry in tree["added_tokens"]}
    vocab = tree["model"]["vocab"]
    taken = set(vocab.values())
    for id, entry in entries.items():
        content = entry.get("content") if isinstance(entry, dict) else None
        good = isinstance(content, str) and content != "" and id.isdigit() and len(id) < 9
        require(good, f"{vocab_path.parent}: the added token {str(id)[:20]!r} needs a number and its content; mend tokenizer_config.json")
        flags = {flag: bool(entry.get(flag, default)) for flag, default in _FLAGS.items()}
        by_content[content] = {"id": int(id), "content": content, **flags}
        if content not in vocab and int(id) not in taken:  # in the vocabulary too: an added token alone would get the next free id
            vocab[content] = int(id)
            taken.add(int(id))
    tree["added_tokens"] = sorted(by_content.values(), key=lambda entry: entry["id"])
