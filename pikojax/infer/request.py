"""One request: what was asked for, the text so far, and why it ended. The host's side; engine.py makes the tokens.

    accept(token) → end of text?  stop string?  constraint fulfilled?  enough tokens?      text that is safe to show goes into `pieces`

Leaves out: the device.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple

import jax
import numpy as np

from pikojax.config import UserError, require
from pikojax.infer.sampling import BROKEN, MOST, Settings, make_settings
from pikojax.infer.stops import StopStrings
from pikojax.infer.uncertainty import Confidence

MOST_TOP = 20  # log-probabilities a token, as elsewhere


@dataclass(frozen=True)
class Options:
    max_tokens: int = 200
    temperature: float = 0.8  # 0: always the likeliest token
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    seed: int = 0
    stop: str | Sequence[str] = ()
    stop_ids: Sequence[int] = ()  # besides the tokenizer's end of text
    ignore_eos: bool = False
    logprobs: int | None = None  # of each token, and of so many of the likeliest
    uncertainty: bool = False
    calibration: float = 1.0  # divides the distribution whose certainty is told (uncertainty.fit_temperature); no draw depends on it
    json_schema: Any = None
    regex: str | None = None
    choices: Sequence[str] | None = None
    grammar: str | None = None
    slide: bool = False  # beyond the context: read the last half of the window again and go on

    @property
    def penalized(self) -> bool:
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def constrained(self) -> bool:
        return any(x is not None for x in (self.json_schema, self.regex, self.choices, self.grammar))

    def check(self, vocab_size: int) -> None:
        require(is_whole(self.max_tokens) and self.max_tokens >= 1, f"max_tokens = {self.max_tokens!r}; give 1 or more, a whole number")
        require(is_whole(self.seed) and 0 <= self.seed < 2**32, f"seed = {self.seed!r}; give a whole number from 0 to 4294967295")
        told = self.logprobs is None or (is_whole(self.logprobs) and 0 <= self.logprobs <= MOST_TOP)
        require(told, f"logprobs = {self.logprobs!r}; give a whole number from 0 to {MOST_TOP}")
        for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "calibration"):
            value = getattr(self, name)
            number = isinstance(value, Real) or (value is None and name in ("top_k", "top_p", "min_p"))
            require(number, f"{name} = {value!r}; give a number")
        require(isinstance(self.stop, str | Sequence), f"stop = {self.stop!r}; give a string, or several")
        require(isinstance(self.logit_bias, Mapping | None), f"logit_bias = {self.logit_bias!r:.60}; give a mapping from token ids to numbers")
        for value in (self.logit_bias or {}).values():
            good = isinstance(value, Real) and (abs(value) <= MOST or value == float("-inf"))  # which forbids a token
            require(good, f"{value!r:.60} in logit_bias; give a number up to {MOST:,} as a rule −100 to 100, or −inf to forbid the token")
        token_ids(self.logit_bias or (), vocab_size, "logit_bias", least=0)
        token_ids(self.stop_ids, vocab_size, "stop_ids", least=0)

    def settings(self, vocab_size: int, n_tokens: int | None) -> Settings:
        """Of one row, on the host."""
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "calibration")
        made = make_settings(1, vocab_size, n_tokens=n_tokens, **{name: getattr(self, name) for name in names})
        return Settings(*map(np.asarray, made))


class Piece(NamedTuple):
    """Text that came at once, and the tokens behind it (text held back comes with later ones)."""

    text: str
    ids: list[int]
    logprobs: list | None = None  # a token: (its own, {id: that of the likeliest})
    confidence: list | None = None  # a `Confidence` a token


class Generation(NamedTuple):
    text: str  # what follows the prompt
    ids: list[int]  # its tokens, without the one that ended it
    stopped: str  # "max_tokens" | "eos" | "stop" | "context" | "cancelled"
    prompt_tokens: int
    first_token_s: float | None  # from the call to the first token, compiling included
    tokens_per_s: float | None  # of decoding, compiling left out; None when the first token was all
    cached_tokens: int = 0  # of the prompt, which were in the cache already
    accepted_per_round: float | None = None  # tokens a round, where a drafter guessed
    logprobs: list | None = None
    confidence: list | None = None


class Request:
    def __init__(self, ids: list[int], shown_from: list[int], options: Options, tokenizer, eos_ids, cfg, constraint=None):
        self.options, self.tokenizer, self.constraint = options, tokenizer, constraint
        self.ids, self.n_prompt, self.shown_from = list(ids), len(ids), list(shown_from)
        self.settings = options.settings(cfg.vocab_size, None if tokenizer is None else tokenizer.vocab_size)
        self.key = np.asarray(jax.random.key_data(jax.random.key(options.seed)))
        self.stop_ids = [*options.stop_ids, *(() if options.ignore_eos else eos_ids)]
        self.stops = StopStrings(options.stop) if options.stop else None
        self.text = None if tokenizer is None else Continuation(tokenizer, shown_from)
        self.pieces: deque[Piece] = deque()
        self.written: list[Piece] = []
        self.stopped: str | None = None
        self.error: UserError | None = None
        self.began_s, self.first_s, self.timed = time.perf_counter(), None, [0, 0.0]
        self.cached_tokens, self.rounds, self.kept = 0, 0, 0
        # where it is on the device
        self.blocks: list[int] = []
        self.ring: int | None = None  # its place in what layers that see a window keep
        self.length = self.read = 0  # tokens in the cache; of `window`, how many were read
        self.window: list[int] = list(ids)  # what stands in the cache, or is about to
        self.right, self.tested = 0.0, 0.0
        self.draft: Any = None
        self.allowed_V = None  # tokens that its constraint lets come next
        self.prompt_V = self.drawn_V = None
        if options.penalized:
            self.prompt_V, self.drawn_V = np.zeros(cfg.vocab_size, bool), np.zeros(cfg.vocab_size, np.int32)
            self.prompt_V[np.asarray(ids, np.int64)] = True
        self.bias_V = None
        if options.logit_bias:
            self.bias_V = np.zeros(cfg.vocab_size, np.float32)
            self.bias_V[np.asarray(list(options.logit_bias), np.int64)] = np.asarray(list(options.logit_bias.values()), np.float32)

    @property
    def left(self) -> int:
        """Tokens still wanted."""
        return self.options.max_tokens - (len(self.ids) - self.n_prompt)

    def find_mask(self) -> None:
        """Of what may come next, before a call in which others take part too."""
        self.allowed_V = None if self.constraint is None else self.constraint.mask()

    def accept(self, tokens: Sequence[int], told) -> None:
        """Tokens that were drawn, the one that ends the text perhaps last, and arrays of what is told of each."""
        if self.first_s is None and len(tokens):
            self.first_s = time.perf_counter() - self.began_s
        shown, ids, logprobs, confidence, why = "", [], [], [], None
        for i, token in enumerate(tokens):
            if token == BROKEN:
                why = "failed"
                break
            if token in self.stop_ids:
                why = "eos"
                break
            self.ids.append(int(token))
            self.window.append(int(token))
            ids.append(int(token))
            if self.drawn_V is not None:
                self.drawn_V[token] += 1
            if self.options.logprobs is not None:
                n = self.options.logprobs
                best = dict(zip(told.top_ids[i][:n].tolist(), told.top_logprobs[i][:n].tolist()))
                logprobs.append((float(told.logprob[i]), best))
            if self.options.uncertainty:
                *sure, own = map(float, told.confidence[i])
                confidence.append(Confidence(*sure, None if np.isnan(own) else own))
            piece = "" if self.text is None else self.text.push(int(token))
            if self.stops is not None:
                piece, found = self.stops.push(piece)
                why = "stop" if found else None
            shown += piece
            if self.constraint is not None and why is None:
                self.constraint.advance(int(token))
                why = "eos" if self.constraint.done else None
            if why is None and self.left <= 0:
                why = "max_tokens"
            if why is not None:
                break
        if why is not None and why != "stop":
            shown += self._rest()
        if shown or ids:
            wants = self.options
            self._put(Piece(shown, ids, logprobs if wants.logprobs is not None else None, confidence if wants.uncertainty else None))
        if why == "failed":
            said = "the model's logits are no numbers (NaN or infinite): its weights are damaged, or its arithmetic overflows; nothing can be drawn"
            self.error = UserError(said)
        self.stopped = self.stopped or why  # last: whoever sees it looks for no more text

    def end(self, why: str) -> None:
        """From outside: cancelled, failed, or out of room."""
        if self.stopped is None:
            if why != "cancelled" and (rest := self._rest()):
                self._put(Piece(rest, []))
            self.stopped = why

    def result(self) -> Generation:
        join = lambda name: [x for piece in self.written for x in getattr(piece, name) or ()]
        n, seconds = self.timed
        return Generation(
            "".join(piece.text for piece in self.written), self.ids[self.n_prompt :], self.stopped or "running", self.n_prompt, self.first_s,
            n / seconds if seconds else None, self.cached_tokens, self.kept / self.rounds if self.rounds else None,
            join("logprobs") if self.options.logprobs is not None else None, join("confidence") if self.options.uncertainty else None,
        )  # fmt: skip

    def _rest(self) -> str:
        rest = "" if self.text is None else self.text.finish()
        if self.stops is not None:
            shown, found = self.stops.push(rest)
            rest = shown if found else shown + self.stops.finish()
        return rest

    def _put(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.written.append(piece)


def prompt_ids(tokenizer, prompt: str, context: int, framed: bool = False) -> list[int]:
    """The tokens to begin with; a prompt that cannot be read or is too long is refused. With `framed` it begins as the tokenizer begins
    a text (<s>, or whatever its files say), which models from elsewhere were trained on."""
    ids = [int(i) for i in tokenizer.encode(prompt, add_special_tokens=framed)]
    if framed and len(ids) > 1 and ids[-1] == tokenizer.eos_id and ids[-1] != tokenizer.bos_id:
        ids = ids[:-1]  # what a frame ends with would end the text before it goes on
    if not ids:
        start = tokenizer.eos_id if tokenizer.eos_id is not None else tokenizer.token_to_id("\n")
        if start is None:
            raise UserError("the prompt is empty and the tokenizer has no token to start a text with; give a prompt")
        ids = [start]
    check_length(ids, context)
    return ids


def is_whole(x) -> bool:
    return isinstance(x, Integral) and not isinstance(x, bool)


def token_ids(ids: Sequence[int], vocab_size: int, where: str = "", least: int = 1) -> list[int]:
    """As Python's integers, from a list or an array."""
    where = f" in {where}" if where else ""
    try:
        ids = list(ids)
    except TypeError:
        raise UserError(f"{ids!r:.60}{where} is no token id; give whole numbers, in a list") from None
    wrong = [i for i in ids if not is_whole(i)]
    require(not wrong, f"{wrong[0]!r:.60}{where} is no token id; give whole numbers" if wrong else "")
    require(len(ids) >= least, "the prompt has no tokens; give one or more")
    wrong = [i for i in ids if not 0 <= i < vocab_size]
    require(not wrong, f"token {wrong[0] if wrong else 0}{where} is none of the model's {vocab_size}; use its own tokenizer")
    return [int(i) for i in ids]


def check_length(ids: Sequence[int], context: int) -> None:
    over = len(ids) - context
    require(over <= 0, f"prompt has {len(ids)} tokens, the context holds {context}; leave out {over} of them")


class Continuation:
    """`tokenizer.stream()` of the prompt and what follows, without the prompt's own text."""

    def __init__(self, tokenizer, ids: list[int]):
        self.stream, self.hidden = tokenizer.stream(), len(tokenizer.decode(ids))  # characters not to be shown
        for id in ids:
            self.push(id)

    def push(self, id: int) -> str:
        return self._behind(self.stream.push(id))

    def finish(self) -> str:
        return self._behind(self.stream.finish())

    def _behind(self, text: str) -> str:
        shown = text[self.hidden :]
        self.hidden = max(0, self.hidden - len(text))
        return shown
