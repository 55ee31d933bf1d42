"""Check that the languages given in rows are languages; each name is looked up once."""

from __future__ import annotations

from job.config.settings import Settings
from job.core.errors import BadInput
from job.fetch.table import RowError
from job.model import loading
from job.text.languages import Languages, UnclearLanguage

#: Result for a name, unless it looks like a misspelling; and the maximum number of names that are not KNOWN.
KNOWN, NEW = "known", "new"
MOST_UNKNOWN_LANGUAGES = 100


class RowLanguages:
    """A cache of the result for each language name that occurs in rows."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._said: dict[str, str] = {}

    def check(self, name: str, where: str) -> None:
        """Check that a row's language is known, or is new and unlikely to be a misspelling.

        Raises:
            RowError: it looks like a misspelling, and the base model does not know it either.
            BadInput: too many different names are not known languages.
        """
        if name not in self._said:
            try:
                self._said[name] = self._understand(name)
            except UnclearLanguage as question:
                self._said[name] = str(question)
            unknown = sum(meant != KNOWN for meant in self._said.values())
            if unknown > MOST_UNKNOWN_LANGUAGES:
                raise BadInput(
                    f"{where}: language {name[:80]!r} and {MOST_UNKNOWN_LANGUAGES} others are not known; name the "
                    "column of the language with LANGUAGE_COLUMN"
                )
        if (meant := self._said[name]) not in (KNOWN, NEW):
            raise RowError(f"language {meant}")

    def _understand(self, name: str) -> str:
        """Return `KNOWN` for a language that has a code or that the base model knows, else `NEW`."""
        try:
            known = Languages().find(name)
        except UnclearLanguage:
            known = Languages(loading.known_languages(self._settings)).find(name)
        return KNOWN if known.known or known.code else NEW
