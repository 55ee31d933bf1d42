"""Read users' JSONL files: written by hand, by the vendor's scripts or on other systems, and possibly truncated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from job.core.errors import BadInput
from job.fetch import lines
from job.fetch.table import SAMPLE_ROWS, Row, RowError, Table, Unreadable

#: The command that converts a JSON array to JSONL, for messages.
_COMMAND = " (jq -c '.[]' array.json > lines.jsonl)"


def open_table(path: Path, where: str) -> Table:
    """Open a JSONL file as a table; its columns are the keys of all its objects.

    Relative paths in it are looked for next to the file, then in the parent folder, then in the current directory.

    Raises:
        BadInput: the file is missing, not text, or empty. The message names `where` (such as `TRAIN_JSONL=a.jsonl`).
    """
    lines.check(path, where, "one JSON object a line")
    columns: dict[str, None] = {}
    sample = lines.Spread(SAMPLE_ROWS)
    total = 0
    first_error = None
    for row in read(path):
        total += 1
        if isinstance(row, Row):
            columns.update(dict.fromkeys(row.values))
            sample.add({key: value for key, value in row.values.items() if not isinstance(value, list | dict)})
        elif total == 1:
            first_error = row
    if total == 0:
        raise BadInput(f"{where}: the file is empty; it needs one JSON object a line with audio and text")
    if not columns and first_error is None:
        raise BadInput(f"{where}: the objects in it are empty; they need audio and text")
    if not columns and first_error is not None:
        raise BadInput(f"{where} line {first_error.number}: {first_error.error}; no line is a JSON object")
    return Table(
        name=path.name,
        where=where,
        columns=list(columns),
        read=lambda: read(path),
        folders=[path.parent, path.parent.parent, Path.cwd()],
        total=total,
        sample=lambda: sample.kept,
    )


def open_tables(paths: list[Path], where: str) -> Table:
    """Open JSONL files of one folder, one after the other, as one table; each is the `source` of its rows.

    Raises:
        BadInput: one of them cannot be opened, or they are in several folders, so that relative paths are ambiguous.
    """
    if len(paths) == 1:
        return open_table(paths[0], where)
    if len({path.parent for path in paths}) > 1:
        raise BadInput(f"{where}: JSONL files of several folders; DATASETS takes several, one a line")
    tables = [open_table(path, f"{where}: {path.name}") for path in paths]

    def rows() -> Iterator[Row | Unreadable]:
        for table in tables:
            for row in table.read():
                yield replace(row, source=table.name)

    def sample() -> list[Any]:
        spread = lines.Spread(SAMPLE_ROWS)
        for table in tables:
            for values in table.sample():
                spread.add(values)
        return spread.kept

    columns = list(dict.fromkeys(column for table in tables for column in table.columns))
    total = sum(table.total or 0 for table in tables)
    name = paths[0].parent.name
    return replace(tables[0], name=name, where=where, columns=columns, read=rows, total=total, sample=sample)


def read(path: Path) -> Iterator[Row | Unreadable]:
    """Yield each non-blank line, numbered by its line in the file, from 1. No contents of a line raise an error."""
    for number, line in lines.raw(path):
        if not line.strip():
            continue
        try:
            yield Row(number, parse(line))
        except RowError as error:
            yield Unreadable(number, error)


def parse(line: bytes) -> dict[str, Any]:
    """Parse the JSON object on a line.

    Raises:
        RowError: it is not UTF-8, not JSON, or not an object.
    """
    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=_object)
    except UnicodeDecodeError:
        raise RowError("not UTF-8", "save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        bare = line.strip()
        if bare in (b"[", b"]") or bare.endswith(b","):
            detail = f"a line of a JSON array; write one object a line, without commas{_COMMAND}"
            raise RowError("not JSON", detail) from None
        if bare.endswith((b"{", b"[")):
            detail = "a JSON document of several lines; write one object with audio and text a line"
            raise RowError("not JSON", detail) from None
        raise RowError("not JSON", f"{error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError):  # an int with thousands of digits, or thousands of nested brackets
        raise RowError("not JSON", "too large or too deep") from None
    if not isinstance(value, dict):
        raise RowError(
            "not a JSON object",
            f"{type(value).__name__}; write one object a line{_COMMAND if isinstance(value, list) else ''}",
        )
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object without conflicting duplicate keys: the json module would silently use the last value.

    Raises:
        RowError: a key occurs twice with different values.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        for name, value in pairs:
            if found[name] != value:
                raise RowError("a name stands twice in the object", f"{name[:40]!r}, with different values; keep one")
    return found
