"""SentencePiece's `.model` files: a protobuf message read by hand, turned into a tokenizer.json's tree.

    message = (number << 3 | wire type, value) …     pieces: field 1, each {1: text, 2: float32 score, 3: type}

A BPE model merges the pair whose joined text is the piece with the highest score, leftmost first: `score_order` in the tree's model,
with `scores` by id. (Where scores fall as ids rise, as they do in trained files, that is `rank_order`.) Further private
keys of the model, all lists of pieces: `reserved` (control, unknown and byte pieces: text never becomes one), `user_defined` (cut out of
the text before anything else, never merged) and `unused` (merged through, then taken apart again).
A Unigram model adds its scores up in float32 over the whole text, as SentencePiece does: `float32`; ties and near ties differ from
what double precision finds.

The normalizer is written as Hugging Face spells it where that means the same (no character map, spaces kept: Llama), else as
`{"type": "SentencePiece", …}` with the file's own map and options, which `save` spells out as near as Hugging Face's parts can.

Leaves out: `word` models, sampling, the training options that a file also lists.
"""

import base64
import struct
from pathlib import Path

from pikojax.config import UserError, require
from pikojax.text.hf_json import read_up_to
from pikojax.text.rank_file import _template, bpe_model

MAX_BYTES, MAX_PIECES, MAX_PIECE_BYTES = 64 << 20, 1_000_000, 8000  # SentencePiece itself refuses longer pieces
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_MODEL_TYPES = {1: "Unigram", 2: "BPE", 3: "word", 4: "char"}
SPACE = "▁"


def looks_like(head: bytes) -> bool:
    """Whether a file that begins so is a SentencePiece model: a first field 1 that holds a field 1 of text."""
    return len(head) > 4 and head[0] == 0x0A and head[2 if head[1] < 128 else 3] == 0x0A


def read(path: str | Path) -> dict:
    """The tree of a `.model` file."""
    path = Path(path)
    try:
        data = read_up_to(path, MAX_BYTES, "a SentencePiece model")
        require(data != b"", f"{path} is empty; give another file")
    except OSError as error:
        raise UserError(f"cannot read the SentencePiece model {path} ({error.strerror}); give a file that can be read") from None
    try:
        spec = parse(data)
    except (IndexError, struct.error, UnicodeDecodeError, _Broken) as error:
        raise UserError(f"{path} is no whole SentencePiece model ({str(error)[:60]}); it is cut short or another kind of file") from None
    return to_tree(spec, str(path))


# ---------------------------------------------------------------- protobuf


class _Broken(ValueError):
    pass


def _fields(data: bytes, start: int, end: int):
    """(number, wire type, value) of a message; a value is an int (varint, or the 4 or 8 bytes) or the (start, end) of bytes."""
    at = start
    while at < end:
        key, at = _varint(data, at, end)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at, end)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
            value, at = (at, at + length), at + length
        elif wire == 2:
            length, at = _varint(data, at, end)
            value, at = (at, at + length), at + length
        else:
            raise _Broken(f"wire type {wire} at byte {at}")
        if at > end:
            raise _Broken(f"a field ends at byte {at}, its message at {end}")
        yield key >> 3, wire, value


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _Broken(f"it ends inside a number at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise _Broken(f"a number of more than 10 bytes before byte {at}")


def _span(wire: int, value) -> tuple[int, int]:
    if wire != 2:
        raise _Broken("a field of another type than the format has")
    return value


def _number(wire: int, value) -> int:
    if wire != 0:
        raise _Broken("a field of another type than the format has")
    return value


def parse(data: bytes) -> dict:
    """{pieces: [(text, score, type)], trainer: {field: value}, normalizer: {…}} with the format's defaults."""
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, tuple] = {}
    normalizer: dict[int, tuple] = {}
    begin = _usual_pieces(data, pieces)
    for number, wire, value in _fields(data, begin, len(data)):
        if number == 1:
            pieces.append(_piece(data, *_span(wire, value)))
            if len(pieces) > MAX_PIECES:
                raise _Broken(f"more than {MAX_PIECES} pieces")
        elif number in (2, 3):
            target = trainer if number == 2 else normalizer
            target.update({field: (field_wire, inner) for field, field_wire, inner in _fields(data, *_span(wire, value))})

    def text(fields: dict, field: int, default: str) -> str:
        return data[slice(*_span(*fields[field]))].decode() if field in fields else default

    def number_of(fields: dict, field: int, default: int) -> int:
        found = _number(*fields[field]) if field in fields else default
        return found - (1 << 64) if found >> 63 else found

    charsmap = data[slice(*_span(*normalizer[2]))] if 2 in normalizer else b""
    return {
        "pieces": pieces,
        "model_type": number_of(trainer, 3, 1),
        "suffix": bool(number_of(trainer, 24, 0)),
        "byte_fallback": bool(number_of(trainer, 35, 0)),
        "bos": text(trainer, 46, "<s>") if number_of(trainer, 41, 1) >= 0 else None,
        "eos": text(trainer, 47, "</s>") if number_of(trainer, 42, 2) >= 0 else None,
        "name": text(normalizer, 1, ""),
        "charsmap": charsmap,
        "dummy_prefix": bool(number_of(normalizer, 3, 1)),
        "remove_extra": bool(number_of(normalizer, 4, 1)),
        "escape": bool(number_of(normalizer, 5, 1)),
    }


