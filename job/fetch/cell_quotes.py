"""Detect whether quotes in a delimited file enclose cells or are characters of its sentences."""

from __future__ import annotations

import csv
from pathlib import Path

from job.fetch import lines, records


def of(path: Path, separator: str, skipped: int) -> bool | None:
    """Whether quotes around cells are delimiters, not part of the text; None if that is unclear or varies.

    In files separated by commas or semicolons they always are delimiters. With tabs or `|`, some programs quote cells
    (pandas) and most corpora do not (LJSpeech, Common Voice): a quoted cell has its inner quotes doubled; a quote in
    the middle of a cell is a character.
    """
    if separator in ",;":
        return True
    doubled = plain = whole = cells_seen = 0
    carried = inside = False
    for number, line in lines.read(path):
        if number <= skipped or not line.strip():
            continue
        cells = [cell.strip(" ") for cell in line.split(separator)]
        cells_seen += len(cells)
        if '"' not in line:
            continue
        if inside:  # perhaps in a multi-line cell: its quotes are no evidence either way
            inside = line.count('"') % 2 == 0
            continue
        try:
            parsed = records.parse([line], separator)
        except csv.Error as error:
            unfinished = "unexpected end" in str(error)
            inside = unfinished
            carried = carried or unfinished
            plain += not unfinished
            continue
        whole += sum(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells)
        plain += any('"' in cell and not cell.startswith('"') for cell in parsed if cell in cells)
        doubled += len(parsed) != len(cells) or any(
            cell.startswith('"') and '""' in cell[1:-1] and cell not in parsed for cell in cells
        )
    every = whole >= 0.3 * cells_seen
    if (doubled or every) and not plain:
        return True
    if not doubled and not every and (plain or not carried):
        return False
    return None
