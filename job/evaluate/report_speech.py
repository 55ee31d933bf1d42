"""Speech section of the report: samples, results of the checks, and the voice compared with the base model.

Stats of another version, or damaged ones, are shown as far as they can be read.
"""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import quote

from job.evaluate import checks, verdict
from job.evaluate.charts import number
from job.evaluate.comparison import BASES, SOURCES
from job.evaluate.judges.figures import BY_NAME, FIGURES, MARKS
from job.evaluate.kept_rows import Row
from job.text.letters import letters

#: What people read of where a text comes from (`spoken_texts.ORIGINS`).
ORIGINS_TOLD = {"train": "training sentence", "validation": "held-out sentence", "test": "unseen text"}


def sample_row(sample: dict[str, Any], base: dict[str, str] | None = None) -> dict[str, Any]:
    """Format one object of stats.json for the page: cells of (label, text, whether it fails the check).

    `base` is the base model's sample of the same text.
    """
    problems = [str(one) for one in as_list(sample.get("problems"))]
    cells = [
        ("Seconds", shown(sample.get("seconds"), 2), "empty" in problems),
        ("Frames", shown(sample.get("frames"), 0), "empty" in problems),
        ("Stopped by itself", "yes" if sample.get("stopped_by_eos") else "no", not sample.get("stopped_by_eos")),
        ("Real-time factor", shown(sample.get("real_time_factor"), 2), False),
    ]
    for figure in FIGURES:
        if figure.name in sample:
            cells.append((figure.label, figure.shown(sample[figure.name]), False))
    name = str(sample.get("file", ""))
    return {
        "file": name,
        "url": f"../samples/{quote(name)}",
        "text": str(sample.get("text", "")),
        "speaker": str(sample.get("speaker", "")),
        "language": str(sample.get("language", "")),
        "origin": ORIGINS_TOLD.get(str(sample.get("origin")), ""),
        "layout": str(sample.get("layout", "")).replace("_", "-"),
        "transcript": sample.get("transcript"),
        "passed": bool(sample.get("passed")),
        "problems": problems,
        "cells": cells,
        "checks": check_cells(sample, problems),
        "base": base,
    }


def check_cells(sample: dict[str, Any], problems: list[str]) -> list[tuple[str, str, bool]]:
    """Return every figure that a check uses: (label, text, whether the check failed)."""
    figures = {
        **sample,
        "dc_magnitude": abs(as_float(sample.get("dc"))),
        "letters": letters(str(sample.get("text", ""))),
    }
    cells: dict[str, tuple[str, str, bool]] = {}
    for check in (*checks.SILENCE, *checks.CHECKS):
        if check.figure not in checks.LABELS:
            continue
        label, style = checks.LABELS[check.figure]
        value = as_float(figures.get(check.figure))
        bad = _sentence(check, figures) in problems and (check.sentence != "silent" or check.fails(figures))
        text = format(value, style) if math.isfinite(value) else "–"
        text = text if any(digit in text for digit in "123456789") else text.lstrip("-")  # no minus sign on zero
        cells[check.figure] = (label, text, bad or cells.get(check.figure, ("", "", False))[2])
    return list(cells.values())


def _sentence(check: checks.Check, figures: dict[str, Any]) -> str:
    """Format the check's sentence with these figures; empty if they are missing."""
    try:
        return check.sentence.format(**figures)
    except (KeyError, TypeError, ValueError):
        return ""


def bases(stats: dict[str, Any]) -> dict[int, dict[str, str]]:
    """Map each sample's index to the base model's sample of the same text: its file, and how it was cloned."""
    compared = as_dict(stats.get("compared"))
    for source in reversed(BASES):
        files_of = [one.get("file") for one in as_list(compared.get(source)) if isinstance(one, dict)]
        if files_of and all(files_of):
            told = SOURCES[source].lower()
            return {
                n: {"file": str(f), "url": f"../samples/{quote(str(f))}", "told": told} for n, f in enumerate(files_of)
            }
    return {}


