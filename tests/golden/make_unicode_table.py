"""Makes pikojax/text/unicode_table.py: asks tokenizers and tiktoken about every code point, and writes down what they say.

    python tests/golden/make_unicode_table.py [FILE]         (needs tokenizers, tiktoken, numpy; about two minutes)

The file is Python: TABLE (base85 of LZMA of 7-bit numbers: rows, runs, the rows, the runs' lengths, the runs' kinds), SCRIPTS, LOWER.
Prints how the peers differ from one another and from the table that is there, so that a new version of a peer can be judged.
"""

import base64
import lzma
import sys
import unicodedata
from pathlib import Path

import numpy as np
import tiktoken
import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
N_CODES = 0x110000
CODES = [code for code in range(N_CODES) if not 0xD800 <= code < 0xE000]
SCRIPTS = (
    "none Common Inherited Latin Greek Cyrillic Armenian Hebrew Arabic Syriac Thaana Devanagari Bengali Gurmukhi Gujarati Oriya Tamil "
    "Telugu Kannada Malayalam Sinhala Thai Lao Tibetan Myanmar Georgian Hangul Ethiopic Cherokee Khmer Mongolian Hiragana Katakana "
    "Bopomofo Han Yi Tifinagh Javanese Balinese Khmer"
).split()
SCRIPTS = list(dict.fromkeys(SCRIPTS))
FILE = Path(__file__).parent.parent.parent / "pikojax" / "text" / "unicode_table.py"


def chunks(n=20_000):
    for start in range(0, len(CODES), n):
        part = CODES[start : start + n]
        yield np.array(part), "".join(map(chr, part))


def by_onig(pattern: str) -> np.ndarray:
    found = np.zeros(N_CODES, bool)
    split = pre_tokenizers.Split(Regex(f"(?:{pattern})+"), "removed", invert=True)
    for codes, text in chunks():
        for _, (first, last) in split.pre_tokenize_str(text):
            found[codes[first:last]] = True
    return found


def by_tiktoken(pattern: str) -> np.ndarray:
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("probe", pat_str=f"(?:{pattern})+", mergeable_ranks=ranks, special_tokens={})
    found = np.zeros(N_CODES, bool)
    for _, text in chunks():
        found[[ord(char) for char in bytes(encoding.encode_ordinary(text)).decode()]] = True
    return found


def each(test) -> np.ndarray:
    found = np.zeros(N_CODES, bool)
    found[[code for code in CODES if test(chr(code))]] = True
    return found


def between(part, n_pieces: int):
    """Whether `a`, the character, `a` fall into so many pieces."""
    return each(lambda char: len(part.pre_tokenize_str(f"a{char}a")) == n_pieces)


def scripts_of_hf() -> np.ndarray:
    part = pre_tokenizers.UnicodeScripts()
    together = lambda a, b: len(part.pre_tokenize_str(a + b)) == 1  # noqa: E731
    groups, found, last = [], np.zeros(N_CODES, np.int64), 0
    for code in CODES:
        char = chr(code)
        if together("A", char) and together("あ", char):
            continue
        if not (last and together(groups[last - 1], char)):
            last = next((i + 1 for i, other in enumerate(groups) if together(other, char)), None) or len(groups) + 1
        if last > len(groups):
            groups.append(char)
        found[code] = last
    return found


def normal() -> np.ndarray:
    nfd, nfkd, nfc = normalizers.NFD(), normalizers.NFKD(), normalizers.NFC()

    def test(char):
        if nfkd.normalize_str(char) != char or nfc.normalize_str(char) != char:
            return True
        return nfd.normalize_str(f"a{char}\u0334") == f"a\u0334{char}" or nfd.normalize_str(f"a\u0323{char}") == f"a{char}\u0323"

    return each(test)


def bert(**options):
    return normalizers.BertNormalizer(**(dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False) | options))


def flags() -> dict[str, np.ndarray]:
    clean, cjk, accents = bert(clean_text=True), bert(handle_chinese_chars=True), bert(strip_accents=True)
    strip = normalizers.StripAccents()
    whitespace = pre_tokenizers.Whitespace()
    return {
        "space": by_onig(r"\s"),
        "word": by_onig(r"\w"),
        "space_tiktoken": by_tiktoken(r"\s"),
        "word_tiktoken": by_tiktoken(r"\w"),
        "rust_space": between(pre_tokenizers.WhitespaceSplit(), 2),
        "rust_word": between(whitespace, 1),
        "rust_numeric": between(pre_tokenizers.Digits(individual_digits=False), 3),
        "bert_punctuation": between(pre_tokenizers.Punctuation(), 3),
        "bert_control": each(lambda char: clean.normalize_str(f"a{char}a") == "aa"),
        "bert_cjk": each(lambda char: cjk.normalize_str(char) == f" {char} "),
        "bert_mark": each(lambda char: accents.normalize_str(char) == ""),
        "normal": normal(),
        "rust_space_class": between(whitespace, 2),
        "mark": each(lambda char: strip.normalize_str(char) == ""),
        "Han_tiktoken": by_tiktoken(r"\p{Han}"),
    }


def varints(numbers) -> bytes:
    out = bytearray()
    for number in numbers:
        number = int(number)
        while number > 127:
            out.append(number & 127 | 128)
            number >>= 7
        out.append(number)
    return bytes(out)


