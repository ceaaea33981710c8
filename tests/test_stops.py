"""Stop strings across pieces: what is shown never depends on where the text was cut, and is never taken back."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pikojax.config import UserError
from pikojax.infer.stops import StopStrings
from pikojax.text.char import CharTokenizer


def pushed(stops, pieces):
    matcher, shown = StopStrings(stops), []
    for piece in pieces:
        text, stopped = matcher.push(piece)
        shown.append(text)
        if stopped:
            return shown, matcher.stopped_by
    return [*shown, matcher.finish()], matcher.stopped_by


def by_definition(stops, text):
    """Up to the stop string that is complete first, the longest of those complete at once."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - len(max(ending, key=len))], max(ending, key=len)
    return text, None


letters = st.text("ab\n", max_size=24)


@example(["aab"], ["aa", "ab"])  # a beginning that fails and is the beginning of another
@example(["abcd", "bc"], ["abc"])
@given(st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=3), st.lists(letters, max_size=6))
def test_the_text_ends_where_the_definition_says_however_it_is_cut(stops, pieces):
    text, stop = by_definition(stops, "".join(pieces))
    shown, stopped_by = pushed(stops, pieces)
    assert ("".join(shown), stopped_by) == (text, stop)


@given(st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3), st.text("ab", max_size=16))
def test_nothing_more_is_held_back_than_a_beginning_of_a_stop(stops, text):
    matcher, shown = StopStrings(stops), ""
    for char in text:
        new, stopped = matcher.push(char)
        shown += new
        if stopped:
            return
    held = text[len(shown) :]
    assert text.startswith(shown)
    longest = max(n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n]))
    assert len(held) == longest


def test_a_stop_across_tokens_is_never_seen():
    tokenizer = CharTokenizer(sorted(set("Hi\nUser: ly")))
    stream, matcher, shown = tokenizer.stream(), StopStrings(["\nUser:"]), []
    for id in tokenizer.encode("Hi\nUsely\nUser: Hi"):
        text, stopped = matcher.push(stream.push(id))
        shown.append(text)
        if stopped:
            break
    assert "".join(shown) == "Hi\nUsely" and stopped and matcher.stopped_by == "\nUser:"
    assert matcher.push("more") == ("", True) and matcher.finish() == ""


def test_a_long_repetitive_stop_costs_no_more_than_its_length():
    stop = "a" * 20_000 + "b"
    matcher = StopStrings(stop)
    assert matcher.push("a" * 99_999) == ("a" * 79_999, False)  # by comparing anew each time: 2·10⁹ steps
    assert matcher.push("b") == ("", True) and matcher.stopped_by == stop


@pytest.mark.parametrize("bad", [[""], [3], ["a", ""]])
def test_what_is_no_stop_string_is_refused(bad):
    with pytest.raises(UserError, match="^stop = .*; give strings"):
        StopStrings(bad)
