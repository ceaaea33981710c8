"""`pikojax chat MODEL`: a conversation that the model sees whole, in the form that its files say.

    pikojax chat model.gguf --system "You answer briefly."
    printf 'Hi\\nAnd now?\\n' | pikojax chat model.gguf --temperature 0          a line, an answer

A line is a message. /reset begins anew, /exit or the end of input leaves. Ctrl-C ends an answer, and between answers the conversation. What a line
says never becomes a control token. A line that cannot be answered, as it is too long or no UTF-8, is told so and left out. A model without
a chat template is spoken to as "User: …  Assistant:", which few have been trained on. When the context is full the oldest turns are left
out. With --json the last line is the conversation.
"""

import argparse
import sys

from pikojax.cli.generate import SAMPLING, add_sampling, opened
from pikojax.cli.progress import visible
from pikojax.config import UserError

HELP = "talk with a model: pikojax chat MODEL"
RESERVED = 64  # tokens that an answer may have at least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run folder, a Hugging Face folder, a .gguf or an llama2.c .bin")
    parser.add_argument("--system", metavar="TEXT", help="what the conversation begins with")
    add_sampling(parser)


def run(args: argparse.Namespace) -> dict:
    loaded, engine = opened(args)
    begin = [{"role": "system", "content": args.system}] if args.system else []
    messages, asked = list(begin), {name: getattr(args, name) for name in SAMPLING}
    try:
        while line := next_line():
            said = line.strip()
            if said == "/exit":
                break
            if said == "/reset":
                messages = list(begin)
            elif said:
                question = {"role": "user", "content": line.rstrip("\r\n")}
                messages += answered(loaded, engine, [*messages, question], asked)
    except KeyboardInterrupt:
        return {"messages": messages, "stopped": "interrupted"}
    return {"messages": messages}


def next_line() -> str:
    """With its end, or "" behind the last one. One that is no UTF-8 is told and passed over."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.buffer.readline()
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            told(f"the line is not UTF-8 (byte {error.start}), so it is left out; convert it, as with iconv -t utf-8")


def answered(loaded, engine, messages: list[dict], asked: dict) -> list[dict]:
    """What the conversation gains: the question and its answer, which is shown as it comes; nothing where the question is refused."""
    from pikojax.train import signals

    shown = visible if sys.stdout.isatty() else str
    try:
        ids, stops = turn(loaded, messages, engine.context - min(RESERVED, engine.context // 2))
        handle = engine.submit(ids, **asked, **stops)
        with signals.catch() as wish:  # between two steps, so that the engine is whole when the next question comes
            for piece in handle.pieces():
                print(shown(piece.text), end="", flush=True)
                if wish.name is not None:
                    handle.cancel()
    except UserError as error:
        told(str(error))
        return []
    print(flush=True)
    if wish.name == "SIGTERM":
        raise KeyboardInterrupt
    return [messages[-1], {"role": "assistant", "content": handle.result().text.strip()}]


def told(mistake: str) -> None:
    print(f"pikojax: {' '.join(mistake.split())}", file=sys.stderr, flush=True)


def turn(loaded, messages: list[dict], most: int) -> tuple[list[int], dict]:
    """The conversation's tokens, of which the oldest turns go until at most `most` are left, and what ends the answer."""
    head = messages[:1] if messages[0]["role"] == "system" else []
    for start in range(len(head), len(messages), 2):
        ids, stops = _encoded(loaded, head + messages[start:])
        if len(ids) <= most:
            break
    return ids, stops  # a single message that is too long is refused when it is asked


def _encoded(loaded, messages: list[dict]) -> tuple[list[int], dict]:
    from pikojax.text import chat

    tokenizer = loaded.tokenizer
    if loaded.chat_templates is None:
        names = {"system": "", "user": "User: ", "assistant": "Assistant: "}
        text = "".join(f"{names[m['role']]}{m['content']}\n" for m in messages) + "Assistant:"
        return tokenizer.encode(text, add_special_tokens=loaded.framed, allowed_special=()).tolist(), {"stop": ["\nUser:"]}
    return chat.encode_chat(tokenizer, messages, loaded.chat_templates, add_generation_prompt=True).tolist(), {}
