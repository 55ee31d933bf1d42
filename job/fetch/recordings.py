"""Turn a folder of audio files with transcripts into rows, in the order of their paths."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from job.audio import audio_files
from job.config.settings import Settings
from job.core import console
from job.core.errors import BadInput
from job.fetch import audio_store, cue_files, cues, find, guess, listing, sidecars, speaker_labels, text_files, unnamed
from job.fetch.listing import HIDDEN
from job.fetch.references import REFERENCE_TEXT, REFERENCES, reference_of
from job.fetch.sounds_spelled import PHONEMES
from job.fetch.table import Row, RowError, Table, Unreadable

#: Maximum length, in seconds, of a sentence joined from several cues.
LONGEST_SENTENCE = 20.0
#: About how many texts are read to tell words from phonemes.
_LOOKED_AT = 40


def list_files(root: Path, strict: bool = True) -> tuple[list[Path], list[Path]]:
    """List the audio files in a folder and its subfolders, and the files that may be their transcripts; both sorted.

    Args:
        strict: False passes over folders that cannot be listed.

    Raises:
        OSError: one of the folders cannot be listed.
    """
    audio: list[Path] = []
    others: list[Path] = []
    for path in listing.all_below(root, strict):
        if path.name.startswith(HIDDEN) or path.name in (*REFERENCES, REFERENCE_TEXT):
            continue
        if audio_files.ending_of(path.name):
            audio.append(path)
        elif path.name.lower().endswith((*text_files.ENDINGS, ".trans.tsv")):
            others.append(path)
    return sorted(p for p in audio if p.is_file() or p.is_symlink()), sorted(others)


class Recordings:
    """The recordings of a folder and the location of each one's text. `with_text` is how many have one.

    `can_be_read` says whether any recording has a text or can be transcribed (TRANSCRIBE).
    """

    def __init__(self, root: Path, audio: list[Path], others: list[Path], settings: Settings) -> None:
        self.root = root
        self.audio = audio
        self._others = others
        self._max_seconds = settings.max_seconds
        self._insisted = settings.text_column is not None
        self._texts = sidecars.Sidecars(root, audio, others)
        self._sources: dict[Path, sidecars.Source | RowError] = {}
        self._of_text: dict[sidecars.Source, list[Path]] = {}
        for path in audio:
            try:
                source = None if settings.transcribe == "always" else self._source(path)
            except RowError as error:
                self._sources[path] = error
                continue
            if source is None and self._transcribed(path, settings):
                source = sidecars.Source(path.with_name(audio_files.stem(path.name)), untold=True)
            if source is not None:
                self._sources[path] = source
                self._of_text.setdefault(source, []).append(path)
        self.with_text = sum(not (isinstance(s, sidecars.Source) and s.untold) for s in self._sources.values())
        self.can_be_read = bool(self._sources)
        self._of_text = {source: paths for source, paths in self._of_text.items() if len(paths) > 1}
        self._named = "speaker_name" in settings.model_fields_set
        self._said: set[str] = set()

    def _transcribed(self, path: Path, settings: Settings) -> bool:
        """Whether a recording without a text is transcribed; not if it has one that is not read, unless asked for."""
        if audio_files.ending_of(path.name) in audio_files.UNREADABLE or settings.transcribe == "never":
            return False
        return settings.transcribe == "always" or not self._texts.has_unread(path)

    def _source(self, path: Path) -> sidecars.Source | None:
        """Find the text of a recording.

        If it has both a plain and a timed transcript, the times decide: a recording whose last cue ends after
        MAX_SECONDS is a long one and uses the timed transcript, any other is one sentence and uses the plain one.

        Raises:
            RowError: there are several texts that differ.
        """
        timed = self._texts.timed(path)
        if timed is None:
            return self._texts.find(path)
        try:
            plain = self._texts.find(path)
        except RowError:
            return timed
        if plain is None or plain.path == timed.path:
            return timed
        try:
            last = max((cue.end for cue in cue_files.read(timed.path) if math.isfinite(cue.end)), default=0.0)
        except RowError:
            return plain
        return timed if last > self._max_seconds else plain

    def not_read(self) -> str:
        """Describe the files found in place of transcripts that are not read, as the end of a sentence."""
        found = Counter(str(self._texts.none(path).detail).partition("; ")[2] for path in self.audio[:1000])
        found.pop("", None)
        return f" ({next(iter(found))})" if found else ""

    def table(self, where: str) -> Table:
        """Return the recordings as a table.

        If they are in several folders and SPEAKER_NAME is not set, each folder is a speaker; with SPEAKER_NAME, the
        folders are chapters by one speaker.

        Raises:
            BadInput: the texts are phonemes, all but a few; one text alone proves nothing.
        """
        self._refuse_phonemes(where)
        speakers = not self._named and len({self._speaker(path) for path in self.audio} - {None}) > 1
        found = [source for source in self._sources.values() if isinstance(source, sidecars.Source)]
        objects = any(source.path.suffix.lower() == ".json" for source in found)
        timed = any(source.timed for source in found)
        fields = {"speaker": speakers or objects or timed, "language": objects, "start": timed, "end": timed}
        columns = ["audio", "text", "ref_audio", "ref_text", *(name for name, used in fields.items() if used), "id"]

        def read() -> Iterator[Row | Unreadable]:
            number = 0
            for path in self.audio:
                for values in self._rows(path, speakers):
                    number += 1
                    if isinstance(values, RowError):
                        yield Unreadable(number, values)
                    elif values is not None:
                        yield Row(number, values)

        if (
            line := unnamed.texts_alone(self._others, {source.path for source in found}, self.audio, self.root)
        ) is not None:
            self._say("texts alone", line)
        total = None if timed else len(self.audio)
        return Table(self.root.name, where, columns, read, folders=[self.root], total=total, loose=timed)

    def _refuse_phonemes(self, where: str) -> None:
        plain = [
            (path, source)
            for path, source in self._sources.items()
            if isinstance(source, sidecars.Source) and not source.timed and not source.untold
        ]
        texts: list[Any] = []
        for path, source in [] if self._insisted else plain[:: max(1, len(plain) // _LOOKED_AT)]:
            with contextlib.suppress(RowError):  # reported when the row is read
                texts.append(self._texts.values(path, source).get("text"))
        held = guess.profile("text", texts, [])
        if held is not None and held.says_nothing == PHONEMES:
            raise BadInput(
                f"{where}: the texts of its recordings are {PHONEMES} ({held.examples}), not words; write the words as "
                "metadata.csv, with audio and text, or set TEXT_COLUMN=text to train on these"
            )

    def _rows(self, path: Path, speakers: bool) -> Iterator[dict[str, Any] | RowError | None]:
        """Yield a recording's rows: one, or one per sentence if it has a timed transcript."""
        try:
            values = self._values(path, speakers)
            source = self._sources.get(path)
            if values is None or not isinstance(source, sidecars.Source) or not source.timed:
                yield values
                return
            found, labels = speaker_labels.told_apart(cue_files.read(source.path))
            length = audio_store.seconds(path)
            cues.check_length(found, source.path.name, path.name, length)
        except RowError as error:
            yield error
            return
        if labels:
            names = ", ".join(f"{name} ({count})" for name, count in labels.most_common(4))
            self._say("labels", f"{source.path.name} names who speaks in its text: {names}; others likewise")
        by_hand = source.path.suffix.lower() == ".txt"  # Audacity labels: each is one row as it stands
        longest = 0.0 if by_hand else min(LONGEST_SENTENCE, self._max_seconds)
        for one in cues.sentences(found, source.path.name, longest, length):
            if isinstance(one, RowError):
                yield one
            else:
                yield {**values, **one.values(), "id": f"{values['id']}-{one.first:04d}"}

    def _values(self, path: Path, speakers: bool) -> dict[str, Any] | None:
        """Return a recording's row; None if another recording of the same sentence is used instead."""
        if not path.is_file():
            detail = f"{path.name} is a link to {path.readlink()}, where nothing is"
            raise RowError("audio is missing", f"{detail}; get the file (git annex get, dvc pull)", [str(path)])
        if audio_files.ending_of(path.name) in audio_files.UNREADABLE:
            raise find.unreadable(path)
        source = self._sources.get(path)
        if source is None:
            raise self._texts.none(path)
        if isinstance(source, RowError):
            raise source
        if not self._is_chosen(path, source):
            return None
        audio, text = _nearest_reference(self.root, path.parent)
        values: dict[str, Any] = {"audio": str(path), "ref_audio": audio, "ref_text": text}
        if speakers:
            values["speaker"] = self._speaker(path)
        if not source.timed and not source.untold:
            values.update(self._texts.values(path, source))
        values["id"] = audio_files.stem(str(path.relative_to(self.root)))
        return values

    def _is_chosen(self, path: Path, source: sidecars.Source) -> bool:
        """Whether this recording is the one that is used among those that share its text.

        Raises:
            RowError: they are different recordings, and it is unclear which one the text belongs to.
        """
        paths = audio_files.before_films([p for p in self._of_text.get(source, []) if p.is_file()])
        if len(paths) < 2:
            return not paths or path in paths
        numbers = [sidecars.microphone(p) for p in paths]
        if None not in numbers and len(set(numbers)) == len(numbers):
            chosen: Path | None = min(paths, key=lambda p: sidecars.microphone(p) or 0)
            self._say("microphones", f"{_names(paths)} are one sentence: of several microphones the first is used")
        else:
            chosen = find.choose(paths)
            if chosen is None and source.untold:
                return True
            if chosen is not None:
                self._say("formats", f"{_names(paths)} are one recording: of several formats the best is used")
        if chosen is None:
            detail = f"{_names(paths)} differ and {source.path.name} may be of each; keep one"
            if source.line is None:
                detail += f", or give each its own ({paths[0].name}.txt)"
            raise RowError("several recordings for one text", detail)
        return chosen == path

    def _say(self, kind: str, message: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            console.say("fetch", message)

    def _speaker(self, path: Path) -> str | None:
        """Return the name of the speaker's folder that a recording is in; None if it is in no subfolder.

        That is the first folder below the root, except in corpora that are divided into parts (LibriTTS: part, reader,
        chapter) or keep audio and texts apart (VCTK: both trees contain the reader's folder).
        """
        source = self._sources.get(path)
        if isinstance(source, sidecars.Source) and source.shared is not None:
            return source.shared[0] if source.shared else None
        reader, chapter = path.parent.parent.name, path.parent.name
        inside = path.relative_to(self.root).parts[:-1]
        if len(inside) > 1 and path.name.startswith((f"{reader}_{chapter}_", f"{reader}-{chapter}-")):
            return reader
        return inside[0] if inside else None


def _names(paths: list[Path]) -> str:
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}/{path.name}" for path in paths]
    return " and ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _nearest_reference(root: Path, folder: Path) -> tuple[str | None, str | None]:
    """Return the reference audio and its transcript from `folder`, or from the nearest parent folder up to `root`."""
    while True:
        audio, text = reference_of(folder)
        if audio is not None or folder == root:
            return (str(audio) if audio else None), text
        folder = folder.parent
