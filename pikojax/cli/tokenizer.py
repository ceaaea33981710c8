"""`pikojax tokenizer train | encode | decode | info | bench | view`: make a tokenizer, use it in a pipe, look at it, measure it.

    pikojax tokenizer train --algorithm bpe --vocab-size 8000 --text book.txt -o book.json
    pikojax tokenizer encode book.json < book.txt > ids.txt          a line of ids for each line of text
    pikojax tokenizer decode book.json < ids.txt                     and back, as the ids come
    pikojax tokenizer info book.json --text book.txt                 vocabulary, longest tokens, tokens per word
    pikojax tokenizer bench book.json --text book.txt --threads 2    megabytes a second
    pikojax tokenizer view book.json --text book.txt -o book.html    coloured tokens; without -o in the terminal

FILE is a tokenizer.json, a folder that has one, or another file that `pikojax.text.load` opens. Algorithms: bpe, wordpiece, unigram,
char, word. Text is UTF-8, from --text FILE… or from stdin. A terminal is shown control characters spelled out, a pipe gets
text as it is.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from pikojax.cli import progress
from pikojax.config import UserError, require, user_path

HELP = "make, use, look at and measure tokenizers: pikojax tokenizer info tokenizer.json"
ACTIONS = ("train", "encode", "decode", "info", "bench", "view")
FLAGS = {  # flag → the actions it belongs to
    "algorithm": ("train",),
    "vocab_size": ("train",),
    "special": ("train",),
    "pattern": ("train",),
    "text": ("train", "encode", "info", "bench", "view"),
    "out": ("train", "view"),
    "force": ("train", "view"),
    "no_special": ("encode", "decode", "view"),
    "plain": ("encode",),
    "whole": ("encode",),
    "passes": ("bench",),
}
BLOCK_BYTES = 4 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help="train, encode, decode, info, bench or view")
    parser.add_argument("file", nargs="?", metavar="FILE", help="the tokenizer (not for train)")
    parser.add_argument("--text", nargs="+", action="extend", metavar="FILE", help="text files, or folders of them; - is stdin")
    parser.add_argument("--algorithm", metavar="NAME", help="train: bpe, wordpiece, unigram, char or word")
    parser.add_argument("--vocab-size", type=int, metavar="N", help="train: tokens to have in the end")
    parser.add_argument("--special", nargs="+", action="extend", metavar="TOKEN", help='train: special tokens, as "<|endoftext|>"')
    parser.add_argument("--pattern", metavar="NAME", help="train bpe: how text is split into words (gpt2), as cl100k or o200k")
    parser.add_argument("-o", "--out", metavar="OUT", help="train: the tokenizer.json to write; view: the page")
    parser.add_argument("--force", action="store_true", help="overwrite OUT")
    parser.add_argument("--no-special", action="store_true", help="encode, view: add no special tokens; decode: show none")
    parser.add_argument("--plain", action="store_true", help="encode: special tokens in the text are plain text")
    parser.add_argument("--whole", action="store_true", help="encode: all text at once, not a line at a time")
    parser.add_argument("--passes", type=int, metavar="N", help="bench: the median of N passes (3)")


def run(args: argparse.Namespace) -> dict | None:
    for flag, actions in FLAGS.items():
        given = getattr(args, flag) not in (None, False)
        require(not given or args.action in actions, f"--{flag.replace('_', '-')} is not for {args.action}, it belongs to: {', '.join(actions)}")
    if args.action == "train":
        return train(args)
    require(args.file is not None, f"tokenizer {args.action} needs a tokenizer; give a tokenizer.json or a folder that has one")
    return {"encode": encode, "decode": decode, "info": info, "bench": bench, "view": view}[args.action](args)


def train(args: argparse.Namespace) -> dict:
    import time

    from pikojax.text import train as trainer
    from pikojax.text.measure import describe

    require(args.file is None, f"got {args.file!r}, wanted --text {args.file}; train reads text and writes OUT")
    known = ", ".join(trainer.ALGORITHMS)
    require(args.algorithm in trainer.ALGORITHMS, f"--algorithm {args.algorithm or 'is missing'}; choose one of: {known}")
    require(bool(args.text), "train needs text; give --text FILE…")
    require(args.out is not None, "train needs a place to write to; give -o OUT.json")
    out = free(args)
    start_s = time.perf_counter()
    with progress.bar() as report:
        tok = trainer.train_files(args.algorithm, args.text, args.vocab_size, args.special, args.pattern, args.threads or cores(), report)
    seconds = time.perf_counter() - start_s
    saved = tok.save(out)
    print(f"{saved}: {tok.vocab_size:,} tokens in {seconds:.1f} s, at most {peak_rss_bytes() / 1e6:,.0f} MB of memory")
    return {
        "tokenizer": str(saved),
        "algorithm": args.algorithm,
        "kind": describe(tok, 0)["kind"],
        "vocab_size": tok.vocab_size,
        "seconds": seconds,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def encode(args: argparse.Namespace) -> dict | None:
    from pikojax.text import load

    tok = load(args.file)
    options = {"add_special_tokens": not args.no_special, "allowed_special": () if args.plain else "all"}
    lines, n_tokens = [], 0
    for block in blocks(args.text, args.whole):
        for ids in tok.encode_batch(block, threads=args.threads or 1, **options):
            n_tokens += len(ids)
            if args.json:
                lines.append(ids.tolist())
            else:
                sys.stdout.write(" ".join(map(str, ids.tolist())) + "\n")
        sys.stdout.flush()
    return {"ids": lines, "tokens": n_tokens} if args.json else None


def decode(args: argparse.Namespace) -> dict | None:
    from pikojax.text import load

    tok = load(args.file)
    seen = progress.visible if sys.stdout.isatty() else str
    parts, stream, n_tokens = [], tok.stream(skip_special_tokens=args.no_special), 0
    for item in ids_of(sys.stdin.buffer):
        text = stream.finish() + "\n" if item is None else stream.push(item)
        n_tokens += item is not None
        if item is None:
            stream = tok.stream(skip_special_tokens=args.no_special)
        parts.append(text) if args.json else write_text(seen(text))
    parts.append(stream.finish()) if args.json else write_text(seen(stream.finish()))
    sys.stdout.flush()
    return {"text": "".join(parts), "tokens": n_tokens} if args.json else None


def info(args: argparse.Namespace) -> dict:
    from pikojax.text import load, measure

    tok = load(args.file)
    found = measure.describe(tok)
    if args.text:
        found["text"] = measure.fertility(tok, measure.documents(args.text))
    for key, value in found.items():
        if key == "longest_tokens":
            value = " ".join(repr(_shortened(each["text"])) for each in value)
        elif key == "specials":
            value = " ".join(f"{token!r}={i}" for token, i in value.items()) or "none"
        elif key == "text":
            value = ", ".join(f"{name.replace('_', ' ')} {_number(number)}" for name, number in value.items())
        print(f"{key.replace('_', ' '):<15} {progress.visible(str(value if value is not None else 'none'))}")
    return found


def bench(args: argparse.Namespace) -> dict:
    from pikojax.text import load, measure

    require(bool(args.text), "bench needs text; give --text FILE…")
    passes = 3 if args.passes is None else args.passes
    require(passes >= 1, f"--passes {passes}; give 1 or more")
    texts = list(measure.documents(args.text))
    with progress.bar() as report:
        found = measure.speed(lambda: load(args.file), texts, args.threads or 1, passes, on_progress=report)
    print(
        f"encode {found['encode_mb_per_s']:,.1f} MB/s, decode {found['decode_mb_per_s']:,.1f} MB/s, {found['tokens']:,} tokens of"
        f" {found['bytes'] / 1e6:,.1f} MB in {found['documents']:,} documents, {found['threads']} thread{'s' * (found['threads'] > 1)}"
    )
    return found


def view(args: argparse.Namespace) -> dict:
    from pikojax.text import load
    from pikojax.text import view as viewer

    out = free(args) if args.out is not None else None
    tok = load(args.file)
    text = "\n".join(line for block in blocks(args.text, True) for line in block)
    if len(text) > viewer.LIMIT_CHARS:
        print(f"pikojax: shows the first {viewer.LIMIT_CHARS:,} of {len(text):,} characters", file=sys.stderr)
    found = viewer.pieces(tok, text[: viewer.LIMIT_CHARS], not args.no_special)
    if out is not None:
        page = viewer.to_html(found, f"{Path(args.file).name}")
        try:
            out.write_text(page, encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {out} ({error.strerror}); choose a folder that exists and can be written") from None
        print(f"{out}: {sum(piece.id is not None for piece in found):,} tokens")
    else:
        progress.print_rich(viewer.to_terminal(found) if sys.stdout.isatty() else viewer.to_text(found))
    return {"tokens": [{"id": piece.id, "token": piece.token, "bytes": piece.data.hex()} for piece in found], "page": str(out) if out else None}


# ---------------------------------------------------------------- in and out


def free(args: argparse.Namespace) -> Path:
    """OUT, if it may be written."""
    out = user_path(args.out, "--out")
    require(args.force or not out.is_file(), f"{out} exists; choose another name, or --force to overwrite it")
    require(out.is_dir() or out.parent.is_dir(), f"there is no folder {out.parent}; make it first")
    inner = out / "tokenizer.json"
    require(args.force or not inner.is_file(), f"{inner} exists; choose another name, or --force to overwrite it")
    return out


def blocks(paths: list[str] | None, whole: bool) -> Iterator[list[str]]:
    """Lines of text without their ends, some at a time; one item that is all of it where it is wanted whole."""
    from pikojax.text.measure import files_of

    sources = [None] if not paths or paths == ["-"] else files_of(paths)
    for source in sources:
        name = "stdin" if source is None else str(source)
        try:
            with contextlib.nullcontext(sys.stdin.buffer) if source is None else open(source, "rb") as file:
                while found := [file.read()] if whole else [file.readline()] if file.isatty() else file.readlines(BLOCK_BYTES):
                    if found == [b""]:
                        break
                    yield [line.decode() if whole else line.decode().removesuffix("\n") for line in found]
        except OSError as error:
            raise UserError(f"cannot read {name} ({error.strerror}); give text files") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{name} is not UTF-8 (byte {error.start} of a line); convert it, as with iconv -t utf-8") from None


def ids_of(file) -> Iterator[int | None]:
    """The numbers in `file` as they come, None for the end of a line."""
    rest = b""
    while True:
        data = file.read1(1 << 16)
        words = (rest + data).replace(b"\n", b" \n ").split(b" ")
        rest = words.pop() if data else b""
        for word in words:
            word = word.strip(b"\t\r")
            if word == b"\n":
                yield None
            elif word:
                require(word.isdigit() and len(word) < 10, f"got {word[:20].decode('utf-8', 'replace')!r}, wanted token ids with spaces between them")
                yield int(word)
        require(len(rest) < 100, f"got {rest[:20].decode('utf-8', 'replace')!r}…, wanted token ids with spaces between them")
        if not data:
            return


def write_text(text: str) -> None:
    """As UTF-8, whatever the locale: a file or a pipe gets the exact text."""
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


def cores() -> int:
    from pikojax.native import cpu

    return cpu.cores()


def peak_rss_bytes() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _shortened(text: str) -> str:
    return text if len(text) <= 32 else f"{text[:16]}… {len(text):,} characters"


def _number(value) -> str:
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
