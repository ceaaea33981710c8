"""Simple children's stories from a grammar: a corpus of any size, with no network, from a seed.

    story(seed, index) = a plot, its cast drawn from word tables, every choice made by Random(f"{seed}:{index}")

A story is a pure function of (seed, index), so validation stories are just other indices. The plots live in
`story_plots_*.py`, phrases that many plots share in `story_beats.py`, words and small worlds of facts in
`story_words.py` and `story_facts.py`. A plot is a headline with its cast, then one paragraph a line (a line that
begins with a space continues the paragraph):

    == the lost hat | hero=child friend=child!shy hat=clothes place=place:out find=place.finds
    {hero} [wore|put on] {hat.a} and went {place.to}. [It was windy. |]Whoosh! The wind took the {hat.n}!
    "{hat.Is} {hat.this} yours?" {friend} {friend.asked}. {hero.He} hugged {friend.him} and gave {friend.him} {find.a}.
     <moral_help hero>

may become

    Mia put on some woolly mittens and went to the beach. Whoosh! The wind took the mittens!
    "Are these yours?" Ben whispered. She hugged him and gave him a white shell. A little help can mean a lot.

  {hero}         what the slot is called: "Mia", "the baker", "red hat"
  {hero.his}     another form of it, here "her"; {hero.His} is the same with a capital, "Her"
  [a|b|]         one of these by chance, perhaps nothing; brackets nest; spare spaces vanish
  <beat hero>    one line of that beat; inside it A, B and C stand for the slots named here

and the cast says where each slot comes from:

  hero=child             any row of a table; no two slots of a story share a name or a kind
  place=place:out        a row tagged `out` (or whose kind is `out`); `:out+wet` takes either
  friend=child!shy+kind  a person with one of these traits: the trait sets how they speak and react
  other=animal@hero      an animal that lives where the hero lives
  worker=worker@job.owner  the worker whose kind the job's `owner` names
  goal=/mill/willow/hill one of these words
  find=place.finds       one of the things that this very place has

Forms. People: name he him his himself kind trait a_trait said asked habit react adverb (children and animals also
lived moved hands hand; animals sound size a_size food land; workers shop busy makes need why). Things: name ("red ball") a ("a red ball") n ("ball") a_n s ("balls")
adj it him ("it", "them") is was has this. A row of facts has the fields of its table. Rows near the top of a table are
drawn more often, so that common words are common.

Left out: any notion of plausibility beyond what plots and tables state, and stories longer than a page.
"""

from __future__ import annotations

import hashlib
import random
import re
from functools import lru_cache
from typing import Iterator, NamedTuple

from pikojax.config import UserError

MIN_WORDS, MAX_WORDS = 60, 250
ONE_PARAGRAPH_SHARE = 0.2  # of the stories are told without a line break
COMMON_FIRST = 1.5  # rows are drawn at n·u^1.5: the first of 40 rows 9% of the time, the last 2%


class Person(NamedTuple):
    """One kind of being: its forms, the names it may have, and the traits it may draw, each by gender."""

    tags: frozenset
    genders: str  # "f", "m" or "fm"
    forms: dict  # gender -> {form: text}
    names: dict  # gender -> list of names
    traits: dict  # trait -> gender -> {form: text}
    usual: list  # the traits drawn when the plot asks for none


class Role(NamedTuple):
    """One entry of a plot's cast."""

    slot: str
    table: str  # a table, or the slot whose field is meant
    field: str | None
    wanted: frozenset  # tags or kinds
    traits: tuple
    near: str | None  # the slot whose land is shared, or slot.field naming the kind


class Plot(NamedTuple):
    name: str
    cast: tuple
    parts: tuple


def vary(text: str, phrases: list) -> str:
    """Write [this|that] for every phrase that may be said in several ways: [(compiled pattern, "[this|that]"), ...]."""
    for pattern, choice in phrases:
        text = pattern.sub(choice, text)
    return text