def lower_runs(table: dict[int, str]) -> str:
    """Runs of code points a fixed step apart with one distance to their lower case: first,last,step,shift in base 36."""
    codes, runs = sorted(code for code in table if len(table[code]) == 1), []
    for code in codes:
        shift = ord(table[code]) - code
        run = runs[-1] if runs else None
        if run and run[3] == shift and code - run[1] in ((run[2],) if run[2] else (1, 2)):
            run[1], run[2] = code, code - run[1]
        else:
            runs.append([code, code, 0, shift])
    return " ".join(",".join(base36(number) for number in (first, last, step or 1, shift)) for first, last, step, shift in runs)


def base36(number: int) -> str:
    digits, sign, number = "", "-" if number < 0 else "", abs(number)
    while number or not digits:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return sign + digits


def main():
    from pikojax.text.unicode import CATEGORIES, EXTRA

    onig, rust = (np.full(N_CODES, CATEGORIES.index("Cs")) for _ in range(2))
    for i, category in enumerate(CATEGORIES):
        if category != "Cs":
            onig[by_onig(rf"\p{{{category}}}")] = i
            rust[by_tiktoken(rf"\p{{{category}}}")] = i
    print("categories done", flush=True)
    found = flags()
    bits = sum(which.astype(np.int64) << EXTRA[name] for name, which in found.items())
    scripts = np.zeros(N_CODES, np.int64)
    for i, script in enumerate(SCRIPTS[1:], 1):
        scripts[by_onig(rf"\p{{{script}}}")] = i
    rows, of_code = np.unique(np.stack([onig, rust, bits, scripts, scripts_of_hf()], 1), axis=0, return_inverse=True)
    of_code = of_code.ravel()
    starts = np.flatnonzero(np.concatenate([[True], np.diff(of_code) != 0]))
    lengths = np.diff(np.concatenate([starts, [N_CODES]]))
    data = varints([len(rows), len(starts), *rows.ravel(), *lengths, *of_code[starts]])
    packed = base64.b85encode(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)).decode()
    lowercase = normalizers.Lowercase()
    table = {code: low for code in CODES if (low := lowercase.normalize_str(chr(code))) != chr(code)}
    print("more than one character in lower case:", {chr(code): low for code, low in table.items() if len(low) != 1})
    runs = lower_runs(table)
    lines = [packed[i : i + 130] for i in range(0, len(packed), 130)]
    words, lower_lines = runs.split(), [""]
    for word in words:
        if len(lower_lines[-1]) + len(word) > 128:
            lower_lines.append("")
        lower_lines[-1] += (" " if lower_lines[-1] else "") + word
    versions = f"tokenizers {tokenizers.__version__} and tiktoken {tiktoken.__version__}"
    text = (
        f'"""Data for `unicode`, as {versions} have it; made by tests/golden/make_unicode_table.py.\n\n'
        'TABLE: the kind of every code point, packed. LOWER: runs first,last,step,shift in base 36. Leaves out: see `unicode`.\n"""\n\n'
        f'SCRIPTS = """{" ".join(SCRIPTS)}""".split()\n\n'
        'LOWER = """\n' + "\n".join(lower_lines) + '\n"""\n\nTABLE = """\n' + "\n".join(lines) + '\n"""\n'
    )
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    file.write_text(text, encoding="utf-8")
    print(f"{file}: {len(rows)} kinds, {len(starts)} runs, {len(data)} bytes packed into {len(packed)}, {len(text)} in all")
    report(onig, rust, found, table, CATEGORIES)


def report(onig, rust, found, table, categories):
    def show(what, which):
        codes = np.flatnonzero(which)
        print(f"{what}: {codes.size} code points", " ".join(f"{code:X}" for code in codes[:12]))

    mine = np.array([categories.index(unicodedata.category(chr(code))) for code in range(N_CODES)])
    version = unicodedata.unidata_version
    show(f"category: Oniguruma ≠ tiktoken (Cn in one: {int(((onig != rust) & ((onig == 29) | (rust == 29))).sum())})", onig != rust)
    show(f"category: Oniguruma ≠ Python's {version}", onig != mine)
    show(f"category: tiktoken ≠ Python's {version}", rust != mine)
    spaces = np.array([chr(code).isspace() for code in range(N_CODES)])
    for name in ("space", "space_tiktoken", "rust_space", "rust_space_class"):
        show(f"{name} ≠ str.isspace", found[name] != spaces)
    show("rust_word ≠ word", found["rust_word"] != found["word"])
    show("word_tiktoken ≠ word", found["word_tiktoken"] != found["word"])
    show("rust_numeric ≠ N of tiktoken", found["rust_numeric"] != np.isin(rust, [8, 9, 10]))
    punctuation = np.isin(onig, range(11, 18)) | np.isin(np.arange(N_CODES), [ord(char) for char in "$+<=>^`|~"])
    show("bert_punctuation ≠ P of Oniguruma and ASCII marks", found["bert_punctuation"] != punctuation)
    show("bert_mark ≠ Mn of Oniguruma", found["bert_mark"] != (onig == 5))
    show("mark ≠ M of Oniguruma", found["mark"] != np.isin(onig, [5, 6, 7]))
    show("bert_control ≠ C of Oniguruma", found["bert_control"] != (onig >= 25))
    known = np.array([bool(unicodedata.combining(chr(c)) or unicodedata.decomposition(chr(c))) for c in range(N_CODES)])
    known[0xAC00:0xD7A4] = True
    show(f"normalized by Python {version} only", known & ~found["normal"])
    show(f"normalized by tokenizers and not by Python {version}", found["normal"] & ~known)
    show(f"lower case differs from Python {version}", np.array([c not in range(0xD800, 0xE000) and table.get(c, chr(c)) != chr(c).lower() for c in range(N_CODES)]))


if __name__ == "__main__":
    main()
