"""Detect recordings for which rows give different texts: at least one of those rows has the wrong words."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from job.fetch.table import RowError
from job.text import words

_ROW_BITS = 40


class Claims:
    """Tracks, in about a hundred bytes per row, which text a run's rows give for each recording or part of one."""

    def __init__(self) -> None:
        self._first: dict[int, int] = {}
        self._other_row: dict[int, int] = {}
        self._cut: set[int] = set()

    def add(self, row: dict[str, Any]) -> None:
        """Record the text that a manifest row gives for its recording; rows without audio or with codes are ignored."""
        if row["audio"] is None or "audio_codes" in row:
            return
        key = _key(row)
        if row.get("start") is not None or row.get("end") is not None:
            self._cut.add(_key({"audio": row["audio"]}))
        mine = _digest(_words(row["text"])) >> _ROW_BITS << _ROW_BITS | int(row["row"])
        first = self._first.setdefault(key, mine)
        if first >> _ROW_BITS != mine >> _ROW_BITS:
            self._other_row.setdefault(key, int(row["row"]))

    def disputed(self) -> bool:
        """Whether any recording has two different texts, or is one row and several others' parts as well."""
        return bool(self._other_row) or any(key in self._first for key in self._cut)

    def check(self, row: dict[str, Any]) -> None:
        """Reject a row whose recording has another text as well; call this only after all rows have been added.

        Raises:
            RowError: the recording has another text; the message names the other row. Or the row takes the whole of a
                recording of which other rows take parts.
        """
        if row["audio"] is None or "audio_codes" in row:
            return
        key = _key(row)
        if key in self._cut:
            raise RowError(
                "one recording whole and in parts",
                f"other rows take parts of {row['audio'].rsplit('/', 1)[-1]} and this one all of it; give it its place "
                "too (start and end in seconds), or correct the one that is not in the recording",
            )
        if key not in self._other_row:
            return
        first = self._first[key] & ((1 << _ROW_BITS) - 1)
        other = self._other_row[key] if first == row["row"] else first
        raise RowError(
            "one recording with several texts",
            f"{row['audio'].rsplit('/', 1)[-1]} is also row {other}'s, with other words; give each row its own file, "
            "or its place in this one (start and end in seconds)",
        )


def undisputed(rows: Iterable[dict[str, Any]], claims: Claims, refuse: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows whose recording has only one text; call `refuse(row, error)` for the others."""
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
    """Return a text's words; the case-folded text itself if it has none."""
    return words.bare(text) or unicodedata.normalize("NFKC", text).casefold()


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
