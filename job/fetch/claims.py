"""Which text each recording has been given: where it is two, at least one row has the wrong words."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from job.fetch.table import RowError
from job.text import words

_ROW_BITS = 40


class Claims:
    """Remembers, in about a hundred bytes a row, which text the rows of a run give to a recording or a part of one."""

    def __init__(self) -> None:
        self._first: dict[int, int] = {}
        self._other_row: dict[int, int] = {}

    def add(self, row: dict[str, Any]) -> None:
        """Note a manifest row that names a recording."""
        if row["audio"] is None or "audio_codes" in row:
            return
        key = _key(row)
        mine = _digest(_words(row["text"])) >> _ROW_BITS << _ROW_BITS | int(row["row"])
        first = self._first.setdefault(key, mine)
        if first >> _ROW_BITS != mine >> _ROW_BITS:
            self._other_row.setdefault(key, int(row["row"]))

    def disputed(self) -> bool:
        """Whether some recording has been given two texts."""
        return bool(self._other_row)

    def check(self, row: dict[str, Any]) -> None:
        """Refuse a row whose recording has been given another text as well; known when all rows have been added.

        Raises:
            RowError: naming the other row.
        """
        if row["audio"] is None or "audio_codes" in row or (key := _key(row)) not in self._other_row:
            return
        first = self._first[key] & ((1 << _ROW_BITS) - 1)
        other = self._other_row[key] if first == row["row"] else first
        raise RowError(
            "one recording with several texts",
            f"{row['audio'].rsplit('/', 1)[-1]} is also row {other}'s, with other words; give each row its own file, "
            "or its place in this one (start and end in seconds)",
        )


def undisputed(rows: Iterable[dict[str, Any]], claims: Claims, refuse: Any) -> Iterator[dict[str, Any]]:
    """The rows whose recording has one text; `refuse(row, error)` is called for the others."""
    for row in rows:
        try:
            claims.check(row)
        except RowError as error:
            refuse(row, error)
        else:
            yield row


def _key(row: dict[str, Any]) -> int:
    return _digest(f"{row['audio']}\0{row.get('start')}\0{row.get('end')}")


def _words(text: str) -> str:
    """A text's words; of one that has none, what it is."""
    return words.bare(text) or unicodedata.normalize("NFKC", text).casefold()


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
