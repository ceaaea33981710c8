"""Encoding and decoding once, in a process of its own: once.py LIBRARY VOCABULARY DOCUMENTS THREADS → one line of JSON

LIBRARY is pikojax, tokenizers, tiktoken or sentencepiece; each is imported here only. DOCUMENTS are separated by zero bytes. A library gives

    open(path) → object;    encode(object, texts, threads) → ids of each;    decode(object, ids of each, threads) → texts

The object is new, so that no cache is carried over. Encoding is str in, ids out, in the quickest way that the library has: numpy arrays
of ours and of tiktoken, the lists that the others make (turning these into arrays is not counted, nor is the reverse).
"""

import base64
import hashlib
import importlib.metadata
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor


def pikojax():
    from pikojax.text import load

    def specials(tok):  # SentencePiece reads none out of a text
        return () if vocabulary.endswith(".model") else "all"

    def encode(tok, texts, threads):
        if threads == 1:
            allowed = specials(tok)
            return [tok.encode(text, add_special_tokens=False, allowed_special=allowed) for text in texts]
        return tok.encode_batch(texts, threads=threads, add_special_tokens=False, allowed_special=specials(tok))

    return load, encode, lambda tok, ids, threads: [tok.decode(each) for each in ids]


def tokenizers():
    from tokenizers import Tokenizer

    def opened(path):
        tok = Tokenizer.from_file(path)
        tok.no_truncation()
        return tok

    def encode(tok, texts, threads):  # RAYON_NUM_THREADS says how many
        return [each.ids for each in tok.encode_batch_fast(texts, add_special_tokens=False)]

    return opened, encode, lambda tok, ids, threads: tok.decode_batch(ids, skip_special_tokens=False)


def tiktoken():
    import tiktoken as library

    pattern = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s")
    specials = {"<|endoftext|>": 100257, "<|fim_prefix|>": 100258, "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260, "<|endofprompt|>": 100276}

    def opened(path):
        with open(path, "rb") as file:
            ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, file)}
        return library.Encoding("cl100k", pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials)

    def encode(tok, texts, threads):
        def one(text):
            return tok.encode_to_numpy(text, allowed_special="all")

        if threads == 1:
            return [one(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, texts))

    return opened, encode, lambda tok, ids, threads: [tok.decode(each) for each in ids]


def sentencepiece():
    from sentencepiece import SentencePieceProcessor

    def encode(tok, texts, threads):
        return tok.encode(texts, num_threads=threads)

    return lambda path: SentencePieceProcessor(model_file=path), encode, lambda tok, ids, threads: tok.decode(ids, num_threads=threads)


library, vocabulary, documents, threads = sys.argv[1:]
threads = int(threads)
with open(documents, "rb") as file:
    texts = [text.decode() for text in file.read().split(b"\0")]
n_bytes = sum(len(text.encode()) for text in texts)
opened, encode, decode = globals()[library]()

times_s = [time.perf_counter()]
tok = opened(vocabulary)
encode(tok, ["Ready."], threads)  # what is built on first use belongs to opening
times_s.append(time.perf_counter())
found = encode(tok, texts, threads)
times_s.append(time.perf_counter())
ids = found if library == "pikojax" else [list(map(int, each)) for each in found]
decode(tok, ids[:1], threads)
times_s.append(time.perf_counter())
back = decode(tok, ids, threads)
times_s.append(time.perf_counter())
load_s, encode_s, _, decode_s = (after - before for before, after in zip(times_s, times_s[1:], strict=False))

import numpy as np  # noqa: E402

digest = hashlib.sha256()
for each in ids:
    digest.update(np.asarray(each, "<i4").tobytes() + b"\xff\xff\xff\xff")
print(json.dumps({
    "load_s": load_s, "encode_mb_per_s": n_bytes / 1e6 / encode_s, "decode_mb_per_s": n_bytes / 1e6 / decode_s, "tokens": sum(map(len, ids)),
    "ids": digest.hexdigest()[:16], "decoded": hashlib.sha256("\0".join(back).encode()).hexdigest()[:16], "comes_back": back == texts,
    "library_version": importlib.metadata.version(library) if library != "pikojax" else None,
}))  # fmt: skip
