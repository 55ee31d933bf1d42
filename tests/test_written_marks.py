"""Read aloud is what a chapter says, not how it is written."""

from __future__ import annotations

import pytest

from job.text.written_marks import taken_out


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("---\ntitle: X\n---\n# One\r\n\r\nHe *ran*.", "One\n\nHe ran."),
        ("She said: __“No.”__ Then ***nothing***.", "She said: “No.” Then nothing."),
        ('<speak>Wait.<break time="1s"/>Now.</speak>', "Wait. Now."),
        ("a<b>l</b>one <!-- not\nthis --> and <em>glad</em> &amp; well&nbsp;", "alone and glad & well"),
        ("[The tea](http://x.y/z) is hot.[^1] ![](a.png)", "The tea is hot."),
        ("One.\n\n* * *\n\n> Two.\n- Three.\n\u2022 Four.", "One.\n\n\n\nTwo.\nThree.\nFour."),
        ("`ls` is ~~not~~ said", "ls is not said"),
        ("---\n\nIt was dark.\n\n---\n\nMorning came.", "It was dark.\n\n\n\nMorning came."),
        ("---\ntitle: X\ntags:\n- a\n  b\n\n# c\n---\nHi.", "Hi."),
        ("```python\nOne.\n```", "One."),
        ("<a href='x'\n  class=y>Go</a><br /><P>on.", "Go on."),
    ],
)
def test_marks_are_not_said(written: str, said: str) -> None:
    got, marks = taken_out(written)
    assert got == said and marks


@pytest.mark.parametrize(
    "text",
    [
        "2 * 3 * 4 = 24, and 2*3*4.",
        "a < b and c > d",
        "snake_case_name",
        "A dash - like this - and -5 degrees.",
        "No. #1 costs $5 & more.",
        "The case a <b holds.\n\nPage one.\n\nSo c> d.",
        "x<y and y>z",
        "<<hello there>> he",
        "a <b and c> d",
        "a <s and\n\nb=1> d",
        "o`zbek tilida so`z",
        "it`s John`s",
        "~~~ Chapter One ~~~",
        "> 5 people",
        "- 20 degrees outside",
        "+ 49 170 123",
        "J’ai dit « non » … [softly] “yes”",
    ],
)
def test_signs_that_stand_for_words_stay(text: str) -> None:
    assert taken_out(text) == (text, [])


@pytest.mark.parametrize(
    "opened", ["[", "[^", "![", "[a](", "<?", "<?x", "<!--", "<a", "<a b=", '<a b="', "*a", "**", "_a", "`a"]
)
def test_marks_that_nothing_closes_stay(opened: str) -> None:
    """Also many of them, as in a file that is no text: time in proportion to the square would be half a minute each."""
    text = "a " + opened * 20_000 + " z"
    assert taken_out(text) == (text, [])
