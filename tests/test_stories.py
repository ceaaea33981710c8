"""The story grammar: deterministic, unrepeated, varied, and grammatical as far as a machine can tell."""

import hashlib
import random
import re
import time
from collections import Counter
from functools import lru_cache

import pytest

from pikojax.config import UserError
from pikojax.data import stories as grammar_file
from pikojax.data.stories import MAX_WORDS, MIN_WORDS, cast_story, grammar, parse_plots, parse_template, stories, story, tell
from pikojax.data.story_beats import BEATS

ALLOWED = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ \n.,!?'\"-:;")


@lru_cache(maxsize=1)
def corpus() -> tuple:
    return tuple(stories(seed=1, n_bytes=1_500_000))


def tellings(world=None, per_plot=40):
    """Every plot, told many times: (name, text)."""
    plots, usual_world = grammar()
    for plot in plots:
        for n in range(per_plot):
            yield plot.name, tell(plot, world or usual_world, random.Random(f"{plot.name}:{n}").random)


def word_types(texts) -> Counter:
    return Counter(word for text in texts for word in re.findall("[a-z]+", text.lower()))


def test_a_story_is_a_function_of_seed_and_index():
    random.seed(0)
    first = [story(3, n) for n in range(50)]
    random.seed(99)
    assert [story(3, n) for n in reversed(range(50))] == first[::-1]
    assert list(stories(3, n_stories=50)) == first  # these happen to hold no repeat
    assert all(story(4, n) != text for n, text in enumerate(first))


def test_stories_never_change_unnoticed():
    """A corpus is named by its seed alone, so a change of words or plots has to be a decision: then renew this digest."""
    text = "\n\n".join(stories(0, n_stories=300))
    assert hashlib.blake2b(text.encode(), digest_size=8).hexdigest() == "ad99bd8648d8bda6"


def test_stops_at_bytes_or_stories():
    texts = list(stories(5, n_bytes=20_000))
    size_bytes = sum(len(text.encode()) for text in texts)
    assert size_bytes >= 20_000 > size_bytes - len(texts[-1])
    assert len(list(stories(5, n_stories=7))) == 7
    assert len(list(stories(5, n_bytes=10**9, n_stories=7))) == 7
    assert list(stories(5, n_stories=0)) == []


