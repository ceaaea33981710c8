r"""Where a pre-tokenizer's regular expression cuts a text: exactly where Hugging Face's tokenizers, or tiktoken, would.

    spans(PATTERNS["gpt2"], "Don't go  out") → [(0, 3), (3, 5), (5, 8), (8, 9), (9, 13)]

`pattern_syntax` turns the pattern into one over bytes (a byte a character: its class by the peer's own tables, see `unicode`),
so the standard library's `re` does the rest. The patterns listed here by name are known to take time in proportion to the
text; any other runs in the `regex` package, which can be stopped when it takes too long, or is refused.

`known` gives the name under which a native scanner may stand in; several spellings can have the same name.
Leaves out: what Split does with the spans (isolated, removed, merged), which is the pre-tokenizer's.
"""

import contextlib
import functools
import re
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from operator import methodcaller

import numpy as np

from pikojax.config import UserError
from pikojax.text.pattern_syntax import translate

LIMIT_S = 2.0  # for a pattern that is not known, and 5 s more for each million characters: of a text, however many pieces it has
_END_S: ContextVar[float | None] = ContextVar("end_s", default=None)  # of the time limit around
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CL100K = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _REST
_QWEN2 = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _REST
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = r"[^\r\n\p{L}\p{N}]?" + _UPPER + "*" + _LOWER + r"+%s|[^\r\n\p{L}\p{N}]?" + _UPPER + "+" + _LOWER + "*%s|"
_REST_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_O200K = (_CASED % (_ENDINGS + "?", _ENDINGS + "?")) + r"\p{N}{1,3}|" + _REST_SLASH
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
).replace(r"\"", '"')
_CLIP = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

_CASED_LETTERS = (
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼι"
    r"ῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-"
    r"𞥃]+"
)

PATTERNS = {  # name → as the files of that family spell it
    "gpt2": _GPT2,  # also r50k, p50k, GPT-NeoX, OLMo, ModernBERT; what ByteLevel(use_regex=True) does
    "cl100k": _CL100K,  # also Llama 3, GLM-4, Phi-4
    "qwen2": _QWEN2,  # also StableLM 2, Grok 2
    "qwen3.5": _QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]"),
    "o200k": _O200K,
    "tekken": (_CASED % ("", "")) + r"\p{N}|" + _REST_SLASH,  # Mistral since Nemo
    "deepseek3": _DEEPSEEK3,  # after a split by `digits3` and one by `han_kana`
    "digits3": r"\p{N}{1,3}",
    "number": r"\p{N}",
    "numbers": r"\p{N}+",
    "han_kana": "[一-龥\u3040-ゟ゠-ヿ]+",
    "newline": r"[\r\n]",
    "cased_letters": _CASED_LETTERS,  # DeepSeek LLM
    "wide_marks": r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    "spaces_at_end": r"\s+$",
    "east_asian": "[一-龥ࠀ-一가-퟿]+",  # and all between ࠀ and 一, as they spell it
    "letters": r"\s?\p{L}+",  # DeepSeek Coder
    "marks": r"\s?\p{P}+",
    "marks_and_signs": r"[\p{P}\$\+<=>\^~\|`]+",  # what Hugging Face calls punctuation: Falcon
    "lines": r"[^\n]+|[\n]+",
    "clip": _CLIP,
    "bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "ascii_digits3": "[0-9][0-9][0-9]",  # Falcon
    "spaces": r"\s+",
    "two_spaces": " {2,}",  # what transformers' converters make of SentencePiece's remove_extra_whitespaces
    "words": r"\w+|[^\w\s]+",
    "char": r"[\s\S]",  # our own char and word tokenizers
    "word": r"['’](?:s|t|re|ve|m|ll|d)(?![A-Za-z])| ?[\p{L}\p{Nl}\p{No}]+| ?[^ \n\r\t]|[ \n\r\t]",
}
_span = methodcaller("span")
_SPELLINGS = {  # the same in other words
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": "gpt2",
    _CL100K.replace(_ENDINGS, "'(?i:[sdmt]|ll|ve|re)"): "cl100k",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+": "cl100k",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s": "cl100k",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+": "qwen2",
    _CLIP.join([r"<\|startoftext\|>|<\|endoftext\|>|", ""]): "clip_specials",
    " ?[^(\\s|.,!?…。，、।۔،)]+": "viking",
    r"\d": "decimal",
    r"\d+": "decimals",
    r"\s": "space",
    " ": "blank",
}


