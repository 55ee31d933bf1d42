"""Spell out the numbers, symbols and abbreviations of a text, and record what was changed."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from job.normalize import numbers
from job.normalize.numbers import Left, number
from job.normalize.spoken_forms import LANGUAGES, LARGE, LARGE_ENGLISH, MONTHS, NOISES, Rules
from job.text.languages import iso_code

NUMBERS, SHORT, NOISE = "numbers read out", "abbreviations read out", "noises taken out"
#: Examples logged per kind of change.
_EXAMPLES = 3

_BEFORE, _BEHIND = "([{\"'«„“‘¿¡—–", ".,;:!?)]}\"'»”’…—–"
_BRACKETED = re.compile(
    r"\[{1,2}([^\[\]]{1,40})\]{1,2}|\({1,2}([^()]{1,40})\){1,2}|<{1,2}([^<>]{1,40})>{1,2}|\*([^*]{1,40})\*"
)
_SPACES = "[ \u00a0\u202f\u2009]"
#: Digit groups separated by spaces and not followed by more digits, which might all be a telephone number.
_MORE = rf"{_SPACES}+[+(]*\d[\d()+/-]*[.,:;!?)\]}}\"'»”’…—–]*(?:\s|$)"
_GROUPED = re.compile(rf"(?<!\S)(\d{{1,3}})((?:{_SPACES}\d{{3}})+)(?!\d)(?!{_MORE})")
_ORDINAL = {"en": re.compile(r"(\d+)(?:st|nd|rd|th)"), "nl": re.compile(r"(\d+)(?:e|de|ste)")}
_ORDINAL["sv"] = re.compile(r"(\d+):[ea]")
_ROW = re.compile(r"[+(]*\d[\d()+/\u2009-]*")
#: Abbreviations that may end a sentence.
_CLOSING = {"etc.", "usw.", "osv.", "enz.", "ecc.", "itd.", "т.д.", "т.п."}
_RIGHT_ENDS = {1: "st", 2: "nd", 3: "rd"}


@dataclass(frozen=True)
class Normalized:
    """A normalized text.

    Attributes:
        text: the text as spoken.
        done: what was changed, in short phrases.
        left: words with digits that were left as written, each with its category in `spoken_forms.LEFT_ALONE`.
        unread: whether there are digits to spell out but no rules for the language.
    """

    text: str
    done: tuple[str, ...] = ()
    left: tuple[tuple[str, str], ...] = ()
    unread: bool = False


class Normalizer:
    """Normalizes texts by the rules of their languages; does nothing if `TEXT_NORMALIZER` is `none`."""

    def __init__(self, setting: str) -> None:
        self._on = setting == "auto"

    def read(self, text: str, language: str | None) -> Normalized:
        """Normalize a text in a language, given by any of its usual names."""
        if not self._on:
            return Normalized(text)
        done = []
        plain = unicodedata.normalize("NFC", text)
        quiet = _without_noises(plain)
        if quiet != plain:
            done.append(NOISE)
        code = _code(language or "")
        rules = LANGUAGES.get(code)
        has_digits = any(map(str.isdecimal, quiet))
        if rules is None:
            return Normalized(quiet if quiet != plain else text, tuple(done), unread=has_digits)
        words = _Words(quiet, code, rules)
        spoken = words.read()
        done += [what for what, is_so in ((NUMBERS, words.numbers), (SHORT, words.short)) if is_so]
        return Normalized(spoken if done else text, tuple(done), tuple(words.left))


@lru_cache(maxsize=256)
def _code(language: str) -> str:
    return iso_code(language) or ""


def _without_noises(text: str) -> str:
    """Remove bracketed noises from the text, unless no words would remain."""

    def gone(found: re.Match[str]) -> str:
        said = re.findall(r"\w+", next(group for group in found.groups() if group is not None).casefold())
        return " " if said and all(map(NOISES.fullmatch, said)) else found[0]

    plain = _BRACKETED.sub(gone, text)
    if plain == text or not any(map(str.isalnum, plain)):
        return text
    plain = re.sub(r"\s+", " ", plain).strip()
    return re.sub(r" (?=[.,;:!?…])", "", plain)


class _Words:
    """The words of one text, normalized from left to right."""

    def __init__(self, text: str, code: str, rules: Rules) -> None:
        self._code, self._rules = code, rules
        if " " in rules.group:
            text = _GROUPED.sub(lambda found: found[1] + re.sub(r"\D", "\u2009", found[2]), text)
        self._pieces = re.split(r"((?:(?!\u2009)\s)+)", text)
        self.left: list[tuple[str, str]] = []
        self.numbers = self.short = 0

    def read(self) -> str:
        words = self._pieces
        for at in range(0, len(words), 2):
            word = words[at]
            if any(map(str.isdecimal, word)):
                try:
                    self._number(at)
                    self.numbers += 1
                except Left as reason:
                    self.left.append((word, str(reason)))
            elif "." in word:
                self._abbreviation(at)
        return "".join(words).replace("\u2009", " ")

    def _abbreviation(self, at: int) -> None:
        word = self._pieces[at]
        start = len(word) - len(word.lstrip(_BEFORE))
        for short, words in self._rules.short.items():
            rest = word[start + len(short) :]
            if word.startswith(short, start) and not rest.strip(_BEHIND):
                following = self._pieces[at + 2] if at + 2 < len(self._pieces) else ""
                ends = not following or (short in _CLOSING and following.lstrip(_BEFORE)[:1].isupper())
                self._pieces[at] = word[:start] + words + (rest or ("." if ends else ""))
                self.short += 1
                return

    def _number(self, at: int) -> None:
        """Replace a number, and the unit after it, by words.

        Raises:
            Left: it is not certain to be a number.
        """
        word = numbers.plain_digits(self._pieces[at]).replace("\u2009", " ")
        head = word[: len(word) - len(word.lstrip(_BEFORE))]
        tail = word[len(word.rstrip(_BEHIND)) :] if word.rstrip(_BEHIND) else ""
        core = word[len(head) : len(word) - len(tail)]
        if self._in_a_row(at - 2) or self._in_a_row(at):
            raise Left("neighbours")
        if (
            core.isdecimal()
            and tail[:1] == "."
            and self._code not in ("en", "fr", "es", "it", "pt")
            and self._goes_on(at)
        ):
            raise Left("date")  # an ordinal, whose grammatical case is unknown
        if core.isdecimal() and int(core) <= 31 and self._beside_a_month(at, tail):
            raise Left("date")
        if (ordered := self._ordinal(core)) is not None:
            self._pieces[at] = head + ordered + tail
            return
        if core.endswith("%") or core.startswith("%"):
            self._pieces[at] = head + self._percent(core.strip("%")) + tail
            return
        for sign, names in self._rules.money.items():
            if core.startswith(sign) or core.endswith(sign):
                large = self._large(at, core.strip(sign), names) if core.startswith(sign) and not tail else None
                self._pieces[at] = head + (large or self._money(core.strip(sign), names) + tail)
                return
        if not head and (before := self._sign_before(at)) is not None:
            large = self._large(at, core, self._rules.money[before]) if not tail else None
            words = large or self._money(core, self._rules.money[before]) + tail
            written = self._pieces[at - 2]
            self._pieces[at - 2] = written[: len(written) - len(written.lstrip(_BEFORE))]
            self._pieces[at - 1], self._pieces[at] = "", words
            return
        behind = self._pieces[at + 2] if at + 2 < len(self._pieces) and not tail else ""
        sign = behind.rstrip(_BEHIND)
        after = behind[len(sign) :]
        if sign in ("%", "٪"):
            words = self._percent(core)
        elif sign in self._rules.money:
            words = self._money(core, self._rules.money[sign])
        elif sign in self._rules.units:
            said, one = number(core, self._rules, "unit")
            words = f"{said} {self._rules.units[sign][not one]}"
        else:
            self._pieces[at] = head + number(core, self._rules)[0] + tail
            return
        self._pieces[at] = head + words + after
        self._pieces[at + 1] = self._pieces[at + 2] = ""

    def _beside_a_month(self, at: int, tail: str) -> bool:
        """Whether a number is the day of a date, in a language where that is an ordinal number: `3 May`, `May 3`."""
        months = MONTHS.get(self._code, frozenset())
        behind = self._pieces[at + 2].rstrip(_BEHIND) if at + 2 < len(self._pieces) and not tail else ""
        before = self._pieces[at - 2].lstrip(_BEFORE) if at >= 2 and self._code == "en" else ""
        return behind in months or before.removesuffix(".") in months

    def _sign_before(self, at: int) -> str | None:
        """Return the sign of money that stands alone before a number: `€ 5`, `kr 5`. One behind another number that
        was left, as in `1,234 € 0`, may be that one's."""
        before = self._pieces[at - 2].lstrip(_BEFORE) if at >= 2 else ""
        if at >= 4 and any(map(str.isdecimal, self._pieces[at - 4])):
            return None
        return next((sign for sign in (before, before.lower().removesuffix(".")) if sign in self._rules.money), None)

    def _large(self, at: int, core: str, names: tuple[str, str]) -> str | None:
        """Read an amount with a numeral behind it, which is said before the money; None if there is none.

        Raises:
            Left: it is in a language whose grammar for it is not known.
        """
        behind = self._pieces[at + 2] if at + 2 < len(self._pieces) else ""
        large = behind.rstrip(_BEHIND)
        if self._code != "en" and LARGE.fullmatch(large.casefold()):
            raise Left("mixed")
        if self._code != "en" or large.casefold() not in LARGE_ENGLISH:
            return None
        words = f"{number(core, self._rules, 'unit')[0]} {large} {names[1]}{behind[len(large) :]}"
        self._pieces[at + 1] = self._pieces[at + 2] = ""
        return words

    def _in_a_row(self, at: int) -> bool:
        """Whether this word and the next may be parts of a telephone number: bare digits with no comma between."""
        if not 0 <= at < len(self._pieces) - 2:
            return False
        first, second = (numbers.plain_digits(self._pieces[place]) for place in (at, at + 2))
        return bool(_ROW.fullmatch(first) and _ROW.fullmatch(second.rstrip(_BEHIND)))

    def _goes_on(self, at: int) -> bool:
        """Whether the full stop after a number marks an ordinal: the sentence continues, in German with a noun."""
        following = self._pieces[at + 2] if at + 2 < len(self._pieces) else ""
        if self._code in ("en", "fr", "es", "it", "pt", "ru", "uk", "ar"):
            return False
        return following[:1].islower() or (self._code == "de" and bool(following))

    def _ordinal(self, core: str) -> str | None:
        pattern = _ORDINAL.get(self._code)
        if pattern is None or (found := pattern.fullmatch(core)) is None or len(found[1]) > 4:
            return None
        value = int(found[1])
        if self._code == "en":
            end = "th" if value // 10 % 10 == 1 else _RIGHT_ENDS.get(value % 10, "th")
            if not core.endswith(end):
                return None
        return numbers.ordinal(value, self._rules)

    def _percent(self, core: str) -> str:
        if not self._rules.percent:
            raise Left("inflected")
        return self._rules.percent.format(number(core, self._rules, "unit")[0])

    def _money(self, core: str, names: tuple[str, str]) -> str:
        """Spell out an amount of money: `five dollars`, `five dollars fifty`."""
        whole, point, cents = core.partition(self._rules.point[0])
        if point and not re.fullmatch(r"\d\d", cents):
            raise Left("separators")
        said, one = number(whole, self._rules, "unit")
        words = f"{said} {names[not one]}"
        return words if not point or cents == "00" else f"{words} {number(cents.lstrip('0'), self._rules, 'unit')[0]}"


@dataclass
class Told:
    """Summary of what was changed in the texts of a split, for the log."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)

    def add(self, before: str, after: Normalized, language: str) -> None:
        """Count the changes to a text."""
        for what in after.done:
            self.counts[what] += 1
            if len(shown := self.examples.setdefault(what, [])) < _EXAMPLES:
                shown.append(f"{before[:60]!r} became {after.text[:80]!r}")
        for word, _ in after.left:
            self.counts[_LEFT] += 1
            if len(shown := self.examples.setdefault(_LEFT, [])) < _EXAMPLES and word not in shown:
                shown.append(word)
        self.unread[language] += after.unread

    def lines(self) -> Iterator[str]:
        """Yield one line per kind of change, and one per language without rules."""
        for what, count in self.counts.items():
            times = f"{count} times" if what == _LEFT else "in 1 text" if count == 1 else f"in {count} texts"
            yield f"{what} {times}: {'; '.join(self.examples[what])}"
        for language, count in self.unread.items():
            if count:
                texts = "1 text" if count == 1 else f"{count} texts"
                yield f"TEXT_NORMALIZER has no rules for the language {language}: digits are left in {texts}"


_LEFT = "left as written"
