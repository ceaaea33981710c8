"""One training in a process of its own: train_once.py LIBRARY ALGORITHM VOCAB_SIZE OUT VARIANT FILE…

On stdout a JSON object with seconds, peak_rss_bytes and vocab_size. LIBRARY is pikojax, tokenizers or sentencepiece; each is imported here only. OUT gets the vocabulary: of a Unigram model the pieces with
their scores, else the tokens.
"""

import json
import os
import resource
import sys
import time


def pikojax(algorithm: str, vocab_size: int, files: list[str], variant: str) -> list:
    from pikojax.text import word_splitters
    from pikojax.text.bpe_trainer import bpe_tree
    from pikojax.text.unigram_trainer import unigram_tree
    from pikojax.text.wordpiece_trainer import wordpiece_tree
    from pikojax.text.word_counts import count_files

    threads = int(os.environ["PIKOJAX_THREADS"])
    splitter = {"bpe": word_splitters.scanner("gpt2"), "wordpiece": word_splitters.bert(), "unigram": word_splitters.metaspace()}[algorithm]
    counts = count_files(files, splitter, threads=threads)
    if algorithm == "bpe":
        return list(bpe_tree(counts, vocab_size)["model"]["vocab"])
    if algorithm == "wordpiece":
        return list(wordpiece_tree(counts, vocab_size)["model"]["vocab"])
    rules = dict(split_by_script=True) if variant == "by script" else {}
    return unigram_tree(counts, vocab_size, threads=threads, **rules)["model"]["vocab"]


def tokenizers(algorithm: str, vocab_size: int, files: list[str], variant: str) -> list:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    if algorithm == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    elif algorithm == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=vocab_size, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
        )
    tokenizer.train(files, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"] if algorithm == "unigram" else list(model["vocab"])


def sentencepiece(algorithm: str, vocab_size: int, files: list[str], variant: str) -> list:
    import sentencepiece

    options = dict(num_threads=int(os.environ["PIKOJAX_THREADS"]), max_sentence_length=1 << 20, minloglevel=2)
    sentencepiece.SentencePieceTrainer.train(
        input=",".join(files), model_prefix="sp", model_type=algorithm, vocab_size=vocab_size, **options
    )
    model = sentencepiece.SentencePieceProcessor(model_file="sp.model")
    return [[model.id_to_piece(i), model.get_score(i)] for i in range(model.vocab_size())]


def peak_rss_bytes() -> int:
    """Linux counts in ru_maxrss what the process that started this one held; VmHWM begins anew."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


library, algorithm, vocab_size, out, variant, *files = sys.argv[1:]
began_s = time.perf_counter()
vocab = globals()[library](algorithm, int(vocab_size), files, variant)
seconds = time.perf_counter() - began_s
with open(out, "w") as file:
    json.dump(vocab, file)
print(json.dumps({"seconds": seconds, "peak_rss_bytes": peak_rss_bytes(), "vocab_size": len(vocab)}))
