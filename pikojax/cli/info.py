"""`pikojax info MODEL`: what a model is and where its bytes are.

    pikojax info model.gguf
    pikojax info runs/lightllm --json

MODEL is a run folder, RUN/checkpoints/STEP, a Hugging Face folder, a quantized one, a .gguf or an llama2.c .bin. Of mapped files only the head is
read, but for what has to be put into another order: q and k of Llama's GGUF files.
"""

import argparse
import dataclasses

from pikojax.cli.progress import visible
from pikojax.config import UserError

HELP = "what a model is and where its bytes are: pikojax info model.gguf"
WIDTH = 32  # of a whole bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run folder, a Hugging Face folder, a .gguf or an llama2.c .bin")


def run(args: argparse.Namespace) -> dict:
    from pikojax.formats.describe import describe
    from pikojax.formats.load import load

    loaded = load(args.model, ready=False)
    found = {
        "model": str(loaded.path),
        "format": loaded.kind,
        "architecture": loaded.metadata.get("general.architecture", loaded.config.name),
        **describe(loaded.params),
        "context": loaded.config.context,
        "vocab_size": loaded.config.vocab_size,
        **_tokenizer(loaded),
        "config": dataclasses.asdict(loaded.config),
    }
    print("\n".join(lines(found)))
    return found


def _tokenizer(loaded) -> dict:
    """Kind and size of the tokenizer and the names of the chat templates; what cannot be read is said, not refused."""
    found = {"tokenizer": None, "chat_templates": []}
    try:
        tok = loaded.tokenizer
        found["tokenizer"] = tok and {"kind": tok.tree["model"].get("type"), "vocab_size": tok.vocab_size, "special": tok.n_special}
    except UserError as error:
        found["tokenizer"] = {"error": str(error)}
    try:
        found["chat_templates"] = [] if loaded.chat_templates is None else list(loaded.chat_templates.sources)
    except UserError as error:
        found["chat_template_error"] = str(error)
    return found


def lines(found: dict) -> list[str]:
    config, tokenizer = found["config"], found["tokenizer"]
    sizes = ", ".join(f"{name} {config[name]:,}" for name in ("n_layers", "d_model", "n_heads", "n_kv_heads", "d_hidden") if config.get(name))
    words = "none" if tokenizer is None else tokenizer.get("error") or f"{tokenizer['kind']}, {tokenizer['vocab_size']:,} tokens"
    templates = found.get("chat_template_error") or ", ".join(found["chat_templates"]) or "none"
    head = [
        f"{found['model']}: {found['architecture']} ({found['format']})",
        f"  parameters     {found['parameters']:,}",
        f"  sizes          {sizes}",
        f"  context        {found['context']:,} tokens, vocabulary {found['vocab_size']:,}",
        f"  tokenizer      {words}",
        f"  chat template  {templates}",
        f"  bytes          {found['bytes']:,}",
    ]
    by_layer = {f"layer {i}": n for i, n in enumerate(found["bytes_by_layer"])}
    if len(set(by_layer.values())) == 1:  # the usual case needs one line
        by_layer = {f"each of {len(by_layer)} layers": found["bytes_by_layer"][0]}
    bars = [*_bars(found["bytes_by_part"], found["bytes"]), "", *_bars(found["bytes_by_kind"], found["bytes"]), "", *_bars(by_layer, found["bytes"])]
    return [visible(line) for line in [*head, "", *bars]]


def _bars(sizes: dict[str, int], total: int) -> list[str]:
    width = max(map(len, sizes), default=0)
    return [f"  {name:<{width}}  {'█' * round(WIDTH * n / total):<{WIDTH}}  {n / total:6.1%}  {n:,}" for name, n in sizes.items()]
