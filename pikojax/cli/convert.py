"""`pikojax convert MODEL -o OUT.gguf`: writes a model as GGUF, which llama.cpp and others read.

    pikojax convert model_folder -o model.gguf                      every weight as it is
    pikojax convert model_folder -o model.gguf --type q8_0          packed; types: f32, f16, q8_0, q6_k, q4_k, q4_0

MODEL is what `pikojax info` takes; it has to be of the Llama family. The vocabulary goes with it, unless --without-tokenizer.
"""

import argparse
from pathlib import Path

from pikojax.config import UserError, require, user_path

HELP = "write a model as GGUF: pikojax convert MODEL -o model.gguf --type q8_0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run folder, a Hugging Face folder, a .gguf or an llama2.c .bin")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="the .gguf to write")
    parser.add_argument("--type", metavar="TYPE", help="of the matrices (as they are)")
    parser.add_argument("--without-tokenizer", action="store_true", help="write the weights alone")
    parser.add_argument("--force", action="store_true", help="overwrite OUT")


def run(args: argparse.Namespace) -> dict:
    out = user_path(args.out, "--out")
    require(out.suffix == ".gguf", f"-o {args.out} is no .gguf; that is what can be written")
    require(args.force or not out.exists(), f"{out} exists; give another -o, or overwrite it with --force")
    from pikojax.formats.gguf_save import TYPES, save
    from pikojax.formats.load import load

    require(args.type is None or args.type.lower() in TYPES, f"--type {args.type} is unknown; choose from {', '.join(TYPES)}")
    loaded = load(args.model, ready=False)
    words = {} if args.without_tokenizer else vocabulary(loaded)
    n_bytes = save(out, loaded.config, loaded.params, args.type and args.type.lower(), words, Path(loaded.path).stem)
    print(f"{out}: {n_bytes:,} bytes{'' if words else ', without a tokenizer'}")
    return {"out": str(out), "bytes": n_bytes, "type": args.type, "tokenizer": bool(words)}


def vocabulary(loaded) -> dict:
    """A GGUF file's own metadata, or what can be said of the tokenizer in them."""
    if loaded.kind == "gguf":
        return {key: value for key, value in loaded.metadata.items() if key.startswith("tokenizer.")}
    if loaded.tokenizer is None:
        return {}
    from pikojax.text.gguf_vocab_save import metadata

    try:
        templates = loaded.chat_templates
        named = {} if templates is None else templates.sources
        return metadata(loaded.tokenizer) | {"tokenizer.chat_template" + ("" if name == "default" else f".{name}"): text for name, text in named.items()}
    except UserError as error:
        raise UserError(f"{error} (--without-tokenizer)") from None
