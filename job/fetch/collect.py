"""Turn a table into rows of the raw manifest: check, number and limit them, with a reason for each rejected row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from job.config import names
from job.config.settings import Settings
from job.core import console, inside
from job.core.errors import BadInput
from job.fetch import audio_store, segments, values
from job.fetch.audio_store import Store
from job.fetch.claims import Claims
from job.fetch.columns import Columns, choose, notes
from job.fetch.edges import Edges
from job.fetch.references import References
from job.fetch.row_languages import RowLanguages
from job.fetch.table import TRANSCRIBED_BY, Row, RowError, Table, Unreadable
from job.fetch.transcripts import Mended
from job.fetch.unknown_times import UnknownTimes
from job.normalize import Normalizer, Told

#: Seconds per frame of codes (1920 samples at 24 kHz): for rows that come encoded and without audio.
FRAME_SECONDS = 0.08

#: Number of rows that `first_good` tries before it declares a source unusable.
PEEK_ROWS = 20


class Collector:
    """Turns the tables of a run into manifest rows, in order. One for all splits: ids and references are shared."""

    def __init__(self, settings: Settings, audio: Store) -> None:
        self.settings = settings
        self.store = audio
        self.references = References(settings)
        self.claims = Claims()
        self.rejected: list[dict[str, Any]] = []
        self.speakers: set[str] = set()
        self._ids: set[str] = set()
        self._mended = Mended()
        self._normalizer = Normalizer(settings.text_normalizer)
        self._told = Told()
        self._languages = RowLanguages(settings)
        self._unknown_times = UnknownTimes()

    def rows(self, split: str, table: Table) -> Iterator[dict[str, Any]]:
        """Yield the manifest rows of a split, as many as MAX_TRAIN_SAMPLES, MAX_EVAL_SAMPLES and MAX_HOURS allow.

        Rejected rows are added to `rejected` and summarized on stderr at the end.

        Raises:
            BadInput: a column is missing, references disagree, or no row can be used.
        """
        columns = choose(table, self.settings)
        for note in notes(table, columns) if split == "train" else ():
            console.say("fetch", note)
        budget = _Budget(self.settings, split)
        kept, left_out = 0, len(self.rejected)
        self._mended, self._told, self._edges = Mended(), Told(), Edges()
        for item in console.progress(table.read(), stage="fetch", total=table.total or 0, unit="rows"):
            row = self._try(split, table, columns, item)
            if row is None:
                continue
            if not budget.take(row):
                if kept == 0:
                    raise BadInput(f"MAX_HOURS={self.settings.max_hours} is less than the first clip; raise it")
                break
            self._finish(row, item, split, table)
            kept += 1
            yield row
            if budget.full:
                break
        self.store.flush()
        rejected = self.rejected[left_out:]
        if kept == 0:
            raise BadInput(_nothing_left(table, rejected))
        edges = self._edges.line()
        for line in (*self._mended.lines(), *self._told.lines(), *([edges] if edges else [])):
            console.say("fetch", f"{split}: {line}")
        summarise(split, table.name, rejected)

    def first_good(self, table: Table) -> dict[str, Any]:
        """Return the first usable row among the first `PEEK_ROWS` of a table; the header of its audio has been read.

        Raises:
            BadInput: a column is missing or none of those rows can be used.
        """
        columns = choose(table, self.settings)
        for tried, item in enumerate(table.read(), start=1):
            row = self._try("train", table, columns, item)
            if row is not None and (row["audio"] is None or self._readable(row, item, table)):
                return row
            if tried == PEEK_ROWS:
                break
        raise BadInput(_nothing_left(table, self.rejected))

    def build(self, table: Table, columns: Columns, row: Row) -> dict[str, Any]:
        """Build one manifest row; its id is the source's, if any, and may not be unique yet.

        Raises:
            RowError: the row cannot be used; the error says why.
            BadInput: its reference differs from that of the speaker's other rows.
        """
        get = columns.value
        cleaned = values.required_text(get("text", row.values))
        encoded = get("audio_codes", row.values)
        codes = None if encoded is None else values.codes(encoded)
        built: dict[str, Any] = {
            "id": _own_id(get("id", row.values)),
            "audio": self._audio(table, columns, row, missing_ok=codes is not None),
            "text": cleaned.text,
            "ref_audio": None,
            "ref_text": values.optional_text(get("ref_text", row.values), "ref_text"),
        }
        for field in ("speaker", "language", "instruct"):
            built[field] = values.optional_text(get(field, row.values), field)
        if built["language"]:
            self._languages.check(built["language"], f"{table.where} row {row.number}")
        if built["speaker"]:
            built["speaker"] = names.lookup_key(built["speaker"])
        reference = get("ref_audio", row.values)
        if reference is not None and reference != "" and self.references.used:
            path = self._locate(table, reference, "ref_audio", None)
            self.references.add(built["speaker"], path, f"{table.where} row {row.number}")
            built["ref_audio"] = str(path)
        if codes is not None:
            built["audio_codes"] = codes
        elif part := self._part(table, columns, row, Path(built["audio"])):
            if table.loose and self.store.directory is not None:
                part = self._edges.settle(Path(built["audio"]), part)
            built |= {"start": part.start, "end": part.end}
        if by := row.values.get(TRANSCRIBED_BY):
            built[TRANSCRIBED_BY] = by
        self._mended.add(row.number, str(get("text", row.values)), cleaned)
        self._normalize(built)
        return built

    def _normalize(self, row: dict[str, Any]) -> None:
        """Normalize a row's text (TEXT_NORMALIZER); the original is kept in the manifest as `raw_text`."""
        language = row["language"] or self.settings.language
        said = self._normalizer.read(row["text"], language)
        self._told.add(row["text"], said, language)
        if said.text != row["text"]:
            row["text"], row["raw_text"] = said.text, row["text"]

    def _part(self, table: Table, columns: Columns, row: Row, audio: Path) -> segments.Part | None:
        """Return the part of the recording that belongs to the row; None for all of it."""
        if self.store.directory is None and not inside.is_there(audio):
            return None  # a check before a run: the recording comes as bytes and was not written
        length = partial(audio_store.seconds, audio)
        if all(columns.value(field, row.values) is None for field in segments.NAMES):
            self._unknown_times.look(table.where, columns, row.values, length)
        return segments.part(lambda field: columns.value(field, row.values), length, columns.has_ends)

    def _audio(self, table: Table, columns: Columns, row: Row, missing_ok: bool) -> str | None:
        value = columns.value("audio", row.values)
        try:
            return str(self._locate(table, value, "audio", columns.value("sampling_rate", row.values)))
        except RowError:
            if missing_ok:
                return None
            raise

    def _locate(self, table: Table, value: Any, field: str, rate: Any) -> Path:
        path = self.store.locate(value, field, table.folders, table.remote, rate, table.tree, table.below)
        audio_store.check_name(path, field)
        return path

    def _try(self, split: str, table: Table, columns: Columns, item: Row | Unreadable) -> dict[str, Any] | None:
        try:
            if isinstance(item, Unreadable):
                raise item.error
            row = self.build(table, columns, item)
            if split == "train" and self.settings.max_hours is not None:
                row["seconds"] = _seconds(row)
            return row
        except RowError as error:
            self._reject(split, table, item, error)
            return None

    def withdraw(self, split: str, row: dict[str, Any], error: RowError) -> None:
        """Reject a row that `rows` has already yielded."""
        self.rejected.append(_rejected(split, row["source"], row["row"], error) | {"id": row["id"]})

    def _reject(self, split: str, table: Table, item: Row | Unreadable, error: RowError) -> None:
        self.rejected.append(_rejected(split, item.source or table.name, item.number, error))

    def _readable(self, row: dict[str, Any], item: Row | Unreadable, table: Table) -> bool:
        if self.store.directory is None and not inside.is_there(Path(row["audio"])):
            return True  # it came as bytes, whose header has been read already
        try:
            audio_store.seconds(Path(row["audio"]))
        except RowError as error:
            self._reject("train", table, item, error)
            return False
        return True

    def _finish(self, row: dict[str, Any], item: Row | Unreadable, split: str, table: Table) -> None:
        row.pop("seconds", None)
        source, number = item.source or table.name, item.number
        made_up = f"{values.safe_id(Path(source).stem) or 'row'}-{split}-{number:06d}"
        row["id"] = self._unique(row["id"] or made_up, number)
        row["row"] = number
        row["source"] = source
        self.claims.add(row)
        if row["speaker"]:
            self.speakers.add(row["speaker"])

    def _unique(self, wanted: str, number: int) -> str:
        """Return `wanted`, or `wanted-<row>` and so on if taken; case-insensitive, as some file systems are."""
        name, tries = wanted, 0
        while name.lower() in self._ids:
            name = f"{wanted}-{number}" + (f"-{tries}" if tries else "")
            tries += 1
        self._ids.add(name.lower())
        return name


