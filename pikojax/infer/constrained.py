"""Output held to a form: a JSON schema, a regular expression, a grammar, or one of several choices.

    state ← start       each step: mask_V = tokens that some allowed text goes on with        draw from them        state ← after the token

    words = vocabulary(tokenizer, cfg.vocab_size)                  once a model: the bytes that each token adds to a text
    constraint = make_constraint(words, choices=["yes", "no"])     once a request
    while not constraint.done: token = draw(shape(…, allowed_BV=constraint.mask()[None])); constraint.advance(token)

What is held is the text behind the prompt, whatever tokens spell it. Where the text may end, the mask has the end tokens too; a tokenizer
without one relies on `done`. Choices are matched here, the others by llguidance. White space in JSON is held to 16 characters
in a row, as a model of little wit would go on with it forever.

Leaves out: tokens that a grammar forces, drawn without the model; masks for drafts; a first word that a decoder shows without its space.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pikojax.config import UserError, require
from pikojax.text.token_bytes import token_bytes

JSON_OPTIONS = {"whitespace_pattern": r"[\x20\x0A\x09]{0,16}"}
MOST_CHOICES = 10_000


@dataclass(frozen=True, eq=False)
class Vocabulary:
    tokens: list[bytes]  # what each token adds to a text; b"" for none
    names: dict[int, str]  # of special tokens, which are no text
    eos_ids: tuple[int, ...]
    vocab_size: int  # of the model's table, which may be larger

    @cached_property
    def by_bytes(self) -> dict[bytes, list[int]]:
        found: dict[bytes, list[int]] = {}
        for id, data in enumerate(self.tokens[: self.vocab_size]):
            if data and id not in self.eos_ids:
                found.setdefault(data, []).append(id)
        return found

    @cached_property
    def longest(self) -> int:
        return max(map(len, self.by_bytes), default=0)

    @cached_property
    def guide(self):
        """llguidance's tokenizer. It wants an end token: where there is none it gets an id that no mask reaches."""
        import llguidance

        return llguidance.LLTokenizer(_Wrapper(self), eos_token=list(self.eos_ids) or len(self.tokens))

    def mask_of(self, ids: Sequence[int], ends: bool) -> np.ndarray:
        mask_V = np.zeros(self.vocab_size, bool)
        mask_V[np.asarray([*ids, *(self.eos_ids if ends else ())], np.int64)] = True
        return mask_V


class _Wrapper:
    """A tokenizer as llguidance asks for it."""

    is_tokenizer_wrapper = True

    def __init__(self, words: Vocabulary):
        self.tokens = [b"\xff" + words.names[i].encode() if i in words.names else data for i, data in enumerate(words.tokens)]
        self.special_token_ids = sorted(words.names)
        if not words.eos_ids:
            self.tokens.append(b"\xff<end>")
            self.special_token_ids.append(len(words.tokens))
        self.eos_token_id, self.bos_token_id = (words.eos_ids or (len(words.tokens),))[0], None
        self.by_bytes, self.longest = words.by_bytes, words.longest

    def __call__(self, text: str | bytes) -> list[int]:
        """The longest token each time, up to what none begins. Of text that the form leaves no choice about, llguidance asks how it is
        spelled, and allows the first token of that alone."""
        data, ids, at = text.encode() if isinstance(text, str) else bytes(text), [], 0
        while size := next((n for n in range(min(self.longest, len(data) - at), 0, -1) if data[at : at + n] in self.by_bytes), 0):
            ids, at = ids + self.by_bytes[data[at : at + size]][:1], at + size
        return ids


def vocabulary(tokenizer, vocab_size: int, eos_ids: Collection[int] | None = None) -> Vocabulary:
    """`eos_ids`: the tokens that end a text, where it is not the tokenizer's own alone (a chat model's end of turn)."""
    own = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
    eos_ids = tuple(i for i in (own if eos_ids is None else sorted(eos_ids)) if i < vocab_size)
    names = {tokenizer.ids[token]: token for token in tokenizer.specials}
    return Vocabulary(token_bytes(tokenizer), names, eos_ids, vocab_size)


# ---------------------------------------------------------------- constraints


def make_constraint(
    words: Vocabulary, *, json_schema=None, regex: str | None = None, choices: Sequence[str] | None = None, grammar: str | None = None
):
    """A `Choices` or a `Guided`, for one text. `json_schema` is a dict, a bool or JSON text; `grammar` is Lark as llguidance reads it."""
    given = {"json_schema": json_schema, "regex": regex, "choices": choices, "grammar": grammar}
    given = {name: value for name, value in given.items() if value is not None}
    got = " and ".join(given) or "nothing"
    require(len(given) == 1, f"got {got} to hold the output to; give one of json_schema, regex, choices, grammar")
    return Choices(words, choices) if choices is not None else Guided(words, *given.popitem())


