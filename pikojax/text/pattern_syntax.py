r"""A pre-tokenizer's regular expression → an expression over bytes, in which one byte stands for one character's class.

    " ?\p{L}+|\s"      three sets: {space}, letters, white space      labels: 0 other, 1 space, 2 letter, 3 other white space
    "ab  ñ" → bytes 2 2 1 1 2                                         expression: [\x01]?[\x02]+|[\x01\x03]

The sets that an expression mentions cut all code points into a few disjoint parts; two characters of the same part cannot be told
apart by it. So a text becomes bytes by one table look-up, the spans found in the bytes are the spans in the text, and
neither Unicode tables nor the syntax of `\p{…}` are asked of the engine. Read here are the two dialects that files use:
Oniguruma's ("hf": in tokenizer.json) and fancy-regex's ("tiktoken"). Where they differ: `x{1,3}+` repeats the group in the
first and is possessive in the second, `^` and `$` are a line's ends in the first and the text's in the second.

Leaves out, and refuses by name: back references, recursion, conditionals, `\X`, `\K`, `\G`, flags other than `i`, and
case-insensitive matching beyond ASCII literals.
"""

import re
from collections.abc import Callable

import numpy as np

from pikojax.config import UserError
from pikojax.text import unicode

MAX_LENGTH, MAX_DEPTH, MAX_REPEAT = 2_000, 50, 1_000
MAX_SETS, MAX_QUANTIFIERS = 100, 10  # quantifiers of one atom: (a*)* has two
_SIMPLE = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b"}
_POSIX = {"digit": ["Nd"], "space": ["space"], "punct": ["P", "S"]}
_NO_WORD_IN_SET = "\xb2\xb3\xb9\xbc\xbd\xbe"  # ² ³ ¹ ¼ ½ ¾: Oniguruma's \w has them outside a [ ] and has them not inside one
_LONG = {"letter": "L", "mark": "M", "number": "N", "punctuation": "P", "symbol": "S", "separator": "Z", "other": "C"}
_FOLDS = {"k": "\u212a", "s": "\u017f"}  # beyond ASCII: the Kelvin sign and the long s
_MULTI_FOLDS = ("ss", "st", "ff", "fi", "fl")  # Oniguruma lets ß match "ss" under (?i)


def translate(pattern: str, peer: str = "hf") -> tuple[bytes, np.ndarray]:
    """The expression over bytes, and uint8[0x110000]: the byte of each code point."""
    reader = Reader(pattern, peer)
    if len(pattern) > MAX_LENGTH:
        raise reader.refusal(f"more than {MAX_LENGTH} characters")
    parts = reader.alternatives(depth=0)
    if reader.at < len(pattern):
        raise reader.refusal("a ) too many")
    labels = np.zeros(unicode.N_CODES, np.uint8)
    sizes = [int(np.count_nonzero(which)) for which in reader.sets]
    single = {int(which.argmax()) for which, size in zip(reader.sets, sizes, strict=True) if size == 1}
    n_labels = 1
    for which, size in zip(reader.sets, sizes, strict=True):
        if size > 1:
            both = labels.astype(np.uint16) * 2 + which
            used = np.zeros(2 * n_labels, bool)
            used[both] = True
            n_labels = int(used.sum())
            if n_labels > 256:
                raise reader.refusal("more than 256 different kinds of characters")
            labels = (np.cumsum(used) - 1).astype(np.uint8)[both]
    counts = np.bincount(labels).tolist()
    for code in single:  # a part of its own, unless it is one
        if counts[labels[code]] > 1:
            if len(counts) == 256:
                raise reader.refusal("more than 256 different kinds of characters")
            counts[labels[code]] -= 1
            labels[code] = len(counts)
            counts.append(1)
    bytes_of = [_byte_set(np.bincount(labels[which], minlength=1)) for which in reader.sets]
    return b"".join(part.encode() if isinstance(part, str) else bytes_of[part] for part in parts), labels


def _byte_set(counts: np.ndarray) -> bytes:
    members = np.flatnonzero(counts).tolist()
    return b"[%s]" % b"".join(b"\\x%02x" % member for member in members) if members else b"(?!)"


