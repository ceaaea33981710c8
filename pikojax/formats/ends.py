"""Which tokens end what a model writes. A base model has one, a chat model several: the end of a document and that of its turn.

    generation_config.json, else config.json     "eos_token_id": 128001 | [128001, 128008, 128009]
    GGUF                                         tokenizer.ggml.eos_token_id, eot_token_id, eom_token_id

The tokenizer's own end of text is always among them. So are its control tokens that are known to end a turn (`TURN_ENDS`), as many files
were written before their makers said so in numbers, and no text has such a token within.

Leaves out: stop strings.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pikojax.config import require
from pikojax.formats.huggingface import CONFIG, read_json

GENERATION = "generation_config.json"
FIELD = "eos_token_id"
IN_GGUF = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endofturn|>", "<|eom_id|>", "</s>")
MOST = 1000


def of_folder(folder: Path) -> tuple[int, ...]:
    """What a Hugging Face folder says. Where generation_config.json says something, it is what counts there."""
    for name in (GENERATION, CONFIG):
        found = read_json(folder / name).get(FIELD) if (folder / name).is_file() else None
        if found is not None:
            listed = found if isinstance(found, list) else [found]
            good = len(listed) <= MOST and all(type(id) is int for id in listed)
            require(good, f"{folder / name} has {FIELD} = {str(found)[:40]!r}; wanted a whole number, or a list of them")
            return tuple(listed)
    return ()


def of_gguf(metadata: Mapping) -> tuple[int, ...]:
    return tuple(id for name in IN_GGUF if type(id := metadata.get(name)) is int)


def joined(of_files: Iterable[int], tokenizer, vocab_size: int) -> tuple[int, ...]:
    """With the tokenizer's own, each once. Ids beyond the table, which some files have from the model they were made of, can never be drawn."""
    controls = set(getattr(tokenizer, "controls", ()))
    known = [tokenizer.token_to_id(name) for name in TURN_ENDS if name in controls]
    own = [] if tokenizer is None or tokenizer.eos_id is None else [tokenizer.eos_id]
    return tuple(dict.fromkeys(id for id in (*own, *of_files, *known) if 0 <= id < vocab_size))


def in_gguf(eos_ids: Iterable[int], own: int | None) -> dict[str, int]:
    """The metadata that say so; a file has room for two besides the tokenizer's own."""
    return dict(zip(IN_GGUF[1:], (id for id in eos_ids if id != own)))