class Choices:
    """One of several texts, exactly."""

    def __init__(self, words: Vocabulary, choices: Sequence[str]):
        good = not isinstance(choices, str) and 0 < len(choices) <= MOST_CHOICES and all(isinstance(c, str) and c for c in choices)
        require(good, f"choices = {choices!r:.60}; give a list of 1 to {MOST_CHOICES:,} texts of one character or more")
        self.words, self.at, self.done = words, 0, False
        self.left = {choice.encode(): _spelled_from(words, choice.encode()) for choice in choices}  # those that the text so far begins
        for choice, spelled in self.left.items():
            require(spelled[0], f"the choice {choice.decode()!r:.60} cannot be spelled by this tokenizer's tokens; leave it out")

    def mask(self) -> np.ndarray:
        """bool [V]: which tokens may follow."""
        at, by_bytes = self.at, self.words.by_bytes
        ends = {choice: range(at + 1, min(len(choice), at + self.words.longest) + 1) for choice in self.left}
        parts = {choice[at:end] for choice, spelled in self.left.items() for end in ends[choice] if spelled[end]}
        return self.words.mask_of([id for part in parts for id in by_bytes.get(part, ())], any(len(choice) == at for choice in self.left))

    def advance(self, token: int) -> None:
        ends = token in self.words.eos_ids
        part = self.words.tokens[token] if token < len(self.words.tokens) else b""
        fits = lambda choice: len(choice) == self.at if ends else part and choice.startswith(part, self.at)
        left = {choice: spelled for choice, spelled in self.left.items() if fits(choice)}
        require(bool(left), f"the choices do not allow token {token} here; draw from the mask")
        self.left, self.at = left, self.at + (0 if ends else len(part))
        self.done = ends or all(len(choice) == self.at for choice in left)


def _spelled_from(words: Vocabulary, text: bytes) -> list[bool]:
    """Of each place in the text: whether some tokens joined are the rest."""
    good = [False] * len(text) + [True]
    for at in reversed(range(len(text))):
        good[at] = any(good[end] and text[at:end] in words.by_bytes for end in range(at + 1, min(len(text), at + words.longest) + 1))
    return good


class Guided:
    """What llguidance can hold a text to."""

    def __init__(self, words: Vocabulary, kind: str, form):
        try:
            import llguidance
        except ImportError:
            raise UserError(f"{kind} needs llguidance, which is not installed; pip install 'pikojax[text]'") from None
        self.words, self.kind, self.done = words, kind, False
        self.matcher = llguidance.LLMatcher(words.guide, _grammar(llguidance.LLMatcher, kind, form), log_level=0)
        self._check("give another")
        self._mask_V = self._compute()

    def mask(self) -> np.ndarray:
        """bool [V]: which tokens may follow."""
        if self._mask_V is None:
            self._mask_V = self._compute()
        return self._mask_V

    def advance(self, token: int) -> None:
        self.matcher.consume_token(int(token))
        self._check("draw from the mask")
        self.done, self._mask_V = self.matcher.is_stopped(), None

    def _compute(self) -> np.ndarray:
        if self.done:
            return self.words.mask_of([], True)
        bits = np.unpackbits(np.frombuffer(self.matcher.compute_bitmask(), np.uint8), bitorder="little").view(bool)
        self._check("give a simpler one")
        mask_V = np.zeros(self.words.vocab_size, bool)
        n = min(len(bits), len(self.words.tokens), self.words.vocab_size)
        mask_V[:n] = bits[:n]
        require(mask_V.any() or (not self.words.eos_ids and self.matcher.is_accepting()), self._unspelled())
        return mask_V

    def _unspelled(self) -> str:
        return f"the {self.kind} asks for text that this tokenizer's tokens cannot spell; give another"

    def _check(self, remedy: str) -> None:
        if self.matcher.is_error():
            require("NoExtension" not in self.matcher.get_error(), self._unspelled())
            lines = [line for line in self.matcher.get_error().splitlines() if line.strip()]
            raise UserError(f"the {self.kind} cannot be followed ({lines[0] if lines else 'no reason given':.200}); {remedy}")


def _grammar(matcher, kind: str, form) -> str:
    try:
        if kind == "json_schema":
            schema = json.loads(form) if isinstance(form, str) else form
            require(isinstance(schema, dict | bool), f"json_schema = {form!r:.60}; give an object (or true, for any JSON)")
            return matcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON_OPTIONS)
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"the json_schema cannot be read ({' '.join(str(error).split()):.200}); give JSON") from None
    require(isinstance(form, str) and form, f"{kind} = {form!r:.60}; give text")
    return matcher.grammar_from_regex(form) if kind == "regex" else matcher.grammar_from_lark(form)