def parse_template(text: str, beats: dict, rename: dict | None = None) -> tuple:
    """Text with {slots}, [choices] and <beats> as nested parts: str | (slot, form, capital) | [choice, ...]."""
    rename = rename or {}
    stack, alternatives, parts, literal = [], [], [], []

    def flush():
        if literal:
            parts.append("".join(literal))
            literal.clear()

    at = 0
    while at < len(text):
        mark = text[at]
        if mark in "{<":
            end = text.index("}" if mark == "{" else ">", at)
            flush()
            words = text[at + 1 : end]
            parts.append(_slot(words, rename) if mark == "{" else _beat(words.split(), beats, rename))
            at = end
        elif mark == "[":
            flush()
            stack.append((parts, alternatives))
            parts, alternatives = [], []
        elif mark in "|]" and stack:
            flush()
            alternatives.append(tuple(parts))
            parts = []
            if mark == "]":
                choice = alternatives
                parts, alternatives = stack.pop()
                parts.append(choice)
        elif mark in "|]}>":
            raise UserError(f"stray {mark!r} in the story template {text!r}; close what you open")
        else:
            literal.append(mark)
        at += 1
    if stack:
        raise UserError(f"a [ is never closed in the story template {text!r}; add the ]")
    flush()
    return tuple(parts)


def _slot(words: str, rename: dict) -> tuple:
    slot, _, form = words.partition(".")
    form = form or "name"
    return rename.get(slot, slot), form[0].lower() + form[1:], form[0].isupper()


def _beat(words: list, beats: dict, rename: dict) -> list:
    name, *slots = words
    if name not in beats:
        raise UserError(f"no story beat is called {name!r}; the beats are {', '.join(sorted(beats))}")
    inner = dict(zip("ABC", (rename.get(slot, slot) for slot in slots)))
    return [parse_template(line, beats, inner) for line in beats[name].strip().splitlines()]


def parse_plots(text: str, beats: dict, phrases: list) -> list[Plot]:
    """The plots of one `story_plots_*.py`: a headline `== name | cast`, then its paragraphs."""
    plots = []
    for block in text.split("\n== ")[1:]:
        headline, _, body = block.partition("\n")
        name, _, cast = headline.partition("|")
        paragraphs = []
        for line in body.splitlines():
            if line.startswith(" "):
                paragraphs[-1] += " " + line.strip()
            elif line:
                paragraphs.append(line.strip())
        roles = tuple(_role(entry) for entry in cast.split())
        plots.append(Plot(name.strip(), roles, parse_template(vary("\n".join(paragraphs), phrases), beats)))
    return plots


def _role(entry: str) -> Role:
    slot, _, source = entry.partition("=")
    source, _, traits = source.partition("!")
    source, _, near = source.partition("@")
    source, _, wanted = source.partition(":")
    table, _, field = source.partition(".")
    split = lambda names: [name for name in names.split("+") if name]
    return Role(slot, table, field or None, frozenset(split(wanted)), tuple(split(traits)), near or None)


def cast_story(cast: tuple, world: dict, rand) -> dict:
    """Draw every slot of a plot: slot -> {form: text}."""
    env, used = {}, set()
    for role in cast:
        if role.table[0] == "/":
            rows = [{"name": word, "kind": word} for word in role.table[1:].split("/")]
        elif role.field:
            rows = env[role.table][role.field]
        else:
            rows = _rows(world, role, _near(role.near, env))
        for _ in range(50):  # tables are far larger than casts, so a clash is soon gone
            row = rows[int(rand() ** COMMON_FIRST * len(rows))]
            drawn = _draw_person(row, role, rand) if type(row) is Person else _draw_row(row, rand)
            if not (drawn["name"] in used or drawn["kind"] in used):
                break
        used.add(drawn["name"])
        if drawn["kind"] not in ("girl", "boy"):
            used.add(drawn["kind"])
        env[role.slot] = drawn
    return env


def _near(near: str | None, env: dict) -> tuple | None:
    """What `@slot` (the same land) or `@slot.field` (the kind named there) asks of a person, as (form, value)."""
    if near is None:
        return None
    slot, _, field = near.partition(".")
    return ("kind", env[slot][field]) if field else ("land", env[slot]["land"])