def _usual_pieces(data: bytes, pieces: list) -> int:
    """The pieces from the file's beginning on, as long as each is a short text, a score and perhaps a type: the same as `_piece`
    four times as fast. Gives the byte where it stopped."""
    at, n, score_at = 0, len(data), struct.Struct("<f").unpack_from
    while at + 4 < n and data[at] == 0x0A and data[at + 1] < 128 and data[at + 2] == 0x0A and len(pieces) < MAX_PIECES:
        end, score = at + 2 + data[at + 1], at + 4 + data[at + 3]  # the text ends where the score's field begins
        if end > n or end - score not in (5, 7) or data[score] != 0x15:
            break
        kind = NORMAL
        if end - score == 7:
            kind = data[score + 6]
            if data[score + 5] != 0x18 or kind > 127:
                break
        pieces.append((data[at + 4 : score].decode(), score_at(data, score + 1)[0], kind))
        at = end
    return at


def _piece(data: bytes, start: int, end: int) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for number, wire, value in _fields(data, start, end):
        if number == 1:
            first, last = _span(wire, value)
            if last - first >= MAX_PIECE_BYTES:
                raise _Broken(f"a piece of {last - first} bytes")
            text = data[first:last].decode()
        elif number == 2:
            if wire != 5:
                raise _Broken("a score that is no float")
            score = struct.unpack_from("<f", data, value[0])[0]
        elif number == 3:
            kind = _number(wire, value)
    return text, score, kind


# ---------------------------------------------------------------- the tree


def to_tree(spec: dict, file: str) -> dict:
    vocab = _check(spec, file)
    pieces = spec["pieces"]
    unk_id = next(i for i, (_, _, kind) in enumerate(pieces) if kind == UNKNOWN)
    kind = _MODEL_TYPES.get(spec["model_type"])
    said = f"{file} is a model of type {kind or spec['model_type']!r}; those known are unigram, bpe and char"
    require(kind in ("BPE", "Unigram", "char"), said)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": i, "content": text, **flags, "special": True}
        for i, (text, _, type_) in enumerate(pieces)
        if type_ in (UNKNOWN, CONTROL)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": _normalizer(spec),
        "pre_tokenizer": None,
        "post_processor": _post_processor(spec, kind, vocab),
        "decoder": _decoder(spec),
        "model": _unigram(spec, unk_id) if kind == "Unigram" else _bpe(spec, vocab, unk_id, kind),
    }


def _check(spec: dict, file: str) -> dict[str, int]:
    """What SentencePiece itself asks of a file. Gives piece → id."""
    vocab: dict[str, int] = {}
    n_unknown, bytes_found = 0, set()
    for i, (text, score, kind) in enumerate(spec["pieces"]):
        require(text != "" and "\0" not in text, f"{file}: piece {i} is {text[:20]!r}; a piece is text without a null character")
        require(vocab.setdefault(text, i) == i, f"{file}: the piece {text[:40]!r} stands there twice; fetch the file again")
        require(abs(score) < float("inf"), f"{file}: piece {i} has the score {score}; give a file with finite scores")
        require(NORMAL <= kind <= BYTE, f"{file}: piece {i} is of type {kind}; the types are 1 to 6")
        n_unknown += kind == UNKNOWN
        if kind == BYTE:
            good = len(text) == 6 and text.startswith("<0x") and text.endswith(">") and text[3:5].upper() == text[3:5]
            try:
                bytes_found.add(int(text[3:5], 16) if good else -1)
            except ValueError:
                bytes_found.add(-1)
    require(n_unknown == 1, f"{file} has {n_unknown} unknown pieces; a model has one")
    wanted = set(range(256)) if spec["byte_fallback"] else set()
    require(bytes_found == wanted, f"{file} has {len(bytes_found - {-1})} byte pieces, wanted {len(wanted)}; fetch the file again")
    return vocab


