"""The config block of the model `heads`: what guesses several tokens ahead of a trained model, and lies in its run folder.

    [model]
    name = "heads"                  n_ahead = 4, base = "runs/story"; the rest is the base's

Leaves out: trees of guesses.
"""

import re
from dataclasses import dataclass

from pikojax.checked import require


@dataclass(frozen=True)
class HeadsConfig:
    name: str = "heads"
    n_ahead: int = 4  # tokens guessed beyond the next one, a head each
    base: str | None = None  # the model; None: the run folder that this one lies in
    base_print: str | None = None  # what tells it from others (models/heads.py)
    d_model: int | None = None  # the base's, as the next two
    vocab_size: int | None = None
    context: int | None = None  # tokens of a window; None: the base's

    def __post_init__(self):
        require(1 <= self.n_ahead <= 16, f"model.n_ahead = {self.n_ahead}; give 1 to 16")
        good = self.base_print is None or re.fullmatch("[0-9a-f]{16}", self.base_print) is not None
        require(good, f"model.base_print = {self.base_print!r} is not the 16 hexadecimal digits that a model has; leave it out, or train the heads anew")
        require(self.context is None or self.context > self.n_ahead + 1, f"model.context = {self.context}; a window must be longer than n_ahead + 1 = {self.n_ahead + 1}")
