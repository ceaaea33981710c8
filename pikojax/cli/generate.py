"""`pikojax generate MODEL PROMPT`: lets a trained model go on with a text, shown as it comes.

    pikojax generate runs/lightllm --prompt "Once upon a time" --max-tokens 300
    pikojax generate runs/lightllm/checkpoints/2000 "Once upon a time" --temperature 0        the likeliest word each time
    cat story.txt | pikojax generate runs/lightllm - --seed 7
    pikojax generate model.gguf "List three fruits as JSON: " --json-schema fruits.json
    pikojax generate model.gguf "Once upon a time" --speculative lookup --uncertainty

MODEL is a run folder, RUN/checkpoints/STEP, a Hugging Face folder, a .gguf or an llama2.c .bin with its tokenizer beside it.
Without a prompt it starts a text of its own. A prompt longer than the model's context is refused; text may grow beyond the
context, the model then sees at least the last half of its window. In a terminal the prompt is shown in front and control
characters are spelled out; a pipe gets what follows the prompt, as it is. Guesses (--speculative) change the speed alone: the text is
the same, token for token.
"""

import argparse
import json
import sys
from pathlib import Path

from pikojax.cli.progress import visible
from pikojax.config import UserError, require, user_path

ID_DIGITS = 9  # no vocabulary is larger
HELP = 'write text with a trained model: pikojax generate MODEL --prompt "Once upon a time"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run folder, a Hugging Face folder, a .gguf or an llama2.c .bin")
    parser.add_argument("bare_prompt", nargs="?", metavar="PROMPT", help="the text to go on with; - reads it from stdin")
    parser.add_argument("--prompt", metavar="TEXT", help="the same")
    parser.add_argument("--prompt-ids", metavar='"1 2 3"', help="the same, as token ids")
    add_sampling(parser)
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be given several times")
    parser.add_argument("--json-schema", metavar="FILE", help="hold the text to a JSON schema")
    parser.add_argument("--regex", metavar="PATTERN", help="hold the text to a regular expression")
    parser.add_argument("--choices", metavar="A,B,C", help="hold the text to one of these")
    parser.add_argument("--logprobs", type=int, metavar="N", help="with --json: log-probabilities of each token and of the N likeliest")
    parser.add_argument("--uncertainty", action="store_true", help="show how sure the model was of each token")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """What `chat` takes too."""
    parser.add_argument("--max-tokens", type=int, default=200, metavar="N", help="stop after so many tokens (200)")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0: always the likeliest token; 1: as trained (0.8)")
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens only")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw from the likeliest tokens that make up P of the probability")
    parser.add_argument("--min-p", type=float, metavar="P", help="draw from tokens with at least P of the likeliest one's probability")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R", help="above 1: less of what the text has already (1)")
    parser.add_argument("--presence-penalty", type=float, default=0.0, metavar="R", help="taken from logits of tokens written before (0)")
    parser.add_argument("--frequency-penalty", type=float, default=0.0, metavar="R", help="the same for each time they were (0)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="the same seed gives the same text (0)")
    parser.add_argument("--cache", default="auto", metavar="FORMAT", help="of keys and values: float32, bfloat16, int8, int4 (int8 where weights are quantized)")
    parser.add_argument("--speculative", default="off", metavar="HOW", help="guess tokens and verify them: off, lookup, early-exit, heads, draft=MODEL (off)")


SAMPLING = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed")


def run(args: argparse.Namespace) -> dict:
    prompt = prompt_of(args)
    held = constraint_of(args)
    require(args.logprobs is None or args.json, "--logprobs are told in the JSON alone; give --json too")
    loaded, engine = opened(args, needs_tokenizer=args.prompt_ids is None or args.uncertainty)
    shown = visible if sys.stdout.isatty() else str
    asked = {name: getattr(args, name) for name in SAMPLING} | held
    asked |= {"stop": args.stop, "logprobs": args.logprobs, "uncertainty": args.uncertainty, "slide": not held}
    handle = engine.submit(prompt, **asked)
    if sys.stdout.isatty() and isinstance(prompt, str):
        print(shown(prompt), end="", flush=True)
    if args.uncertainty:
        result = handle.result()
        show_uncertainty(loaded.tokenizer, result, handle.prompt_ids)
    else:
        for text in handle:
            print(shown(text), end="", flush=True)
        result = handle.result()
        print(flush=True)
    rate = "" if result.tokens_per_s is None else f", {result.tokens_per_s:,.0f} tokens/s"
    guessed = "" if result.accepted_per_round is None else f", {result.accepted_per_round:.2f} tokens a round"
    print(f"{len(result.ids)} tokens{rate}{guessed}, the first after {result.first_token_s:.2f} s", file=sys.stderr)
    return result._asdict()


def opened(args: argparse.Namespace, needs_tokenizer: bool = True):
    """The model and an engine for one request at a time."""
    from pikojax.formats.load import load
    from pikojax.infer.engine import Engine, EngineConfig

    loaded = load(args.model)
    loaded.must_foretell()
    if loaded.tokenizer is None and needs_tokenizer:
        remedy = {"gguf": "choose a file that has one", "llama2c": "put its tokenizer.bin beside it"}.get(loaded.kind, "put its tokenizer.json into the folder")
        instead = "leave out --uncertainty" if getattr(args, "prompt_ids", None) is not None else "give --prompt-ids"
        raise UserError(f"{args.model} has no tokenizer; {remedy}, or {instead}")
    n_tokens, n_rows = loaded.config.vocab_size if loaded.tokenizer is None else loaded.tokenizer.vocab_size, loaded.config.vocab_size
    require(n_tokens <= n_rows, f"{args.model} has {n_rows:,} tokens, its tokenizer {n_tokens:,}; it is another model's tokenizer")
    return loaded, Engine.of(loaded, EngineConfig(slots=1, step_s=0.1, cache=args.cache, speculative=args.speculative))


def show_uncertainty(tokenizer, result, prompt_ids=()) -> None:
    from pikojax.infer.uncertainty import in_colours, tokens_of, view

    coloured = view(tokens_of(tokenizer, result, prompt_ids), in_colours(sys.stdout))
    if isinstance(coloured, str):
        return print(coloured, flush=True)
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(coloured)


def prompt_of(args: argparse.Namespace) -> str | list[int]:
    given = {"PROMPT": args.bare_prompt, "--prompt": args.prompt, "--prompt-ids": args.prompt_ids}
    given = {name: value for name, value in given.items() if value is not None}
    require(len(given) <= 1, f"got two prompts, {' and '.join(f'{name} {value!r:.30}' for name, value in given.items())}; give one")
    if args.prompt_ids is not None:
        return ids_of(args.prompt_ids)
    text = next(iter(given.values()), "")
    if text != "-":
        return text
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")  # a file's last newline ends its line, it begins no new one
    except UnicodeDecodeError as error:
        raise UserError(f"the prompt on stdin is not UTF-8 (byte {error.start}); convert it, as with iconv -t utf-8") from None


def ids_of(text: str, n_tokens: int | None = None) -> list[int]:
    """Of --prompt-ids; `n_tokens` of the model, where it is known yet."""
    words = text.replace(",", " ").split()
    good = all(word.isascii() and word.isdigit() and len(word) <= ID_DIGITS for word in words)
    ids = [int(word) for word in words] if good else []
    wanted = 'whole numbers, as "1 2 3"' if n_tokens is None else f"whole numbers from 0 to {n_tokens - 1}"
    require(bool(ids) and (n_tokens is None or max(ids) < n_tokens), f"--prompt-ids {text!r:.40}; give {wanted}")
    return ids


def constraint_of(args: argparse.Namespace) -> dict:
    """All that is given: the engine refuses more than one."""
    schema = None if args.json_schema is None else read_schema(user_path(args.json_schema, "--json-schema"))
    choices = None if args.choices is None else args.choices.split(",")
    given = {"json_schema": schema, "regex": args.regex, "choices": choices}
    return {name: form for name, form in given.items() if form is not None}


def read_schema(file: Path):
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else getattr(error, "strerror", None) or "it is no JSON"
        raise UserError(f"cannot read the schema {file} ({reason}); give a JSON file") from None
