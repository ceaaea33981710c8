"""What llama.cpp continues with, always taking the likeliest token: llama_cpp_greedy.py MODEL.gguf N_TOKENS ID…  →  {"tokens": […], "logits": […]} as JSON

`logits` are those of each step's likeliest token and of the one after it. Needs llama_cpp and numpy, and nothing of pikojax.
"""

import json
import sys

import llama_cpp
import numpy as np


def main(path: str, n_tokens: int, ids: list[int]) -> None:
    llm = llama_cpp.Llama(path, n_ctx=len(ids) + n_tokens + 1, n_threads=2, n_threads_batch=2, logits_all=False, verbose=False, seed=0, use_mmap=True)
    tokens, logits = list(ids), []
    new = ids
    for _ in range(n_tokens):
        llm.eval(new)
        said = np.array(llama_cpp.llama_get_logits_ith(llm.ctx, -1)[: llm.n_vocab()])
        best = int(said.argmax())
        logits.append([float(said[best]), float(np.partition(said, -2)[-2])])
        tokens.append(best)
        new = [best]
        if best == llm.token_eos():
            break
    print(json.dumps({"tokens": tokens[len(ids) :], "logits": logits}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [int(word) for word in sys.argv[3:]])