def _of_type(spec: dict, *kinds: int) -> list[str]:
    return [text for text, _, kind in spec["pieces"] if kind in kinds]


def _private(spec: dict) -> dict:
    types = {"reserved": (UNKNOWN, CONTROL, BYTE), "user_defined": (USER_DEFINED,), "unused": (UNUSED,)}
    lists = {name: _of_type(spec, *kinds) for name, kinds in types.items()}
    return {name: found for name, found in lists.items() if found}


def _bpe(spec: dict, vocab: dict[str, int], unk_id: int, kind: str) -> dict:
    pieces = spec["pieces"]
    more = {"unk_token": pieces[unk_id][0], "fuse_unk": True, "byte_fallback": spec["byte_fallback"]}
    if kind == "char":
        return bpe_model(vocab, **more, **_private(spec))
    scores = [score for _, score, type_ in pieces if type_ in (NORMAL, UNUSED, USER_DEFINED)]
    falling = all(a > b for a, b in zip(scores, scores[1:], strict=False))
    order = {"rank_order": True} if falling else {"score_order": True, "scores": [score for _, score, _ in pieces]}
    usable = {text for text, _, type_ in pieces if type_ in (NORMAL, UNUSED, USER_DEFINED)}
    if any(char not in usable for text in usable for char in text):
        order["text_symbols"] = True  # a character without a piece of its own may become part of one
    return bpe_model(vocab, **more, **order, **_private(spec))


def _unigram(spec: dict, unk_id: int) -> dict:
    vocab = [[text, score] for text, score, _ in spec["pieces"]]
    return {"type": "Unigram", "unk_id": unk_id, "vocab": vocab, "byte_fallback": spec["byte_fallback"], "float32": True, **_private(spec)}


def _normalizer(spec: dict) -> dict | None:
    plain = not spec["charsmap"] and not spec["remove_extra"] and spec["escape"] and not spec["suffix"]
    if plain and not _of_type(spec, USER_DEFINED):
        spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        prefix = [{"type": "Prepend", "prepend": SPACE}] if spec["dummy_prefix"] else []
        return {"type": "Sequence", "normalizers": [*prefix, spaces]}
    return {
        "type": "SentencePiece",
        "precompiled_charsmap": base64.b64encode(spec["charsmap"]).decode() or None,
        "add_dummy_prefix": spec["dummy_prefix"],
        "remove_extra_whitespaces": spec["remove_extra"],
        "escape_whitespaces": spec["escape"],
        "treat_whitespace_as_suffix": spec["suffix"],
        "user_defined": _of_type(spec, USER_DEFINED),
    }


def _decoder(spec: dict) -> dict:
    """▁ is a space; bytes are joined; the space that was put before the text (or after it) goes away again."""
    steps: list[dict] = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}]
    steps += [{"type": "ByteFallback"}] if spec["byte_fallback"] else []
    steps += [{"type": "Fuse"}]
    if spec["dummy_prefix"]:
        steps.append({"type": "Strip", "content": " ", "start": 0 if spec["suffix"] else 1, "stop": 1 if spec["suffix"] else 0})
    return {"type": "Sequence", "decoders": steps}


def _post_processor(spec: dict, kind: str, vocab: dict[str, int]) -> dict | None:
    """What the families that publish bare `.model` files put around a text: Llama `<s>` before it, T5 `</s>` after it."""
    bos, eos = spec["bos"], spec["eos"]
    if kind == "BPE" and spec["byte_fallback"] and bos in vocab:
        return _template(bos, vocab[bos])
    if kind == "Unigram" and bos is None and eos in vocab:
        single = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": eos, "type_id": 0}}]
        pair = [*single, {"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": {"id": eos, "type_id": 0}}]
        special = {eos: {"id": eos, "ids": [vocab[eos]], "tokens": [eos]}}
        return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
    return None
