"""A drafter by its name, and what it needs of an engine.

    off | lookup | early-exit[=LAYERS] | heads[=RUN] | draft=MODEL

Leaves out: the guessing itself (drafters.py), what it costs (costs.py).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pikojax.config import UserError, require
from pikojax.infer import decode, drafters, pool, rows
from pikojax.infer.sizes import weight_bytes
from pikojax.kernels import prepare_tree
from pikojax.models.cache import KVCache
from pikojax.models.layers import Model
from pikojax.qtensor import FORMATS, QTensor
from pikojax.quant import quantize_tree

BELIEF = 4.0  # guesses that the past counts for, when a request begins
FIRST_PAUSE, LONGEST_PAUSE = 128, 4096  # tokens
NAMES = "off, lookup, early-exit, early-exit=LAYERS, heads, heads=RUN, draft=MODEL"


class Speculation:
    """The base of those below serves a drafter that keeps nothing."""

    params: Any = None

    def __init__(self, drafter):
        self.drafter = drafter
        self.right = self.tested = 0.0  # of late, over all requests: what a new one begins with

    def begin(self, request) -> None:
        """Before its first round."""
        few = min(1.0, BELIEF / self.tested) if self.tested else 0.0
        request.right, request.tested = self.right * few, self.tested * few

    def learn(self, request) -> None:
        """After a call in which it took part."""
        blend = lambda old, new: 0.8 * old + 0.2 * new
        self.right, self.tested = blend(self.right, request.right), blend(self.tested, request.tested)

    def pays(self, engine, requests, batch: int) -> bool:
        """Whether the next call should have guesses at all. Most drafters decide for each round, in the loop."""
        return True

    def bytes_of(self, params, k: int) -> int:
        """What k guesses read of weights; `params`: the model's."""
        return 0

    def new_cache(self, n_blocks: int, dtype):
        return None

    def read(self, engine, request, tokens_BT, n_B, hidden_BTD) -> None:
        """A block of the request's prompt has been read."""

    def enter(self, engine, requests, batch: int):
        """`state.draft` for a call."""
        return None

    def keep(self, engine, state) -> None:
        """After a call, which took them: arrays that are the engine's."""

    def leave(self, requests, state) -> None:
        """What of it a request keeps."""


class OfText(Speculation):
    """For `drafters.Lookup`."""

    def enter(self, engine, requests, batch: int):
        S = engine.n_table * pool.BLOCK + max(self.drafter.widths) + 1
        text_BS, length_B = np.zeros((batch, S), np.int32), np.zeros(batch, np.int32)
        for i, request in enumerate(requests):
            text_BS[i, : len(request.window)] = request.window
            length_B[i] = len(request.window)
        return text_BS, length_B


class OfLayers(Speculation):
    """For `drafters.EarlyExit`."""

    def bytes_of(self, params, k: int) -> int:
        return k * weight_bytes({**params, "blocks": params["blocks"][: self.drafter.n_layers]})


class OfModel(Speculation):
    """For `drafters.DraftModel`: its cache has the same blocks as the large model's, so what a row shares there it shares here.

    Its rounds all have guesses, since its cache would stay behind without. So it is turned off for whole calls, where plain ones bring more
    tokens a second by what was learnt, and tried again after ever longer pauses; `request.draft`, the tokens of a row that its cache has, then
    is behind, and is caught up with at once. (A beginning that was published meanwhile is not: who shares it gets worse guesses.)"""

    def __init__(self, drafter, model: Model, params):
        super().__init__(drafter)
        self.model, self.params = model, params
        self.pause, self.left = FIRST_PAUSE, 0  # tokens of the next pause; of the one that goes on

    def pays(self, engine, requests, batch: int) -> bool:
        drafting, plain = (engine.costs.get((batch, with_guesses)) for with_guesses in (True, False))
        if plain is None or drafting is None:  # both have to be seen, plain calls first
            return plain is not None
        if self.left > 0:
            self.left -= len(requests) * plain.rounds_in(engine.config.step_s, 1, decode.CHUNK)
            return self.left <= 0  # then one call is a trial
        a_B = np.clip([(r.right + 0.5) / (r.tested + 1.0) for r in requests], 0.01, 0.99)
        tokens_W = [np.sum((1 - a_B ** (k + 1)) / (1 - a_B)) for k in self.drafter.widths]
        if max(tokens_W / drafting.each) >= len(requests) / plain.each[0]:
            self.pause = FIRST_PAUSE
            return True
        self.left, self.pause = self.pause, min(2 * self.pause, LONGEST_PAUSE)
        return False

    def bytes_of(self, params, k: int) -> int:
        return k * weight_bytes(self.params)

    def new_cache(self, n_blocks: int, dtype):
        return self.model.new_cache(self.drafter.cfg, n_blocks, pool.BLOCK, dtype)

    def _view(self, engine, view: KVCache, less: int) -> KVCache:
        mine = engine.draft_cache
        return KVCache(mine.k_LBGSC, mine.v_LBGSC, jnp.maximum(view.length_B - less, 0), view.table_BN)

    def _keep(self, engine, view: KVCache) -> None:
        engine.draft_cache = KVCache(view.k_LBGSC, view.v_LBGSC, engine.draft_cache.length_B)

    def read(self, engine, request, tokens_BT, n_B, hidden_BTD) -> None:
        view = self._view(engine, engine._view([request], 1), 0)
        self._extend(engine, view, tokens_BT, n_B)
        request.draft = request.read + int(n_B[0])

    def _extend(self, engine, view: KVCache, tokens_BT, n_B) -> None:
        nothing_BV = jnp.zeros((1, self.drafter.cfg.vocab_size), jnp.float32)
        *_, view = decode.extend(self.drafter.forward, self.drafter.cfg, self.params, view, nothing_BV, tokens_BT, n_B)
        self._keep(engine, view)

    def _catch_up(self, engine, request) -> None:
        while (n := min(request.length - 1 - request.draft, decode.BLOCK)) > 0:
            view = self._view(engine, engine._view([request], 1), request.length - request.draft)
            tokens_BT = decode.padded(np.asarray([request.window], np.int32), request.draft, n, decode.BLOCK)
            self._extend(engine, view, tokens_BT, np.asarray([n], np.int32))
            request.draft += n

    def enter(self, engine, requests, batch: int):
        for request in requests:
            self._catch_up(engine, request)
        before_B = rows.rows(requests, batch, lambda r: r.window[-2], 0)
        return self._view(engine, engine._view(requests, batch), 1), before_B

    def keep(self, engine, state) -> None:
        self._keep(engine, state.draft[0])

    def leave(self, requests, state) -> None:
        for request, length in zip(requests, np.asarray(state.draft[0].length_B)):
            request.draft = int(length)


