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
        "J’ai dit « non » … [softly] “yes”",
    ],
)
def test_signs_that_stand_for_words_stay(text: str) -> None:
    assert taken_out(text) == (text, [])
