"""Copies on this machine of the objects that a run reads, each made once."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from job.core import attempts, console, files
from job.core.errors import Unreachable
from job.core.inside import PACK
from job.fetch.sharded import slim
from job.fetch.sharded.object_store import ObjectStore, Shard

#: How often an object is asked for that does not arrive whole, and seconds before the second time.
ATTEMPTS, WAIT = 4, 2.0


class Copies:
    """The copies of one address's objects in a directory."""

    def __init__(self, directory: Path, store: ObjectStore) -> None:
        self._directory, self._store = directory, store
        self._said = False

    def name_of(self, shard: Shard) -> str:
        """Name of an object's copy: what it is of, and its own name to know it by."""
        digest = files.digest_bytes(repr((shard.path, shard.size, shard.version)).encode())[:16]
        return f"{digest}-{re.sub(r'[^A-Za-z0-9._-]', '_', PurePosixPath(shard.path).name)[-100:]}"

    def announce(self, shards: list[Shard]) -> None:
        """Log once how many objects there are, and how many of them are new."""
        new = [one for one in shards if not (self._directory / self.name_of(one)).is_file()]
        if not self._said:
            size = sum(one.size for one in new) / 1e6
            console.say("fetch", f"{len(shards)} shards, {len(new)} of them to be fetched ({size:.1f} MB)")
        self._said = True

    def of(self, shard: Shard) -> Path:
        """The copy of a shard; of Parquet, the columns without the recordings, which are in the pack beside it."""
        path = self._directory / self.name_of(shard)
        if path.suffix.lower() != ".parquet":
            return self.whole(shard)
        if not (path.is_file() and path.with_suffix(PACK).is_file()):
            fetched = path.with_suffix(".fetched")
            self.fetch(shard, fetched)
            with self._store.reported(shard):
                slim.convert(fetched, path)
            fetched.unlink()
        return path

    def whole(self, shard: Shard) -> Path:
        """The copy of an object as it is."""
        path = self._directory / self.name_of(shard)
        if not (path.is_file() and path.stat().st_size == shard.size):
            self.fetch(shard, path)
        return path

    def fetch(self, shard: Shard, path: Path) -> None:
        """Fetch an object to a file, and check that it is whole.

        Raises:
            BadInput, Unreachable: it cannot be had.
        """
        path.parent.mkdir(parents=True, exist_ok=True)

        def arrive() -> None:
            files.write_with(path, lambda temporary: self._arrive(shard, temporary))

        attempts.repeated(arrive, ATTEMPTS, WAIT, "fetch", lambda e: str(e) if isinstance(e, Unreachable) else None)

    def _arrive(self, shard: Shard, path: Path) -> None:
        self._store.fetch(shard, path)
        size = path.stat().st_size
        if size != shard.size:
            raise Unreachable(f"{shard.name} has not arrived whole ({size} of {shard.size} bytes); run it again")
        if shard.sha256 is not None and files.digest_file(path) != shard.sha256:
            raise Unreachable(f"{shard.name} has arrived with other contents than its listing says; run it again")
        if shard.written:  # so that a copy that is made again is no other recording to prepare
            os.utime(path, (shard.written, shard.written))