class OfHidden(Speculation):
    """For `drafters.Heads`."""

    def __init__(self, drafter, params):
        super().__init__(drafter)
        self.params = params

    def bytes_of(self, params, k: int) -> int:
        own = {name: part for name, part in self.params.items() if name != "read_out"} | {"blocks": self.params["blocks"][:k]}
        return weight_bytes(own) + weight_bytes({**params, **self.params.get("read_out", {}), "blocks": ()}) if k else 0

    def read(self, engine, request, tokens_BT, n_B, hidden_BTD) -> None:
        request.draft = np.asarray(hidden_BTD[0, int(n_B[0]) - 1], np.float32)

    def enter(self, engine, requests, batch: int):
        return rows.rows(requests, batch, lambda r: r.draft, np.zeros(engine.cfg.d_model), np.float32)

    def leave(self, requests, state) -> None:
        for request, hidden_D in zip(requests, np.asarray(state.draft)):
            request.draft = hidden_D


def make(name: str, model: Model, cfg, params, home=None) -> Speculation | None:
    """`home`: where the model was loaded from."""
    kind, _, value = name.partition("=")
    if name == "off":
        return None
    if name == "lookup":
        return OfText(drafters.Lookup())
    if kind == "early-exit":
        require(cfg.n_layers > 1, f"speculative = {name}; the model has one layer, and none to leave out; give lookup or off")
        n_layers = int(value) if value.isdigit() else 0 if value else max(1, cfg.n_layers // 4)
        require(0 < n_layers < cfg.n_layers, f"speculative = {name}; the model has {cfg.n_layers} layers, give fewer, as early-exit={max(1, cfg.n_layers // 4)}")
        return OfLayers(drafters.EarlyExit(n_layers))
    if kind == "draft" and value:
        from pikojax.formats.load import load

        small = load(value)
        small.must_foretell()
        same = small.config.vocab_size == cfg.vocab_size
        require(same, f"{value} has {small.config.vocab_size} tokens, the model {cfg.vocab_size}; a draft model needs the same vocabulary")
        return OfModel(drafters.DraftModel(small.model.forward, small.config), small.model, decode.ready(small.params))
    if kind == "heads":
        return _trained_heads(value or home, model, cfg, params)
    raise UserError(f"speculative = {name} is unknown; choose from {NAMES}")


def _trained_heads(path, model: Model, cfg, params) -> Speculation:
    from pikojax.train.heads import load_heads

    require(path is not None, "speculative = heads: this model comes from no run folder; say where its heads are, as heads=RUN")
    own, trained = load_heads(path, cfg, params)
    if own.d_model % FORMATS["q8_0"].block_weights == 0 and len(jax.tree.leaves(params["embed"])[0].devices()) == 1:
        read_out = "head" if "head" in params else "embed"
        trained |= {"read_out": {read_out: params[read_out]}}  # guesses need not be exact: heads, and the table of tokens again, in a quarter of the bytes
        trained = prepare_tree({**quantize_tree(trained, "q8_0"), "read_out": quantize_tree(trained["read_out"], "q8_0")})
    widths = tuple(sorted({0, 1, 2, own.n_ahead // 2, own.n_ahead} & set(range(own.n_ahead + 1))))
    return OfHidden(drafters.Heads(model.unembed, widths), decode.ready(trained))
