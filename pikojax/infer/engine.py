"""The engine: many requests at once over one pooled cache, token by token. The only mutable state of serving.

    step():  admit     waiting requests take a slot and the blocks they will need; a beginning that is known is shared, not read
             read      one block of one prompt: while others write, as small a one as a moment allows
             write     a few rounds of decode for all rows that are writing, as many as a moment allows

    engine = Engine.load("model.gguf")
    engine.generate("Once upon a time", max_tokens=50).text
    for piece in engine.stream("Once upon a time"): print(piece, end="")
    handle = engine.submit("Once …"); …; handle.cancel()            others go on

What a row needs lies on the host between two steps (length, blocks, settings, key); on the device lie weights and cache. So a row costs
nothing when it has left, and a call holds just the rows that write, padded to a power of two. Since a row's bits do not depend on what
stands beside it, nor on how its prompt was cut, a request's text is the same alone and in any company (bit for bit where the native kernels run;
XLA's products may differ in their last bits).

Whoever reads a handle drives the engine, one step at a time under its lock; nothing runs when nobody asks. Steps may be made from
several threads.

Leaves out: HTTP (serve/), several devices, taking blocks away from a running request (each reserves what it may need).
"""

import dataclasses
import functools
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import UserError, require
from pikojax.infer import calls, constrained, decode, pool, rows, sizes, speculation
from pikojax.infer.costs import Costs
from pikojax.infer.handle import Handle, Listening
from pikojax.infer.request import Options, Request, check_length, prompt_ids, token_ids
from pikojax.models.cache import KVCache, beside
from pikojax.models.layers import Model

FIRST_ROUNDS = 4  # of the first call, before a round's time is known


@dataclass(frozen=True)
class EngineConfig:
    slots: int = 8  # requests that write at the same time
    queue: int = 256  # requests that may wait
    context: int | None = None  # the model's own
    cache: str = "auto"  # int8 where weights are quantized, float32 elsewhere; or float32, bfloat16, int8, int8_g32, int4
    cache_tokens: int | None = None  # room for so many tokens of all requests together; `slots` whole contexts, up to a quarter of memory
    remember: bool = True  # beginnings that may come again
    rings: bool | None = None  # layers that see a window keep no more than that, and beginnings are not remembered; None: where memory does not hold all of every slot
    speculative: str = "off"  # lookup, early-exit[=LAYERS], heads[=RUN], draft=MODEL
    step_s: float = 0.03  # about so long a step: what a cancelled request, or a new one, waits at most, but while a program is compiled and tried


class Busy(UserError):
    """The queue is full."""


