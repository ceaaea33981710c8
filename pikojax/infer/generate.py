"""Text from a prompt: `generate` returns it whole, `stream` yields it as it comes.

The same seed gives the same text, however it is cut into chunks. A prompt that the context does not hold is refused. Once
prompt and text fill the context, the last half of the window is read again and writing goes on: the model then no longer
sees what came before. An empty prompt stands for the start of a document: the end-of-text token, else a newline.

Leaves out: batches of prompts (decode.py has rows), stop strings, chat.
"""

import time
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import UserError, require
from pikojax.infer import decode
from pikojax.infer.sampling import Settings, make_settings
from pikojax.models.layers import Model

FIRST_CHUNK = 4  # tokens in the first decode call, before the rate is known
SHOW_EVERY_S = 0.1  # later chunks take about so long


class Generation(NamedTuple):
    text: str  # what follows the prompt
    ids: list[int]  # its tokens, without the one that ended it
    stopped: str  # "max_tokens" | "eos"
    prompt_tokens: int
    first_token_s: float  # from the call to the first token, compiling included
    tokens_per_s: float | None  # of decoding, compiling left out; None when the first token was all


def generate(model: Model, cfg, params, tokenizer, prompt: str, *, on_text: Callable[[str], None] | None = None, **options) -> Generation:
    """All of `stream`'s text at once; `on_text` is handed each piece as it comes."""
    pieces = stream(model, cfg, params, tokenizer, prompt, **options)
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            return end.value
        if on_text is not None:
            on_text(piece)


def stream(
    model: Model,
    cfg,
    params,
    tokenizer,
    prompt: str,
    *,
    max_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    framed: bool = False,
) -> Generator[str, None, Generation]:
    """Yields what follows the prompt, piece by piece, and returns the `Generation`. Temperature 0 is greedy. With `framed` the prompt
    begins as the tokenizer begins a text (<s>, or whatever its files say), which models from elsewhere were trained on.

    Whoever calls it often passes `decode.ready(params)`, which spares a copy of the weights a call.
    """
    require(max_tokens >= 1, f"max_tokens = {max_tokens}; give 1 or more")
    require(0 <= seed < 2**32, f"seed = {seed}; give a whole number from 0 to 4294967295")
    settings = make_settings(1, cfg.vocab_size, temperature, top_k, top_p, tokenizer.vocab_size)
    ids = prompt_ids(tokenizer, prompt, cfg.context, framed)
    text = Continuation(tokenizer, ids if prompt else [])
    return _stream(model, cfg, params, tokenizer, ids, text, max_tokens, settings, seed)


def prompt_ids(tokenizer, prompt: str, context: int, framed: bool = False) -> list[int]:
    """The tokens to begin with; a prompt that cannot be read or is too long is refused."""
    ids = [int(i) for i in tokenizer.encode(prompt, add_special_tokens=framed)]
    if framed and len(ids) > 1 and ids[-1] == tokenizer.eos_id and ids[-1] != tokenizer.bos_id:
        ids = ids[:-1]  # what a frame ends with would end the text before it goes on
    if not ids:
        start = tokenizer.eos_id if tokenizer.eos_id is not None else tokenizer.token_to_id("\n")
        if start is None:
            raise UserError("the prompt is empty and the tokenizer has no token to start a text with; give a prompt")
        ids = [start]
    over = len(ids) - context
    require(over <= 0, f"prompt has {len(ids)} tokens, the context holds {context}; leave out {over} of them")
    return ids


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


def _stream(model, cfg, params, tokenizer, ids, text, max_tokens, settings, seed) -> Generator[str, None, Generation]:
    began_s = time.perf_counter()
    written, timed = [], []
    pieces, stopped, first_token_s = [], "max_tokens", None
    for chunk, seconds in _chunks(model, cfg, decode.ready(params), ids, tokenizer.eos_id, max_tokens, settings, seed):
        first_token_s = time.perf_counter() - began_s if first_token_s is None else first_token_s
        if seconds is not None:
            timed.append((len(chunk), seconds))
        if chunk[-1] == tokenizer.eos_id:
            chunk, stopped = chunk[:-1], "eos"
        written += chunk
        piece = "".join(text.push(i) for i in chunk)
        if piece:
            pieces.append(piece)
            yield piece
    if rest := text.finish():
        pieces.append(rest)
        yield rest
    rate = sum(n for n, _ in timed) / sum(s for _, s in timed) if timed else None
    return Generation("".join(pieces), written, stopped, len(ids), first_token_s, rate)


def _chunks(
    model: Model, cfg, params, ids: list[int], eos_id: int | None, max_tokens: int, settings: Settings, seed: int
) -> Iterator[tuple[list[int], float | None]]:
    """The drawn tokens as they come, at least one at a time and the one that ends the text last, with the seconds a decode
    call took (None for a token that comes with reading the prompt or a window again)."""
    key_B = jax.random.key(seed)[None]
    stops_E = np.asarray([] if eos_id is None else [eos_id], np.int32)
    slots = decode.cache_slots(cfg.context, len(ids) + max_tokens)
    cache = model.new_cache(cfg, 1, slots)
    text, end, window = list(ids), len(ids) + max_tokens, len(ids)
    n_steps, warm = FIRST_CHUNK, False
    while True:
        tokens_BT = np.asarray([text[-window:]], np.int32)
        logits_BV, cache = decode.prefill(model, cfg, params, cache, tokens_BT, np.asarray([window], np.int32))
        state = decode.begin(cache, logits_BV, key_B, np.asarray([len(text)], np.int32), settings, stops_E)
        text.append(int(state.token_B[0]))
        yield text[-1:], None
        free = slots - window
        while text[-1] != eos_id and len(text) < end and free > 0:
            if not warm:  # compiles without a step, so that the rate is the decoding's own
                _, _, state = decode.decode(model.forward, cfg, params, state, settings, key_B, stops_E, np.int32(0))
                warm = True
            began_s = time.perf_counter()
            n_steps = min(n_steps, end - len(text), free)
            tokens_BN, count_B, state = decode.decode(model.forward, cfg, params, state, settings, key_B, stops_E, np.int32(n_steps))
            chunk = [int(i) for i in np.asarray(tokens_BN)[0, : int(count_B[0])]]
            seconds = time.perf_counter() - began_s
            text, free = text + chunk, free - len(chunk)
            yield chunk, seconds
            n_steps = max(1, min(decode.CHUNK, round(SHOW_EVERY_S * len(chunk) / seconds)))
        if text[-1] == eos_id or len(text) >= end:
            return
        window, cache = max(1, cfg.context // 2), state.cache.rollback(jnp.zeros(1, jnp.int32))
