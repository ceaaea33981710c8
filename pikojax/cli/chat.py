"""`pikojax chat MODEL`: a conversation that the model sees whole, in the form that its files say.

    pikojax chat model.gguf --system "You answer briefly."
    printf 'Hi\\nAnd now?\\n' | pikojax chat model.gguf --temperature 0          a line, an answer

A line is a message. /reset begins anew, /exit or the end of input leaves. What a line says never becomes a control token. A model without
a chat template is spoken to as "User: …  Assistant:", which few have been trained on. When the context is full the oldest turns are left
out. With --json the last line is the conversation.
"""

import argparse
import sys

from pikojax.cli.generate import SAMPLING, add_sampling, opened
from pikojax.cli.progress import visible

HELP = "talk with a model: pikojax chat MODEL"
ENDS_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endofturn|>", "<|eom_id|>", "</s>")
RESERVED = 64  # tokens that an answer may have at least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run folder, a Hugging Face folder, a .gguf or an llama2.c .bin")
    parser.add_argument("--system", metavar="TEXT", help="what the conversation begins with")
    add_sampling(parser)


def run(args: argparse.Namespace) -> dict:
    loaded, engine = opened(args)
    told = [{"role": "system", "content": args.system}] if args.system else []
    messages, shown, terminal = list(told), visible if sys.stdout.isatty() else str, sys.stdin.isatty()
    asked = {name: getattr(args, name) for name in SAMPLING}
    while True:
        if terminal:
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() == "/exit":
            return {"messages": messages}
        if line.strip() == "/reset":
            messages = list(told)
            continue
        if not line.strip():
            continue
        messages.append({"role": "user", "content": line.rstrip("\n")})
        ids, stops = turn(loaded, messages, engine.context - min(RESERVED, engine.context // 2))
        handle = engine.submit(ids, **asked, **stops)
        for text in handle:
            print(shown(text), end="", flush=True)
        print(flush=True)
        messages.append({"role": "assistant", "content": handle.result().text.strip()})


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
    ids = chat.encode_chat(tokenizer, messages, loaded.chat_templates, add_generation_prompt=True).tolist()
    ends = [i for name in ENDS_OF_TURN if (i := tokenizer.token_to_id(name)) is not None]
    return ids, {"stop_ids": ends}
