"""Text files → a tokenizer, by the name of the algorithm: bpe, wordpiece, unigram, char, word.

    train_files("bpe", ["book.txt"], 8_000, ["<|endoftext|>"])   →   a Tokenizer; the same files give the same one each time

The files may be larger than memory. bpe, wordpiece and unigram read them as Hugging Face's trainers do, a line at a time; `train_bpe`,
`train_wordpiece` and `train_unigram` (same folder) take texts instead and have more options.

Leaves out: sampling a corpus that is too large to read through.
"""

import codecs
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from pikojax.config import UserError, require
from pikojax.text.measure import documents, files_of, not_utf8

ALGORITHMS = ("bpe", "wordpiece", "unigram", "char", "word")
Progress = Callable[[str, int, int | None], None]  # stage, done, total (None: not known)


def train_files(
    algorithm: str,
    paths: Iterable[str | os.PathLike],
    vocab_size: int | None = None,
    specials: Sequence[str] | None = None,
    pattern: str | None = None,
    threads: int = 2,
    on_progress: Progress | None = None,
):
    """A tokenizer of the text in `paths`. None: the algorithm's own vocabulary size, special tokens, and split into words."""
    files = files_of(paths)
    require(algorithm == "bpe" or pattern is None, f"pattern = {pattern!r} is for bpe; {algorithm} splits text in a way of its own; leave it out")
    if algorithm == "char":
        from pikojax.text.char import train_char

        require(vocab_size is None, f"vocab_size = {vocab_size}: a char tokenizer has as many tokens as its text has characters; leave it out")
        return train_char(_watched(files, on_progress), specials or ())
    sizes = {} if vocab_size is None else {"vocab_size": vocab_size}
    if algorithm == "word":
        from pikojax.text.tokenizer import UNK
        from pikojax.text.word import train_word

        return train_word(_watched(files, on_progress), specials=[UNK, *(specials or ())], **sizes)
    require(algorithm in ALGORITHMS, f"no algorithm {algorithm!r}; choose one of: {', '.join(ALGORITHMS)}")
    require(vocab_size is None or vocab_size >= 1, f"vocab_size = {vocab_size}; give 1 or more")
    return _train_subwords(algorithm, files, sizes, specials, pattern, threads, on_progress)


def _train_subwords(
    algorithm: str, files: list, sizes: dict, specials: Sequence[str] | None, pattern: str | None, threads: int, on_progress: Progress | None
):
    from pikojax.text import bpe_trainer, unigram_trainer, word_splitters, wordpiece_trainer
    from pikojax.text.tokenizer import Tokenizer
    from pikojax.text.word_counts import count_files

    _check_utf8(files)
    pattern = pattern or "gpt2"
    splitter, make, firsts = {
        "bpe": lambda: (word_splitters.scanner(pattern), partial(bpe_trainer.bpe_tree, pattern=pattern), ()),
        "wordpiece": lambda: (word_splitters.bert(), wordpiece_trainer.wordpiece_tree, wordpiece_trainer.SPECIALS),
        "unigram": lambda: (word_splitters.metaspace(), partial(unigram_trainer.unigram_tree, threads=threads), ("<unk>",)),
    }[algorithm]()
    if algorithm != "bpe":
        make = partial(make, splitter=splitter)
    if specials:
        make = partial(make, special_tokens=tuple(dict.fromkeys((*firsts, *specials))))
    counts = count_files(files, splitter, threads=threads, on_progress=on_progress)
    return Tokenizer.from_tree(make(counts, **sizes, on_progress=on_progress))


def _check_utf8(files: list) -> None:
    """Reads the files through once before, which is quick beside training: what trains would learn U+FFFD in place of bad bytes."""
    for path in files:
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            with open(path, "rb") as file:
                while block := file.read(4 << 20):
                    decoder.decode(block)
            decoder.decode(b"", final=True)
        except OSError as error:
            raise UserError(f"cannot read {path} ({error.strerror}); give text files") from None
        except UnicodeDecodeError:
            raise not_utf8(path) from None


def _watched(files: list, on_progress: Progress | None) -> Iterator[str]:
    try:
        total, done = sum(file.stat().st_size for file in files), 0
    except OSError as error:
        raise UserError(f"cannot read {error.filename} ({error.strerror}); give text files") from None
    for text in documents(files):
        done += len(text.encode())
        if on_progress:
            on_progress("count", done, total)
        yield text