def comparison_table(stats: dict[str, Any]) -> dict[str, Any]:
    """Compare the voice, its recordings and the base model: headers, and rows of a label and (text, kind) cells."""
    try:
        rows = [row for row in as_list(stats.get("comparison")) if row["figure"] in BY_NAME]
        sources = [name for name in SOURCES if any(row[name] is not None for row in rows)]
        against = any(row["against_base"] for row in rows)
        table = []
        for row in rows:
            figure = BY_NAME[row["figure"]]
            cells = [(figure.shown(row[name]), "") for name in sources]
            if against:
                kind = {"better": "good", "worse": "bad"}.get(row["against_base"] or "", "")
                cells.append((verdict.difference(row), kind))
            mark = row["mark"]
            marks = " / ".join(figure.shown(one) for one in figure.marks or ())
            told = "–" if mark is None else f"{MARKS[mark]} ({marks})"
            cells.append(
                (told, "" if mark is None else "bad" if mark == 0 else "good" if mark >= verdict.TARGET else "")
            )
            table.append({"label": figure.label, "cells": cells})
        heads = [SOURCES[name] for name in sources] + (["Against the base"] if against else []) + ["Mark"]
    except (KeyError, TypeError, ValueError, IndexError):  # damaged
        return {}
    return {"heads": heads, "rows": table} if table else {}


def origins_table(stats: dict[str, Any]) -> dict[str, Any]:
    """Compare texts by where they come from: headers, and rows of a label and cells; empty with a single origin."""
    groups = {told: as_dict(as_dict(stats.get("by_origin")).get(name)) for name, told in ORIGINS_TOLD.items()}
    groups = {told: group for told, group in groups.items() if group}
    if len(groups) < 2:
        return {}
    rows = [("Samples", [shown(group.get("samples"), 0) for group in groups.values()])]
    rows.append(("Fail a check", [shown(group.get("failed"), 0) for group in groups.values()]))
    for figure in FIGURES:
        if any(figure.name in group for group in groups.values()):
            rows.append((figure.label, [figure.shown(group.get(figure.name)) for group in groups.values()]))
    return {"heads": [f"{told.capitalize()}s" for told in groups], "rows": rows}


def summary_told(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Totals and means over all samples, in words: (what, figure)."""
    words = {"stopped_by_eos": "stopped by themselves", "failed": "fail a check"}
    told = []
    for name, value in summary.items():
        if name == "verdict" or not isinstance(value, int | float):
            continue
        label = BY_NAME[name].label if name in BY_NAME else words.get(name, name.replace("_", " "))
        label = label if "(" in label else label[0].lower() + label[1:]
        told.append((label, BY_NAME[name].shown(value) if name in BY_NAME else number(value)))
    return told


def kept_table(stats: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """List what the base model can do besides: label, its figures, the checkpoint's, whether it is kept, and `bad`."""
    table = []
    for one in as_list(as_dict(stats.get("kept")).get("rows")):
        try:
            row = Row(**one)
            answer = {None: "cannot be told", True: "lost", False: "kept"}[row.lost] + (
                f": {row.why}" if row.why else ""
            )
            table.append((row.label, row.shown("base"), row.shown("voice"), answer, "bad" if row.lost else ""))
        except (KeyError, TypeError, ValueError):  # damaged, or of another version
            continue
    return table


def judges_told(stats: dict[str, Any]) -> list[str]:
    """Describe each judge, and how long it took."""
    told = []
    for name, one in as_dict(stats.get("judges")).items():
        if not isinstance(one, dict):
            continue
        if one.get("reason") and not any(one.get(count) for count in ("rated", "kept", "failed")):
            told.append(f"{name}: {one.get('by')} judged nothing: {one['reason']}")
            continue
        line = f"{name}: {one.get('by')}, {shown(one.get('seconds'), 1)} s"
        told.append(line + (f" ({one['failed']} clips not judged: {one.get('reason')})" if one.get("failed") else ""))
    return told


def as_dict(value: Any) -> dict[str, Any]:
    """Return the value if it is a JSON object, else an empty dict."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """Return the value if it is a list, else an empty list."""
    return value if isinstance(value, list) else []


def as_float(value: Any) -> float:
    """Convert a number to float; NaN for anything else (a null in a log was a non-finite value)."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")


def shown(value: Any, digits: int) -> str:
    """Format a number with `digits` digits; a dash for anything else."""
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "–"