def _rows(world: dict, role: Role, near: tuple | None) -> list:
    key = (role.table, role.wanted, near)
    if key not in world:
        rows = world[role.table]
        if role.wanted:
            rows = [row for row in rows if role.wanted & _tags(row)]
        if near:
            rows = [row for row in rows if row.forms[row.genders[0]][near[0]] == near[1]]
        if not rows:
            raise UserError(f"no {role.table} is tagged {'+'.join(sorted(role.wanted))} {near or ''}; see story_words.py")
        world[key] = rows
    return world[key]


def _tags(row) -> frozenset:
    return row.tags if type(row) is Person else row[0]["tags"] if type(row) is list else row["tags"]


def _draw_person(row: Person, role: Role, rand) -> dict:
    gender = row.genders[int(rand() * len(row.genders))]
    names = row.names[gender]
    traits = role.traits or row.usual
    name = names[int(rand() ** COMMON_FIRST * len(names))]
    trait = row.traits[traits[int(rand() * len(traits))]][gender]
    return {**row.forms[gender], **trait, "name": name}


def _draw_row(row, rand) -> dict:
    """A thing is a list of its looks (one for each adjective); a row of facts is a dict."""
    return row[int(rand() * len(row))] if type(row) is list else row


def render(parts: tuple, env: dict, rand, out: list) -> None:
    """Append the text of parts to out."""
    for part in parts:
        kind = type(part)
        if kind is str:
            out.append(part)
        elif kind is list:
            render(part[int(rand() * len(part))], env, rand, out)
        else:
            slot, form, capital = part
            value = env[slot][form]
            if type(value) is list:  # several wordings, perhaps with slots of their own
                mine = []
                render(value[int(rand() * len(value))], env, rand, mine)
                value = "".join(mine)
            out.append(value[0].upper() + value[1:] if capital else value)


def tell(plot: Plot, world: dict, rand) -> str:
    """One telling of a plot. Draws again while the story is too short or too long."""
    for _ in range(100):
        out = []
        try:
            render(plot.parts, cast_story(plot.cast, world, rand), rand, out)
        except KeyError as missing:
            raise UserError(f"the story plot {plot.name!r} asks for {missing}, which is no table, slot or form; see stories.py") from None
        text = "".join(out)
        if rand() < ONE_PARAGRAPH_SHARE:
            text = text.replace("\n", " ")
        while "  " in text:
            text = text.replace("  ", " ")
        text = text.replace(" \n", "\n").replace("\n ", "\n").strip()
        if MIN_WORDS <= text.count(" ") + text.count("\n") + 1 <= MAX_WORDS:
            return text
    raise UserError(f"the story plot {plot.name!r} never has {MIN_WORDS} to {MAX_WORDS} words; lengthen or shorten it")


@lru_cache(maxsize=1)
def grammar() -> tuple[list[Plot], dict]:
    """All plots and the word tables, compiled on first use."""
    from pikojax.data import story_plots_child, story_plots_fable, story_plots_home, story_plots_town, story_plots_wonder
    from pikojax.data.story_beats import BEATS, PHRASES
    from pikojax.data.story_tables import build_world

    phrases = [(re.compile(pattern), choice) for pattern, choice in PHRASES]
    beats = {name: vary(lines, phrases) for name, lines in BEATS.items()}
    files = (story_plots_home, story_plots_child, story_plots_fable, story_plots_town, story_plots_wonder)
    return [plot for file in files for plot in parse_plots(file.PLOTS, beats, phrases)], build_world()


def story(seed: int, index: int) -> str:
    """Story number `index` of the corpus `seed`: paragraphs parted by a line break, never a blank line."""
    plots, world = grammar()
    rand = random.Random(f"{seed}:{index}").random
    return tell(plots[int(rand() * len(plots))], world, rand)


def stories(seed: int, n_bytes: int | None = None, n_stories: int | None = None) -> Iterator[str]:
    """story(seed, 0), story(seed, 1) … without repeats, until there are n_bytes (UTF-8, at least) or n_stories."""
    seen, size_bytes, index = set(), 0, 0
    while (n_bytes is None or size_bytes < n_bytes) and (n_stories is None or len(seen) < n_stories):
        text = story(seed, index)
        index += 1
        key = hashlib.blake2b(text.encode(), digest_size=12).digest()
        if key not in seen:
            seen.add(key)
            size_bytes += len(text)  # the stories are ASCII: a character is a byte
            yield text
