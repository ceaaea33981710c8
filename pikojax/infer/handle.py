"""A request in the hands of whoever asked: its text as it comes, its result, its end.

    handle = engine.submit("Once …")        for piece in handle: …        handle.result()        handle.cancel()

Leaves out: what the engine does about it (engine.py).
"""

from collections.abc import Iterator

from pikojax.infer.request import Generation, Piece, Request


class Handle:
    """A request that was submitted. Iterating gives its text as it comes."""

    def __init__(self, engine, request: Request):
        self._engine, self._request = engine, request

    def __iter__(self) -> Iterator[str]:
        return (piece.text for piece in self.pieces() if piece.text)

    def pieces(self) -> Iterator[Piece]:
        while True:
            ended = self._request.stopped is not None  # asked first: what was put before the end is there then
            while self._request.pieces:
                yield self._request.pieces.popleft()
            if ended:
                break
            self._engine._step_for(self._request)
            if not self._request.pieces and self._request.stopped is None:
                yield Piece("", [])  # so that whoever reads may cancel while a long prompt is read
        if self._request.error is not None:
            raise self._request.error

    def result(self) -> Generation:
        """The whole, once it is there."""
        for _ in self.pieces():
            pass
        return self._request.result()

    def cancel(self) -> None:
        """Ends it; its slot is free when this returns."""
        self._engine._cancel(self._request)

    def _let_go(self) -> None:
        """Ends it with the next step: whoever collects garbage may be in the middle of one."""
        self._engine._dropped.append(self._request)

    @property
    def prompt_ids(self) -> list[int]:
        """The prompt's tokens; none of an empty one."""
        return self._request.shown_from

    @property
    def done(self) -> bool:
        return self._request.stopped is not None


class Listening:
    """A request's text, as long as somebody wants it: whoever lets go of it, begun or not, ends the request."""

    def __init__(self, handle: Handle):
        self._handle, self._texts = handle, iter(handle)

    def __iter__(self) -> "Listening":
        return self

    def __next__(self) -> str:
        return next(self._texts)

    def close(self) -> None:
        self._handle.cancel()

    def __del__(self) -> None:
        self._handle._let_go()