def test_a_repeated_story_is_left_out(monkeypatch):
    real = grammar_file.story
    monkeypatch.setattr(grammar_file, "story", lambda seed, index: real(seed, index // 3))
    assert list(stories(6, n_stories=10)) == [real(6, n) for n in range(10)]


def test_length_characters_and_lines():
    for text in corpus():
        assert MIN_WORDS <= len(text.split()) <= MAX_WORDS
        assert set(text) <= ALLOWED
        assert "\n\n" not in text and "  " not in text and " \n" not in text and "\n " not in text
        assert text == text.strip()
    assert len(set("".join(corpus()))) <= 63


def test_no_repeats_and_few_near_repeats():
    """Of all runs of twelve words, at most 21% were seen in an earlier story (measured: 18.8%)."""
    texts = corpus()
    assert len(set(texts)) == len(texts)
    seen, n_runs, n_repeated = set(), 0, 0
    for text in texts:
        words = text.split()
        runs = {tuple(words[n : n + 12]) for n in range(len(words) - 11)}
        n_runs += len(runs)
        n_repeated += len(runs & seen)
        seen |= runs
    assert n_repeated / n_runs < 0.21


def test_vocabulary_is_wide_and_common_words_are_common():
    counts = word_types(corpus())
    assert len(counts) > 2_300
    ranked = [word for word, _ in counts.most_common(40)]
    assert {"the", "and", "to", "a", "it", "was", "said", "you"} <= set(ranked)
    frequencies = sorted(counts.values(), reverse=True)
    assert sum(frequencies[:100]) > 0.5 * sum(frequencies)  # Zipf: a hundred words make half of the text
    assert sum(1 for n in frequencies if n >= 5) > 0.8 * len(counts)  # few words are too rare to learn


def test_there_are_dozens_of_plots_and_all_get_told():
    plots, _ = grammar()
    assert len(plots) >= 40 and len({plot.name for plot in plots}) == len(plots)
    rand = Counter(plots[int(random.Random(f"1:{n}").random() * len(plots))].name for n in range(3_000))
    assert len(rand) == len(plots) and max(rand.values()) < 4 * min(rand.values())


def test_every_branch_of_every_plot_resolves():
    """Each {slot.form} in any branch exists for every row that the cast may draw there."""
    plots, world = grammar()

    def check(parts, env, where):
        for part in parts:
            if type(part) is list:
                for choice in part:
                    check(choice, env, where)
            elif type(part) is tuple:
                slot, form, _ = part
                assert slot in env, f"{where}: no slot {slot!r}"
                assert form in env[slot], f"{where}: {slot} has no form {form!r}"
                if type(env[slot][form]) is list and form != "finds":
                    for wording in env[slot][form]:
                        check(wording, env, f"{where}: {slot}.{form}")

    for plot in plots:
        for n in range(60):
            check(plot.parts, cast_story(plot.cast, world, random.Random(f"{plot.name}/{n}").random), plot.name)


def test_grammar_of_the_text():
    vowel_a = re.compile(r"\b[Aa] (?!one\b|uni|use)[aeiou]\w*")
    consonant_an = re.compile(r"\b[Aa]n (?!hour|honest)[^aeiou\W]\w*")
    doubled = re.compile(r"\b(a|an|the|was|is|in|to|of|and|he|she|it|they|had|with|for|on|at)\s+\1\b")
    lower_start = re.compile(r"(?:^|\n|[^.][.!?] )\"?[a-z]")
    for name, text in tellings():
        for wrong in (vowel_a, consonant_an, doubled, lower_start):
            found = wrong.search(text)
            assert not found, f"{name}: {text[max(0, found.start() - 40) : found.end() + 20]!r}"
        assert not re.search(r" [.,!?;:]|[.,!?;:]{2}(?<!\.\.)|\.\.\.\.|[{}\[\]<>|_=]", text), f"{name}: {text}"
        for paragraph in text.split("\n"):
            assert paragraph.count('"') % 2 == 0, f"{name}: {paragraph}"
            assert paragraph[-1] in '.!?"', f"{name}: {paragraph}"
            for spoken in paragraph.split('"')[1::2]:
                assert spoken == spoken.strip() and spoken[-1] in ".,!?", f"{name}: {spoken!r}"


@pytest.mark.parametrize("gender, foreign", [("f", r"\b(he|him|his|himself)\b"), ("m", r"\b(she|her|hers|herself)\b")])
def test_pronouns_agree_with_the_cast(gender, foreign):
    """Told with a cast of one gender, a story may use no pronoun of the other: none is written out by hand."""
    by_hand = {
        "the snowman": r"\bfor him\b|\bHe looks like\b|\"He is\b|is he going\b|\"He's\b",  # of the snowman, a character without a slot
        "the pot that would not stop": r"\bhelped an old woman carry her\b|\bshe (said|had|gave)\b|\bsaw her\b|\bheard her\b|\bher voice\b|\band she gave\b",
        "the lost little one": r"\b(That is her|That's her|She has|She sings|find her|she said)\b",  # of the mother
    }
    _, world = grammar()
    one_gender = {}
    for table, rows in world.items():
        if type(table) is str:  # tuples are rows remembered for a role
            people = [row._replace(genders=gender) for row in rows if type(row) is grammar_file.Person and gender in row.genders]
            one_gender[table] = people or rows
    for name, text in tellings(one_gender):
        text = re.sub(by_hand.get(name, "$^"), "", text)
        found = re.search(foreign, text, flags=re.IGNORECASE)
        assert not found, f"{name}: {text[max(0, found.start() - 60) : found.end() + 20]!r}"


def test_facts_go_together():
    """A place has its own things; an animal stays at home; the helper is the one who owns the tool."""
    plots, world = grammar()
    seen = 0
    for plot in plots:
        for n in range(30):
            env = cast_story(plot.cast, world, random.Random(f"{plot.name}-{n}").random)
            names = [drawn["name"] for drawn in env.values()]
            assert len(set(names)) == len(names)
            for role in plot.cast:
                if role.table[0] == "/":
                    assert env[role.slot]["name"] in role.table
                elif role.field:
                    seen += 1
                    assert env[role.slot] in [look for noun in env[role.table][role.field] for look in noun]
                elif role.near and "." in role.near:
                    seen += 1
                    slot, field = role.near.split(".")
                    assert env[role.slot]["kind"] == env[slot][field]
                elif role.near:
                    seen += 1
                    assert env[role.slot]["land"] == env[role.near]["land"]
    assert seen > 300


def test_sums_are_right():
    _, world = grammar()
    number = {word: n for n, word in enumerate("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
                                               "fifteen sixteen seventeen eighteen nineteen twenty".split())}
    told = "\n".join(corpus())
    found = re.findall(r"(\w+) and (\w+) make (\w+),", told)
    found = [tuple(number[word.lower()] for word in words) for words in found if words[0].lower() in number]
    assert len(found) > 10 and all(a + b == total for a, b, total in found)
    assert all(number[row["a"]] + number[row["b"]] == number[row["total"]] for row in world["sum"])


def test_the_object_stays_the_same():
    """In the plot of the lost toy, every ball, kite or doll that is named is the one that was lost."""
    plots, world = grammar()
    plot = next(plot for plot in plots if plot.name == "the lost toy")
    toys = {look[0]["n"] for look in world["toy"]}
    for n in range(200):
        text = tell(plot, world, random.Random(f"toy{n}").random)
        assert len({toy for toy in toys if re.search(rf"\b{toy}\b", text)}) == 1, text


def test_template_notation():
    beats = {"hi": 'Hello, {A}!\nHi, {A.the}!'}
    assert parse_template("{hero} [ran|<hi friend>].", beats) == (
        ("hero", "name", False), " ",
        [("ran",), ([("Hello, ", ("friend", "name", False), "!"), ("Hi, ", ("friend", "the", False), "!")],)], ".",
    )
    (plot,) = parse_plots("\n== a plot | hero=child!shy friend=animal:wood+farm@hero find=place.finds\nOne.\n Still one.\nTwo.\n", {}, [])
    assert plot.name == "a plot" and plot.parts == ("One. Still one.\nTwo.",)
    hero, friend, find = plot.cast
    assert (hero.table, hero.traits) == ("child", ("shy",))
    assert (friend.wanted, friend.near) == (frozenset({"wood", "farm"}), "hero")
    assert (find.table, find.field) == ("place", "finds")


@pytest.mark.parametrize("text", ["[a|b", "a]", "a}", "<nobody hero>"])
def test_a_broken_template_says_what_is_wrong(text):
    with pytest.raises(UserError, match="stray|never closed|no story beat"):
        parse_template(text, {"hi": "Hi."})


def test_a_plot_that_cannot_be_told_says_so():
    _, world = grammar()
    too_short, bad_form, bad_table = parse_plots(
        "\n== short | hero=child\n{hero} ran.\n== form | hero=child\n{hero.color}\n== table | hero=nobody\n{hero}\n", {}, [])
    for plot, reason in ((too_short, "never has 60 to 250 words"), (bad_form, "'color'"), (bad_table, "'nobody'")):
        with pytest.raises(UserError, match=reason):
            tell(plot, world, random.Random(0).random)


def test_the_example_in_the_docstring_works():
    """The worked example is read as it stands, so the documentation of the notation can be trusted."""
    example = grammar_file.__doc__.split("    == the lost hat")[1].split("\n\nmay become")[0]
    lines = "\n== the lost hat" + example.replace("\n    ", "\n")
    (plot,) = parse_plots(lines, BEATS, [])
    _, world = grammar()
    out = []
    rand = random.Random(0).random
    grammar_file.render(plot.parts, cast_story(plot.cast, world, rand), rand, out)
    text = "".join(out)
    assert text.count("\n") == 1 and "The wind took the" in text and set(text) <= ALLOWED


@pytest.mark.slow
def test_ten_megabytes_without_a_repeat():
    start_s = time.perf_counter()
    texts = list(stories(seed=2, n_bytes=10_000_000))
    seconds = time.perf_counter() - start_s
    assert sum(len(text.encode()) for text in texts) >= 10_000_000
    assert len({hashlib.sha256(text.encode()).digest() for text in texts}) == len(texts)
    assert len(word_types(texts)) >= 1_500
    assert seconds < 10, f"{seconds:.1f} s for 10 MB; 1 MB/s is the least that will do"
