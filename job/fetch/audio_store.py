"""Resolve a row's audio value (path, bytes or samples) to a file on this machine."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from job.audio import audio_files
from job.audio.audio_files import SOUNDS, UNREADABLE
from job.core import inside, storage
from job.fetch import packs
from job.fetch.find import Finder, unreadable, without_scheme
from job.fetch.packs import Packs
from job.fetch.table import Kept, RowError

_MAGIC = ((b"RIFF", ".wav"), (b"fLaC", ".flac"), (b"OggS", ".ogg"), (b"ID3", ".mp3"), (b"FORM", ".aiff"))


class Store:
    """Finds audio files, and stores in `directory` the audio that comes as bytes or arrays.

    They are kept in packs (`job.fetch.packs`), named by the SHA-256 of their contents, so that a rerun reuses them and
    equal clips are stored once. With `directory=None` nothing is written (for checks before a run): the header of the
    bytes is read and a placeholder path is returned.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self._packs = None if directory is None else Packs(directory)
        self._finder = Finder()

    def locate(
        self,
        value: Any,
        field: str,
        folders: list[Path],
        remote: Callable[[str], bytes | Path] | None = None,
        rate: Any = None,
        tree: Path | None = None,
        below: Path | None = None,
    ) -> Path:
        """Return the absolute path of a row's audio.

        `value` is one of:

        - a path, looked for in `folders` (or used as is if absolute), then by name in all folders below `tree`, then
          requested from `remote`; without `folders`, no file on this machine is opened, and with `below` none
          outside of it. For details see `job.fetch.find`;
        - the bytes of an audio file;
        - what a shard keeps already (`table.Kept`);
        - a `{"bytes", "path"}` or `{"array", "sampling_rate"}` object, as in Hub datasets;
        - the samples themselves, -1 to 1, at `rate` Hz: mono, or one channel or frame per inner list.

        Raises:
            RowError: there is no such file, there are several, or the value cannot be audio.
        """
        if isinstance(value, dict):
            if isinstance(value.get("bytes"), bytes):
                return self._keep_bytes(value["bytes"], field, str(value.get("path") or ""))
            if value.get("array") is not None:
                return self._keep_samples(value["array"], field, value.get("sampling_rate") or rate)
            value = value.get("path")
        if isinstance(value, Kept):
            return self._stored(value.path, field)
        if isinstance(value, bytes):
            return self._keep_bytes(value, field, "")
        if isinstance(value, list):
            return self._keep_samples(value, field, rate)
        if value is None:
            raise RowError(f"no {field}")
        if not isinstance(value, str):
            raise RowError(f"{field} is not a path", type(value).__name__)
        found = self._find(value, field, folders, remote, tree)
        if below is not None and not found.resolve().is_relative_to(below.resolve()):
            raise RowError(f"{field} is missing", f"{value[:200]!r} is not below the folder of the table")
        return found

    def _find(
        self,
        value: str,
        field: str,
        folders: list[Path],
        remote: Callable[[str], bytes | Path] | None,
        tree: Path | None,
    ) -> Path:
        value = without_scheme(value.strip())
        if not value:
            raise RowError(f"no {field}")
        if re.match(r"(https?|s3|gs)://", value):
            raise RowError(f"{field} is an address", f"{value[:80]} (download it first and give the file)")
        if re.match(r"\{\s*[\"'](path|bytes|array|audio)[\"']", value):
            detail = f"{value[:60]!r}; write the path alone, or save the dataset as Parquet (to_parquet), not as CSV"
            raise RowError(f"{field} is a printed object", detail)
        folders = [] if "://" in value else folders
        if folders and inside.place_of(Path(value)) is not None:
            return Path(value)
        found = self._finder.find(value, field, folders, tree) if folders else None
        if found is not None:
            return found
        if remote is None:
            raise self._finder.missing(value, field, folders, tree)
        if audio_files.ending_of(value) in UNREADABLE:
            raise unreadable(Path(value))  # before it is downloaded
        got = remote(value)
        return self._keep_bytes(got, field, value) if isinstance(got, bytes) else got

    def _keep_bytes(self, data: bytes, field: str, name: str) -> Path:
        if not data:
            raise RowError(f"{field} is empty", name[:200])
        other = audio_files.what_it_is(data)
        if other is not None:
            raise RowError(f"{field} cannot be read", f"{name[:200]}: {other}" if name else other)
        called = packs.name_of(data, ending_of(data, name))
        if self._packs is None:
            seconds(io.BytesIO(data))
            return Path("/", called)
        return self._packs.put(data, called)

    def _keep_samples(self, values: Any, field: str, rate: Any) -> Path:
        import numpy as np
        import soundfile

        if not isinstance(rate, int | float) or isinstance(rate, bool) or not 1000 <= rate <= 768_000:
            raise RowError(f"{field} is samples without a sampling rate", f"sampling_rate is {rate!r}")
        try:
            samples = np.asarray(values, dtype=np.float32)
        except (ValueError, TypeError):
            raise RowError(f"{field} is not samples") from None
        if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
            samples = samples.T  # channels first, as in torchaudio; soundfile expects frames first
        if samples.ndim not in (1, 2) or samples.size == 0:
            raise RowError(f"{field} is not samples", f"shape {samples.shape}")
        if not np.isfinite(samples).all():
            raise RowError(f"{field} holds NaN or infinite samples")
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, int(rate), format="WAV", subtype="FLOAT")
        return self._keep_bytes(buffer.getvalue(), field, "samples.wav")

    def _stored(self, path: Path, field: str) -> Path:
        """Check what a shard holds, as far as its first bytes tell."""
        with inside.open_binary(path) as file:
            head = file.read(audio_files.HEAD_BYTES)
        if not head:
            raise RowError(f"{field} is empty", inside.name_of(path))
        other = audio_files.what_it_is(head)
        if other is not None:
            raise RowError(f"{field} cannot be read", f"{inside.name_of(path)}: {other}")
        return path

    def flush(self) -> None:
        """Let what was stored outlive a power cut: to be called before a manifest that names it is written."""
        if self._packs is not None:
            self._packs.flush()

    def prune(self) -> None:
        """Delete what was stored for an earlier source and not for this one."""
        if self._packs is not None:
            self._packs.prune()


