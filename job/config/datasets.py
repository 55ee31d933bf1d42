"""Read the value of DATASETS: several sources of one run, one a line, each with its share and its limits."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

from job.config.object_storage import NO_KEYS, address_of, holds_keys, shards_here
from job.core.errors import BadInput

#: `owner/name:config@revision#split`, of which the first is required.
_HUB = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+|[\w-]+)(?::(?P<config>[\w.+-]+))?(?:@(?P<revision>[\w./+-]+))?(?:#(?P<split>\S+))?"
)
_OPTION = re.compile(r"\s+([A-Za-z_]+)=(\S*)$")
_COMMENT = re.compile(r"(^|\s)#.*$")
#: Ends of names that are files, so that a file that is not there is not looked for on the Hub.
_FILES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".list", ".psv", ".parquet", ".tar")


@dataclass(frozen=True)
class Entry:
    """One source.

    Attributes:
        text: as it was written, without its options.
        path: its file or folder; None if it is on the Hub.
        name, config, revision, split: of a Hub dataset; `split` also of a folder.
        weight: rows taken from it in proportion to the other sources.
        hours, rows: use at most so much of it.
    """

    text: str
    path: Path | None = None
    name: str | None = None
    config: str | None = None
    revision: str | None = None
    split: str | None = None
    weight: float = 1.0
    hours: float | None = None
    rows: int | None = None


def parse(value: str) -> list[Entry]:
    """Read the entries of DATASETS, which are separated by line breaks or `|`.

    Raises:
        BadInput: an entry is malformed, its path does not exist, or it is there twice; all of those are named.
    """
    entries: list[Entry] = []
    problems = []
    for number, line in enumerate(re.split(r"[\n|]", value), start=1):
        told = _COMMENT.sub("", line).strip()
        if not told:
            continue
        if holds_keys(told):
            problems.append(f"entry {number}: {NO_KEYS}")
            continue
        try:
            entry = _entry(told)
            if any(entry.text == other.text for other in entries):
                raise ValueError("it is there twice; weight= takes more of its rows")
            entries.append(entry)
        except ValueError as error:
            problems.append(f"entry {number} ({told[:80]}): {error}")
    if problems:
        raise BadInput(f"DATASETS: {'; '.join(problems)}")
    if not entries:
        raise BadInput("DATASETS names no dataset; write one a line: owner/name, or the path of a file or folder")
    return entries


def _entry(told: str) -> Entry:
    options: dict[str, float] = {}
    while (found := _OPTION.search(told)) is not None:
        name, number = found[1].lower(), found[2]
        if name not in ("weight", "hours", "rows"):
            raise ValueError(f"{found[1]}= is unknown; there are weight=, hours= and rows=")
        options[name] = _number(name, number)
        told = told[: found.start()]
    return replace(
        _place(told),
        weight=options.get("weight", 1.0),
        hours=options.get("hours"),
        rows=int(options["rows"]) if "rows" in options else None,
    )


def _place(told: str) -> Entry:
    """Read where an entry's data is."""
    local, split = told, None
    if not Path(local).expanduser().exists() and "#" in local:
        local, _, split = local.rpartition("#")
    path = Path(local).expanduser()
    if path.is_file() and split:
        raise ValueError("a file has no splits")
    if path.exists() or shards_here(told):
        return Entry(told, path=path if path.exists() else Path(told), split=split)
    if address_of(told):
        return Entry(told, name=told)
    if local.startswith((".", "/", "~")) or local.lower().endswith(_FILES):
        raise ValueError("no such file or folder")
    hub = _HUB.fullmatch(told)
    if hub is None:
        raise ValueError("neither a file or folder here nor owner/name[:config][@revision][#split]")
    return Entry(told, None, hub["name"], hub["config"], hub["revision"], hub["split"])


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0) or (name == "rows" and not number.is_integer()):
        raise ValueError(f"{name}={value}: must be a {'whole ' if name == 'rows' else ''}number above 0")
    return number
