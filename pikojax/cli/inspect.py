"""`pikojax inspect MODEL --prompt TEXT -o page.html`: one page that shows what a model does with a text.

    pikojax inspect runs/lightllm --prompt "Once upon a time" -o page.html
    pikojax inspect model.gguf --prompt "The cat sat on the" -o page.html --json

Where each head of each layer looks, what each layer would say, how long the vectors are, which experts a token goes to. The page stands
alone: open it in a browser, no network. MODEL is a run folder, RUN/checkpoints/STEP, a Hugging Face folder, a .gguf or an llama2.c .bin;
encoders too. A model without a tokenizer takes --prompt-ids. The longer the text and the more heads, the larger the page; a text for
which it would be too large is refused, and the line says how many tokens it holds.
"""

import argparse

from pikojax.cli.generate import ids_of
from pikojax.config import require, user_path

HELP = 'one page of what a model does: pikojax inspect MODEL --prompt "Once upon a time" -o page.html'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run folder, a Hugging Face folder, a .gguf or an llama2.c .bin")
    parser.add_argument("--prompt", metavar="TEXT", help="the text to look at")
    parser.add_argument("--prompt-ids", metavar="IDS", help='the same as token ids: "1 2 3"')
    parser.add_argument("-o", "--out", default="inspect.html", metavar="PAGE", help="the page to write (inspect.html)")
    parser.add_argument("--force", action="store_true", help="overwrite PAGE")


def run(args: argparse.Namespace) -> dict:
    out = user_path(args.out, "--out")
    require(args.force or not out.exists(), f"{out} exists; give another -o, or overwrite it with --force")
    require(out.parent.is_dir() and not out.is_dir(), f"cannot write {out}: its folder is missing, or it is one itself; give a file name")
    both = (args.prompt is None) == (args.prompt_ids is None)
    require(not both, "give a text to look at, by --prompt or by --prompt-ids, and not both")
    from pikojax.formats.load import load
    from pikojax.formats.run import write_atomically
    from pikojax.infer.inspect import look
    from pikojax.infer.inspect_page import labels, page

    loaded = load(args.model)
    ids = _ids(args, loaded)
    seen = look(loaded.model, loaded.config, loaded.params, ids)
    cfg = loaded.config
    facts = {"architecture": cfg.name, "layers": cfg.n_layers, "heads": cfg.n_heads, "width": cfg.d_model}
    facts |= {"vocabulary": f"{cfg.vocab_size:,}", "tokens": len(ids)}
    text = page(seen, ids, loaded.tokenizer, loaded.path.name or str(loaded.path), facts)
    write_atomically(out, text)
    print(f"{out}: {len(text.encode()):,} bytes, {len(ids)} tokens in {cfg.n_layers} layers of {cfg.n_heads} heads; open it in a browser")
    found = {"out": str(out), "bytes": len(text.encode()), "ids": [int(id) for id in ids], "tokens": labels(loaded.tokenizer, ids)}
    found |= {"layers": cfg.n_layers, "heads": cfg.n_heads, "norms": seen.norms_LT[:, -1]}
    if seen.words_LTK is not None:
        words_LK = seen.words_LTK[:, -1]  # behind the last token
        likeliest = zip(words_LK[-1], labels(loaded.tokenizer, words_LK[-1]), seen.probs_LTK[-1, -1], strict=True)
        found["next"] = [{"id": id, "token": token, "probability": p} for id, token, p in likeliest]
        found["lens"] = labels(loaded.tokenizer, words_LK[:, 0])
    return found


def _ids(args: argparse.Namespace, loaded) -> list[int]:
    V = loaded.config.vocab_size
    if args.prompt_ids is not None:
        return ids_of(args.prompt_ids, V)
    require(loaded.tokenizer is not None, f"{args.model} has no tokenizer; give the text as --prompt-ids")
    n_tokens = loaded.tokenizer.vocab_size
    require(n_tokens <= V, f"{args.model} has {V:,} tokens, its tokenizer {n_tokens:,}; it is another model's tokenizer")
    return [int(id) for id in loaded.tokenizer.encode(args.prompt, add_special_tokens=loaded.framed)]
