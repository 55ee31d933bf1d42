"""Count the rows whose text came from a speech recogniser, so that the log can say how much of the data that is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from job.fetch import audio_store
from job.fetch.table import TRANSCRIBED_BY


class TranscribedRows:
    """Number and seconds of transcribed manifest rows whose text nobody has changed, by recogniser."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, float]] = {}

    @property
    def count(self) -> int:
        """Total number of such rows."""
        return sum(rows for rows, _ in self._found.values())

    def counted(self, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a manifest unchanged, counting those that were transcribed."""
        for row in rows:
            if by := row.get(TRANSCRIBED_BY):
                end = audio_store.seconds(Path(row["audio"])) if row.get("end") is None else row["end"]
                count, seconds = self._found.get(by, (0, 0.0))
                self._found[by] = (count + 1, seconds + end - (row.get("start") or 0.0))
            yield row

    def lines(self, where: Path) -> Iterator[str]:
        """Yield a log line per recogniser; `where` is the file in which people can correct the texts."""
        for by, (count, seconds) in self._found.items():
            long = f"{seconds / 3600:.1f} h" if seconds >= 360 else f"{seconds:.0f} s"
            rows = f"1 row of {long} was" if count == 1 else f"{count} rows of {long} were"
            yield f"{rows} transcribed by {by}; read and correct the texts in {where}"
