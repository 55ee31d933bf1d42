"""Read tables that are not JSONL: CSV, TSV, `|`-separated (LJSpeech, Coqui, VITS, GPT-SoVITS) and Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from job.core import files, storage
from job.core.errors import BadInput
from job.fetch import dialect, jsonl, lines
from job.fetch.columns import KNOWN
from job.fetch.dialect import Dialect
from job.fetch.records import Record
from job.fetch.table import SAMPLE_ROWS, Row, RowError, Table, Unreadable

#: Folders next to a table where corpora keep their audio (LJSpeech: wavs, Piper: wav, Common Voice: clips).
AUDIO_FOLDERS = ("wavs", "wav", "clips", "audio")

PARQUET_ENDING = ".parquet"
#: `.list`, `.lst` and `.txt` are file lists of VITS and GPT-SoVITS; one that begins with `{` is read as JSONL.
_LISTS = (".list", ".lst", ".txt", ".psv")
ENDINGS = (".csv", ".tsv", *_LISTS, PARQUET_ENDING)

_PARQUET_ROWS = 64
_SHORT = "fewer cells than columns"


def open_table(path: Path, where: str) -> Table:
    """Open a delimited file or a `.parquet` file, depending on its extension (see `ENDINGS`).

    Raises:
        BadInput: it is missing or cannot be read as what its name says.
    """
    if path.suffix.lower() == PARQUET_ENDING:
        return open_parquet([path], where)
    lines.check(path, where, "one row a line")
    if path.suffix.lower() in _LISTS and _first_character(path) in "{[":
        return jsonl.open_table(path, where)
    form = dialect.find(path, where, _folders(path), KNOWN)
    columns = [name or f"column_{n}" for n, name in enumerate(form.header or [""] * form.width, start=1)]

    @cache
    def sample() -> list[Mapping[str, Any]]:
        spread = lines.Spread(SAMPLE_ROWS)
        for row in _read(path, where, form, columns):
            if isinstance(row, Row):
                spread.add(row.values)
        return spread.kept

    return Table(
        name=path.name,
        where=where,
        columns=columns,
        read=lambda: _read(path, where, form, columns),
        folders=_folders(path),
        sample=sample,
        header=form.header is not None,
    )


def open_parquet(paths: list[Path], where: str) -> Table:
    """Open Parquet files, read one after the other, as one table; audio may be paths or bytes.

    Raises:
        BadInput: one of them is missing or not a Parquet file, or they have different columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    columns: list[str] = []
    plain: list[str] = []
    total = 0
    for path in paths:
        try:
            with files.named_errors(path), parquet.ParquetFile(path) as opened:
                schema, rows = opened.schema_arrow, opened.metadata.num_rows
        except PermissionError:
            raise
        except (OSError, pa.ArrowException) as error:
            storage.check(error)
            reason = "no such file" if isinstance(error, FileNotFoundError) else "not a Parquet file"
            raise BadInput(f"{where}: {path.name} cannot be read: {reason}") from None
        names = list(schema.names)
        if columns and set(names) != set(columns):
            raise BadInput(f"{where}: {path.name} has other columns than {paths[0].name}; they must have the same")
        columns, total = columns or names, total + rows
        plain = plain or [field.name for field in schema if is_plain(field.type)]

    @cache
    def sample() -> list[Mapping[str, Any]]:
        spread = lines.Spread(SAMPLE_ROWS)
        for row in _read_parquet(paths, where, plain) if plain else ():
            spread.add(row.values)
        return spread.kept

    return Table(
        name=paths[0].name if len(paths) == 1 else paths[0].parent.name,
        where=where,
        columns=columns,
        read=lambda: _read_parquet(paths, where),
        folders=_folders(paths[0]),
        total=total,
        sample=sample,
    )


def is_plain(kind: Any) -> bool:
    """Whether a column of this Arrow type holds text or whole numbers."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating)
    return any(test(kind) for test in tests)


def _folders(path: Path) -> list[Path]:
    return [path.parent, *(path.parent / name for name in AUDIO_FOLDERS), path.parent.parent, Path.cwd()]


def _first_character(path: Path) -> str:
    return next((line.strip()[0] for _, line in lines.read(path) if line.strip()), " ")


def _read(path: Path, where: str, form: Dialect, columns: list[str]) -> Iterator[Row | Unreadable]:
    """Yield the rows, each numbered by its line in the file; every line is a row, rejected, blank, or the header.

    Raises:
        BadInput: a line is none of these: it would otherwise be dropped silently.
    """
    total = accounted = 0

    def counted() -> Iterator[tuple[int, str]]:
        nonlocal total
        for number, line in lines.read(path):
            total = number
            yield number, line

    held: Row | Unreadable | None = None
    cut = False
    for record in form.reader().read(counted()):
        if record.number != accounted + 1:
            break
        accounted += record.lines
        if record.number <= form.skipped or record.number == form.first:
            continue
        row = _row(record, form, columns)
        if row is None:
            continue
        piece = form.is_piece(record.literal, record.cells or [])
        if piece and isinstance(held, Row) and form.sound_column != form.width - 1:
            held = _cut(held.number, row.number)
        elif cut and isinstance(row, Row) and form.sound_column != 0:
            row = _cut(row.number, record.number - 1)
        cut = piece
        if held is not None:
            yield held
        held = row
    if held is not None:
        yield held
    if accounted != total:
        raise BadInput(f"{where} row {accounted + 1}: the row cannot be told from those around it; check its quotes")


def _cut(number: int, piece: int) -> Unreadable:
    detail = f"row {piece} is a part of a row, perhaps of this one; put sentences of several lines in quotes"
    return Unreadable(number, RowError("a line break may be inside the sentence", detail))


def _row(record: Record, form: Dialect, columns: list[str]) -> Row | Unreadable | None:
    """Convert a record to a row of the table; None for a blank line."""
    if record.error is not None:
        return Unreadable(record.number, record.error)
    if record.cells is None:
        return None
    cells = record.cells
    while len(cells) > len(columns) and not cells[-1].strip():
        cells = cells[:-1]  # a trailing separator
    if len(cells) != len(columns):
        kind = "more cells than columns" if len(cells) > len(columns) else _SHORT
        detail = (
            f"{len(cells)} cells for {len(columns)} columns; is there a separator inside a sentence, or one missing?"
        )
        return Unreadable(record.number, RowError(kind, detail))
    if form.doubtful(record.literal):
        detail = (
            f"it is followed by a space, which it is not in other rows: {record.literal[:80]!r}; quote the sentence"
        )
        return Unreadable(record.number, RowError("a separator may be part of the sentence", detail))
    return Row(record.number, dict(zip(columns, (cell if cell.strip() else None for cell in cells), strict=True)))


def _read_parquet(paths: list[Path], where: str, columns: list[str] | None = None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    for path in paths:
        source = path.name if len(paths) > 1 else None
        number = 0
        try:
            with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as opened:
                for batch in opened.iter_batches(batch_size=_PARQUET_ROWS, columns=columns):
                    for values in batch.to_pylist():
                        number += 1
                        yield Row(number, values, source)
        except pa.ArrowInvalid as error:
            raise BadInput(f"{where}: {path.name} is damaged after row {number}; write it again") from error
