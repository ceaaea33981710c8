"""`pikojax quantize MODEL -o OUT --format q4_k`: the same model with packed weights, as GGUF or as a folder of our own.

    pikojax quantize model_folder -o small.gguf --format q4_k                      for llama.cpp and others; each weight becomes the nearest number
    pikojax quantize model_folder -o small.gguf --format q4_k --calibrate book.txt    rounded for what the text sends into each matrix: less is lost
    pikojax quantize runs/mine -o small --format int4_g32                          any other name is a folder, for any model and format here
    pikojax quantize runs/mine -o small --format q4_0 --keep 'blocks/*/down*=q6_k' --keep embed=f16

Formats: q4_0 q4_1 q5_0 q5_1 q8_0 q4_k q5_k q6_k (GGUF's, and in folders), int8, int8_g32 … g128, int4_g32 … g128, int4a_g32 … g128 (with a minimum), nf4.
Embedding and head get eight bits unless --keep says otherwise; norms, biases and small matrices stay as they are.

--calibrate alone means --method feedback (what a weight's rounding spoils, later ones make good); --method importance only weighs inputs. What the
text has told of the inputs can be saved (--save-importance FILE, as llama.cpp's imatrix) and used in place of a text (--importance FILE).
Nothing is held in memory but the tensor at work, and with a text one layer of weights.
"""

import argparse
import os
from pathlib import Path

from pikojax.cli.progress import bar
from pikojax.config import require, user_path

HELP = "pack a model's weights into 4 to 8 bits: pikojax quantize MODEL -o small.gguf --format q4_k"
METHODS = ("nearest", "importance", "feedback")
TOKENS, CONTEXT = 32_768, 512  # of the calibration text: how many, and in windows of how many


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run folder, a Hugging Face folder, a .gguf or an llama2.c .bin, not packed yet")
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="the .gguf, or the folder, to write")
    parser.add_argument("--format", required=True, metavar="FORMAT", help="of the blocks' matrices")
    parser.add_argument("--keep", action="append", default=[], metavar="PATTERN=FORMAT", help="another format (or f16, f32) where a path fits PATTERN; the first that fits decides")
    parser.add_argument("--calibrate", metavar="TEXT", help="UTF-8 text such as the model will see")
    parser.add_argument("--tokens", type=int, default=TOKENS, metavar="N", help=f"the first N tokens of it ({TOKENS:,})")
    parser.add_argument("--importance", metavar="FILE", help="an importance matrix (llama.cpp's imatrix in GGUF, or --save-importance)")
    parser.add_argument("--save-importance", metavar="FILE", help="write one, from --calibrate")
    parser.add_argument("--method", choices=METHODS, help="nearest; importance; feedback (what is given decides)")
    parser.add_argument("--without-tokenizer", action="store_true", help="write the weights alone")
    parser.add_argument("--force", action="store_true", help="overwrite OUT")


def run(args: argparse.Namespace) -> dict:
    out, method = user_path(args.out, "--out"), _method(args)
    gguf = out.suffix.lower() == ".gguf"
    require(args.force or not out.exists(), f"{out} exists; give another -o, or overwrite it with --force")
    saved = user_path(args.save_importance, "--save-importance") if args.save_importance else None
    if saved is not None:  # written last of all, so what is wrong with it is told first
        require(args.force or not saved.exists(), f"{saved} exists; give another --save-importance, or overwrite it with --force")
        good = saved.parent.is_dir() and os.access(saved.parent, os.W_OK) and not saved.is_dir()
        require(good, f"cannot write {saved}: its folder is missing or not writable, or it is one itself; give another --save-importance")
    rules, n_kept = _rules(args, gguf)
    text = None if args.calibrate is None else _text(args.calibrate)
    from pikojax.formats.load import load
    from pikojax.quant.pack import Packer, by_layers, calibrated, plan

    loaded = load(args.model, ready=False)
    params = by_layers(loaded.params)
    _refuse_packed(params, args.model)
    planned = plan(params, rules, gguf, must_fit=n_kept)
    importance = _read_importance(args, planned)
    layers, told, tokens_BT = None, {} if saved else None, None
    if text is not None:
        tokens_BT = _tokens(loaded, text, args.tokens)
        layers = calibrated(loaded.model, loaded.config, params, planned, tokens_BT, method, told)
    with bar() as progress:
        packer = Packer(params, planned, importance, layers, progress)
        made = (_gguf if gguf else _folder)(args, out, loaded, params, planned, packer)
    if saved:
        from pikojax.formats import importance as file

        file.save(saved, told, loaded.config.name == "llama", Path(args.calibrate).name, *tokens_BT.shape)
    return _told(args, out, method, packer, tokens_BT, made)


def _method(args: argparse.Namespace) -> str:
    require(args.calibrate is None or args.importance is None, "got --calibrate and --importance; give one of them")
    require(args.save_importance is None or args.calibrate is not None, "--save-importance needs the text that it is made from; give --calibrate TEXT")
    given = "feedback" if args.calibrate else "importance" if args.importance else "nearest"
    method = args.method or given
    require(method != "feedback" or args.calibrate is not None, "--method feedback needs a text; give --calibrate TEXT")
    require(method != "importance" or given != "nearest", "--method importance needs --calibrate TEXT or --importance FILE; give one of them")
    require(method != "nearest" or given == "nearest", "--method nearest makes no use of a text or an importance; leave out one of them")
    require(args.tokens >= 1, f"--tokens {args.tokens} are none; give 1 or more")
    return method


