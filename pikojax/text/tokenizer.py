"""The pipeline that every tokenizer is: described by the tree of a tokenizer.json, whatever file it came from.

    text → added tokens cut out → normalizer → pre-tokenizer → model → post-processor → int32 ids;    ids → tokens → decoder → text

`Tokenizer(tree)` builds the parts (each in its own file) and checks them. `encode` hands plain stretches to the native code where
there is some for this tree; `encode_slowly` is the same in Python alone, the oracle. `load` is in load.py.

`decode` shows special tokens, so that for kinds that lose nothing `decode(encode(x))` is x; `skip_special_tokens=True` leaves them out.
Truncation and padding that a file asks for are what `encode_padded` does when asked; `encode` never cuts a text.
"""

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from pikojax import plugins
from pikojax.config import UserError, require
from pikojax.text import added, byte_level, decoders, hf_json, normalizers, patterns, postprocess, pretokenizers
from pikojax.text.aligned import Aligned
from pikojax.text.models import KINDS, build_model, read_vocabulary
from pikojax.text.stream import TextStream

EOS = "<|endoftext|>"  # what we put between documents
UNK = "<unk>"
EOS_NAMES = (EOS, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "<｜end▁of▁sentence｜>", "<|im_end|>")  # what others call it
BOS_NAMES = ("<s>", "<|begin_of_text|>", "<bos>", "[BOS]", "<｜begin▁of▁sentence｜>", "<|startoftext|>", "[CLS]")
PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>")
FAST_FROM_IDS = 256  # from here on it pays to have made the native decoder
Allowed = Literal["all"] | Collection[str]


class Encoding(NamedTuple):
    ids: np.ndarray  # int32[n]
    tokens: list[str]
    char_spans: np.ndarray  # int64[n, 2]: the characters of its text that a token stands for; (0, 0) for one that was put in
    byte_spans: np.ndarray  # the same in bytes of UTF-8
    type_ids: np.ndarray  # int32[n]: which text of a pair
    special_mask: np.ndarray  # bool[n]: put in by the post-processor


