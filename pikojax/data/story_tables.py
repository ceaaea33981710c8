"""Reads the word tables of `story_words.py` and `story_facts.py` into what `stories.py` draws from.

A noun is written as its possible adjectives, then itself: `red old @color ball` may be "a red ball" or "an old ball".
`@color` stands for a group of adjectives, `leaf=leaves` gives an odd plural, `*boots` is always plural, `~sand` is never
counted, and `toy_car` is one noun of two words. A table of facts has a headline of fields; a field with ` / ` in it
has several wordings, and may hold {slots} of the plot that uses it. `finds` and `dish` hold nouns; PHRASE_FIELDS
get a second form with an article.
"""

from __future__ import annotations

from pikojax.config import UserError
from pikojax.data import story_facts as facts
from pikojax.data import story_words as words
from pikojax.data.stories import Person, parse_template

PRONOUNS = {
    "f": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
    "m": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
}
PHRASE_FIELDS = {"makes", "need", "tool"}


NUMBERS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty".split()


def article(phrase: str) -> str:
    """'apple' -> 'an apple'."""
    silent_h = phrase.startswith(("hour", "honest"))
    like_you = phrase.startswith(("uni", "use", "one"))
    return ("an " if (phrase[0] in "aeiou" or silent_h) and not like_you else "a ") + phrase


def plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def parse_noun(text: str) -> list[dict]:
    """One noun as a list of its looks, one for each adjective."""
    *adjectives, noun = text.split()
    expanded = []
    for adjective in adjectives:
        expanded += words.GROUPS[adjective[1:]].split() if adjective[0] == "@" else [adjective]
    many, mass = noun[0] == "*", noun[0] == "~"
    noun, _, odd_plural = noun.lstrip("*~").replace("_", " ").partition("=")
    number = {"it": "it", "him": "it", "is": "is", "was": "was", "has": "has", "this": "this", "that": "that", "does": "does"}
    if many:
        number = {"it": "they", "him": "them", "is": "are", "was": "were", "has": "have", "this": "these", "that": "those", "does": "do"}
    shared = {"n": noun, "kind": noun, "tags": frozenset([noun]), "s": noun if many or mass else odd_plural or plural(noun), **number}
    looks = []
    for adjective in expanded or [""]:
        name = f"{adjective} {noun}".strip()
        a, a_n = (f"some {name}", f"some {noun}") if many or mass else (article(name), article(noun))
        looks.append({**shared, "name": name, "adj": adjective, "a": a, "a_n": a_n})
    return looks


def parse_table(text: str) -> list[dict]:
    """Lines of `field | field`, the first being the headline, as dicts of str."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    fields = [field.strip() for field in lines[0].split("|")]
    rows = []
    for line in lines[1:]:
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != len(fields):
            raise UserError(f"got {len(cells)} cells, wanted {len(fields)} ({', '.join(fields)}), in the story table row {line!r}")
        rows.append(dict(zip(fields, cells)))
    return rows


def wordings(text: str):
    """A plain string, or a list of templates where there are several wordings or slots."""
    if " / " in text or "{" in text or "[" in text:
        return [parse_template(part.strip(), {}) for part in text.split(" / ")]
    return text


def fact_row(row: dict) -> dict:
    """The row's fields as wordings and nouns. Every row has a name, a kind and tags."""
    made = {"tags": frozenset(row.get("tags", "").split())}
    for field, text in row.items():
        if field == "finds":
            made[field] = [parse_noun(part) for part in text.split(" / ")]
        elif field == "dish":
            look = parse_noun(text)[0]
            made.update(dish=look["name"], dish_a=look["a"])
        elif field in PHRASE_FIELDS:
            made.update({field: text, field + "_a": article(text)})
        elif field != "tags":
            made[field] = wordings(text)
    made.setdefault("name", made.get("kind", ""))
    made.setdefault("kind", made["name"])
    if type(made["kind"]) is str:
        made["tags"] |= {made["kind"]}
    else:
        made["kind"] = row.get("kind", row.get("name"))
    return made


def person_forms(row: dict, gender: str) -> dict:
    """A row of people with its pronouns put in."""
    filled = {}
    for field, text in row.items():
        for form, pronoun in PRONOUNS[gender].items():
            text = text.replace("{" + form + "}", pronoun)
        filled[field] = text
    forms = fact_row(filled)
    forms.update({form: pronoun for form, pronoun in PRONOUNS[gender].items()})
    return forms


def build_traits() -> dict:
    traits = {}
    for row in parse_table(words.TRAITS):
        row["a_trait"] = article(row["trait"])
        drop = ("kind", "name", "tags", *PRONOUNS["f"])
        traits[row["trait"]] = {
            gender: {form: text for form, text in person_forms(row, gender).items() if form not in drop} for gender in "fm"
        }
    return traits


def build_people(text: str, usual: list, traits: dict) -> list[Person]:
    people = []
    for row in parse_table(text):
        genders, names = row.pop("genders"), row.pop("names")
        by_gender = {gender: words.NAMES.get(f"{names}_{gender}", names).split(", ") for gender in "fm"}
        row |= {f"a_{form}": article(row[form]) for form in ("kind", "size") if form in row}
        forms = {gender: person_forms(row, gender) for gender in "fm"}
        people.append(Person(forms["f"]["tags"], genders, forms, by_gender, traits, usual))
    return people


def sums() -> str:
    """Small sums in words: a + b = total, and total - b = a. Tagged `apart`, a is the larger."""
    rows = ["kind | tags | a | b | total"]
    for b in range(2, 7):
        for a in range(2, 13):
            tags = "apart" if a > b else ""
            rows.append(f"{NUMBERS[a - 1]} and {NUMBERS[b - 1]} | {tags} | {NUMBERS[a - 1]} | {NUMBERS[b - 1]} | {NUMBERS[a + b - 1]}")
    return "\n".join(rows)


def build_world() -> dict:
    """Every table by name: people as Person rows, things as lists of looks, facts as dicts."""
    traits = build_traits()
    usual = words.USUAL_TRAITS.split()
    calm = words.CALM_TRAITS.split()
    world = {
        "child": build_people(words.CHILDREN, usual, traits),
        "animal": build_people(words.ANIMALS, usual, traits),
        "elder": build_people(words.ELDERS, calm, traits),
        "worker": build_people(words.WORKERS, calm, traits),
        "royal": build_people(words.ROYALS, calm, traits),
        "pet": build_people(words.PETS, usual, traits),
        "creature": build_people(words.CREATURES, usual, traits),
    }
    world["someone"] = world["child"] * 9 + world["animal"]  # about as many children as animals
    for table, nouns in words.THINGS.items():
        world[table] = [parse_noun(noun) for noun in nouns.replace("\n", " ").split(" / ")]
    for table, text in facts.FACTS.items():
        world[table] = [fact_row(row) for row in parse_table(text)]
    world["sum"] = [fact_row(row) for row in parse_table(sums())]
    return world
