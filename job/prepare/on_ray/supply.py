"""Files of the machine that the job runs on, for workers on machines that do not share its disk."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from job.core import files

#: Path, size and modification time, as `files.stamp` returns them.
Stamp = tuple[str, int, int]
#: Bytes sent in one piece.
PIECE = 16 << 20
#: Bytes of copies that a worker keeps, since many rows may be parts of one recording.
KEPT_BYTES = 2 << 30


class Supplier:
    """Actor of Ray on the job's machine that reads its files for the others."""

    def read(self, path: str, start: int) -> bytes | None:
        """At most `PIECE` bytes of a file, from `start` on; None if it cannot be read."""
        try:
            with open(path, "rb") as file:
                file.seek(start)
                return file.read(PIECE)
        except OSError:
            return None


class Files:
    """The job's files as one worker sees them: in their place where that has the same file, else copied."""

    def __init__(self, read: Callable[[str, int], bytes | None]) -> None:
        """`read` is the supplier's."""
        self._read = read
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._copies: OrderedDict[Stamp, Path] = OrderedDict()
        self._made = 0

    def trim(self) -> None:
        """Delete the copies used longest ago, down to `KEPT_BYTES`. No file may be in use."""
        total = sum(stamp[1] for stamp in self._copies)
        while total > KEPT_BYTES:
            stamp, path = self._copies.popitem(last=False)
            path.unlink(missing_ok=True)
            total -= stamp[1]

    def find(self, stamp: Stamp) -> Path:
        """Where a file of the job is on this machine. A file that the job cannot read itself is nowhere."""
        if files.stamp(Path(stamp[0])) == stamp:
            return Path(stamp[0])
        if stamp not in self._copies:
            self._copies[stamp] = self._copy(stamp[0])
        self._copies.move_to_end(stamp)
        return self._copies[stamp]

    def _copy(self, path: str) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="recordings-")
        self._made += 1
        copy = Path(self._folder.name) / str(self._made) / Path(path).name  # by its own name: the ending matters
        copy.parent.mkdir()
        start = 0
        while piece := self._read(path, start):
            with open(copy, "ab") as file:
                file.write(piece)
            start += len(piece)
        if piece is not None:
            copy.touch()
        else:
            copy.unlink(missing_ok=True)
        return copy


def files_here(supplier: Any) -> Files:
    """`Files` of this process, which are the same ones at each call."""
    global _files
    if _files is None:
        import ray

        _files = Files(lambda path, start: ray.get(supplier.read.remote(path, start)))
    return _files


_files: Files | None = None
