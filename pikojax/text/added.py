"""Added tokens: strings that are cut out of a text before anything else is done to it, special ones ("</s>") and others.

    "Hi<eos> you" with <eos>: lstrip=False, rstrip=True   →   "Hi" | <eos> | "you"

A token whose `normalized` is false is looked for in the text as it stands, first; the others are looked for in what the
normalizer made of each stretch that is left, in the form that the normalizer gives the token itself. Of several that begin at a
place the longest counts. lstrip and rstrip swallow the spaces beside a token; single_word ignores it inside a word (but what it
covers is then plain text, in which no other token is looked for).

An added token that the vocabulary has keeps the vocabulary's id; another gets the next free one, whatever the file says. That is
Hugging Face's rule, and it gives the ids that a model was trained with there. (Trees of rank files keep the ids they say.)

Leaves out: adding tokens after loading; change the tree and build a tokenizer of it.
"""

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from pikojax.config import require
from pikojax.text.aligned import Aligned
from pikojax.text.hf_json import ID_LIMIT, field, shown

LIMIT_STEPS = 200_000  # about a second


class AddedToken(NamedTuple):
    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False


class AddedTokens(NamedTuple):
    ids: dict[str, int]  # content → id
    by_id: dict[int, AddedToken]
    raw: "Finder"  # those that are looked for in the text as it stands
    normalized: "Finder"
    specials: frozenset[str]
    shown: dict[int, str]  # id → how it is decoded: as the normalizer left it, if that is how it is looked for


def read(tree: Mapping, model_ids: Mapping[str, int], normalize: Callable[[Aligned], Aligned], n_steps: int = 1) -> AddedTokens:
    """`n_steps`: what `normalize` consists of. All of it is done to each token that is to be normalized."""
    entries = tree.get("added_tokens")
    require(isinstance(entries, list | None), f"added_tokens is {shown(entries)}; it must be a list")
    require(len(entries or ()) < ID_LIMIT, "added_tokens is too long")
    tokens = [token for token in map(_token, entries or ()) if token.content]
    specials = {token.content for token in tokens if token.special}
    size = sum(1 + len(token.content) // 100 for token in tokens if token.normalized)
    limit = LIMIT_STEPS // max(n_steps, 1)
    require(size <= limit, f"added_tokens has {size} tokens to normalize in {n_steps} steps, over {limit}; set their \"normalized\" to false")
    ids: dict[str, int] = {}
    by_id: dict[int, AddedToken] = {}
    ordinary, special, known = {}, {}, set()
    size, largest = len(model_ids), None
    ranks = tree["model"].get("rank_order") or tree["model"].get("score_order")  # a tree of ours: its ids are meant
    given = {entry["content"]: entry.get("id") for entry in entries or ()} if ranks else {}
    for token in tokens:
        if token.special:
            special.setdefault(token.content, token)
        if token in known:
            continue
        i = ids.get(token.content, model_ids.get(token.content))
        i = given.get(token.content) if i is None else i
        if i is None:
            i = size if largest is None or (largest < size and size) else largest + 1
        largest = i if largest is None else max(i, largest)
        known.discard(by_id.get(i))
        known.add(token)
        ids[token.content], by_id[i] = i, token
        if token.content not in specials:
            ordinary[token.content] = token
    found = [*special.values(), *ordinary.values()]
    raw = {token.content: ids[token.content] for token in reversed(found) if not token.normalized}
    form = functools.cache(lambda content: normalize(Aligned(content, None)).text)
    forms = [(form(token.content), token) for token in found if token.normalized]
    normalized = {seen: ids[token.content] for seen, token in reversed(forms) if seen}
    display = {i: token.content for i, token in by_id.items()}
    display |= {ids[token.content]: form(token.content) for token in tokens if token.normalized}
    return AddedTokens(ids, by_id, Finder(raw, by_id), Finder(normalized, by_id), frozenset(specials), display)


def _token(entry) -> AddedToken:
    good = isinstance(entry, dict) and isinstance(entry.get("content"), str)
    require(good, f"added_tokens holds {shown(entry)}; each needs an id and its content")
    what = f"the added token {shown(entry['content'])}"
    field(entry, "content", str, what=what)
    i = field(entry, "id", int, 0, what=what)
    require(0 <= i < ID_LIMIT, f"{what} has the id {shown(i)}; ids must be whole numbers from 0 to {ID_LIMIT - 1}")
    flags = {name: field(entry, name, bool, False, what=what) for name in ("single_word", "lstrip", "rstrip", "special")}
    return AddedToken(entry["content"], normalized=field(entry, "normalized", bool, not flags["special"], what=what), **flags)


class Finder:
    """Finds one set of strings in a text: leftmost, then longest."""

    def __init__(self, ids: Mapping[str, int], tokens: Mapping[int, AddedToken]):
        self.ids, self.tokens = ids, tokens
        lengths: dict[str, set[int]] = {}
        for content in ids:
            lengths.setdefault(content[0], set()).add(len(content))
        self.lengths = {char: sorted(found, reverse=True) for char, found in lengths.items()}
        self.begins = re.compile(f"[{''.join(map(re.escape, self.lengths))}]" if ids else "(?!)")

    def split(self, text: str, plain: Collection[str] = ()) -> list[tuple[int, int, int | None]]:
        """All of `text` as (first, last, id of the added token | None). Special tokens among `plain` stay in the text."""
        parts, done = [], 0
        for first, last, i in self._matches(text):
            token = self.tokens[i]
            if token.content in plain or token.single_word and _inside_word(text, first, last):
                continue
            first = _before_spaces(text, first, done) if token.lstrip else first
            last = _behind_spaces(text, last) if token.rstrip else last
            if done < first:
                parts.append((done, first, None))
            parts.append((first, last, i))
            done = last
        if done != len(text):
            parts.append((done, len(text), None))
        return parts

    def _matches(self, text: str) -> Iterator[tuple[int, int, int]]:
        at = 0
        while found := self.begins.search(text, at):
            first = found.start()
            at = first + 1
            for length in self.lengths[text[first]]:
                i = self.ids.get(text[first : first + length])
                if i is not None and first + length <= len(text):
                    at = first + length
                    yield first, at, i
                    break


def _inside_word(text: str, first: int, last: int) -> bool:
    from pikojax.text import unicode

    word = unicode.members("rust_word")
    return bool(first and word[ord(text[first - 1])]) or bool(last < len(text) and word[ord(text[last])])


def _before_spaces(text: str, first: int, done: int) -> int:
    from pikojax.text import unicode

    space = unicode.members("rust_space_class")
    while first > 0 and space[ord(text[first - 1])]:
        first -= 1
    return max(first, done)


def _behind_spaces(text: str, last: int) -> int:
    from pikojax.text import unicode

    space = unicode.members("rust_space_class")
    while last < len(text) and space[ord(text[last])]:
        last += 1
    return last
