"""Logs of JSON lines that are only appended to, and that survive a kill at any moment: a torn last line is dropped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from job.core import files


def read(path: Path) -> list[dict[str, Any]]:
    """Repair the end of a log after an interrupted write, and return its valid lines; none if there is no file."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    whole, _, torn = data.rpartition(b"\n")
    if torn:
        data = (data if _is_line(torn) else whole).rstrip(b"\n") + b"\n"  # an editor may omit the final newline
        files.write_with(path, lambda temporary: temporary.write_bytes(data))
    return valid_lines(data)


def valid_lines(data: bytes) -> list[dict[str, Any]]:
    """The valid lines of a log's contents."""
    return [json.loads(line) for line in data.splitlines() if line.strip() and _is_line(line)]


def append(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Append lines to a log and flush them to disk; a missing file is created, even for no lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new, lines = not path.exists(), list(lines)
    if not new and not lines:
        return
    with files.named_errors(path), open(path, "a", encoding="utf-8") as handle:
        handle.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        handle.flush()
        os.fsync(handle.fileno())
    if new:
        files.sync_directory(path.parent)


def _is_line(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
