"""Sounds inside the report page, so that the page can be sent to somebody alone."""

from __future__ import annotations

import base64
import io
from pathlib import Path

#: Bytes of sound in one page; further sounds are links to their files, so that a page of hundreds still opens.
MOST_BYTES = 8_000_000


class Sounds:
    """The sounds of a page, as MP3 in `data:` addresses: a tenth of a WAV, and every browser plays it."""

    def __init__(self) -> None:
        self._left = MOST_BYTES

    def address(self, path: Path, link: str) -> str:
        """The address of a sound for a player; `link` where it cannot be read, or the page is full."""
        import soundfile

        made = io.BytesIO()
        try:
            samples, rate = soundfile.read(str(path), dtype="float32")
            soundfile.write(made, samples, rate, format="MP3", subtype="MPEG_LAYER_III")
        except (OSError, RuntimeError, ValueError):
            return link
        coded = base64.b64encode(made.getvalue()).decode()
        if len(coded) > self._left:
            return link
        self._left -= len(coded)
        return f"data:audio/mpeg;base64,{coded}"
