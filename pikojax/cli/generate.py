"""`pikojax generate MODEL PROMPT`: lets a trained model go on with a text, shown as it comes.

    pikojax generate runs/lightllm --prompt "Once upon a time" --max-tokens 300
    pikojax generate runs/lightllm/checkpoints/2000 "Once upon a time" --temperature 0        the likeliest word each time
    cat story.txt | pikojax generate runs/lightllm - --seed 7
    pikojax generate model.gguf "Once upon a time"

MODEL is a run folder, RUN/checkpoints/STEP, a Hugging Face folder, a .gguf or an llama2.c .bin with its tokenizer beside it.
Without a prompt it starts a text of its own. A prompt longer than the model's context is refused; text may grow beyond the
context, the model then sees at least the last half of its window. In a terminal the prompt is shown in front and control
characters are spelled out; a pipe gets what follows the prompt, as it is.
"""

import argparse
import sys

from pikojax.cli.progress import visible
from pikojax.config import UserError, require

HELP = 'write text with a trained model: pikojax generate MODEL --prompt "Once upon a time"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run folder, a Hugging Face folder, a .gguf or an llama2.c .bin")
    parser.add_argument("bare_prompt", nargs="?", metavar="PROMPT", help="the text to go on with; - reads it from stdin")
    parser.add_argument("--prompt", metavar="TEXT", help="the same")
    parser.add_argument("--max-tokens", type=int, default=200, metavar="N", help="stop after so many tokens (200)")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0: always the likeliest token; 1: as trained (0.8)")
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens only")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw from the likeliest tokens that make up P of the probability")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="the same seed gives the same text (0)")


def run(args: argparse.Namespace) -> dict:
    prompt = prompt_of(args)
    from pikojax.formats.load import load
    from pikojax.infer.generate import generate

    loaded = load(args.model)
    loaded.must_foretell()
    if loaded.tokenizer is None:
        remedy = {"gguf": "choose a file that has one", "llama2c": "put its tokenizer.bin beside it"}.get(loaded.kind, "put its tokenizer.json into the folder")
        raise UserError(f"{args.model} has no tokenizer; {remedy}")
    n_tokens, n_rows = loaded.tokenizer.vocab_size, loaded.config.vocab_size
    require(n_tokens <= n_rows, f"{args.model} has {n_rows:,} tokens, its tokenizer {n_tokens:,}; it is another model's tokenizer")
    shown = visible if sys.stdout.isatty() else str
    if sys.stdout.isatty():
        print(shown(prompt), end="", flush=True)
    result = generate(
        loaded.model,
        loaded.config,
        loaded.params,
        loaded.tokenizer,
        prompt,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
        framed=loaded.framed,
        on_text=lambda text: print(shown(text), end="", flush=True),
    )
    print(flush=True)
    rate = "" if result.tokens_per_s is None else f", {result.tokens_per_s:,.0f} tokens/s"
    print(f"{len(result.ids)} tokens{rate}, the first after {result.first_token_s:.2f} s", file=sys.stderr)
    return result._asdict()


def prompt_of(args: argparse.Namespace) -> str:
    both = args.bare_prompt is not None and args.prompt is not None
    require(not both, f"got two prompts, PROMPT and --prompt {args.prompt!r:.30}; give one")
    text = args.prompt if args.bare_prompt is None else args.bare_prompt
    if text != "-":
        return text or ""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")  # a file's last newline ends its line, it begins no new one
    except UnicodeDecodeError as error:
        raise UserError(f"the prompt on stdin is not UTF-8 (byte {error.start}); convert it, as with iconv -t utf-8") from None
