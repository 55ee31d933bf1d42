"""Sounds inside the report page, so that the page can be sent to somebody alone."""

from __future__ import annotations

from pathlib import Path

from job.audio import mp3

#: Characters of sound in one page; what is beyond are links to the files, so that a page of hundreds still opens.
MOST = 8_000_000


class Sounds:
    """The sounds of a page, as long as there is room for them."""

    def __init__(self) -> None:
        self._left = MOST

    def address(self, path: Path, link: str) -> str:
        """The address of a sound for a player; `link` where it cannot be read, or the page is full."""
        import soundfile

        try:
            made = mp3.data_address(*soundfile.read(str(path), dtype="float32"))
        except (OSError, RuntimeError, ValueError):
            return link
        if len(made) > self._left:
            return link
        self._left -= len(made)
        return made