class Tokenizer:
    def __init__(self, tree: dict[str, Any]):
        self.tree, n_steps = tree, hf_json.check_size(tree)
        self._normalize = normalizers.build(tree.get("normalizer"))
        self._pretokenize = pretokenizers.build(tree.get("pre_tokenizer"))
        self._process = postprocess.build(tree.get("post_processor"))
        self._decoder = decoders.build(tree.get("decoder"))
        self._vocab = read_vocabulary(tree)
        with patterns.time_limit():
            self._added = added.read(tree, self._vocab.ids, self._normalize, n_steps)
        self.ids = {**self._vocab.ids, **self._added.ids}  # token → id
        self._by_id = {i: token for token, i in self._vocab.ids.items()} | dict(self._vocab.more)
        self._by_id |= {i: token.content for i, token in self._added.by_id.items()}
        require(bool(self._by_id), "it has an empty vocabulary")
        self.vocab_size = max(self._by_id) + 1  # ids that no token has count too: a model has rows for them
        self._shown = {**self._by_id, **self._added.shown}
        self._special_ids = {i for i, token in self._by_id.items() if token in self._added.specials}
        self.specials = tuple(sorted(self._added.specials, key=self.ids.__getitem__))
        self.eos_id, self.bos_id, self.pad_id = map(self._named, ("eos_token", "bos_token", "pad_token"), (EOS_NAMES, BOS_NAMES, PAD_NAMES))
        self.unk_id = self._vocab.unk_id
        strange = postprocess.put_in(self._process) - self._by_id.keys()
        require(not strange, f"its post_processor puts in the id {min(strange, default=0)}, which no token has; fetch the file again")
        self._frame = postprocess.frame(self._process)
        self._models: dict[frozenset[int], Any] = {}

    def _named(self, role: str, usual: Sequence[str]) -> int | None:
        """The id of the token with that role: the one that the model's own files name, or one with a usual name."""
        said = hf_json.field(self.tree["model"], "names", dict, {}, what="the model").get(role)
        names = [said] if isinstance(said, str) and said in self.ids else [name for name in usual if name in self._added.specials]
        return self.ids[names[0]] if names else None

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> "Tokenizer":
        """The tokenizer of a tree; one that only char or word can be is theirs, which are quicker. A type that is not known here may be a plug-in's."""
        from pikojax.text.wordlevel import from_tree

        kind = hf_json.model_type(tree["model"])
        brought = plugins.load("pikojax.tokenizers", kind) if kind is not None and kind not in KINDS else None
        if brought is not None:
            return brought(tree)
        return (from_tree(tree) if kind == "WordLevel" else None) or Tokenizer(tree)

    # ---------------------------------------------------------------- the vocabulary

    @cached_property
    def tokens(self) -> list[str]:
        """The token of each id; "" where an id has none."""
        return [self._by_id.get(i, "") for i in range(self.vocab_size)]

    @property
    def n_special(self) -> int:
        return len(self.specials)

    def token_to_id(self, token: str) -> int | None:
        return self.ids.get(token)

    def id_to_token(self, id: int) -> str | None:
        return self._by_id.get(id)

    def to_json(self) -> dict:
        return self.tree

    def save(self, path: str | os.PathLike) -> Path:
        """Write `tokenizer.json` (`path`: the file, or a folder that exists), whole or not at all."""
        from pikojax.text.save import to_hugging_face

        return hf_json.write(to_hugging_face(self.to_json()), Path(path))

    @cached_property
    def controls(self) -> tuple[str, ...]:
        """The tokens that steer a conversation, as far as a file tells: all special ones, and the other added ones (role tokens are
        often such) but for white space and single characters, which are parts of an alphabet."""
        others = (token for token in self._added.ids if token not in self._added.specials and _may_steer(token))
        return (*self.specials, *others)

    # ---------------------------------------------------------------- text → ids

    def encode(self, text: str | bytes, add_special_tokens: bool = True, allowed_special: Allowed = "all") -> np.ndarray:
        """int32 ids. `allowed_special=()` reads special tokens in `text` as plain text, and the text then gives none.

        Bytes can be given to byte-level kinds, also such as are no UTF-8."""
        return self._encode(text, add_special_tokens, self._read_as_plain(allowed_special), self._native)

    def encode_words(self, text: str, plain: frozenset[str]) -> np.ndarray:
        """`encode` of a text in which the added tokens `plain`, special or not, are words; no template."""
        return self._encode(text, False, plain, self._native)

    def encode_slowly(self, text: str | bytes, add_special_tokens: bool = True, allowed_special: Allowed = "all") -> np.ndarray:
        """`encode` by the Python code alone."""
        return self._encode(text, add_special_tokens, self._read_as_plain(allowed_special), None)

    def _encode(self, text, add_special_tokens: bool, plain: frozenset[str], native) -> np.ndarray:
        ids, cache, parts = None, {}, []
        if native is not None and (isinstance(text, str) or isinstance(text, bytes) and self._byte_level):
            with contextlib.suppress(UnicodeEncodeError):  # half a surrogate pair, of which the check below speaks
                ids = native.encode([text], plain)[0]
        if ids is None:
            text = self._readable(text)
            with patterns.time_limit(len(text)):
                for section, i in self._sections(text, plain):
                    stretches = [(section, i)] if i is not None else self._normalized(section, plain)
                    parts += [[j] if j is not None else self._encode_stretch(stretch, plain, cache) for stretch, j in stretches]
            ids = np.concatenate([np.asarray(part, np.int32) for part in parts]) if parts else np.zeros(0, np.int32)
        return self.framed(ids) if add_special_tokens else ids

    def framed(self, ids: np.ndarray) -> np.ndarray:
        """The ids of a text with what the post-processor puts around them."""
        if self._frame is not None:
            before, behind = (np.asarray(part, np.int32) for part in self._frame)
            return np.concatenate([before, ids, behind]) if len(before) + len(behind) else ids
        n = len(ids)
        made = self._process([postprocess.Part(ids.tolist(), [""] * n, [(0, 0)] * n, [0] * n, 0)], True)
        return np.array([i for part in made for i in part.ids], np.int32)

    def encode_with_offsets(
        self, text: str | bytes, pair: str | bytes | None = None, add_special_tokens: bool = True, allowed_special: Allowed = "all"
    ) -> Encoding:
        """The ids with where each comes from. Offsets of a pair's second text count in that text."""
        from pikojax.text.batch import join

        texts = [self._readable(each) for each in ([text] if pair is None else [text, pair])]
        plain = self._read_as_plain(allowed_special)
        with patterns.time_limit(sum(map(len, texts))):
            parts = [self._part(each, plain, i) for i, each in enumerate(texts)]
        return join(self._process(parts, add_special_tokens), texts)

    def encode_batch(
        self, texts: Sequence[str], threads: int | None = None, add_special_tokens: bool = True, allowed_special: Allowed = "all"
    ) -> list[np.ndarray]:
        """`encode` of each. Threads help where the native code serves."""
        from pikojax.text.batch import encode_batch

        return encode_batch(self, texts, threads, add_special_tokens, allowed_special)

    def encode_padded(self, texts: Sequence[str | tuple[str, str]], **options):
        """Texts or pairs as one array: see batch.py for length, truncate, side, pad_id."""
        from pikojax.text.batch import encode_padded

        return encode_padded(self, texts, **options)

    def safe_cut(self, text: str) -> int:
        """The last place where `text` may be cut so that the parts encode as the whole does; 0: nowhere."""
        from pikojax.text.cuts import safe_cut

        return safe_cut(self, text)

    # ---------------------------------------------------------------- ids → text

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        data = self._decode_natively(ids := self._id_array(ids), skip_special_tokens)
        if data is not None:
            return str(data.data, "utf-8", "replace")
        with patterns.time_limit(ids.size):
            return "".join(self._decoder(self.visible_tokens(ids, skip_special_tokens)))

    def decode_bytes(self, ids: Iterable[int], skip_special_tokens: bool = False) -> bytes:
        """Of byte-level kinds the exact bytes, whether they are UTF-8 or not; of others the text's."""
        data = self._decode_natively(ids := self._id_array(ids), skip_special_tokens)
        if data is None and (self.tree.get("decoder") or {}).get("type") == "ByteLevel":
            return b"".join(map(byte_level.to_bytes, self.visible_tokens(ids, skip_special_tokens)))
        return self.decode(ids, skip_special_tokens).encode() if data is None else data.tobytes()

    def _decode_natively(self, ids: np.ndarray, skip_special_tokens: bool) -> np.ndarray | None:
        if ids.size < FAST_FROM_IDS or self._fast_decoder is None:
            return None
        if skip_special_tokens:
            ids = ids[~np.isin(ids, list(self._special_ids))]
        return self._fast_decoder.decode(ids)

    def stream(self, skip_special_tokens: bool = False) -> TextStream:
        return TextStream(self, skip_special_tokens)

    def _id_array(self, ids: Iterable[int]) -> np.ndarray:
        if not (isinstance(ids, np.ndarray) and ids.dtype == np.int32 and ids.ndim == 1):
            ids = _whole_numbers(ids)
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            bad = int(ids[(ids < 0) | (ids >= self.vocab_size)][0])
            raise UserError(f"id {bad} is not in this tokenizer's vocabulary of {self.vocab_size}; it belongs to another tokenizer")
        return ids

    def visible_tokens(self, ids: Iterable[int], skip_special_tokens: bool) -> list[str]:
        """The tokens that are decoded: an id that no token has (a hole below vocab_size) gives none."""
        tokens, ids = self._shown, self._id_array(ids).tolist()
        if skip_special_tokens:
            ids = [i for i in ids if i not in self._special_ids]
        return [tokens[i] for i in ids if i in tokens]

    def visible_token(self, id: int, skip_special_tokens: bool) -> list[str]:
        """`visible_tokens` of one, for a text that grows by one at a time."""
        if not 0 <= id < self.vocab_size or id not in self._shown or (skip_special_tokens and id in self._special_ids):
            return self.visible_tokens([id], skip_special_tokens)
        return [self._shown[id]]

    # ---------------------------------------------------------------- how

    @cached_property
    def _planned(self) -> tuple[Any, str | None]:
        """The native encoder of this pipeline, or None and why there is none."""
        if os.environ.get("PIKOJAX_TEXT") == "python":
            return None, "PIKOJAX_TEXT=python asks for the Python code"
        from pikojax.text.fast import make

        return make(self)

    @property
    def _native(self):
        return self._planned[0]

    @cached_property
    def _fast_decoder(self):
        from pikojax.text.fast_decode import make

        return make(self) if self._native is not None else None

    def _readable(self, text: str | bytes) -> str:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "surrogateescape")
            if not text.isascii() and any("\udc80" <= char <= "\udcff" for char in set(text)):
                require(self._byte_level, "these bytes are no UTF-8 text, which only a byte-level tokenizer can read; give text")
            return text
        require(isinstance(text, str), f"encode wants text, got {type(text).__name__}")
        try:
            text.isascii() or text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"the text holds half a surrogate pair, U+{ord(text[error.start]):04X}; it is no Unicode text") from None
        return text

    @cached_property
    def _byte_level(self) -> bool:
        return any(part.get("type") == "ByteLevel" for name in ("normalizer", "pre_tokenizer") for part in _parts(self.tree.get(name)))

    @cached_property
    def _asks_for_start(self) -> bool:
        """Whether a part wants to know if it stands at the start of the text."""
        found = [part for part in _parts(self.tree.get("pre_tokenizer")) if part.get("type") == "Metaspace"]
        return any(pretokenizers.metaspace_scheme(part) == "first" for part in found)

    def _read_as_plain(self, allowed_special: Allowed) -> frozenset[str]:
        """The special tokens that are plain text this time."""
        if isinstance(allowed_special, str):
            require(allowed_special == "all", f"allowed_special = {allowed_special!r}; give 'all' or a collection of special tokens")
            return frozenset()
        for token in allowed_special:
            require(token in self.specials, f"{token!r} is no special token of this tokenizer; it has: {', '.join(self.specials) or 'none'}")
        return self._added.specials - set(allowed_special)

    def _sections(self, text: str, plain: Collection[str], track: bool = False) -> list[tuple[Aligned, int | None]]:
        """All of the text: added tokens with their ids, and what stands between them."""
        track = track or self._asks_for_start
        whole = Aligned(text, [(i, i + 1) for i in range(len(text))] if track else None)
        return [(whole.cut(first, last), i) for first, last, i in self._added.raw.split(text, plain)]

    def _normalized(self, section: Aligned, plain: Collection[str]) -> list[tuple[Aligned, int | None]]:
        """A plain section as the normalizer leaves it, in turn cut at the added tokens that are looked for there."""
        normal = self._normalize(section)
        return [(normal.cut(first, last), i) for first, last, i in self._added.normalized.split(normal.text, plain)]

    def _cut_stretch(self, stretch: Aligned) -> Iterable[Aligned]:
        return [piece for piece in self._pretokenize(stretch) if piece.text]

    def _encode_stretch(self, stretch: Aligned, plain: Collection[str], cache: dict) -> Sequence[int]:
        model, ids = self._model(plain), []
        for piece in self._cut_stretch(stretch):
            found = cache.get(piece.text)
            if found is None:
                found = [i for i, _ in model.encode_with_lengths(piece.text)]
                if len(piece.text) < 100:
                    cache[piece.text] = found
            ids += found
        return ids

    def _model(self, plain: Collection[str]):
        """The model in Python. It must not make a special token out of plain text, even if the vocabulary would let it."""
        banned = frozenset(self.ids[token] for token in plain)
        if banned not in self._models:
            self._models[banned] = build_model(self.tree, self._vocab, banned)
        return self._models[banned]

    def _part(self, text: str, plain: Collection[str], which: int) -> postprocess.Part:
        ids, tokens, spans, model, cache = [], [], [], self._model(plain), {}
        sections = self._sections(text, plain, track=True)
        stretches = [part for section, i in sections for part in ([(section, i)] if i is not None else self._normalized(section, plain))]
        for stretch, i in stretches:
            if i is not None:
                ids.append(i)
                tokens.append(stretch.text)
                spans.append((stretch.spans[0][0], stretch.spans[-1][1]))
                continue
            for piece in self._cut_stretch(stretch):
                places = cache.get(piece.text)
                if places is None:
                    places = cache[piece.text] = list(_places(model.encode_with_lengths(piece.text), piece.text))
                for found, first, last in places:
                    shown = self._by_id[found]
                    if found == self.unk_id and self._vocab.shows_unknown:
                        shown = piece.text[first:last]
                    ids.append(found)
                    tokens.append(shown)
                    spans.append((piece.spans[first][0], piece.spans[last - 1][1]))
        return postprocess.Part(ids, tokens, spans, [which] * len(ids), which)


