"""Find texts that are in another language of the corpus than their row says.

Each language is modelled by the letter trigram frequencies of its own rows. A row gets a warning if another language's
model makes its text far likelier than its own language's, from which the row's own trigrams are subtracted first.
"""

from __future__ import annotations

import zlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from job.prepare.leaving_out import with_warnings
from job.prepare.thresholds import FEWEST_LETTERS, FEWEST_ROWS, LIKELIER

#: Warning of the rows.
REASON = "other_language"
#: Number of hash values of trigrams.
_SIZE = 1 << 14


class Tongues:
    """Trigram counts of each language, accumulated shard by shard."""

    def __init__(self) -> None:
        self._counts: dict[str, NDArray[np.float64]] = {}
        self._rows: dict[str, int] = {}

    def add(self, table: pa.Table) -> None:
        """Count the usable rows of a shard."""
        table = table.filter(table["reason"].is_null())
        for language, text in zip(table["language"].to_pylist(), table["text"].to_pylist(), strict=True):
            counts = self._counts.setdefault(language, np.zeros(_SIZE))
            np.add.at(counts, _threes(text), 1.0)
            self._rows[language] = self._rows.get(language, 0) + 1

    def mark(self, table: pa.Table) -> pa.Table:
        """Return a shard in which rows whose text fits another language better have the warning."""
        known = [name for name, rows in self._rows.items() if rows >= FEWEST_ROWS]
        if len(known) < 2 or not len(table):
            return table
        logs = {name: np.log((self._counts[name] + 0.5) / (self._counts[name].sum() + 0.5 * _SIZE)) for name in known}
        usable = table["reason"].is_null().to_pylist()
        rows = zip(usable, table["language"].to_pylist(), table["text"].to_pylist(), strict=True)
        found = [
            number
            for number, (is_usable, language, text) in enumerate(rows)
            if is_usable and language in logs and self._is_foreign(language, text, logs)
        ]
        return with_warnings(table, found, REASON)

    def _is_foreign(self, language: str, text: str, logs: dict[str, NDArray[np.float64]]) -> bool:
        threes = _threes(text)
        if len(threes) < FEWEST_LETTERS:
            return False
        own = self._counts[language][threes] - np.bincount(threes, minlength=_SIZE)[threes]
        mine = float(np.log((own + 0.5) / (self._counts[language].sum() - len(threes) + 0.5 * _SIZE)).mean())
        best = max(float(log[threes].mean()) for name, log in logs.items() if name != language)
        return best > mine + LIKELIER


def _threes(text: str) -> NDArray[np.int64]:
    """Hash values of the trigrams of a text; a space counts as a letter."""
    letters = " " + " ".join("".join(c if c.isalpha() else " " for c in text.casefold()).split()) + " "
    return np.array(
        [zlib.crc32(letters[at : at + 3].encode("utf-8", "surrogatepass")) % _SIZE for at in range(len(letters) - 2)],
        dtype=np.int64,
    )