def _rules(args: argparse.Namespace, gguf: bool) -> tuple[list, int]:
    """(rules, how many of them --keep has given)."""
    from pikojax.qtensor.formats import FORMATS
    from pikojax.quant.tree import Rule, rules_for

    floats = ("f32", "f16")
    known = [name for name in FORMATS if FORMATS[name].gguf or not gguf]

    def checked(format: str, also: tuple = ()) -> str:
        name = format.strip().lower()
        where = " in a .gguf" if name in FORMATS and name not in known else ""
        require(name in (*known, *also), f"format {format!r} is unknown{where}; choose from {', '.join((*known, *also))}")
        return name

    kept = []
    for each in args.keep:
        pattern, equals, format = each.rpartition("=")
        require(bool(equals and pattern), f"--keep {each!r} is no PATTERN=FORMAT, as in --keep 'blocks/*/down*=q6_k'")
        kept.append(Rule(pattern, checked(format, floats)))
    return [*kept, *rules_for(checked(args.format))], len(kept)


def _text(name: str) -> str:
    from pikojax.cli.eval import read_text

    return read_text(user_path(name, "--calibrate"))


def _refuse_packed(params, model: str) -> None:
    from pikojax.qtensor import QTensor
    from pikojax.quant.pack import leaves_of

    packed = next(((path, leaf.format) for path, leaf in leaves_of(params).items() if isinstance(leaf, QTensor)), None)
    require(packed is None, f"{model} has {packed and packed[0]} packed as {packed and packed[1]}; packing it again would lose more: give the model before it was packed")


def _read_importance(args: argparse.Namespace, planned) -> dict:
    from pikojax.qtensor import FORMATS

    if args.importance is None:
        return {}
    from pikojax.formats import importance

    return importance.read(user_path(args.importance, "--importance"), [path for path, what in planned.items() if what.format in FORMATS])


def _tokens(loaded, text: str, most: int):
    """The text in windows [B, T], each begun as the model's texts are; what does not fill a window is left out."""
    import numpy as np

    from pikojax.cli.eval import token_ids

    ids, bos = token_ids(loaded, text)
    begin = [] if bos is None else [bos]
    context = min(CONTEXT, loaded.config.context)
    ids = np.asarray(ids[: most // context * (context - len(begin)) or most], np.int32)
    width = min(context - len(begin), len(ids))
    require(width >= 1, "--calibrate has a text of no tokens; give a longer one")
    rows = ids[: len(ids) // width * width].reshape(-1, width)
    return np.concatenate([np.full((len(rows), len(begin)), bos or 0, np.int32), rows], axis=1)


def _gguf(args: argparse.Namespace, out: Path, loaded, params, planned, packer) -> dict:
    from pikojax.cli.convert import vocabulary
    from pikojax.formats.gguf_save import save

    words = {} if args.without_tokenizer else vocabulary(loaded)
    types = {path: what.format for path, what in planned.items()}
    size = save(out, loaded.config, params, args.format.lower(), words, Path(loaded.path).stem, types, packer)
    packer.note_floats(vectors="f32")
    return {"bytes": size, "tokenizer": bool(words)}


def _folder(args: argparse.Namespace, out: Path, loaded, params, planned, packer) -> dict:
    from pikojax.formats import quantized

    tokenizer = None if args.without_tokenizer else loaded.tokenizer
    templates = None if args.without_tokenizer else loaded.chat_templates
    template = templates.sources.get("default") if templates else None
    about = {"tokenizer": tokenizer, "template": template, "framed": loaded.framed, "eos_ids": () if tokenizer is None else loaded.eos_ids}
    size = quantized.write(out, loaded.config, params, planned, packer, **about, force=args.force)
    packer.note_floats()
    return {"bytes": size, "tokenizer": tokenizer is not None}


def _told(args: argparse.Namespace, out: Path, method: str, packer, tokens_BT, made: dict) -> dict:
    from pikojax.quant.report import in_groups, table

    n = sum(leaf.size for leaf in packer.leaves.values())
    bits = 8 * sum(line.bytes_after for line in packer.lines) / n
    print(table(in_groups(packer.lines)))
    print(f"{out}: {made['bytes']:,} bytes, {bits:.3f} bits a weight, by {method}{'' if made['tokenizer'] else ', without a tokenizer'}")
    names = ("path", "shape", "format", "bytes_before", "bytes_after", "error", "n_padded", "note")
    return {"model": args.model, "out": str(out), "format": args.format.lower(), "method": method, **made, "parameters": n, "bits_per_weight": bits,
            "calibration_tokens": 0 if tokens_BT is None else tokens_BT.size, "tensors": [dict(zip(names, line)) for line in packer.lines]}  # fmt: skip
