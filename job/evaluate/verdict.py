"""The verdict of a run: whether the voice is good, and whether it is better than the base model cloning it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from job.evaluate.comparison import SOURCES, as_its_recordings
from job.evaluate.judges.figures import BY_NAME, MARKS

#: Grade of the verdict, by how many marks the worst figure reaches.
WORDS = ("Not good yet", "Usable", "Good", "Excellent")
#: Grade when figures below the target are as good as those of the recordings.
LIMITED = "As good as its recordings"
#: The mark that a voice should reach.
TARGET = 2

Row = Mapping[str, Any]


def verdict(rows: Sequence[Row], failed: int, samples: int, share: float, no_base: str | None = None) -> str:
    """Write the verdict as sentences.

    Args:
        rows: from `comparison.compare`.
        failed: number of samples that fail a check.
        samples: number of all samples.
        share: share of failed samples from which the voice fails (SYNTH_GATE_SHARE).
        no_base: why the base model was not compared.
    """
    spoken = [row for row in rows if BY_NAME[row["figure"]].short]
    sentences = [f"{_word(spoken, failed, samples, share)}: {_checks(failed, samples)}."]
    if spoken:
        said = "; ".join(_figure(row) for row in spoken)
        sentences.append(f"{said[0].upper()}{said[1:]}.")
    else:
        sentences.append("No judge could tell more.")
    sentences.append(_base(spoken, no_base))
    return " ".join(sentences)


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Format the comparison as a table, the heading first, omitting empty columns; no table without rows."""
    if not rows:
        return []
    sources = [name for name in SOURCES if any(row[name] is not None for row in rows)]
    against = any(row["against_base"] for row in rows)
    head = ["", *(SOURCES[name] for name in sources), *(["Against the base"] if against else []), "Mark"]
    body = [
        [
            row["label"],
            *(BY_NAME[row["figure"]].shown(row[name]) for name in sources),
            *([difference(row)] if against else []),
            "–" if row["mark"] is None else MARKS[row["mark"]],
        ]
        for row in rows
    ]
    return [head, *body]


def table(rows: Sequence[Row]) -> list[str]:
    """Format the comparison as lines with aligned columns."""
    return aligned(cells(rows))


def aligned(found: Sequence[Sequence[str]]) -> list[str]:
    """Format rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*found, strict=True)]
    lines = []
    for label, *others in found:
        shown = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join((label.ljust(widths[0]), *shown)).rstrip())
    return lines


def difference(row: Row) -> str:
    """Format voice minus base, and whether the difference is significant."""
    if row["against_base"] is None:
        return "–"
    word = "no clear difference" if row["against_base"] == "same" else row["against_base"]
    return f"{BY_NAME[row['figure']].shown(row['delta'], sign=True)}, {word}"


def _word(rows: Sequence[Row], failed: int, samples: int, share: float) -> str:
    if not samples or failed >= max(1.0, share * samples):
        return WORDS[0]
    marked = [row for row in rows if row["mark"] is not None]
    if not marked:
        return "Not rated"
    short = [row for row in marked if row["mark"] < TARGET]
    if short and all(as_its_recordings(BY_NAME[row["figure"]], row) for row in short):
        return LIMITED
    return WORDS[min(row["mark"] for row in marked)]


def _checks(failed: int, samples: int) -> str:
    if not failed:
        return f"all {samples} samples pass the checks" if samples > 1 else "the sample passes the checks"
    return f"{failed} of {samples} samples fail a check"


def _figure(row: Row) -> str:
    figure = BY_NAME[row["figure"]]
    mark = f", {MARKS[row['mark']]}" if row["mark"] is not None else ""
    beside = f"; its recordings {figure.shown(row['recordings'])}" if row["recordings"] is not None else ""
    if row["codec"] is not None:
        beside += f"{', these' if beside else '; its recordings'} through the codec {figure.shown(row['codec'])}"
    return f"{figure.short} {figure.shown(row['voice'])}{mark} ({_marks(row)}{beside})"


def _marks(row: Row) -> str:
    figure = BY_NAME[row["figure"]]
    return f"marks {' / '.join(figure.shown(mark) for mark in figure.marks or ())}"


def _base(rows: Sequence[Row], reason: str | None) -> str:
    by: dict[str, list[str]] = {"better": [], "worse": [], "same": []}
    for row in rows:
        if row["against_base"]:
            figure = BY_NAME[row["figure"]]
            told = figure.short
            if row["against_base"] != "same":
                told += f" ({figure.shown(row['delta'], sign=True)})"
            by[row["against_base"]].append(told)
    if not any(by.values()):
        return f"Not compared with the base model: {reason or 'no judge could tell'}."
    parts = []
    if by["better"]:
        parts.append(f"better in {_and(by['better'])}")
    if by["worse"]:
        parts.append(f"worse in {_and(by['worse'])}")
    if by["same"]:
        parts.append(f"without a clear difference in {_and(by['same'])}")
    return f"Beside the base model cloning it: {_and(parts)}."


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