class Engine:
    def __init__(self, model: Model, cfg, params, tokenizer=None, config: EngineConfig = EngineConfig(), *, framed=False, eos_ids=None,
                 drafter=None, home=None):  # fmt: skip
        """`drafter`: a `speculation.Speculation`, in place of the one that the config names. `home`: where the model was loaded from."""
        require(model.new_cache is not None, "the model is an encoder, which expects no next token; give one that writes")
        require(config.slots >= 1 and config.queue >= 0, f"slots = {config.slots}, queue = {config.queue}; give 1 or more, and 0 or more")
        self.model, self.cfg, self.config, self.tokenizer, self.framed, self.home = model, cfg, config, tokenizer, framed, home
        self.params = decode.ready(params)
        own = () if tokenizer is None or tokenizer.eos_id is None else (tokenizer.eos_id,)
        self.eos_ids = tuple(own if eos_ids is None else eos_ids)
        self.context = cfg.context if config.context is None else config.context
        require(1 <= self.context <= cfg.context, f"context = {self.context}; the model holds up to {cfg.context}")
        self.speculation = drafter or speculation.make(config.speculative, model, cfg, self.params, home)
        self.n_table = -(-(self.context + 1) // pool.BLOCK)
        self.dtype = sizes.cache_dtype(config.cache, self.params)
        self.ring = sizes.ring_blocks(model, cfg, config, self.context, self.dtype, self._draft_cache)
        self._empty()
        self.waiting: deque[Request] = deque()
        self.reading: deque[Request] = deque()
        self.writing: list[Request] = []
        self.costs: dict[tuple[int, bool], Costs] = {}  # of (batch, with a drafter)
        self.read_token_s = float("inf")  # of a prompt's token, of late
        self._words = None
        self._compiled: set = set()
        self._lock = threading.RLock()
        self._dropped: deque[Request] = deque()  # whose readers have gone

    @classmethod
    def load(cls, path, device: str = "auto", config: EngineConfig = EngineConfig(), **settings) -> "Engine":
        """Of anything that `pikojax.load` opens; `settings` on top of the config, as speculative="lookup"."""
        if device != "auto":
            here = jax.default_backend()
            require(device == here, f"device = {device}, but JAX computes on {here} in this process; start it with pikojax --device {device}")
        from pikojax.formats.load import load

        return cls.of(load(path), dataclasses.replace(config, **settings))

    @classmethod
    def of(cls, loaded, config: EngineConfig = EngineConfig()) -> "Engine":
        loaded.must_foretell()
        return cls(loaded.model, loaded.config, loaded.params, loaded.tokenizer, config, framed=loaded.framed, eos_ids=loaded.eos_ids, home=loaded.path)

    # ------------------------------------------------------------ asking

    def generate(self, prompt: str | Sequence[int], *, stream: bool = False, **options):
        """A `Generation`; with `stream` an iterator over its text, which ends the request when nobody listens any more."""
        handle = self.submit(prompt, **options)
        return Listening(handle) if stream else handle.result()

    def stream(self, prompt: str | Sequence[int], **options) -> Iterator[str]:
        return self.generate(prompt, stream=True, **options)

    def submit(self, prompt: str | Sequence[int], **options) -> Handle:
        """Text, or token ids. Mistakes and a full queue are told at once."""
        asked = Options(**options)
        asked.check(self.cfg.vocab_size)
        require(not asked.stop or self.tokenizer is not None, "stop strings need a tokenizer, and this model has none; give stop_ids")
        if isinstance(prompt, str):
            require(self.tokenizer is not None, "this model has no tokenizer; give the prompt as token ids")
            ids = prompt_ids(self.tokenizer, prompt, self.context, self.framed)
        else:
            ids = token_ids(prompt, self.cfg.vocab_size)
            check_length(ids, self.context)
        request = Request(ids, [] if isinstance(prompt, str) and not prompt else ids, asked, self.tokenizer, self.eos_ids, self.cfg, self._constraint(asked))
        needed = self._blocks_of(request)
        most = self.pool.n_blocks - 1
        require(needed <= most, f"the request needs {needed * pool.BLOCK} tokens of cache, there are {most * pool.BLOCK}; raise cache_tokens")
        with self._lock:
            self._end_dropped()
            free_slots = self.config.slots - len(self.reading) - len(self.writing)  # the next step will fill them
            if len(self.waiting) >= self.config.queue + max(free_slots, 0):
                raise Busy(f"{len(self.waiting)} requests are waiting already; try again later, or raise queue")
            self.waiting.append(request)
        return Handle(self, request)

    def _constraint(self, asked: Options):
        if not asked.constrained:
            return None
        require(self.tokenizer is not None, "constrained output needs a tokenizer, and this model has none; leave the constraint out")
        if self._words is None:
            self._words = constrained.vocabulary(self.tokenizer, self.cfg.vocab_size, self.eos_ids)
        forms = {name: getattr(asked, name) for name in ("json_schema", "regex", "choices", "grammar")}
        return constrained.make_constraint(self._words, **forms)

    # ------------------------------------------------------------ a step

    def step(self) -> bool:
        """Does what is to be done next. → whether there was anything."""
        with self._lock:
            self._end_dropped()
            self._admit()
            if self.reading:
                self._guarded(self._read, [self.reading[0]])
            writing = [r for r in self.writing if r.stopped is None]  # the first token may have been the last
            for request in writing:
                self._guarded(self._find_mask, [request])
            # What is held to a form is drawn token by token; nobody else needs to be.
            for held in (False, True):
                if rows_now := [r for r in writing if r.stopped is None and (r.constraint is not None) == held]:
                    self._guarded(self._write, rows_now)
            for request in [r for r in (*self.reading, *self.writing) if r.stopped is not None]:
                self._leave(request)
            return bool(self.waiting or self.reading or self.writing)

    def run(self) -> None:
        """Until nothing is left to do."""
        while self.step():
            pass

    def _step_for(self, request: Request) -> None:
        with self._lock:
            if not request.pieces and request.stopped is None:  # another thread's step may have served it
                self.step()

    def _guarded(self, work, requests: list[Request]) -> None:
        """What goes wrong on the device ends the requests it was for, and no others."""
        try:
            work(requests)
        except Exception as error:  # noqa: BLE001 – it is handed to those who asked
            for request in requests:
                request.error = error
                request.end("failed")
            if any(leaf.is_deleted() for leaf in jax.tree.leaves((self.cache, self.draft_cache))):  # given to the call that failed
                self._begin_anew(error)

    def _begin_anew(self, error: Exception) -> None:
        """With an empty cache: whoever had something in the lost one fails too."""
        for request in (*self.reading, *self.writing):
            request.error = request.error or error
            request.end("failed")
            request.blocks, request.ring = [], None
        self.reading.clear()
        self.writing.clear()
        self._empty()

    def _empty(self) -> None:
        n_blocks = sizes.n_blocks(lambda n: [self._new_cache(n), self._draft_cache(n)], self.context, self.config.slots, self.config.cache_tokens)
        self.pool = pool.Pool(1 + n_blocks, self.config.remember and not self.ring)
        self.cache = beside(self.params, self._new_cache(self.pool.n_blocks))
        self.free_rings = list(range(self.config.slots))
        self.draft_cache = beside(self.params, self._draft_cache(self.pool.n_blocks))

    def _admit(self) -> None:
        while self.waiting and len(self.reading) + len(self.writing) < self.config.slots:
            request = self.waiting[0]
            if not self._seat(request):
                return
            self.waiting.popleft()
            self.reading.append(request)

    def _seat(self, request: Request) -> bool:
        """Gives it blocks, those that know its beginning first; at least one token is left to be read."""
        known = self.pool.match(request.window[:-1])
        own = self.pool.take(self._blocks_of(request) - len(known))
        if own is None:
            self.pool.release(known)
            return False
        request.blocks = known + own
        request.ring = self.free_rings.pop()
        request.length = request.read = len(known) * pool.BLOCK
        request.cached_tokens += request.length
        return True

    def _blocks_of(self, request: Request) -> int:
        whole = min(len(request.window) + request.left, self.context)
        return -(-whole // pool.BLOCK)

    def _leave(self, request: Request) -> None:
        for group in (self.reading, self.writing):
            if request in group:
                group.remove(request)
        if request.stopped != "failed":
            self.pool.publish(request.window[: request.length], request.blocks)
        self._unseat(request)

    def _unseat(self, request: Request) -> None:
        self.pool.release(request.blocks)
        if request.ring is not None:
            self.free_rings.append(request.ring)
        request.blocks, request.ring = [], None

    def _end_dropped(self) -> None:
        while self._dropped:
            self._cancel(self._dropped.popleft())

    def _cancel(self, request: Request) -> None:
        with self._lock:
            request.end("cancelled")
            if request in self.waiting:
                self.waiting.remove(request)
            elif request in self.reading or request in self.writing:
                self._leave(request)

    # ------------------------------------------------------------ reading a prompt

    def _read(self, requests: list[Request]) -> None:
        (request,) = requests
        block = self._read_block()
        n = min(len(request.window) - request.read, block)
        tokens_BT = decode.padded(np.asarray([request.window], np.int32), request.read, n, block)
        view, n_B = self._view([request], 1), np.asarray([n], np.int32)
        nothing_BV = jnp.zeros((1, self.cfg.vocab_size), jnp.float32)
        began_s = time.perf_counter()
        logits_BV, hidden_BTD, own_B, view = decode.extend(self.model.forward, self.cfg, self.params, view, nothing_BV, tokens_BT, n_B)
        self._keep(view)
        logits_BV.block_until_ready()
        # A call that compiled says little: the next one may be sooner by any factor, and later by two.
        self.read_token_s = min((time.perf_counter() - began_s) / tokens_BT.shape[1], 2 * self.read_token_s)
        if self.speculation:
            self.speculation.read(self, request, tokens_BT, n_B, hidden_BTD)
        request.read += n
        request.length = request.read
        if request.read < len(request.window):
            return
        request.find_mask()
        how, extras = rows.how([request], self.model.forward, self.cfg, None), rows.extras([request], 1, self.cfg.vocab_size)
        position_B = np.asarray([len(request.ids)], np.int32)
        token_B, told = decode.first(how, logits_BV, own_B, request.key[None], position_B, request.settings, *extras)
        self.reading.remove(request)
        self.writing.append(request)
        if self.speculation:
            self.speculation.begin(request)
        request.accept(np.asarray(token_B).tolist(), jax.tree.map(np.asarray, told))
        self._make_room(request)

    def _read_block(self) -> int:
        """Tokens of a prompt that are read at once: a whole block, or what a step has time for while others write."""
        if not self.writing:
            return decode.BLOCK
        fitting = int(min(self.config.step_s / self.read_token_s, decode.BLOCK))
        return max(decode.power_of_two(fitting + 1) // 2, decode.MIN_BLOCK)

    @staticmethod
    def _find_mask(requests: list[Request]) -> None:
        requests[0].find_mask()

    def _make_room(self, request: Request) -> None:
        """At the context's end: the last half of the window is read again, or the text ends."""
        if request.stopped is not None or request.length < self.context:
            return
        if not request.options.slide:
            return request.end("context")
        self._unseat(request)
        request.length = request.read = 0
        request.window = request.window[-max(1, self.context // 2) :]
        self.writing.remove(request)
        if self._seat(request):
            self.reading.append(request)
        else:  # others read on in blocks that it has given back: it waits for them
            self.waiting.appendleft(request)

    # ------------------------------------------------------------ writing

    def _write(self, requests: list[Request]) -> None:
        batch, held = decode.power_of_two(len(requests)), any(r.constraint is not None for r in requests)
        spec = None if held or not (self.speculation and self.speculation.pays(self, requests, batch)) else self.speculation
        how = rows.how(requests, self.model.forward, self.cfg, spec.drafter if spec else None)
        if (batch, bool(spec)) not in self.costs:
            self.costs[batch, bool(spec)] = Costs.of(spec, self.params)
        costs = self.costs[batch, bool(spec)]
        begin = functools.partial(calls.begin, self, how, requests, batch, spec)
        call = begin()
        if call.program not in self._compiled:
            calls.try_out(begin, None if held else costs)
            self._compiled.add(call.program)
            call = begin()
        moment_s = self.config.step_s / (3 if self.reading or self.waiting else 1)
        n_rounds = 1 if held else costs.rounds_in(moment_s, FIRST_ROUNDS, decode.CHUNK)  # a mask holds for one token
        drawn, state, seconds = call.run(n_rounds, costs.to_choose_by())
        if not held:
            costs.learn(drawn.rounds_W, seconds)
        if spec:
            spec.leave(requests, state)
        state = jax.tree.map(np.asarray, state._replace(cache=None, draft=None, seen=None)), np.asarray(state.cache.length_B)
        for i, request in enumerate(requests):
            try:
                self._take(request, i, drawn, *state, seconds)
            except Exception as error:  # noqa: BLE001 – one request's text or constraint is no other's trouble
                request.error = error
                request.end("failed")

    def _take(self, request: Request, i: int, drawn: decode.Drawn, state: decode.State, length_B, seconds: float) -> None:
        """What row i of a call has brought the request."""
        n = int(drawn.count_B[i])
        request.length = int(length_B[i])
        request.timed = [request.timed[0] + n, request.timed[1] + seconds]
        if state.right_B is not None:
            request.right, request.tested = float(state.right_B[i]), float(state.tested_B[i])
            self.speculation.learn(request)
        if self.speculation:
            request.rounds, request.kept = request.rounds + int(drawn.rounds_B[i]), request.kept + n
        request.accept(drawn.tokens_BN[i, :n].tolist(), jax.tree.map(lambda x: x[i], drawn.told))
        self._make_room(request)

    # ------------------------------------------------------------ the cache

    def _view(self, requests: list[Request], batch: int) -> KVCache:
        """The pool as these rows see it. A row that is none writes where nothing is kept."""
        length_B, table_BN = rows.rows(requests, batch, lambda r: r.length, 0), rows.block_table(requests, batch, self.n_table)
        view = dataclasses.replace(self.cache, length_B=jnp.asarray(length_B), table_BN=jnp.asarray(table_BN))
        if view.windowed is None:
            return view
        ring_BN = rows.ring_table(requests, batch, self.n_table, self.ring)
        return dataclasses.replace(view, windowed=dataclasses.replace(view.windowed, length_B=jnp.asarray(length_B), table_BN=jnp.asarray(ring_BN)))

    def _keep(self, view: KVCache) -> None:
        bare = lambda view, own: dataclasses.replace(view, length_B=own.length_B, table_BN=None)
        windowed = view.windowed and bare(view.windowed, self.cache.windowed)
        self.cache = dataclasses.replace(bare(view, self.cache), windowed=windowed)

    def _new_cache(self, n_blocks: int) -> KVCache:
        windowed = {"windowed": 1 + self.config.slots * self.ring} if self.ring else {}
        return self.model.new_cache(self.cfg, n_blocks, pool.BLOCK, self.dtype, **windowed)

    def _draft_cache(self, n_blocks: int) -> KVCache | None:
        return self.speculation.new_cache(n_blocks, self.dtype) if self.speculation else None