def _rejected(split: str, source: str, number: int, error: RowError) -> dict[str, Any]:
    """Build a line of rejected.jsonl."""
    about = {"split": split, "row": number, "source": source, "id": None, "reason": error.kind}
    row = {**about, "detail": _printable(error.detail)}
    return {**row, "looked_for": list(error.looked_for)} if error.looked_for else row


def _printable(text: str) -> str:
    """Escape what cannot be written as UTF-8, such as bytes of a file name in an old encoding."""
    return text.encode(errors="backslashreplace").decode()


def _own_id(value: Any) -> str:
    """Return a row's id as part of a file name; empty if it has no usable id."""
    if not isinstance(value, str | int) or isinstance(value, bool):
        return ""
    try:
        return values.safe_id(str(value)[:300])
    except ValueError:  # an int of more digits than Python prints
        return ""


class _Budget:
    """The limits on a split (MAX_TRAIN_SAMPLES or MAX_EVAL_SAMPLES, and MAX_HOURS), and what is left of them."""

    def __init__(self, settings: Settings, split: str) -> None:
        train = split == "train"
        self._rows = settings.max_train_samples if train else settings.max_eval_samples
        self._seconds = settings.max_hours * 3600 if train and settings.max_hours is not None else None
        self._lengths = (settings.min_seconds, settings.max_seconds)
        self.full = False

    def take(self, row: dict[str, Any]) -> bool:
        """Count a row; return False if its audio would exceed MAX_HOURS.

        Clips that prepare will drop for their length are let through and do not count towards MAX_HOURS.
        """
        if self._seconds is not None and self._lengths[0] <= row["seconds"] <= self._lengths[1]:
            if row["seconds"] > self._seconds:
                return False
            self._seconds -= row["seconds"]
        if self._rows is not None:
            self._rows -= 1
            self.full = self._rows == 0
        return True


