"""Map languages as people write them (`eng`, `pt_BR`, `Deutsch`, `English (US)`) to the names that the model uses.

Codes and names come from `langcodes` (ISO 639, BCP 47 and CLDR's names). A base model has a table of languages,
lower-case English names and dialects (`english`, `beijing_dialect`); keys of that table take precedence.

An unknown name is a new language, unless it looks like a misspelling of a known one, which is an error that asks. The
prefix `new:` declares a new language of that name: `new:My Own Tongue`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from job.config.names import AUTO, NEW, NO_LANGUAGE, lookup_key, one_typo
from job.core.errors import BadInput
from job.text.language_names import (
    SHORTEST_WORD,
    code_of,
    english_name,
    named,
    normal,
    spelling,
    tagged,
    trie,
    well_known,
)

if TYPE_CHECKING:
    from job.config.settings import Settings

#: Norwegian's two written standards are the same spoken language for a model that has either: code -> those codes.
_SAME_SPEECH = {"nb": ("no",), "nn": ("no",), "no": ("nb",)}
#: Languages of the released models that have no ISO code of their own, with the code for the model card.
_DIALECTS = {"beijing dialect": "zh", "sichuan dialect": "zh"}
#: Longer names with at least this similarity (difflib's ratio) may be misspellings of each other.
_ALIKE, _NOT_SHORT = 0.87, 8
#: A known name with a longer suffix is a different name ("Klingonese" is asked about, "Romanichal-like" is not).
_LONGEST_TAIL, _SHORTEST_STEM = 4, 6


class UnclearLanguage(Exception):
    """A name that may be a misspelling or has two meanings; the message asks and says what to write."""


@dataclass(frozen=True, slots=True)
class Language:
    """A language.

    Attributes:
        key: its lower-case name in the model's table, the prepared rows and `generate`; `auto` for none.
        code: ISO 639 code (two letters if there is one) for the model card; None if unknown.
        name: its English name, for people.
        known: whether the base model has it (or it is `auto`).
    """

    key: str
    code: str | None
    name: str
    known: bool


class Languages:
    """The languages of a base model and of the data, looked up by any of their names."""

    def __init__(self, known: Iterable[str] = (), spoken: Iterable[str] = ()) -> None:
        """`known` are the keys of the base model's table, `spoken` the names in the data's rows."""
        self._found: dict[str, Language] = {}
        self._by_spelling = {spelling(key): key.lower() for key in known}
        self._by_code: dict[str, str] = {}
        for key in self._by_spelling.values():
            if code := named(key) or tagged(key):
                self._by_code.setdefault(code, key)
        codes = {tagged(name) or named(name) for name in spoken}
        #: If the data has two names for one language: the one that all its rows get.
        self._in_data = {"nb": "no"} if "no" in codes else {}

    def find(self, written: str) -> Language:
        """The language that a name denotes.

        Raises:
            UnclearLanguage: it looks like a misspelling of a known one, or is ambiguous.
        """
        if written not in self._found:
            self._found[written] = self._find(written)
        return self._found[written]

    def _find(self, written: str) -> Language:
        key = " ".join(lookup_key(written).split())
        if key in NO_LANGUAGE:
            return Language(AUTO, None, "Auto", True)
        if key.startswith(NEW):
            return self._insisted(key.removeprefix(NEW).strip(), written)
        if own := self._by_spelling.get(spelling(key)):
            return Language(own, _DIALECTS.get(spelling(own)) or named(own) or tagged(own), own.title(), True)
        _refuse_two_meanings(written.strip())
        code = tagged(key) or named(key) or self._of_country(key, written)
        if code is not None:
            return self._of_code(code)
        if near := self._near(spelling(key)):
            raise UnclearLanguage(
                f"{written.strip()!r} is not a known language; did you mean {near}? A new language is "
                f"written as {NEW}{written.strip()}"
            )
        return Language(key, _DIALECTS.get(spelling(key)), written.strip(), False)

    def _insisted(self, key: str, written: str) -> Language:
        if not key or key in NO_LANGUAGE:
            raise UnclearLanguage(f"{written.strip()!r}: the name after {NEW} is missing")
        if own := self._by_spelling.get(spelling(key)):
            raise UnclearLanguage(f"{written.strip()!r} is not new to the base model; write {own}")
        return Language(key, None, key.title(), False)

    def _of_code(self, code: str) -> Language:
        for one in (code, *_SAME_SPEECH.get(code, ())):
            if one in self._by_code:
                key = self._by_code[one]
                return Language(key, one, key.title(), True)
        code = self._in_data.get(code, code)
        name = english_name(code)
        return Language(lookup_key(name), code, name, False)

    def _of_country(self, key: str, written: str) -> str | None:
        """The language of a country given instead of a language: Japanese for `jp` and `Japan`, if the base has it."""
        import langcodes

        found = trie("en", "territory").get(normal(key))
        territory = key.upper() if re.fullmatch("[a-z]{2}", key) else found[0].decode() if found else ""
        if not territory or langcodes.Language.make(territory=territory).territory_name().startswith("Unknown"):
            return None
        code = langcodes.Language.make(territory=territory).maximize().language
        if code in self._by_code:
            return code
        name = english_name(code) if code else "another"
        raise UnclearLanguage(f"{written.strip()!r} is a country, not a language; did you mean {name} ({code})?")

    def _near(self, name: str) -> str | None:
        """The known language that `name` may be a misspelling of; None if there is none."""
        likely = {spelling(key): key for key in self._by_code.values()}
        names = {**well_known(), **likely, **self._own_names()}
        for word in re.findall(r"[^\W\d_]+", name):
            if len(word) >= SHORTEST_WORD and word in names:
                return names[word].title()
        for one in likely:  # "Brazilian", of Portuguese
            if normal(f"{name} {one}") in trie("en"):
                return names[one].title()
        for one in {**likely, **self._own_names()}:  # "Hochdeutsch"
            if len(one) >= _SHORTEST_STEM and one in name:
                return names[one].title()
        for stem in reversed(trie("en").prefixes(normal(name))):
            if len(stem) >= _SHORTEST_STEM and 0 < len(name) - len(stem) <= _LONGEST_TAIL:
                return str(stem).title()
        if len(name) >= SHORTEST_WORD:
            for one in [*likely, *names]:  # those of the base first
                if len(one) > SHORTEST_WORD and one_typo(name, one):
                    return names[one].title()
        if len(name) >= _NOT_SHORT:
            for some in (likely, names):
                if alike := difflib.get_close_matches(name, list(some), n=1, cutoff=_ALIKE):
                    return names[alike[0]].title()
        return None

    def _own_names(self) -> dict[str, str]:
        """Native names of the base model's languages (`deutsch`) -> its keys."""
        import langcodes

        return {spelling(langcodes.Language.get(code).autonym()): key for code, key in self._by_code.items()}


