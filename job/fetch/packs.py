"""Store recordings that come as bytes in a few large files, each recording once, with an index.

    <directory>/index.sqlite     digest of a recording -> which pack it is in, and where
    <directory>/00001.pack       recordings, one after the other

A pack is only appended to, by the run that began it, and the index is written after what it names is on disk.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path
from typing import IO

from job.core import files
from job.core.inside import PACK, Place

INDEX = "index.sqlite"
#: A pack of this many bytes is finished, and the next one begun.
PACK_BYTES = 256 << 20
#: The index is written after so many new recordings.
BATCH = 2000
#: A pack of which a run used less than this share is written anew by the next run.
WORTH_KEEPING = 0.5

_TABLES = """
create table if not exists clips (name text primary key, pack integer, start integer, size integer, run integer);
create table if not exists runs (run integer);
"""


def name_of(data: bytes, ending: str) -> str:
    """Name of a recording in a pack, by its contents."""
    return f"{files.digest_bytes(data)[:32]}{ending}"


def write_all(file: IO[bytes], data: bytes) -> None:
    """Write to an unbuffered file, which may take less than all at once."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


class Packs:
    """The packs of a directory; made when the first recording is stored. For one process at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._index: sqlite3.Connection | None = None
        self._pack: IO[bytes] | None = None
        self._number = 0
        self._run = 0
        self._new = 0
        self._lock = threading.Lock()

    def put(self, data: bytes, name: str) -> Path:
        """Store a recording, unless it is there; returns its path, a place in a pack."""
        with self._lock:
            return self._put(data, name)

    def _put(self, data: bytes, name: str) -> Path:
        index = self._opened()
        found = index.execute("select pack, start, size, run from clips where name = ?", (name,)).fetchone()
        if found is not None and self._is_there(*found[:3]):
            if found[3] != self._run:
                index.execute("update clips set run = ? where name = ?", (self._run, name))
            return Place(self._path(found[0]), found[1], found[2], name).path()
        pack = self._current()
        start = pack.tell()
        path = self._path(self._number)
        with files.named_errors(path):
            write_all(pack, data)
        place = Place(path, start, len(data), name)
        row = (name, self._number, start, len(data), self._run)
        index.execute("insert or replace into clips values (?, ?, ?, ?, ?)", row)
        self._new += 1
        if self._new >= BATCH:
            self.flush()
        return place.path()

    def flush(self) -> None:
        """Write pack and index to the disk, in this order."""
        if self._pack is not None:
            with files.named_errors(self._path(self._number)):
                os.fsync(self._pack.fileno())
        if self._index is not None:
            self._index.commit()
        self._new = 0

    def prune(self) -> None:
        """Delete what was not asked for since this was opened, and so belongs to another source."""
        if self._index is None and not self._directory.is_dir():
            return
        index = self._opened()
        index.execute("delete from clips where run != ?", (self._run,))
        self.flush()
        used = {number for (number,) in index.execute("select distinct pack from clips")}
        kept = {self._path(number) for number in used}
        if self._pack is not None:
            self._pack.close()
            self._pack = None
        index.close()
        self._index = None
        for path in self._directory.iterdir():
            if path.is_file() and path not in kept and not (kept and path.name.startswith(INDEX)):
                path.unlink()

    def _opened(self) -> sqlite3.Connection:
        """The index; an unreadable one is made anew, and so are the packs."""
        if self._index is not None:
            return self._index
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / INDEX
        try:
            self._index = _connect(path)
        except sqlite3.DatabaseError:
            for old in self._directory.glob(f"{INDEX}*"):
                old.unlink()
            self._index = _connect(path)
        index = self._index
        self._run = 1 + (index.execute("select max(run) from runs").fetchone()[0] or 0)
        index.execute("insert into runs values (?)", (self._run,))
        self._forget_wasteful(index)
        index.commit()
        return index

    def _forget_wasteful(self, index: sqlite3.Connection) -> None:
        """Forget the packs that hold little of what the last run used: what is needed of them is stored anew."""
        used = index.execute("select pack, sum(size) from clips group by pack").fetchall()
        for number, size in used:
            path = self._path(number)
            if not path.is_file() or size < WORTH_KEEPING * path.stat().st_size:
                index.execute("delete from clips where pack = ?", (number,))

    def _is_there(self, number: int, start: int, size: int) -> bool:
        try:
            return self._path(number).stat().st_size >= start + size
        except OSError:
            return False

    def _current(self) -> IO[bytes]:
        """The pack that is appended to, at its end."""
        if self._pack is not None and self._pack.tell() < PACK_BYTES:
            return self._pack
        if self._pack is not None:
            self.flush()
            self._pack.close()
        # A new one in each run: an old manifest still names places in the old ones, of which nothing may change.
        taken = [int(path.stem) for path in self._directory.glob(f"*{PACK}") if path.stem.isdigit()]
        self._number = max(taken, default=0) + 1
        self._pack = open(self._path(self._number), "wb", buffering=0)  # noqa: SIM115 - closed when it is full, or by prune
        return self._pack

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:05d}{PACK}"


def _connect(path: Path) -> sqlite3.Connection:
    # The job holds a lock on the work directory; SQLite's own need what some network file systems lack.
    index = sqlite3.connect(f"file:{path}?nolock=1", uri=True, check_same_thread=False)
    index.executescript(_TABLES)
    return index