def check_name(path: Path, field: str) -> None:
    """Check that a file's name can be written to a manifest.

    Raises:
        RowError: it has bytes that are not UTF-8, as of an old encoding.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise RowError(f"{field} has a name that is not UTF-8", f"{str(path)[-200:]!r}; rename it") from None


def seconds(source: Path | io.BytesIO) -> float:
    """Return the duration in seconds from the file's header; for a video, that of its audio track.

    Raises:
        RowError: it cannot be read.
    """
    import soundfile

    from job.audio.ffmpeg import Undecodable, seconds_of

    try:
        film = seconds_of(source if isinstance(source, Path) else source.getvalue())
        if film is not None:
            return film
        info = soundfile.info(inside.readable(source) if isinstance(source, Path) else source)
    except (soundfile.SoundFileError, OSError, RuntimeError, TypeError) as error:
        name = f"{inside.name_of(source)}: " if isinstance(source, Path) else ""
        if isinstance(error, Undecodable):
            raise RowError("audio cannot be read", f"{name}{error}") from None
        if isinstance(source, Path):
            storage.check(error, source)
        reason = audio_files.why_unreadable(source if isinstance(source, Path) else source.getvalue())
        raise RowError("audio cannot be read", name + reason) from None
    return float(info.frames) / float(info.samplerate)


def ending_of(data: bytes, name: str) -> str:
    """Return the file extension for audio bytes, from their magic bytes, else from the name they came with."""
    for magic, ending in _MAGIC:
        if data.startswith(magic):
            return ending
    if len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0:
        return ".mp3"  # an MPEG frame header starts with eleven set bits
    ending = Path(name.split("::")[0]).suffix.lower()
    return ending if ending in SOUNDS else ".bin"
