"""Encoding and decoding once, in a process of its own: once.py LIBRARY VOCABULARY DOCUMENTS THREADS → one line of JSON

LIBRARY is pikojax, tokenizers, tiktoken or sentencepiece; each is imported here only. DOCUMENTS are separated by zero bytes. A library gives

    open(path) → object;    encode(object, texts, threads) → ids of each;    decode(object, ids of each) → texts

The object is new, so that no cache is carried over. Encoding is str in, ids out, in the quickest way that the library has: numpy arrays
of ours and of tiktoken, the lists that the others make (turning these into arrays is not counted, nor is the reverse). Decoding is timed on one thread; a peer's
only of short documents, as some take long.
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

    return load, encode, lambda tok, ids: [tok.decode(each) for each in ids]


def tokenizers():
    from tokenizers import Tokenizer

    def opened(path):
        tok = Tokenizer.from_file(path)
        tok.no_truncation()
        return tok

    def encode(tok, texts, threads):  # RAYON_NUM_THREADS says how many
        return [each.ids for each in tok.encode_batch_fast(texts, add_special_tokens=False)]

    return opened, encode, lambda tok, ids: tok.decode_batch(ids, skip_special_tokens=False)


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

    return opened, encode, lambda tok, ids: [tok.decode(each) for each in ids]


def sentencepiece():
    from sentencepiece import SentencePieceProcessor

    def encode(tok, texts, threads):
        return tok.encode(texts, num_threads=threads)

    return lambda path: SentencePieceProcessor(model_file=path), encode, lambda tok, ids: tok.decode(ids, num_threads=1)


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
ids = encode(tok, texts, threads)
times_s.append(time.perf_counter())
said = {"load_s": times_s[1] - times_s[0], "encode_mb_per_s": n_bytes / 1e6 / (times_s[2] - times_s[1]), "tokens": sum(map(len, ids))}
if threads == 1 and (library == "pikojax" or len(texts) > 1):
    ids = ids if library == "pikojax" else [list(map(int, each)) for each in ids]
    decode(tok, ids[:1])
    began_s = time.perf_counter()
    back = decode(tok, ids)
    said["decode_mb_per_s"] = n_bytes / 1e6 / (time.perf_counter() - began_s)
    said |= {"comes_back": back == texts, "decoded": hashlib.sha256("\0".join(back).encode()).hexdigest()[:16]}
if library != "pikojax":
    said["library_version"] = importlib.metadata.version(library)

import numpy as np  # noqa: E402

digest = hashlib.sha256()
for each in ids:
    digest.update(np.asarray(each, "<i4").tobytes() + b"\xff\xff\xff\xff")
print(json.dumps(said | {"ids": digest.hexdigest()[:16]}))
