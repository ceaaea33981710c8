"""The other side of `pikojax bench decode --against`: a script for an interpreter that has llama-cpp-python, or torch and transformers.

    PYTHON -c "…this file…" llama.cpp|transformers MODEL PROMPT_TOKENS TOKENS THREADS PASSES
    →  {"first_token_s": [a pass each], "decode_s": [… of the TOKENS − 1 others], "peak_rss_bytes": …, "version": …}

It imports nothing of this project. The prompt is `random_ids`, the same on both sides, and the likeliest token is always taken; end-of-text
tokens are written on. A short prompt warms up. Both peers are driven by the barest loop that they allow: one call a token and one
argmax, no sampler and no text. llama.cpp has prompts in batches of 512 and a cache no longer than needed; transformers computes in float32.

Leaves out: quantized weights in transformers (it dequantizes a GGUF file while it reads it).
"""

import ctypes
import json
import os
import random
import resource
import sys
import time


def random_ids(n: int, vocab_size: int, seed: int = 0) -> list[int]:
    drawn = random.Random(seed)
    return [drawn.randrange(vocab_size) for _ in range(n)]


def peak_rss_bytes() -> int:
    """Of this process. (getrusage would still count what the parent had before this program began.)"""
    try:
        with open("/proc/self/status") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def llama_cpp(path: str, slots: int, threads: int):
    """(vocabulary, begin a text, ids → the likeliest next token, version)"""
    import llama_cpp as c
    import numpy as np

    slots = -(-slots // 256) * 256
    model = c.Llama(path, n_ctx=slots, n_threads=threads, n_threads_batch=threads, n_batch=512, verbose=False)
    n_vocab = model.n_vocab()

    def begin():
        c.llama_memory_clear(c.llama_get_memory(model.ctx), True)

    def step(ids: list[int]) -> int:
        for start in range(0, len(ids), 512):
            part = ids[start : start + 512]
            held = (c.llama_token * len(part))(*part)
            if c.llama_decode(model.ctx, c.llama_batch_get_one(held, len(part))) != 0:
                raise SystemExit("llama_decode failed")
        logits = ctypes.cast(c.llama_get_logits_ith(model.ctx, -1), ctypes.POINTER(ctypes.c_float))
        return int(np.ctypeslib.as_array(logits, shape=(n_vocab,)).argmax())

    return n_vocab, begin, step, f"llama-cpp-python {c.__version__}"


def transformers(path: str, slots: int, threads: int):
    import torch
    import transformers as t

    torch.set_num_threads(threads)
    folder, file = (os.path.dirname(path) or ".", os.path.basename(path)) if os.path.isfile(path) else (path, None)
    model = t.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    cache = None

    def begin():
        nonlocal cache
        cache = t.DynamicCache()

    @torch.inference_mode()
    def step(ids: list[int]) -> int:
        out = model(torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return int(out.logits[0, -1].argmax())

    return model.config.vocab_size, begin, step, f"transformers {t.__version__}, torch {torch.__version__}"


PEERS = {"llama.cpp": llama_cpp, "transformers": transformers}


def main(peer: str, path: str, prompt_tokens: int, tokens: int, threads: int, passes: int) -> dict:
    n_vocab, begin, step, version = PEERS[peer](path, prompt_tokens + tokens, threads)
    ids = random_ids(prompt_tokens, n_vocab)
    first_s, decode_s = [], []
    for number in range(passes + 1):
        begin()
        began_s = time.perf_counter()
        token = step(ids if number else ids[:64])
        first_s.append(time.perf_counter() - began_s)
        began_s = time.perf_counter()
        for _ in range(tokens - 1 if number else 4):
            token = step([token])
        decode_s.append(time.perf_counter() - began_s)
    return {"first_token_s": first_s[1:], "decode_s": decode_s[1:], "peak_rss_bytes": peak_rss_bytes(), "version": version}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:3], *map(int, sys.argv[3:7]))))
