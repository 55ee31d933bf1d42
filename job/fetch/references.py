"""Ensure that there is one reference recording per speaker.

The x-vector of the reference becomes the voice. If each row has a different reference (many tools put the clip itself
there), training does not produce a single voice, and the loss does not show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from job.config import names
from job.config.settings import Settings
from job.core import files, storage
from job.core.errors import BadInput

_REFERENCES = ("ref.wav", "ref.flac", "ref.mp3", "ref.ogg")
#: File names of a folder's reference recording and its transcript.
REFERENCES = (*_REFERENCES, *(name.upper() for name in _REFERENCES))
REFERENCE_TEXT = "ref_text.txt"


@dataclass(frozen=True)
class _Seen:
    path: Path
    digest: str
    row: str


class References:
    """Tracks each speaker's `ref_audio` and refuses a second, different one."""

    def __init__(self, settings: Settings) -> None:
        self.used = settings.ref_audio_path is None and settings.ref_audio_strategy in (None, "same")
        """Whether the rows' `ref_audio` decide the voice at all."""
        self._default = names.lookup_key(settings.speaker_name)
        self._by_speaker: dict[str, _Seen] = {}
        self._digests: dict[Path, str] = {}

    def add(self, speaker: str | None, path: Path, row: str) -> None:
        """Record that `row` (its name in messages) of `speaker` has the reference `path`.

        Raises:
            BadInput: another row of the speaker has a reference with different contents.
        """
        if not self.used:
            return
        name = speaker or self._default
        digest = self._digests.get(path)
        if digest is None:
            digest = self._digests[path] = files.digest_file(path)
        first = self._by_speaker.setdefault(name, _Seen(path, digest, row))
        if digest != first.digest:
            raise BadInput(
                f"{first.row} and {row} name different ref_audio for speaker {name} ({first.path.name}, {path.name}); "
                "give every row of a speaker the same one, or set REF_AUDIO_STRATEGY=best (or first), or REF_AUDIO_PATH"
            )


def check_variables(settings: Settings) -> None:
    """Check the reference variables.

    Raises:
        BadInput: REF_AUDIO_PATH is not a file, or is not set with REF_AUDIO_STRATEGY=file.
        PermissionError: this process may not read it.
    """
    path = settings.ref_audio_path
    if path is not None and not path.expanduser().is_file():
        raise BadInput(f"REF_AUDIO_PATH={path}: no such file")
    if path is not None:
        with open(path.expanduser(), "rb"):
            pass
    if path is None and settings.ref_audio_strategy == "file":
        raise BadInput("REF_AUDIO_STRATEGY=file needs REF_AUDIO_PATH; set it, or use same, first or best")


def reference_of(folder: Path) -> tuple[Path | None, str | None]:
    """Return a folder's reference recording and its transcript; None for each that does not exist."""
    audio = next((folder / name for name in REFERENCES if (folder / name).is_file()), None)
    text = folder / REFERENCE_TEXT
    if audio is None or not text.is_file():
        return audio, None
    try:
        return audio, text.read_text(encoding="utf-8-sig").strip() or None
    except PermissionError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        storage.check(error, folder)
        raise BadInput(f"{text} cannot be read as UTF-8 text") from None
