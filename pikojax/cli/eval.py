"""`pikojax eval MODEL --text FILE`: how well a model foretells a text; with --against, how far it is from another model.

    pikojax eval model-q4.gguf --text book.txt
    pikojax eval model-q4.gguf --text book.txt --against model_folder          what packing its weights has cost

The KL divergence is of MODEL from the one it is compared with, which has to have the same vocabulary. Each ± is one standard error over tokens.
"""

import argparse
import math
from pathlib import Path

from pikojax.config import UserError, require, user_path

HELP = "how well a model foretells a text, and how far it is from another: pikojax eval MODEL --text book.txt"
CONTEXT = 512  # tokens of a window, unless a model's own context is shorter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run folder, a Hugging Face folder, a .gguf or an llama2.c .bin")
    parser.add_argument("--text", required=True, metavar="FILE", help="UTF-8 text")
    parser.add_argument("--against", metavar="MODEL2", help="the model to compare with")
    parser.add_argument("--context", type=int, metavar="N", help=f"tokens of a window ({CONTEXT}, or the model's context where that is shorter)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="only the first N tokens of the text")


def run(args: argparse.Namespace) -> dict:
    require(args.max_tokens is None or args.max_tokens >= 2, f"--max-tokens {args.max_tokens} foretells nothing; give 2 or more")
    text = read_text(user_path(args.text, "--text"))
    from pikojax.formats.load import load
    from pikojax.train.likelihood import measure

    loaded = load(args.model)
    against = load(args.against) if args.against else None
    for each in (loaded, against):
        if each is not None:
            each.must_foretell()
    ids, bos = token_ids(loaded, text)
    if against is not None:
        theirs, _ = token_ids(against, text)
        same = against.config.vocab_size == loaded.config.vocab_size and ids == theirs
        require(same, f"{args.against} has another vocabulary than {args.model}; compare models with the same one, others by their bits per byte")
    most = min(each.config.context for each in (loaded, against) if each)
    context = min(CONTEXT, most) if args.context is None else args.context
    require(2 <= context <= most, f"--context {context} is not from 2 to {most}, what the model{'s hold' if against else ' holds'}")
    n_bytes = len(text.encode())
    if args.max_tokens is not None and args.max_tokens < len(ids):
        ids = ids[: args.max_tokens]
        n_bytes = len(loaded.tokenizer.decode(ids).encode())
    if bos is None:  # the first token is not foretold
        n_bytes -= len(loaded.tokenizer.decode(ids[:1]).encode())
    result = measure(loaded, ids, n_bytes, bos=bos, context=context, against=against)
    for line in lines(result):
        print(line)
    return {"model": args.model, "text": args.text, "against": args.against, **result}


def read_text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror}); give a text file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 (byte {error.start}); convert it, as with iconv -t utf-8") from None


def token_ids(loaded, text: str) -> tuple[list[int], int | None]:
    """The text's tokens, and the one that texts begin with, if they do."""
    tok = loaded.tokenizer
    require(tok is not None, f"{loaded.path} has no tokenizer, so it cannot read text; give a model that has one")
    framed = tok.encode("a").tolist() if loaded.framed else []
    bos = tok.bos_id if tok.bos_id is not None and framed[:1] == [tok.bos_id] else None
    ids = tok.encode(text, add_special_tokens=False, allowed_special=()).tolist()
    V = loaded.config.vocab_size
    require(max(ids, default=0) < V, f"{loaded.path} has {V:,} tokens, its tokenizer more; it is another model's tokenizer")
    return ids, bos


def lines(result: dict) -> list[str]:
    def line(said: str, name: str, form: str, behind: str = "") -> str:
        error = result[f"{name}_error"]  # of one token there is none
        about = "" if math.isnan(error) else f" ± {error:{form.removeprefix('+')}}"
        return f"{said:<15}{result[name]:{form}}{about}{behind}"

    shown = [f"{result['tokens']:,} tokens of {result['bytes']:,} bytes, in windows of {result['context']:,}"]
    shown += [line("perplexity", "perplexity", ".4f"), line("bits per byte", "bits_per_byte", ".4f")]
    if "kl_mean" in result:
        shown += [line("KL divergence", "kl_mean", ".6f", " nats a token"), line("same top", "same_top_rate", ".2%")]
        shown += [line("nats above", "nats_above", "+.6f", " a token")]
    return shown
