"""Tables that are not JSONL: CSV, TSV, `|`-separated (LJSpeech, Coqui) and Parquet."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from job.errors import BadInput
from job.fetch import jsonl
from job.fetch.columns import NAMES
from job.fetch.table import Row, RowError, Table, Unreadable

#: Folders beside a sheet where corpora keep their audio (LJSpeech: wavs, Common Voice: clips).
AUDIO_FOLDERS = ("wavs", "clips", "audio")

PARQUET_ENDING = ".parquet"
ENDINGS = (".csv", ".tsv", PARQUET_ENDING)

#: LJSpeech has no header; its third column has numbers and abbreviations written out.
LJSPEECH = ("id", "text", "normalized_text")

_PARQUET_ROWS = 64
_DELIMITERS = {".tsv": "\t"}


def open_table(path: Path, where: str) -> Table:
    """A `.csv`, `.tsv` or `.parquet` file as a table.

    Raises:
        BadInput: it is missing or cannot be read as what its name says.
    """
    if path.suffix.lower() == PARQUET_ENDING:
        return open_parquet([path], where)
    jsonl.check_text_file(path, where)
    delimiter, columns, header = _layout(path, where)
    preferred: Mapping[str, tuple[str, ...]] = {}
    if not header:  # LJSpeech
        preferred = {"audio": ("id",), "text": ("normalized_text",)}
    return Table(
        name=path.name,
        where=where,
        columns=columns,
        read=lambda: _read(path, delimiter, columns, header),
        folders=_folders(path),
        preferred=preferred,
    )


def open_parquet(paths: list[Path], where: str) -> Table:
    """Parquet files, one after the other, as one table; audio may be paths or bytes.

    Raises:
        BadInput: one of them is missing or no Parquet file, or they have different columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    columns: list[str] = []
    total = 0
    for path in paths:
        try:
            with parquet.ParquetFile(path) as opened:
                names, rows = list(opened.schema_arrow.names), opened.metadata.num_rows
        except (OSError, pa.ArrowException) as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else "not a Parquet file"
            raise BadInput(f"{where}: {path.name} cannot be read: {reason}") from None
        if columns and set(names) != set(columns):
            raise BadInput(f"{where}: {path.name} has other columns than {paths[0].name}; they must have the same")
        columns, total = columns or names, total + rows
    return Table(
        name=paths[0].name if len(paths) == 1 else paths[0].parent.name,
        where=where,
        columns=columns,
        read=lambda: _read_parquet(paths),
        folders=_folders(paths[0]),
        total=total,
    )


def _folders(path: Path) -> list[Path]:
    return [path.parent, *(path.parent / name for name in AUDIO_FOLDERS), path.parent.parent, Path.cwd()]


def _layout(path: Path, where: str) -> tuple[str, list[str], bool]:
    """Delimiter, columns, and whether the first row is a header."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        line = handle.readline()
    try:
        line.encode()
    except UnicodeEncodeError:
        raise BadInput(f"{where}: its first line is not UTF-8; save it as UTF-8") from None
    if not line.strip():
        raise BadInput(f"{where}: the file is empty")
    known = {name for names in NAMES.values() for name in names}
    for delimiter in dict.fromkeys((_DELIMITERS.get(path.suffix.lower(), ","), "|", ";", "\t", ",")):
        cells = next(_cells([line], delimiter), [])
        if known & {cell.strip().lower() for cell in cells} and len(cells) > 1:
            return delimiter, [cell.strip() for cell in cells], True
    if line.count("|") in (1, 2):
        return "|", list(LJSPEECH[: line.count("|") + 1]), False
    delimiter = _DELIMITERS.get(path.suffix.lower(), ",")
    return delimiter, [cell.strip() for cell in next(_cells([line], delimiter), [])], True


def _cells(lines: Any, delimiter: str) -> Iterator[list[str]]:
    # Quotes mean something in comma-separated files only: LJSpeech and Common Voice leave them as they are.
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter in ",;" else csv.QUOTE_NONE
    csv.field_size_limit(1 << 24)
    return csv.reader(lines, delimiter=delimiter, quoting=quoting)


def _read(path: Path, delimiter: str, columns: list[str], header: bool) -> Iterator[Row | Unreadable]:
    number = 0
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        reader = _cells(handle, delimiter)
        for number in itertools.count(1):
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Unreadable(number, RowError("not a row of the table", str(error)))
                continue
            if (number == 1 and header) or not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(columns):
                detail = f"{len(cells)} cells for {len(columns)} columns"
                yield Unreadable(number, RowError("more cells than columns", detail))
                continue
            values: dict[str, Any] = dict(zip(columns, (cell or None for cell in cells), strict=False))
            yield Row(number, values)


def _read_parquet(paths: list[Path]) -> Iterator[Row | Unreadable]:
    import pyarrow.parquet as parquet

    number = 0
    for path in paths:
        with parquet.ParquetFile(path) as opened:
            for batch in opened.iter_batches(batch_size=_PARQUET_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(number, values)
