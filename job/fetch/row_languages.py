"""Whether the languages that rows name are languages, asked once a name."""

from __future__ import annotations

from job.config.settings import Settings
from job.core.errors import BadInput
from job.fetch.table import RowError
from job.model import loading
from job.text.languages import Languages, UnclearLanguage

#: What is known of a language, besides a question about it; and how many rows' languages may be known to nobody.
KNOWN, NEW = "known", "new"
MOST_UNKNOWN_LANGUAGES = 100


class RowLanguages:
    """Remembers what is known of each name of a language that rows have."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._said: dict[str, str] = {}

    def check(self, name: str, where: str) -> None:
        """Whether a row's language is one, or a new one that is not likely to be a misspelling.

        Raises:
            RowError: it looks like a misspelling; the base model itself is asked first.
            BadInput: there are too many that nobody knows to be names of languages.
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
        """`KNOWN` for a language that has a code or that the base model knows, else `NEW`."""
        try:
            known = Languages().find(name)
        except UnclearLanguage:
            known = Languages(loading.known_languages(self._settings)).find(name)
        return KNOWN if known.known or known.code else NEW
