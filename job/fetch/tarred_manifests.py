"""Read NeMo's tarred data: manifests of JSON lines, and beside them numbered tars with the recordings they name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from job.core import console, storage
from job.core.errors import BadInput
from job.fetch import jsonl, tables
from job.fetch.find import Finder
from job.fetch.sharded import SHARD, WHOLE, tars
from job.fetch.table import Kept, Row, RowError, Table, Unreadable

ENDINGS = (".json", ".jsonl")
#: The key of a row that names its recording.
AUDIO = "audio_filepath"
#: The folder in which NeMo writes a manifest for each tar.
_OF_EACH = "sharded_manifests"
#: Lists of the contents of tars that are kept: manifests go through them one after the other, or at random.
_OPEN = 64
#: Ends the names of further parts of one recording, of which the tar has one file.
_SUB = re.compile(r"-sub\d+$")


def manifests_in(folder: Path, split: str | None = None) -> list[Path]:
    """The manifests of the tars in a folder: that of all of them, or else one for each.

    Args:
        split: leaves out those whose names say that they are of another one (`dev.json`).
    """
    if is_tarred(folder / WHOLE):
        return [folder / WHOLE]
    found = [path for ending in ENDINGS for path in sorted(folder.glob(f"*{ending}")) if is_tarred(path)]
    if split is None:
        return found
    said = {path: set(tables.words_of(path.name)) for path in found}
    mine = [path for path in found if split in said[path]]
    mine = mine or [path for path in found if not said[path] & tables.OTHER_PARTS] or found
    if left := [path.name for path in found if path not in mine]:
        console.say("fetch", f"not read, as of another split: {', '.join(left)} (VALIDATION_JSONL takes one)")
    return mine


def is_tarred(path: Path) -> bool:
    """Whether a file is a manifest of tars that lie beside it. Reads its first lines only."""
    if path.suffix.lower() not in ENDINGS or not _is_file(path):
        return False
    try:
        first = [row.values for row in islice(jsonl.read(path), 10) if isinstance(row, Row)]
    except OSError as error:
        storage.check(error, path)
        return False
    name = first[0].get(AUDIO) if first else None
    if not isinstance(name, str) or _is_file(path.parent / name):
        return False
    numbered = SHARD in first[0] or (path.stem.startswith("manifest") and _number(path) is not None)
    if not numbered or tars_of([path]):
        return numbered
    # Not one tar is there: a wrong path, unless these are recordings that just happen to have such a key.
    finder = Finder()
    return (
        path.name == WHOLE
        or path.parent.name == _OF_EACH
        or all(_only_in_a_tar(values, path, finder) for values in first)
    )


def _is_file(path: Path) -> bool:
    """Whether there is a file; not, too, where the folder may not be read or no disk takes the name."""
    try:
        return path.is_file()
    except (OSError, ValueError) as error:
        storage.check(error, path)
        return False


def _only_in_a_tar(values: Mapping[str, Any], manifest: Path, finder: Finder) -> bool:
    """Whether a row names a tar, and a recording that is neither a path nor found as those of other manifests are."""
    name = values.get(AUDIO)
    if not isinstance(name, str) or name != Path(name).name or not isinstance(values.get(SHARD), int):
        return False
    try:
        return finder.find(name, AUDIO, [manifest.parent, manifest.parent.parent, Path.cwd()]) is None
    except RowError:  # it is there, and says itself what is wrong with it
        return False


def tars_of(manifests: list[Path]) -> list[Path]:
    """The numbered tars beside manifests, or a folder up, where those of single tars lie in one of their own."""
    folder = manifests[0].parent
    found = [path for place in (folder, folder.parent) for path in sorted(place.glob("*.tar"))]
    return [path for path in found if path.parent == found[0].parent and _number(path) is not None]


def open_table(manifests: list[Path], where: str) -> Table:
    """Open manifests and their tars as one table; recordings are read where they lie.

    Raises:
        BadInput: a manifest cannot be read, two tars have one number, or one is missing that rows name.
    """
    numbered: dict[int, Path] = {}
    for path in tars_of(manifests):
        number = _number(path)
        assert number is not None
        if number in numbered:
            raise BadInput(f"{where}: {numbered[number].name} and {path.name} are both tar {number}; move one away")
        numbered[number] = path
    table = jsonl.open_tables(manifests, where)
    numbers = {path.name: _number(path) for path in manifests}
    contents = lru_cache(_OPEN)(lambda path: tars.places(path, where))

    def number_of(row: Row) -> int:
        shard = row.values.get(SHARD, numbers[row.source or manifests[0].name])
        try:
            return int(str(shard))
        except ValueError:
            raise RowError("no tar of this number", f"{SHARD} {str(shard)[:40]!r} is no number") from None

    def placed(row: Row) -> Row:
        name = row.values.get(AUDIO)
        if not isinstance(name, str):
            return row
        tar = numbered[number_of(row)]
        return replace(row, values={**row.values, AUDIO: Kept(_one(contents(tar), name, tar))})

    asked = set()
    for row in table.read():
        if isinstance(row, Row) and isinstance(row.values.get(AUDIO), str):
            with suppress(RowError):  # the row is left out when it is read
                asked.add(number_of(row))
    if gone := sorted(asked - set(numbered)):
        more = f", and {len(gone) - 1} more" if len(gone) > 1 else ""
        folder = next((path.parent for path in numbered.values()), _folder_of_tars(manifests[0]))
        what = f"{_name_of(gone[0], list(numbered.values()))} is missing in {folder}{more}"
        raise BadInput(f"{where}: {what}; put all tars there that the manifest names, or take their rows out of it")

    def read() -> Iterator[Row | Unreadable]:
        for row in table.read():
            try:
                yield placed(row) if isinstance(row, Row) else row
            except RowError as error:
                yield Unreadable(row.number, error, row.source)

    def sample() -> list[Any]:
        return [{name: value for name, value in values.items() if name != AUDIO} for values in table.sample()]

    return replace(table, read=read, sample=sample)


def _one(contents: dict[str, list[Path]], name: str, tar: Path) -> Path:
    """The recording of a name in a tar; NeMo compares names without folders and endings."""
    stem = Path(name).stem
    found = contents.get(stem) or contents.get(_SUB.sub("", stem), [])
    if not found:
        raise RowError("audio is missing", f"no file {name[:200]!r} in {tar.name}")
    if len(found) > 1:
        raise RowError("audio is ambiguous", f"{len(found)} files {stem[:200]!r} in {tar.name}; keep one")
    return found[0]


def _folder_of_tars(manifest: Path) -> Path:
    """The folder in which the tars of a manifest belong."""
    return manifest.parent.parent if manifest.parent.name == _OF_EACH else manifest.parent


def _name_of(number: int, others: list[Path]) -> str:
    """The name that the tar of a number would have, by those of other ones, or else by NeMo's."""
    if not others:
        return f"audio_{number}.tar"
    digits = re.search(r"\d+$", others[0].stem)
    assert digits is not None
    width = len(digits[0]) if digits[0].startswith("0") else 1
    return f"{others[0].stem[: digits.start()]}{number:0{width}d}{others[0].suffix}"


def _number(path: Path) -> int | None:
    """The number at the end of a file's name."""
    found = re.search(r"(\d+)$", path.stem)
    return int(found[1]) if found else None
