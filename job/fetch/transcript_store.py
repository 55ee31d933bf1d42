"""Store transcripts: a manifest for people to correct, and a progress log from which a rerun resumes.

The manifest (`data/transcripts.jsonl`) has one row per clip: `audio`, `start` and `end` if it is a part, `text`,
`language`, `confidence` and `by`. Manual changes to it take effect: edited texts, deleted and added rows. The log
(`data/heard.jsonl`) has one line per clip with the original transcript, and the reason if the clip was rejected, and
one line per finished recording. New lines are appended to both, to the manifest first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.config.paths import Paths
from job.core import append_log, files
from job.core.errors import BadInput
from job.fetch import jsonl
from job.fetch.table import Unreadable

Line = dict[str, Any]


@dataclass(frozen=True)
class Region:
    """A recording to transcribe, or the part of it given by a row, with its language and how it is cut.

    Attributes:
        start, end: seconds; None for the whole recording.
        longest: longest piece, in seconds.
        told: digest of its text, if it has one, whose sentences are to be found in it.
    """

    audio: Path
    start: float | None
    end: float | None
    language: str
    longest: float
    told: str | None = None

    @property
    def key(self) -> tuple[str, float | None, float | None]:
        """Identity of the region across runs."""
        return str(self.audio), self.start, self.end

    def holds(self, row: Line) -> bool:
        """Whether a row of the manifest belongs to this region: its midpoint lies within it."""
        if row.get("audio") != str(self.audio):
            return False
        if self.start is None or self.end is None or not _has_times(row):
            return self.start is None or not _has_times(row)
        return bool(self.start <= (row["start"] + row["end"]) / 2 <= self.end)


class TranscriptStore:
    """The manifest and the log of the transcripts in a work directory."""

    def __init__(self, paths: Paths) -> None:
        """Read the existing files.

        Raises:
            BadInput: a line of the manifest is invalid, because someone edited it.
        """
        self.path, self._log_path = paths.transcripts, paths.heard
        self._rows = self._read_manifest()
        self._log: dict[tuple[Any, ...], list[Line]] = {}
        if self.path.is_file():  # deleting the manifest means that everything is to be transcribed again
            for line in append_log.read(self._log_path):
                self._log.setdefault((line["of"], line["from"], line["to"]), []).append(line)
        else:
            self._log_path.unlink(missing_ok=True)
        self._forgotten = False
        self._sounds: dict[Path, str] = {}
        self._known = {(name, _shown(row)) for name, rows in self._rows.items() for row in rows}
        self._clips: dict[tuple[Any, ...], Line] = {}
        for key, lines in self._log.items():
            self._clips |= {(key, *_shown(line)[:2]): line for line in lines if "text" in line}

    def _read_manifest(self) -> dict[str, list[Line]]:
        rows: dict[str, list[Line]] = {}
        append_log.read(self.path)
        for row in jsonl.read(self.path) if self.path.is_file() else ():
            where = f"{self.path} line {row.number}"
            if isinstance(row, Unreadable):
                raise BadInput(f"{where}: {row.error}; mend the line, or delete it to leave its clip out")
            if not isinstance(row.values.get("audio"), str):
                raise BadInput(f"{where}: no audio; mend the line, or delete it to leave its clip out")
            if any(row.values.get(k) is not None for k in ("start", "end")) and not _has_times(dict(row.values)):
                raise BadInput(f"{where}: start and end must be seconds; mend the line, or delete it")
            rows.setdefault(row.values["audio"], []).append(dict(row.values))
        return rows

    def begin(self, region: Region) -> None:
        """Discard the transcripts of a recording if its audio, its language or how it is cut has changed.

        A recording whose rows were edited by hand is left unchanged.
        """
        lines = self._log.get(region.key)
        if not lines or all(line["as"] == self._as(region) for line in lines) or self._by_hand(region):
            return
        del self._log[region.key]
        self._clips = {place: line for place, line in self._clips.items() if place[0] != region.key}
        kept = [row for row in self._rows.get(str(region.audio), ()) if not region.holds(row)]
        self._rows[str(region.audio)] = kept
        self._known = {(name, _shown(row)) for name, rows in self._rows.items() for row in rows}
        self._forgotten = True

    def _by_hand(self, region: Region) -> bool:
        heard = [_shown(line) for line in self._log.get(region.key, ()) if line.get("text") and not line.get("reason")]
        return sorted(heard) != sorted(_shown(row) for row in self.rows(region))

    def _as(self, region: Region) -> list[Any]:
        if region.audio not in self._sounds:
            self._sounds[region.audio] = files.digest_ends(region.audio)
        told = [] if region.told is None else [region.told]
        return [self._sounds[region.audio], region.language, region.longest, *told]

    def digest_of(self, region: Region) -> str:
        """Return a digest of the region: its audio, its text, and how it is cut."""
        return files.digest_bytes(json.dumps([*region.key, *self._as(region)]).encode())[:16]

    def is_done(self, region: Region) -> bool:
        """Whether the whole region has been transcribed."""
        return any("done" in line for line in self._log.get(region.key, ()))

    def heard(self, region: Region, start: float | None, end: float | None) -> Line | None:
        """Return the log line of a clip; None if it has not been transcribed."""
        return self._clips.get((region.key, *_shown({"start": start, "end": end})[:2]))

    def has(self, region: Region, line: Line) -> bool:
        """Whether the log has this entry already, from a run that was killed."""
        return {**self._head(region), **line} in self._log.get(region.key, ())

    def rejected(self, region: Region) -> list[Line]:
        """Return the log lines of the rejected clips of a region."""
        return [line for line in self._log.get(region.key, ()) if line.get("reason")]

    def rows(self, region: Region) -> list[Line]:
        """Return the manifest rows that belong to a region, in order of time."""
        found = [row for row in self._rows.get(str(region.audio), ()) if region.holds(row)]
        return sorted(found, key=lambda row: row.get("start") or 0.0)

    def is_as_heard(self, region: Region, row: Line) -> bool:
        """Whether a manifest row is still as transcribed, without manual changes."""
        line = self._clips.get((region.key, *_shown(row)[:2]))
        return line is not None and _shown(line) == _shown(row)

    def add(self, found: Iterable[tuple[Region, Line]]) -> None:
        """Store transcribed clips: `start`, `end`, `text`, and `reason` and `detail` if the clip is rejected."""
        if self._forgotten:
            files.write_jsonl(self._log_path, (line for lines in self._log.values() for line in lines))
            files.write_jsonl(self.path, (row for rows in self._rows.values() for row in rows))
            self._forgotten = False
        rows, lines = [], []
        for region, one in found:
            lines.append({**self._head(region), **one})
            times = {} if one["start"] is None else {"start": one["start"], "end": one["end"]}
            row = {"audio": str(region.audio), **times}
            row |= {name: one[name] for name in ("text", "language", "confidence", "by") if name in one}
            place = (str(region.audio), _shown(row))
            if not one.get("reason") and place not in self._known:  # known if killed between writing the two files
                self._known.add(place)
                self._rows.setdefault(place[0], []).append(row)
                rows.append(row)
        append_log.append(self.path, rows)
        self._log_lines(lines)

    def finish(self, regions: list[Region]) -> None:
        """Record in the log that all clips of these regions have been stored."""
        self._log_lines([{**self._head(region), "done": True} for region in regions])

    def _head(self, region: Region) -> Line:
        return {"of": region.key[0], "from": region.start, "to": region.end, "as": self._as(region)}

    def _log_lines(self, lines: list[Line]) -> None:
        for line in lines:
            key = (line["of"], line["from"], line["to"])
            self._log.setdefault(key, []).append(line)
            if "text" in line:
                self._clips[(key, *_shown(line)[:2])] = line
        append_log.append(self._log_path, lines)


def digest(paths: Paths) -> str | None:
    """Return a digest of the manifest, to detect manual changes; None if there is no manifest."""
    return files.digest_file(paths.transcripts) if paths.transcripts.is_file() else None


def _has_times(row: Line) -> bool:
    values = [row.get("start"), row.get("end")]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _shown(row: Line) -> tuple[float, float, str]:
    """Return the values of a row that a person may change, for comparison."""
    times = (float(row["start"]), float(row["end"])) if _has_times(row) else (-1.0, -1.0)
    return (*times, str(row.get("text")))
