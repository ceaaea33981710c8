"""A stretch of text that remembers where each of its characters came from, while normalizers and splits change it.

    text "ﬁn" —NFKC→ "fin", spans [(0, 1), (0, 1), (1, 2)]      spans[i] = characters of the original that text[i] stands for

Hugging Face counts a character that was put in as belonging to the one before it, and one that took the place of several
as belonging to the first, or, where a pattern was replaced, to the last; so do we, or offsets would not agree.
Where nobody asks for offsets `spans` is None and the same operations are plain string operations.

Leaves out: offsets in bytes (the tokenizer makes them of these at the end).
"""

from collections.abc import Callable, Sequence


class Aligned:
    __slots__ = ("text", "spans", "base")

    def __init__(self, text: str, spans: list[tuple[int, int]] | None, base: int = 0):
        self.text, self.spans = text, spans
        self.base = base  # where the stretch begins in the original

    def cut(self, first: int, last: int) -> "Aligned":
        if self.spans is None:
            return Aligned(self.text[first:last], None, self.base + first)
        spans = self.spans[first:last]
        return Aligned(self.text[first:last], spans, spans[0][0] if spans else self.base)

    def map(self, change: Callable[[str], str]) -> "Aligned":
        """`change` treats each character by itself, so the whole text at once or one by one is the same."""
        if self.spans is None:
            return Aligned(change(self.text), None, self.base)
        parts = [change(char) for char in self.text]
        spans = [span for part, span in zip(parts, self.spans) for _ in part]
        return Aligned("".join(parts), spans, self.base)

    def changed(self, changes: Sequence[tuple[str, int]]) -> "Aligned":
        """The text becomes the characters of `changes`: 1 with one that is put in, 0 with one that takes the place of the
        next character, -n with one that takes the place of the next and swallows n more."""
        text = "".join(char for char, _ in changes)
        if self.spans is None:
            return Aligned(text, None, self.base)
        spans, at = [], 0
        for _, change in changes:
            if change > 0:
                spans.append(self.spans[at - 1] if at else (self.base, self.base))
            else:
                spans.append(self.spans[min(at, len(self.spans) - 1)])
                at += 1 - change
        return Aligned(text, spans, self.base)

    def replaced(self, matches: Sequence[tuple[int, int]], content: str) -> "Aligned":
        """`content` instead of each of the matches, which lie in order and apart."""
        parts, spans, last = [], [], 0
        for first, end in matches:
            parts += [self.text[last:first], content]
            if self.spans is not None:
                spans += self.spans[last:first]
                spans += [self.spans[end - 1] if end else (self.base, self.base)] * len(content)
            last = end
        parts.append(self.text[last:])
        if self.spans is None:
            return Aligned("".join(parts), None, self.base)
        return Aligned("".join(parts), spans + self.spans[last:], self.base)

    def prepended(self, content: str) -> "Aligned":
        if not self.text:
            return self
        return Aligned(content + self.text, None if self.spans is None else self.spans[:1] * len(content) + self.spans, self.base)
