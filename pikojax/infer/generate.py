"""Text from a prompt, in one call: `generate` returns it whole, `stream` yields it as it comes. Both make an engine for one request;
whoever asks often makes an `Engine` once.

The same seed gives the same text. A prompt that the context does not hold is refused. Once prompt and text fill the context, the last half
of the window is read again and writing goes on: the model then no longer sees what came before. An empty prompt stands for the start of a
document: the end-of-text token, else a newline.

Leaves out: many requests (engine.py).
"""

from collections.abc import Callable, Generator

from pikojax.infer.engine import Engine, EngineConfig
from pikojax.infer.request import Generation
from pikojax.models.layers import Model


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
    model: Model, cfg, params, tokenizer, prompt: str, *, framed: bool = False, config: EngineConfig = EngineConfig(slots=1, step_s=0.1), **options
) -> Generator[str, None, Generation]:
    """Yields what follows the prompt, piece by piece, and returns the `Generation`. `options` are request.py's. With `framed` the prompt
    begins as the tokenizer begins a text (<s>, or whatever its files say), which models from elsewhere were trained on."""
    handle = Engine(model, cfg, params, tokenizer, config, framed=framed).submit(prompt, **{"slide": True, **options})

    def pieces():
        yield from handle
        return handle.result()

    return pieces()