def _places(found: Sequence[tuple[int, int]], piece: str) -> Iterator[tuple[int, int, int]]:
    """(id, first, last) in characters of the piece, from lengths in bytes; a part of a character's bytes is the character."""
    of_byte = range(len(piece))
    if not piece.isascii():
        of_byte = [at for at, char in enumerate(piece) for _ in char.encode("utf-8", "surrogateescape")]
    at = 0
    for i, length in found:
        first, last = of_byte[at], of_byte[min(at + abs(length), len(of_byte)) - 1] + 1
        yield i, first, last
        at = min(at + max(length, 0), len(of_byte) - 1)


def _may_steer(token: str) -> bool:
    return bool(token.replace("▁", " ").strip()) and not (len(token) == 1 and token.isprintable())


def _whole_numbers(ids: Any) -> np.ndarray:
    """int64[n] of a list, an array of any library, or whatever else gives numbers one after another."""
    try:
        array = np.asarray(ids if hasattr(ids, "__array__") or isinstance(ids, list | tuple | range) else list(ids))
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"decode got {type(ids).__name__}, wanted ids in one row; give a list or an array of whole numbers") from None
    if array.size == 0 and array.ndim == 1:
        return np.zeros(0, np.int64)
    good = array.dtype.kind in "iu" and array.ndim == 1
    said = f"decode got numbers of type {array.dtype} in {array.ndim} dimensions, wanted whole numbers in one"
    if array.dtype.kind in "Of" and array.ndim == 1 and all(isinstance(i, int | np.integer) for i in ids):  # too large for any array
        bad = next(i for i in ids if not 0 <= i < 1 << 63)
        raise UserError(f"id {str(bad)[:30]} is not in this tokenizer's vocabulary; it belongs to another tokenizer")
    require(good, f"{said}; give a list of ids" + (", and each row of a batch by itself" if array.ndim > 1 else ""))
    return array if array.dtype != np.uint64 else np.minimum(array, np.uint64(1 << 62)).astype(np.int64)


def _parts(tree: dict | None) -> Iterator[dict]:
    """A part of the tree and, if it is a Sequence, those in it."""
    if isinstance(tree, dict):
        yield tree
        for name in ("normalizers", "pretokenizers", "decoders"):
            for part in tree.get(name) or ():
                yield from _parts(part)
