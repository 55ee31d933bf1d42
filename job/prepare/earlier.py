"""Take over what an earlier run encoded of a row that now lies in another place of the manifest.

Shards hold consecutive lines, so a row that is added, removed or changed changes its shard and those behind it. The
shards as they were are kept beside the new ones while those are written (hard links, no bytes), and rows are found by a
key: a hash of everything that their codes and figures depend on.
"""

from __future__ import annotations

import os
import shutil
import threading
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa

from job.core import files
from job.prepare.manifest_rows import Row

#: Bytes of a row's key.
KEY_BYTES = 16
#: Tables of shards that are open at once.
_OPEN = 8


def key_of(identity: str, row: Row, recording: tuple[str, int, int] | None) -> bytes:
    """The key of a row; zeros for one that came with codes, of which nothing is worth taking over.

    Args:
        identity: what its codes depend on besides: settings and the codec's weights.
        recording: its recording's `files.stamp`.
    """
    if recording is None or row.codes is not None:
        return bytes(KEY_BYTES)
    about = repr((identity, row.text, row.language, recording, row.start, row.end))
    return blake2b(about.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


class Earlier:
    """The shards of earlier runs in `directory`, of which rows are taken over; safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._index: _Index | None = None
        self._table = lru_cache(_OPEN)(self._read)

    def keep(self, shards: Path) -> None:
        """Link the finished shards of the directory `shards`, before any of them is replaced."""
        for note in shards.glob("*.json"):
            path = note.with_suffix(".arrow")
            try:
                name = str(files.read_json(note)["sha256"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            self._directory.mkdir(exist_ok=True)
            for file, link in ((path, f"{name}.arrow"), (note, f"{name}.json")):
                self._link(file, self._directory / link)

    def drop(self) -> None:
        """Delete them: all rows are in new shards."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def find(self, key: bytes) -> pa.Table | None:
        """The row with this key as a table of one row; None if there is none, or if it was rejected."""
        if not any(key):
            return None
        with self._lock:
            if self._index is None:
                self._index = _Index(self._directory)
        for name, line in self._index.places(key):
            table = self._table(name)
            if table is not None and line < len(table) and not table["reason"][line].is_valid:
                return table.slice(line, 1)
        return None

    def _read(self, name: str) -> pa.Table | None:
        path = self._directory / f"{name}.arrow"
        try:
            if files.digest_file(path) != name:
                return None
            with pa.memory_map(str(path)) as source:
                return pa.ipc.open_file(source).read_all()
        except (OSError, pa.ArrowInvalid):
            return None

    @staticmethod
    def _link(file: Path, link: Path) -> None:
        try:
            os.link(file, link)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links, or a shard without its file
            if file.is_file():
                files.write_with(link, lambda temporary: shutil.copyfile(file, temporary))


class _Index:
    """Where each key is: a few bytes a row, sorted."""

    def __init__(self, directory: Path) -> None:
        self._names: list[str] = []
        found: list[np.ndarray] = []
        lines: list[np.ndarray] = []
        for note in sorted(directory.glob("*.json")):
            try:
                keys = bytes.fromhex(files.read_json(note)["keys"])
            except (OSError, ValueError, KeyError, TypeError):  # written before there were keys
                continue
            halves = np.frombuffer(keys, np.uint64).reshape(-1, 2)
            place = np.empty((len(halves), 2), np.int32)
            place[:, 0], place[:, 1] = len(self._names), np.arange(len(halves))
            self._names.append(note.stem)
            found.append(halves)
            lines.append(place)
        halves = np.concatenate([np.zeros((0, 2), np.uint64), *found])
        order = np.argsort(halves[:, 0], kind="stable")
        self._halves = halves[order]
        self._places = np.concatenate([np.zeros((0, 2), np.int32), *lines])[order]

    def places(self, key: bytes) -> list[tuple[str, int]]:
        """Names of shards, and lines in them, that have this key."""
        first, second = np.frombuffer(key, np.uint64)
        begin, end = np.searchsorted(self._halves[:, 0], first), np.searchsorted(self._halves[:, 0], first, "right")
        hits = begin + np.flatnonzero(self._halves[begin:end, 1] == second)
        return [(self._names[self._places[at, 0]], int(self._places[at, 1])) for at in hits]
