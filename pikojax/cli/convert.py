"""`pikojax convert MODEL -o OUT`: writes a model as GGUF, which llama.cpp and others read, or as a Hugging Face folder, for transformers.

    pikojax convert model_folder -o model.gguf                      every weight as it is
    pikojax convert model_folder -o model.gguf --type q8_0          packed; types: f32, f16, q8_0, q6_k, q5_k, q5_1, q5_0, q4_k, q4_1, q4_0
    pikojax convert runs/mine -o hf_folder                          any other name is a folder; types: f32 (the default), f16

MODEL is what `pikojax info` takes; for GGUF it has to be of the Llama family. The vocabulary goes with it, unless --without-tokenizer.
"""

import argparse
from pathlib import Path

from pikojax.config import UserError, require, user_path

FOLDER_TYPES = {"f32": "float32", "f16": "float16"}
HELP = "write a model as GGUF or as a Hugging Face folder: pikojax convert MODEL -o model.gguf --type q8_0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run folder, a Hugging Face folder, a .gguf or an llama2.c .bin")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="the .gguf, or the folder, to write")
    parser.add_argument("--type", metavar="TYPE", help="of the matrices (as they are)")
    parser.add_argument("--without-tokenizer", action="store_true", help="write the weights alone")
    parser.add_argument("--force", action="store_true", help="overwrite OUT")


def run(args: argparse.Namespace) -> dict:
    require(args.out.strip() != "", "-o is empty; name the .gguf, or the folder, to write")
    out, type = user_path(args.out, "--out"), args.type and args.type.lower()
    require(args.force or not out.exists(), f"{out} exists; give another -o, or overwrite it with --force")
    made = _gguf(args, out, type) if out.suffix.lower() == ".gguf" else _hugging_face(args, out, type)
    print(f"{out}: {made['bytes']:,} bytes{'' if made['tokenizer'] else ', without a tokenizer'}")
    return {"out": str(out), "type": args.type, **made}


def _gguf(args: argparse.Namespace, out: Path, type: str | None) -> dict:
    from pikojax.formats.gguf_save import TYPES, save
    from pikojax.formats.load import load

    require(type is None or type in TYPES, f"--type {args.type} is unknown; choose from {', '.join(TYPES)}")
    loaded = load(args.model, ready=False)
    words = {} if args.without_tokenizer else vocabulary(loaded)
    return {"bytes": save(out, loaded.config, loaded.params, type, words, Path(loaded.path).stem), "tokenizer": bool(words)}


def _hugging_face(args: argparse.Namespace, out: Path, type: str | None) -> dict:
    from pikojax.formats import hf_write
    from pikojax.formats.load import load

    require(type in (None, *FOLDER_TYPES), f"--type {args.type} is none of a Hugging Face folder's ({', '.join(FOLDER_TYPES)}); packed weights go into a .gguf")
    loaded = load(args.model, ready=False)
    tokenizer = None if args.without_tokenizer else loaded.tokenizer
    templates = None if args.without_tokenizer else loaded.chat_templates
    template = templates.sources.get("default") if templates else None
    folder = hf_write.write(out, loaded.config, loaded.params, tokenizer, FOLDER_TYPES[type or "f32"], args.force, template, () if tokenizer is None else loaded.eos_ids)
    return {"bytes": sum(file.stat().st_size for file in folder.iterdir()), "tokenizer": tokenizer is not None}


def vocabulary(loaded) -> dict:
    """A GGUF file's own metadata, or what can be said of the tokenizer in them."""
    if loaded.kind == "gguf":
        return {key: value for key, value in loaded.metadata.items() if key.startswith("tokenizer.")}  # its strings as they are, UTF-8 or not
    if loaded.tokenizer is None:
        return {}
    from pikojax.formats import ends
    from pikojax.text.gguf_vocab_save import metadata

    try:
        templates = loaded.chat_templates
        named = {} if templates is None else templates.sources
        made = metadata(loaded.tokenizer, loaded.config.vocab_size) | ends.in_gguf(loaded.eos_ids, loaded.tokenizer.eos_id)
        return made | {"tokenizer.chat_template" + ("" if name == "default" else f".{name}"): text for name, text in named.items()}
    except UserError as error:
        raise UserError(f"{error} (--without-tokenizer)") from None
