"""`pikojax VERB …`: finds the verb, reads the flags all verbs share, turns mistakes into one line and an exit code.

Exit codes: 0 done; 2 something the user can mend, with one line on stderr; 130 interrupted, what could be saved is saved. Anything else
is a bug and keeps its traceback. With `--json` the verb's result is the last line on stdout, and the only one:
whatever a verb prints for people then goes to stderr.

Only the verb that runs is imported, and no verb imports JAX before it runs.
"""

import argparse
import contextlib
import difflib
import errno
import importlib
import json
import math
import os
import sys
from collections.abc import Sequence
from types import ModuleType

import pikojax
from pikojax.cli import startup
from pikojax.config import UserError

VERBS = ("quickstart", "train", "eval", "generate", "chat", "inspect", "info", "convert", "quantize", "bench", "tokenizer", "doctor")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
WITH_MUCH_MEMORY = ("quickstart", "train", "bench")


def command() -> int:
    """The `pikojax` command as a process of its own."""
    if sys.argv[1:2] and sys.argv[1] in WITH_MUCH_MEMORY:
        startup.keep_memory()
    return main()


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # here, where what it cannot hold is still told in a line
    except UserError as error:
        print(f"pikojax: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pikojax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (`| head`) has gone; Python would complain again while it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        print(f"pikojax: {error.filename or 'the output'}: {error.strerror}; make room, or write elsewhere", file=sys.stderr)
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"pikojax {pikojax.__version__}")
        return 0
    if os.name == "nt":
        raise UserError("Windows is supported through WSL; install and run pikojax inside it")
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, 1, 0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"the verbs are: {', '.join(VERBS)}"
        raise UserError(f"no verb {verb!r}; {hint}")
    module = _load(verb)
    args = _parse(verb, module, rest)
    startup.prepare(args.threads, args.device)
    if args.device:
        startup.check_device(args.device)
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        result = module.run(args)
    if args.json and result is not None:
        print(json.dumps(_plain(result)))
    return 130 if (result or {}).get("stopped") == "interrupted" else 0


def _load(verb: str) -> ModuleType:
    return importlib.import_module(f"pikojax.cli.{verb}")


def _help() -> str:
    verbs = "\n".join(f"  {verb:<12}{_load(verb).HELP}" for verb in VERBS)
    return f"""pikojax {pikojax.__version__}: a small, complete LLM stack in JAX

usage: pikojax VERB [...]          pikojax VERB --help tells more

{verbs}

Every verb also takes
  --json      one JSON object as the last line on stdout, all else on stderr
  --threads N use N threads of the CPU
  --device D  cpu, gpu or tpu
  --version   (in place of a verb) the version

PIKOJAX_CACHE moves the caches, PIKOJAX_COMPILE_CACHE=0 keeps no compiled programs, PIKOJAX_KEEP_MEMORY=0
leaves the C library's allocator as it is."""


class _Parser(argparse.ArgumentParser):
    """argparse with its errors in one line, and the flag that was probably meant."""

    def error(self, message: str):
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flag = unknown.split()[0].partition("=")[0]
            close = difflib.get_close_matches(flag, self._option_string_actions, 1, 0.5)
            message = f"unknown argument {unknown.split()[0]!r}" + (f"; did you mean {close[0]!r}?" if close else "")
        raise UserError(f"{message}; see: {self.prog} --help")


def _parse(verb: str, module: ModuleType, rest: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog=f"pikojax {verb}",
        description=module.HELP,
        epilog=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        conflict_handler="resolve",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line on stdout")
    parser.add_argument("--threads", type=int, metavar="N", help="use N threads of the CPU (all)")
    parser.add_argument("--device", choices=("cpu", "gpu", "tpu"), help="where to compute (the best there is)")
    module.add_arguments(parser)
    return parser.parse_intermixed_args(rest)  # key=value may stand before and after flags


def _plain(value):
    """JSON has no NaN and no NumPy or JAX numbers."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