def start_of_new(settings: Settings, known: Mapping[str, int]) -> str | None:
    """The base model's language that new ones are initialised from (LANGUAGE_INIT); None for the mean of all.

    Args:
        settings: LANGUAGE_INIT.
        known: the base model's languages -> their rows.

    Raises:
        BadInput: the base model does not have that language.
    """
    try:
        start = Languages(known).find(settings.language_init or AUTO)
    except UnclearLanguage as question:
        raise BadInput(f"LANGUAGE_INIT={settings.language_init}: {question}") from None
    if not start.known:
        raise BadInput(
            f"LANGUAGE_INIT={settings.language_init}: not a language of the base model, which has "
            f"{', '.join(sorted(known))}"
        )
    return None if start.key == AUTO else start.key


def iso_code(name: str) -> str | None:
    """The ISO 639 code of a language by any of its names; None if it has none or is unknown. Never raises."""
    try:
        return Languages().find(str(name)).code
    except UnclearLanguage:
        return None


def _refuse_two_meanings(written: str) -> None:
    """Refuse a name that is also another language's code: `Mon` is a language of Myanmar, `mon` means Mongolian.

    Raises:
        UnclearLanguage: it is both, for different languages.
    """
    if not re.fullmatch("[A-Z][a-z]{1,2}", written):
        return
    code, found = tagged(written), trie("en").get(normal(written))
    name = code_of(found[0].decode()) if found else None
    if code and name and code != name:
        raise UnclearLanguage(
            f"{written!r} is the code of {english_name(code)} and the name of another language; write {code} or {name}"
        )
