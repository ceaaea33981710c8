"""What llama.cpp makes of a GGUF file, printed as JSON on the last line. Needs llama_cpp and numpy, and nothing of pikojax.

    ask_llama_cpp.py greedy MODEL.gguf N ID…    →  {"tokens": […], "logits": […]}     N tokens on, always the likeliest; the two best logits of each
    ask_llama_cpp.py logits MODEL.gguf OUT.npy ID…    →  {}; OUT.npy has the logits after each of the ids, over a float32 cache
"""

import json
import sys

import llama_cpp
import numpy as np


def opened(path: str, n_tokens: int, **more) -> llama_cpp.Llama:
    return llama_cpp.Llama(path, n_ctx=n_tokens, n_threads=2, n_threads_batch=2, verbose=False, **more)


def said(llm: llama_cpp.Llama, i: int) -> np.ndarray:
    return np.array(llama_cpp.llama_get_logits_ith(llm.ctx, i)[: llm.n_vocab()])


def greedy(path: str, n_tokens: int, ids: list[int]) -> dict:
    llm, tokens, logits, new = opened(path, len(ids) + n_tokens + 1), [], [], ids
    for _ in range(n_tokens):
        llm.eval(new)
        found = said(llm, -1)
        new = [int(found.argmax())]
        logits.append([float(found[new[0]]), float(np.partition(found, -2)[-2])])
        tokens += new
        if new[0] == llm.token_eos():
            break
    return {"tokens": tokens, "logits": logits}


def logits(path: str, out: str, ids: list[int]) -> dict:
    llm = opened(path, len(ids), logits_all=True, type_k=0, type_v=0)
    llm.eval(ids)
    np.save(out, np.stack([said(llm, i) for i in range(len(ids))]))
    return {}


if __name__ == "__main__":
    verb, path, third, *ids = sys.argv[1:]
    ids = list(map(int, ids))
    print(json.dumps(greedy(path, int(third), ids) if verb == "greedy" else logits(path, third, ids)))