def _seconds(row: dict[str, Any]) -> float:
    if "audio_codes" in row:
        return len(row["audio_codes"]) * FRAME_SECONDS
    end = row["end"] if row.get("end") is not None else audio_store.seconds(Path(row["audio"]))
    return float(end) - float(row.get("start") or 0.0)


def _nothing_left(table: Table, rejected: list[dict[str, Any]]) -> str:
    if not rejected:
        return f"{table.where}: there are no rows"
    first = rejected[0]
    return f"{table.where} row {first['row']}: {reason_of(first)}; no row of {len(rejected)} tried can be used"


def reason_of(rejected: dict[str, Any]) -> str:
    """Join the reason and the detail of a rejected row into one phrase."""
    return ": ".join(part for part in (rejected["reason"], rejected["detail"]) if part)


def summarise(split: str, source: str, rejected: list[dict[str, Any]]) -> None:
    """Log one warning per reason, however many rows of `source` were rejected for it."""
    counts = Counter(r["reason"] for r in rejected)
    for reason, count in counts.items():
        first = next(r for r in rejected if r["reason"] == reason)
        rows = "1 row" if count == 1 else f"{count} rows"
        detail = f" ({first['detail']})" if first["detail"] else ""
        at = f"row {first['row']}" if count == 1 else f"first row {first['row']}"
        at += f" of {first['source']}" if first["source"] != source else ""  # one of several that are mixed
        console.warn("fetch", f"{split}: left out {rows} of {source}: {reason}, {at}{detail}")
