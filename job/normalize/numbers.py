"""Spell out numbers. Anything that is not surely a number with a single reading is left (`spoken_forms.LEFT_ALONE`)."""

from __future__ import annotations

import re
from functools import lru_cache

from job.normalize.spoken_forms import Rules

#: Most digits before and after the decimal point of what is spelled out as one number.
_MOST_DIGITS, _MOST_DECIMALS = 12, 6
_YEARS = range(1100, 2100)


class Left(Exception):
    """Raised for something with digits that is left as written; the message is a category in `LEFT_ALONE`."""


def plain_digits(text: str) -> str:
    """Convert digits of any script to 0 to 9, one character each, and the Arabic percent sign to %."""
    return "".join(str(int(c)) if c.isdecimal() and not c.isascii() else "%" if c == "٪" else c for c in text)


def number(written: str, rules: Rules, before: str = "") -> tuple[str, bool]:
    """Spell out a number; return the words and whether its value is 1.

    Args:
        written: the number in digits 0 to 9.
        rules: rules of the language.
        before: `unit` if a unit follows; empty if it is unknown what the number counts.

    Raises:
        Left: it is not certain to be a number.
    """
    sign, whole, part = _parts(written, rules)
    value = int(whole)
    minus = f"{rules.minus} " if sign else ""
    if part:
        digits = " ".join(_cardinal(int(digit), rules.number) for digit in part)
        return f"{minus}{_cardinal(value, rules.number)} {rules.point[1]} {digits}", False
    if value == 1 and before == "unit" and rules.one:
        return minus + rules.one, True
    if value in rules.inflected or (value % 10 in rules.inflected_ends and value // 10 % 10 != 1):
        raise Left("inflected")
    if value in _YEARS and whole == written and not before:
        if rules.inflected_years:
            raise Left("inflected")
        if rules.years and value < 2000:
            return _year(value, rules.number), False
    return minus + _cardinal(value, rules.number), value == 1


def _parts(written: str, rules: Rules) -> tuple[bool, str, str]:
    """Split into sign, digits before the decimal point and digits after it."""
    found = re.fullmatch(r"([-−]?)(\d[\d.,'٫٬ ]*?)", written)
    if found is None or not found[2][-1].isdigit():
        raise Left(_kind(written))
    whole, _, part = found[2].partition(rules.point[0])
    group = next((sign for sign in rules.group if sign in whole), None)
    if group is not None:
        first, *others = whole.split(group)
        if not 1 <= len(first) <= 3 or first[0] == "0" or any(len(one) != 3 or not one.isdigit() for one in others):
            raise Left("separators")
        whole = first + "".join(others)
    if not whole.isdigit() or (part and not part.isdigit()):
        raise Left("separators")
    if len(whole) > 1 and whole[0] == "0":
        raise Left("zeros")
    if len(whole) > _MOST_DIGITS or len(part) > _MOST_DECIMALS:
        raise Left("long")
    return bool(found[1]), whole, part


def _kind(written: str) -> str:
    """Classify something with digits that is not a number."""
    if re.fullmatch(r"\d{1,2}[:.]\d{2}", written):
        return "time"
    return "date" if re.fullmatch(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}\.?", written) else "mixed"


def ordinal(value: int, rules: Rules) -> str:
    """Spell out an ordinal number: `third` for 3."""
    from num2words import num2words

    return str(num2words(value, lang=rules.number, to="ordinal"))


@lru_cache(maxsize=4096)
def _cardinal(value: int, language: str) -> str:
    from num2words import num2words

    words = str(num2words(value, lang=language))
    return words.replace(" و ", " و") if language == "ar" else words


@lru_cache(maxsize=1024)
def _year(value: int, language: str) -> str:
    """Spell out a year from 1100 to 1999 in hundreds (`nineteen eighty-four`), for languages that do so."""
    from num2words import num2words

    if language == "sv":
        rest = _cardinal(value % 100, language) if value % 100 else ""
        return f"{_cardinal(value // 100, language)}hundra{rest}"
    return str(num2words(value, lang=language, to="year"))
