"""Languages of rows, as people write them, in the form that the model knows them by."""

from __future__ import annotations

import pytest

from job.text.languages import Languages, iso_code

KNOWN = {"english": 2050, "portuguese": 2071}


@pytest.mark.parametrize(
    ("written", "key"),
    [("EN-us", "english"), ("pt_BR", "portuguese"), (" English ", "english"), ("HAUSA", "hausa"), ("ha", "hausa")],
)
def test_a_language_has_one_name(written: str, key: str) -> None:
    assert Languages(KNOWN).find(written).key == key


@pytest.mark.parametrize("written", ["", "Auto", "None", "unknown", "UND"])
def test_no_language_is_not_a_new_one(written: str) -> None:
    """Or a run would train a row for a language called `unknown`, and the card would not name it."""
    assert Languages(KNOWN).find(written).key == "auto"
    assert iso_code(written) is None
