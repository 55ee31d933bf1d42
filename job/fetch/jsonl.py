"""JSONL files from outside: written by hand, by the vendor's scripts, on other systems, cut off in the middle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from job.errors import BadInput
from job.fetch.table import Row, RowError, Table, Unreadable

#: How much of a file is looked at to tell text from something else.
HEAD_BYTES = 1 << 16

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def open_table(path: Path, where: str) -> Table:
    """A JSONL file as a table; columns are the keys of all its objects.

    Relative paths in it are looked for beside the file, then in its parent folder, then in the current directory.

    Raises:
        BadInput: the file is missing, no text, or empty. `where` (for example `TRAIN_JSONL=a.jsonl`) is named.
    """
    check_text_file(path, where)
    columns: dict[str, None] = {}
    total = 0
    for row in read(path):
        total += 1
        if isinstance(row, Row):
            columns.update(dict.fromkeys(row.values))
        elif total == 1:
            first_error = row
    if total == 0:
        raise BadInput(f"{where}: the file is empty; it needs one JSON object a line with audio and text")
    if not columns:
        raise BadInput(f"{where} line {first_error.number}: {first_error.error}; no line is a JSON object")
    return Table(
        name=path.name,
        where=where,
        columns=list(columns),
        read=lambda: read(path),
        folders=[path.parent, path.parent.parent, Path.cwd()],
        total=total,
    )


def read(path: Path) -> Iterator[Row | Unreadable]:
    """Yield each line that is not blank; `number` is the line's, from 1. Never raises for what a line holds."""
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                yield Row(number, parse(line))
            except RowError as error:
                yield Unreadable(number, error)


def parse(line: bytes) -> dict[str, Any]:
    """The object on a line.

    Raises:
        RowError: it is not UTF-8, not JSON, or not an object.
    """
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise RowError("not UTF-8", "save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        if line.strip() in (b"[", b"]") or line.rstrip().endswith(b","):
            raise RowError("not JSON", "a line of a JSON array; write one object a line, without commas") from None
        raise RowError("not JSON", f"{error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError):  # an int of thousands of digits, or thousands of brackets
        raise RowError("not JSON", "too large or too deep") from None
    if not isinstance(value, dict):
        raise RowError("not a JSON object", f"{type(value).__name__}; write one object a line")
    return value


def check_text_file(path: Path, where: str) -> None:
    """Refuse what cannot be read as UTF-8 text at all.

    Raises:
        BadInput: it is missing, a folder, unreadable, UTF-16, or binary.
    """
    if path.is_dir():
        raise BadInput(f"{where} is a folder; name the file in it, or set DATA_DIR to the folder")
    if not path.exists():
        raise BadInput(f"{where}: no such file")
    if not path.is_file():
        raise BadInput(f"{where} is not a regular file")
    try:
        with open(path, "rb") as handle:
            head = handle.read(HEAD_BYTES)
    except OSError as error:
        raise BadInput(f"{where}: {error.strerror}") from None
    if head.startswith(_UTF16):
        raise BadInput(f"{where} is UTF-16; save it as UTF-8")
    if b"\0" in head:
        raise BadInput(f"{where} is a binary file; it must be text with one JSON object a line")
