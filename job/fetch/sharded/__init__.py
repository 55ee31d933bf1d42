"""Read shards, Parquet files or WebDataset tars, of a folder here or in object storage, one after the other.

An object is fetched once, to `data/raw/shards`: a tar stays as it is, of Parquet the recordings go into a pack and the
other columns into a Parquet file beside it. Both are named by the object's address, size, and time or hash, so that the
next run fetches only what is new or has changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from job.config.object_storage import address_of
from job.config.settings import Settings
from job.core import console, files
from job.core.errors import BadInput
from job.core.threads import ahead
from job.fetch import jsonl, lists, sheets
from job.fetch.sharded import slim, tars
from job.fetch.sharded.local_copies import Copies
from job.fetch.sharded.object_store import ObjectStore, Shard
from job.fetch.table import Row, RowError, Table, Unreadable

PARQUET, TAR = ".parquet", ".tar"
#: NeMo's manifest of all tars beside it, the key of its rows that names a tar, and what is said of them in a bucket.
WHOLE, SHARD = "tarred_audio_manifest.json", "shard_id"
_ITS_FOLDER = f"NeMo's tarred data in a bucket are read by DATA_DIR: the folder with {WHOLE} and the tars"
#: Endings of compressed tars, and what is said of them.
PACKED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
UNPACK = "a compressed tar is not read, since recordings are read where they lie in it; decompress it (gunzip)"
#: Words in names of shards that are of another split than training.
_OTHER = {"dev", "val", "valid", "validation", "eval", "evaluation", "test"}


def open_here(paths: list[Path], where: str) -> Table:
    """Open shards on this machine, all of them tars, all Parquet or all JSONL.

    Raises:
        BadInput: they are neither, or cannot be read.
    """
    if packed := [path.name for path in paths if path.name.lower().endswith(PACKED_TARS)]:
        raise BadInput(f"{where}: {packed[0]}: {UNPACK}")
    if gone := [path for path in paths if not path.is_file()]:
        raise BadInput(f"{where}: {gone[0]} is missing{f', and {len(gone) - 1} more' if len(gone) > 1 else ''}")
    endings = {path.suffix.lower() for path in paths}
    if endings == {PARQUET}:
        return sheets.open_parquet(paths, where)
    if endings == {TAR}:
        return open_tars(paths, where)
    if endings <= {".jsonl", ".json"}:
        return jsonl.open_tables(paths, where)
    raise BadInput(f"{where}: several files that are not all Parquet, tars or JSONL; name one file, or one kind")


def open_tars(paths: list[Path], where: str) -> Table:
    """Open WebDataset tars on this machine as one table; recordings are read where they lie.

    Raises:
        BadInput: the first one is not a tar, is cut off, or has no recordings.
    """

    def read() -> Iterator[Row | Unreadable]:
        for path in paths:
            yield from tars.rows(path, where)

    with open(paths[0], "rb") as file:
        columns, sample = tars.look(file, f"{where}: {paths[0].name}")
    name = paths[0].name if len(paths) == 1 else paths[0].parent.name
    return Table(name, where, columns, read, sample=lambda: sample)


class Stores:
    """The addresses that one source reads. Each is listed once, whoever asks: that takes long, and costs requests."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: dict[str, ObjectStore] = {}

    def at(self, address: str, where: str) -> ObjectStore:
        """What lies at an address, of a folder as it stands (DATA_DIR); `where` names the variable in messages.

        Raises:
            BadInput: it has none of the known forms.
        """
        if address not in self._opened:
            folder = address == address_of(self._settings.data_dir)
            self._opened[address] = ObjectStore(address, where, self._settings, literal=folder)
        return self._opened[address]


def open_address(store: ObjectStore, where: str, settings: Settings, split: str | None) -> Table:
    """Open what lies at an address of object storage: shards, or one JSONL or CSV file.

    Nothing but the beginning of the first shard is read before the table is.

    Args:
        split: which shards are taken where names tell splits apart (`train-00000.parquet`); None takes all.

    Raises:
        BadInput: there is nothing that can be read, or it may not be read.
        Unreachable: the storage cannot be reached.
    """
    listed = store.listing()
    shards = _of_split(listed, split, settings.train_split, where)
    copies = Copies(settings.paths.raw / "shards", store)
    kinds = {PurePosixPath(one.path).suffix.lower() for one in shards}
    name = store.name
    kept = tuple(copies.name_of(one) for one in shards)
    if kinds == {PARQUET}:
        return _parquet(shards, where, store, copies, name, kept)
    if kinds == {TAR}:
        if any(PurePosixPath(one.path).name == WHOLE for one in listed):
            raise BadInput(f"{where}: {_ITS_FOLDER}")
        with store.reported(shards[0]), store.open(shards[0]) as file:
            columns, sample = tars.look(file, f"{where}: {shards[0].name}", tars.HEAD_BYTES)
        found = _reading(shards, copies, lambda path, _: tars.rows(path, where))
        return Table(name, where, columns, found, remote=store.recording, sample=lambda: sample, copies=kept)
    path = copies.whole(shards[0])
    table = _open_text(path, where)
    if SHARD in table.columns:
        raise BadInput(f"{where}: {SHARD}: {_ITS_FOLDER}")
    return replace(table, name=name, folders=[], remote=store.recording, tree=None, copies=kept)