class Reader:
    """One pass over the pattern. Parts are text for `re`, or the number of a set, for which the bytes stand in later."""

    def __init__(self, pattern: str, peer: str):
        self.pattern, self.peer, self.at = pattern, peer, 0
        self.sets: list[np.ndarray] = []
        self._numbers: dict[bytes, int] = {}
        self._once: dict[tuple[str, bool], list] = {}
        self.ignore_case = False

    def refusal(self, why: str) -> UserError:
        shown = self.pattern if len(self.pattern) <= 80 else self.pattern[:77] + "..."
        return UserError(f"the pre-tokenizer's pattern {shown!r} has {why}, which is not known here; use one of the usual patterns")

    # ------------------------------------------------ structure

    def alternatives(self, depth: int) -> list:
        if depth > MAX_DEPTH:
            raise self.refusal(f"groups more than {MAX_DEPTH} deep")
        parts: list = []
        before = self.ignore_case
        literals = ""
        while self.at < len(self.pattern) and self.pattern[self.at] != ")":
            if self.take("|"):
                parts.append("|")
                literals = ""
                continue
            if self.at == 0 and self.take("(?i)"):
                self.ignore_case = True
                continue
            char = self.pattern[self.at].lower()
            literals = literals[-1:] + char if self.ignore_case else ""
            if self.peer == "hf" and literals in _MULTI_FOLDS:
                raise self.refusal(f"{literals!r} without regard to case")
            parts += self.repeated(self.atom(depth))
        self.ignore_case = before
        return parts

    def take(self, text: str) -> bool:
        if self.pattern.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def next(self) -> str:
        if self.at >= len(self.pattern):
            raise self.refusal("no proper end")
        self.at += 1
        return self.pattern[self.at - 1]

    def repeated(self, atom: list) -> list:
        """`atom` with the quantifiers that follow it."""
        n_found = 0
        while True:
            interval = re.compile(r"\{(\d*)(,?)(\d*)\}").match(self.pattern, self.at)
            if interval and (interval[1] or interval[3]):
                self.at = interval.end()
                if any(len(number) > 4 or int(number or 0) > MAX_REPEAT for number in interval.group(1, 3)):
                    raise self.refusal(f"a repeat of more than {MAX_REPEAT}")
                sign = "{%s%s%s}" % (interval[1] or "0", interval[2], interval[3])
            elif self.at < len(self.pattern) and self.pattern[self.at] in "*+?":
                interval, sign = None, self.next()
            elif self.pattern.startswith("{", self.at):
                raise self.refusal("a lone {")
            else:
                return atom
            if n_found and self.peer != "hf" or not atom:
                raise self.refusal("a quantifier after nothing" if not atom else "a quantifier after a quantifier")
            n_found += 1
            if n_found > MAX_QUANTIFIERS:
                raise self.refusal(f"more than {MAX_QUANTIFIERS} quantifiers in a row")
            if self.take("?"):
                if not (interval and not interval[2]):
                    sign += "?"  # lazy
                elif self.peer == "hf":  # x{3}? is (x{3})? there
                    atom, sign = ["(?:", *atom, sign, ")"], "?"
            elif not (interval and self.peer == "hf") and self.take("+"):
                sign += "+"  # possessive; after an interval Oniguruma repeats once more, which the next turn does
            atom = ["(?:", *atom, sign, ")"]

    def atom(self, depth: int) -> list:
        char = self.next()
        if char == "(":
            return self.group(depth)
        if char == "[":
            return self.set_part(self.bracket(depth))
        if char == "\\":
            return self.escape()
        if char == ".":
            return self.once("any", lambda _: ~self.one("\n"))
        if char == "^":
            newline, anything = self.number(self.one("\n")), self.number(~np.zeros(unicode.N_CODES, bool))
            return ["(?:\\A|(?<=", newline, ")(?=", anything, "))"] if self.peer == "hf" else ["\\A"]
        if char == "$":
            return ["(?:\\Z|(?=", self.number(self.one("\n")), "))"] if self.peer == "hf" else ["\\Z"]
        if char in "*+?{":
            raise self.refusal("a quantifier after nothing" if char != "{" else "a lone {")
        return self.once(char, self.literal)

    def group(self, depth: int) -> list:
        before = self.ignore_case
        for opening in ("(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"):
            if self.take(opening[1:]):
                break
        else:
            opening = "(?:"
            flags = re.compile(r"\?(-?)i:").match(self.pattern, self.at)
            named = re.compile(r"\?<[A-Za-z_]\w*>" if self.peer == "hf" else r"\?P?<[A-Za-z_]\w*>").match(self.pattern, self.at)
            if flags:
                self.ignore_case = not flags[1]
            if flags or named:
                self.at = (flags or named).end()
            elif self.pattern.startswith("?", self.at):
                raise self.refusal(f"a group {self.pattern[self.at - 1 : self.at + 3]!r}")
        inside = self.alternatives(depth + 1)
        if not self.take(")"):
            raise self.refusal("a ( that is not closed")
        self.ignore_case = before
        return [opening, *inside, ")"]

    def escape(self) -> list:
        char = self.next()
        if char == "A":
            return ["\\A"]
        if char == "z":
            return ["\\Z"]
        if char == "Z":
            return ["(?=", self.number(self.one("\n")), "?\\Z)"]
        if char in "bB":
            word = self.number(self.property("word"))
            inside, outside = ["(?:(?<=", word, ")(?!", word], [")|(?<!", word, ")(?=", word, "))"]
            if char == "B":
                inside, outside = ["(?:(?<=", word, ")(?=", word], [")|(?<!", word, ")(?!", word, "))"]
            return inside + outside
        if char == "R":
            newline = self.one("\n\v\f\r\x85\u2028\u2029")
            return ["(?>", self.number(self.one("\r")), self.number(self.one("\n")), "|", self.number(newline), ")"]
        if char in "dDsSwWhH":
            return self.once("\\" + char, lambda _: self.escaped_set(char))
        return self.set_part(self.braced_property(char == "P")) if char in "pP" else self.once(self.escaped_char(char), self.literal)

    # ------------------------------------------------ sets of characters

    def once(self, name: str, make: Callable[[str], np.ndarray]) -> list:
        """The part of a set that is made once: it is a table of all code points, and a pattern may be all literals."""
        key = name, self.ignore_case
        if key not in self._once:
            self._once[key] = self.set_part(make(name))
        return self._once[key]

    def set_part(self, which: np.ndarray) -> list:
        return [self.number(which)]

    def number(self, which: np.ndarray) -> int:
        key = np.packbits(which).tobytes()
        if key not in self._numbers:
            self._numbers[key] = len(self.sets)
            self.sets.append(which)
            if len(self.sets) > MAX_SETS:
                raise self.refusal(f"more than {MAX_SETS} different sets of characters")
        return self._numbers[key]

    def one(self, chars: str) -> np.ndarray:
        which = np.zeros(unicode.N_CODES, bool)
        which[[ord(char) for char in chars]] = True
        return which

    def literal(self, char: str) -> np.ndarray:
        return self.one(self.alike(char))

    def alike(self, char: str) -> str:
        """The characters that a literal stands for."""
        if not self.ignore_case:
            return char
        if not char.isascii() and char.lower() != char.upper():
            raise self.refusal(f"{char!r} without regard to case")
        low = char.lower()
        return low + low.upper() + _FOLDS.get(low, "")

    def property(self, name: str) -> np.ndarray:
        which = unicode.members(name, self.peer)
        if which is None:
            raise self.refusal(f"\\p{{{name}}}")
        return which

    def escaped_set(self, char: str) -> np.ndarray:
        """After a backslash: a class, or one character."""
        if char in "pP":
            return self.braced_property(negated=char == "P")
        for letter, name in (("d", "Nd"), ("s", "space"), ("w", "word")):
            if char.lower() == letter:
                return self.property(name) if char == letter else ~self.property(name)
        if char in "hH":
            return self.one("0123456789abcdefABCDEF") ^ (char == "H")
        return self.literal(self.escaped_char(char))

    def escaped_char(self, char: str) -> str:
        if char in _SIMPLE:
            return _SIMPLE[char]
        if char in "xu":
            digits = re.compile(r"\{([0-9A-Fa-f]{1,6})\}|([0-9A-Fa-f]{%d})" % (2 if char == "x" else 4)).match(self.pattern, self.at)
            code = int(digits[1] or digits[2], 16) if digits else unicode.N_CODES
            if code < unicode.N_CODES and (code < 128 or digits[1] or char == "u"):
                self.at = digits.end()
                return chr(code)
        elif not char.isalnum():
            return char
        raise self.refusal(f"\\{char}")

    def braced_property(self, negated: bool) -> np.ndarray:
        found = re.compile(r"\{(\^?)([^{}]{1,40})\}|([A-Z])").match(self.pattern, self.at)
        if not found:
            raise self.refusal("\\p without a name")
        self.at = found.end()
        name = (found[2] or found[3]).rpartition("=")[2]
        plain = re.sub(r"[ _-]", "", name).lower()
        name = _LONG.get(plain) or {"han": "Han", "l": "L"}.get(plain) or next(
            (known for known in (*unicode.CATEGORIES, *"LMNPSZC", "LC", *unicode.unicode_table.SCRIPTS) if known.lower() == plain), name
        )
        if self.ignore_case and name in ("Lu", "Ll", "Lt", "LC", "L&"):
            raise self.refusal(f"\\p{{{name}}} without regard to case")
        which = self.property(name) if name not in unicode.EXTRA else None
        if which is None:
            raise self.refusal(f"\\p{{{name}}}")
        return ~which if negated != bool(found[1]) else which

    def bracket(self, depth: int) -> np.ndarray:
        """After a [: the set up to its ], with ranges, classes, sets inside it, and && between sets."""
        if depth > MAX_DEPTH:
            raise self.refusal(f"sets more than {MAX_DEPTH} deep")
        negated = self.take("^")
        if self.pattern.startswith("]", self.at):
            raise self.refusal("a set that begins with ]")
        total, which = None, np.zeros(unicode.N_CODES, bool)
        while not self.take("]"):
            if self.take("&&"):
                total, which = which if total is None else total & which, np.zeros(unicode.N_CODES, bool)
            elif self.peer != "hf" and self.pattern.startswith(("--", "~~"), self.at):
                raise self.refusal(f"the operator {self.pattern[self.at : self.at + 2]}")
            else:
                which = which | self.bracket_item(depth)
        which = which if total is None else total & which
        return ~which if negated else which

    def bracket_item(self, depth: int) -> np.ndarray:
        posix = re.compile(r"\[:(\^?)(\w+):\]").match(self.pattern, self.at)
        if posix:
            if posix[2] not in _POSIX:
                raise self.refusal(posix[0])
            self.at = posix.end()
            found = np.logical_or.reduce([self.property(name) for name in _POSIX[posix[2]]])
            return ~found if posix[1] else found
        char = self.next()
        if char == "[":
            return self.bracket(depth + 1)
        if char == "\\":
            char = self.next()
            if char in "wW" and self.peer == "hf":
                return (self.property("word") & ~self.one(_NO_WORD_IN_SET)) ^ (char == "W")
            if char in "pPdDsSwWhH":
                return self.escaped_set(char)
            char = self.escaped_char(char) if char != "b" else "\b"
        if not re.compile(r"-[^\]\[]").match(self.pattern, self.at):
            return self.literal(char)
        self.at += 1
        last = self.next()
        if last == "\\":
            last = self.next()
            if last in "pPdDsSwWhH":  # [a-\d]: nobody means it
                raise self.refusal("a range that ends in a class")
            last = self.escaped_char(last)
        if last < char:
            raise self.refusal(f"a range from {char!r} down to {last!r}")
        which = np.zeros(unicode.N_CODES, bool)
        which[ord(char) : ord(last) + 1] = True
        if self.ignore_case:
            if not last.isascii():
                raise self.refusal(f"the range to {last!r} without regard to case")
            which |= self.one("".join(self.alike(chr(code)) for code in range(ord(char), ord(last) + 1)))
        return which