def known(pattern: str, peer: str = "hf") -> str | None:
    """The name of a pattern whose meaning and cost are known, however it is spelt."""
    if peer == "hf" and "{1,3}+" in pattern:
        return None  # Oniguruma reads this as a repeated group; it takes any number of digits
    return _names().get(pattern)


@functools.cache
def _names() -> dict[str, str]:
    return {**_SPELLINGS, **{pattern: name for name, pattern in PATTERNS.items()}}


def spans(pattern: str, text: str, peer: str = "hf") -> list[tuple[int, int]]:
    """Where `pattern` matches in `text`, in characters, in order; what lies between the matches is not in the list."""
    return compiled(pattern, peer)(text)


@functools.lru_cache(64)
def compiled(pattern: str, peer: str = "hf") -> Callable[[str], list[tuple[int, int]]]:
    """The function text → spans of one pattern."""
    expression, table = translate(pattern, peer)
    find = _engine(pattern, expression, known(pattern, peer) is not None)
    ascii_table = table[:256].tobytes()

    def find_spans(text: str) -> list[tuple[int, int]]:
        if text.isascii():
            classes = text.encode().translate(ascii_table)
        else:
            classes = table[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)].tobytes()
        return find(classes)

    return find_spans


@contextlib.contextmanager
def time_limit(n_chars: int = 0) -> Iterator[None]:
    """All that patterns which are not known do inside, for all pieces of a text of so many characters, ends in time."""
    before = _END_S.set(time.monotonic() + LIMIT_S + n_chars * 5e-6)
    try:
        yield
    finally:
        _END_S.reset(before)


def _left_s() -> float:
    return max(_END_S.get() - time.monotonic(), 1e-4)


def _engine(pattern: str, expression: bytes, trusted: bool) -> Callable[[bytes], list[tuple[int, int]]]:
    if trusted:
        program = re.compile(expression)
    else:
        try:
            import regex
        except ImportError:
            remedy = 'install it with: pip install "pikojax[text]"'
            said = f"the pre-tokenizer's pattern {pattern[:80]!r} is not a usual one and needs the regex package"
            raise UserError(f"{said}; {remedy}") from None
        try:
            program = regex.compile(expression, regex.V0)
        except (regex.error, RecursionError, OverflowError) as error:
            raise UserError(f"the pre-tokenizer's pattern {pattern[:80]!r} does not compile ({str(error)[:80]}); mend it") from None

    def find(classes: bytes) -> list[tuple[int, int]]:
        if trusted:
            return list(map(_span, program.finditer(classes)))
        start_s = time.monotonic()
        try:
            with contextlib.nullcontext() if _END_S.get() is not None else time_limit(len(classes)):
                found = list(map(_span, program.finditer(classes, timeout=_left_s())))
                if any(first == last for first, last in found):  # no usual pattern matches nothing
                    found = _with_empty_matches(program, classes)
        except TimeoutError:
            took = f"took more than its time ({time.monotonic() - start_s:.1f} s on the last {len(classes)} characters)"
            raise UserError(f"the pre-tokenizer's pattern {pattern[:80]!r} {took}; use one of the usual patterns") from None
        return found

    return find


def _with_empty_matches(program, classes: bytes) -> list[tuple[int, int]]:
    """The peers' rule, which is not Python's: no empty match right after another match; there the search goes on a character later."""
    found, at, last = [], 0, None
    while at <= len(classes):
        match = program.search(classes, at, timeout=_left_s())
        if not match:
            break
        if match.start() == match.end() == last:
            at += 1
            continue
        found.append(match.span())
        at = last = match.end()
    return found
