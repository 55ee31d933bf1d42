"""Read WebDataset tars: `a.flac` and `a.txt` or `a.json` side by side are a row. Recordings are read where they lie."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from job.audio.audio_files import SOUNDS
from job.core import storage
from job.core.errors import BadInput
from job.core.inside import Place
from job.fetch.table import SAMPLE_ROWS, Kept, Row, RowError, Unreadable

#: Bytes at the beginning of a shard in storage from which its columns are told.
HEAD_BYTES = 8 << 20
#: Endings of texts, and the most bytes of a text or of a description.
_TEXTS, _MOST = (".txt", ".text", ".transcript", ".lab"), 1 << 20


def look(file: IO[bytes], where: str, most: int | None = None) -> tuple[list[str], list[Mapping[str, Any]]]:
    """Read a shard's columns, and a sample of its rows without the recordings; with `most`, from so many first bytes.

    Raises:
        BadInput: it is no tar, is cut off, or has no recordings.
    """
    columns: dict[str, None] = {}
    sample: list[Mapping[str, Any]] = []
    source = file if most is None else io.BytesIO(file.read(most))
    whole = most is None or source.getbuffer().nbytes < most  # type: ignore[attr-defined]
    try:
        for row in _groups(source, Path("shard.tar"), whole):
            if isinstance(row, Row):
                columns.update(dict.fromkeys(row.values))
                sample.append(
                    {name: value for name, value in row.values.items() if isinstance(value, str | int | float)}
                )
            if len(sample) == SAMPLE_ROWS:
                break
    except tarfile.TarError as error:
        raise _broken(where, error) from None
    if "audio" not in columns:
        raise BadInput(f"{where}: no recordings in it ({', '.join(SOUNDS[:4])} …)")
    return list(columns), sample


def rows(path: Path, where: str) -> Iterator[Row | Unreadable]:
    """Read the rows of a tar on this machine.

    Raises:
        BadInput: it is no tar, or is cut off.
    """
    try:
        with open(path, "rb") as file:
            for row in _groups(file, path, True):
                yield row if isinstance(row, Row) else Unreadable(row.number, row.error, path.name)
    except tarfile.TarError as error:
        raise _broken(f"{where}: {path.name}", error) from None


def places(path: Path, where: str) -> dict[str, list[Path]]:
    """Where the recordings of a tar on this machine are, by the last part of their name without its ending.

    Raises:
        BadInput: it cannot be read, is no tar, or is cut off.
    """
    found: dict[str, list[Path]] = {}
    try:
        with open(path, "rb") as file:
            for member, size in _members(file, True):
                name = PurePosixPath(member.name)
                if name.suffix.lower() in SOUNDS:
                    found.setdefault(name.stem, []).append(Place(path, member.offset_data, size, name.name).path())
    except tarfile.TarError as error:
        raise _broken(f"{where}: {path.name}", error) from None
    except OSError as error:
        storage.check(error, path)
        raise BadInput(f"{where}: {path}: {error.strerror}") from None
    return found


def _broken(where: str, error: Exception) -> BadInput:
    return BadInput(f"{where} is no tar, or is cut off ({error}); write it again (a .tar.gz is not read: unpack it)")


def _groups(file: IO[bytes], path: Path, whole: bool) -> Iterator[Row | Unreadable]:
    """Yield the members of one key as a row; with `whole`, the tar's end must be there.

    Raises:
        tarfile.TarError: it is no tar, or is cut off.
    """
    number, key = 0, ""
    found: dict[str, Any] = {}
    fault: RowError | None = None
    for member, size in _members(file, whole):
        name, ending = _parted(member.name)
        if name != key:
            if found or fault:
                number += 1
                yield _row(number, path.name, key, found, fault)
            key, found, fault = name, {}, None
        if ending in SOUNDS:
            label = PurePosixPath(member.name).name
            if "audio" in found:
                fault = RowError("several recordings of one name", f"{name}: {label}; keep one")
            found["audio"] = Kept(Place(path, member.offset_data, size, label).path())
        elif ending in _TEXTS or ending == ".json":
            if size > _MOST:
                fault = RowError("a text is too long", f"{member.name}: {size} bytes")
                continue
            file.seek(member.offset_data)
            try:
                found |= _described(file.read(size), ending, found)
            except ValueError as error:
                fault = RowError("not JSON" if ending == ".json" else "not UTF-8", f"{member.name}: {error}")
    if (found or fault) and whole:
        yield _row(number + 1, path.name, key, found, fault)


def _row(number: int, shard: str, key: str, found: dict[str, Any], fault: RowError | None) -> Row | Unreadable:
    if fault is None and "audio" not in found:
        fault = RowError("no recording", f"{key}: a text without a recording of its name beside it")
    if fault is not None:
        return Unreadable(number, fault, shard)
    return Row(number, {**found, "__key__": key}, shard)


def _described(data: bytes, ending: str, found: dict[str, Any]) -> dict[str, Any]:
    """What a member says of its row; the text of a file of its own counts more than that of a description."""
    if ending != ".json":
        return {"text": data.decode("utf-8-sig").strip() or None}
    value = json.loads(data.decode("utf-8-sig"))
    if not isinstance(value, dict):
        return {} if "text" in found or not isinstance(value, str) else {"text": value}
    return {name: one for name, one in value.items() if name not in found and name != "audio"}


def _parted(name: str) -> tuple[str, str]:
    """Key and ending of a member: up to the first dot of its name, and from the last one on."""
    folder, _, base = name.removeprefix("./").rpartition("/")
    key, ending = base.split(".", 1)[0], PurePosixPath(base).suffix.lower()
    return (f"{folder}/{key}" if folder else key), ending


def _members(file: IO[bytes], whole: bool) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Yield the files of a tar, which stays open."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # or all of a shard's would be kept in memory
                if member.isreg() and not member.issparse():
                    yield member, member.size
            end = tar.offset  # type: ignore[attr-defined]
        file.seek(end)
        if whole and not file.read(1):
            raise tarfile.ReadError("unexpected end of data")
    except tarfile.TarError:
        if whole:
            raise