def revision(store: ObjectStore) -> str:
    """What changes when anything at an address does.

    Raises:
        BadInput, Unreachable: as `open_address`.
    """
    listed = [(one.path, one.size, one.version) for one in store.listing()]
    return files.digest_bytes(json.dumps(listed).encode())[:16]


def prune(settings: Settings, used: set[str]) -> None:
    """Delete the copies of shards that are no longer read."""
    directory = settings.paths.raw / "shards"
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.name not in used and path.with_suffix(PARQUET).name not in used:
            path.unlink()


def _of_split(shards: list[Shard], split: str | None, train: str, where: str) -> list[Shard]:
    """The shards of a kind that is read and, where names tell splits apart, of the split."""
    shards = [one for one in shards if not PurePosixPath(one.path).name.startswith("_")]  # marks of whoever wrote them
    for ending in (PARQUET, TAR):
        alike = [one for one in shards if one.path.lower().endswith(ending)]
        if not alike:
            continue
        if split is None:
            return alike
        words = [set(re.split(r"[^a-z0-9]+", one.name.lower())) for one in alike]
        mine = [one for one, said in zip(alike, words, strict=True) if split.lower() in said]
        if not mine and split != train:
            raise BadInput(f"{where}: no shard of the split {split} (its name would have {split} in it)")
        mine = mine or [one for one, said in zip(alike, words, strict=True) if not said & _OTHER] or alike
        if len(mine) < len(alike):
            console.say("fetch", f"{where}: {len(mine)} of {len(alike)} shards are of the split {split}")
        return mine
    if len(shards) == 1 and shards[0].path.lower().endswith((".jsonl", ".json", *lists.ENDINGS, *sheets.ENDINGS)):
        return shards
    raise BadInput(f"{where}: {_unread(shards)}")


def _unread(shards: list[Shard]) -> str:
    """Why none of the objects is read, and what to do."""
    if packed := next((one.name for one in shards if one.path.lower().endswith(PACKED_TARS)), None):
        return f"{packed}: {UNPACK}"
    what = "nothing that is read" if not shards else shards[0].name
    what += f" and {len(shards) - 1} other files" if len(shards) > 1 else ""
    told = "there must be Parquet files, tars, or one JSONL or CSV file"
    return f"{what}; {told}; a folder of recordings and texts goes into DATA_DIR"


def _open_text(path: Path, where: str) -> Table:
    ending = path.suffix.lower()
    if ending in lists.ENDINGS:
        return lists.open_table(path, where)
    return sheets.open_table(path, where) if ending in sheets.ENDINGS else jsonl.open_table(path, where)


def _parquet(
    shards: list[Shard], where: str, store: ObjectStore, copies: Copies, name: str, kept: tuple[str, ...]
) -> Table:
    with store.reported(shards[0]), store.open(shards[0]) as file:
        columns, sample = slim.look(file, f"{where}: {shards[0].name}")

    def rows(path: Path, shard: Shard) -> Iterator[Row | Unreadable]:
        return slim.rows(path, columns, f"{where}: {shard.name}")

    found = _reading(shards, copies, rows)
    return Table(name, where, columns, found, remote=store.recording, sample=lambda: sample, copies=kept)


def _reading(
    shards: list[Shard], copies: Copies, rows: Callable[[Path, Shard], Iterator[Row | Unreadable]]
) -> Callable[[], Iterator[Row | Unreadable]]:
    """Reads shard after shard, and fetches one meanwhile."""

    def read() -> Iterator[Row | Unreadable]:
        copies.announce(shards)
        stopped: list[Any] = []
        fetched = ((copies.of(one), one) for one in shards if not stopped)
        for path, shard in ahead(fetched, lambda: stopped.append(True), name="shards"):
            for row in rows(path, shard):
                if isinstance(row, Row):
                    yield replace(row, source=shard.name)
                else:
                    yield Unreadable(row.number, RowError(row.error.kind, row.error.detail), shard.name)

    return read
