"""Copy folders of object storage, recordings and their texts, to this machine: each file once.

They are named by DATA_DIR, or by lines of DATASETS.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from job.audio import audio_files
from job.config import datasets
from job.config.object_storage import address_of, as_it_stands
from job.config.settings import Settings
from job.core import console, files
from job.core.errors import BadInput
from job.core.threads import in_order
from job.fetch import kaldi, lists, sheets
from job.fetch.listing import HIDDEN, METADATA
from job.fetch.sharded import PACKED_TARS, PARQUET, TAR, UNPACK, WHOLE, Stores
from job.fetch.sharded.local_copies import Copies
from job.fetch.sharded.object_store import Shard

#: Endings of tables.
_TABLES = (".jsonl", ".json", *lists.ENDINGS, *sheets.ENDINGS)
#: Files that are fetched at once: most are small, and the time goes into waiting for each.
AT_ONCE = 8
#: Bytes of the longest name of a file or folder: what most file systems take, less the ending of halves.
_LONGEST = 240


class FolderCopy:
    """The copy of a folder in object storage.

    A file is here if its size and time are the object's. Where a listing has no times (the Hub), the time is made from
    the hash, so that nothing else has to be remembered and a run that was killed goes on where it was.
    """

    def __init__(self, settings: Settings, address: str, stores: Stores) -> None:
        """List the folder, if `stores` has not done so.

        Raises:
            BadInput: it is a single file, there is nothing in it, or it may not be read.
            Unreachable: the storage cannot be reached.
        """
        self.where = f"DATA_DIR={address}"
        #: The folder there, for whoever reads shards in it.
        self.store = store = stores.at(address, self.where)
        listed = store.listing()
        if store.is_one:
            raise BadInput(f"{self.where} is not a folder; a table or a shard goes into TRAIN_JSONL")
        self._files = [replace(one, written=_time(one)) for one in listed if _can_be_here(one.name)]
        if left := [one.name for one in listed if not _can_be_here(one.name)]:
            found = f"{len(left)} hidden or unusable names left out, the first {left[0][:100]!r}"
            console.warn("fetch", f"{self.where}: {found}")
        shards = [one for one in self._files if one.name.lower().endswith((PARQUET, TAR))]
        names = {one.name for one in self._files}
        #: Whether Parquet files or tars in it are read, one by one (`open_address`), and nothing else: not where there
        #: is a table, as in a folder here, nor NeMo's manifest of the tars. A table alone is read so, too.
        has_table = not names.isdisjoint(METADATA) or names >= kaldi.FILES
        self.has_shards = bool(shards) and not has_table and WHOLE not in names
        if has_table:
            self._files = [one for one in self._files if not one.name.lower().endswith((PARQUET, TAR))]
        self._files = _without_markers(self._files)
        if not self._files:
            raise BadInput(f"{self.where}: nothing in it that can be read; give the folder of the recordings")
        if not shards and len(self._files) == 1:
            self.has_shards = self._files[0].name.lower().endswith(_TABLES)
        recordings = sum(bool(audio_files.ending_of(one.name)) for one in self._files)
        if shards and self.has_shards and recordings:
            found = f"shards are read ({shards[0].name}), {recordings} recordings beside them are not"
            console.warn("fetch", f"{self.where}: {found}")
        packed = next((one.name for one in self._files if one.name.lower().endswith(PACKED_TARS)), None)
        if packed and not recordings:
            raise BadInput(f"{self.where}: {packed}: {UNPACK}")
        self.root = _place(settings, address) / store.name
        self._copies = Copies(self.root, store)

    def missing(self) -> list[Shard]:
        """The files that are not here yet, or have changed."""
        return [one for one in self._files if not _is_here(self.root / one.name, one)]

    def fetch(self) -> Path:
        """Fetch what is missing and delete what is gone; returns the folder.

        Raises:
            BadInput: a file cannot be had, or its name is also that of a folder.
            Unreachable: the storage cannot be reached.
        """
        missing = self.missing()
        size = sum(one.size for one in missing) / 1e6
        console.say("fetch", f"{len(self._files)} files, {len(missing)} of them to be fetched ({size:.1f} MB)")
        self._delete_others()
        for _ in console.progress(
            in_order(missing, self._fetch, AT_ONCE, name="files"), stage="fetch", total=len(missing), unit="files"
        ):
            pass
        return self.root

    def _fetch(self, one: Shard) -> None:
        path = self.root / one.name
        try:
            self._copies.fetch(one, path)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise BadInput(f"{self.where}: {one.name} is a file and a folder in it; rename one of them") from None

    def _delete_others(self) -> None:
        """Delete what is not listed: files that are gone, and halves that a kill left."""
        wanted = {one.name for one in self._files}
        for path in _files_below(self.root):
            if path.relative_to(self.root).as_posix() not in wanted:
                path.unlink()
        for folder, _, _ in os.walk(self.root, topdown=False):
            if not any(Path(folder).iterdir()):
                Path(folder).rmdir()


def waits(copy: FolderCopy) -> str | None:
    """What fetch does before the folder can be looked at; None if all of it is here already."""
    missing = [] if copy.has_shards else copy.missing()
    size = sum(one.size for one in missing) / 1e6
    return f"{len(missing)} files ({size:.1f} MB) are fetched first, and looked at then" if missing else None


def folder_in_storage(told: str | None) -> Path | None:
    """The address that a line of DATASETS names, if it is a folder's: neither a pattern nor a table or a shard."""
    address = as_it_stands(address_of(told) or "")
    name = (address or "").rpartition("/")[2].lower()
    if not address or name.endswith((PARQUET, TAR, *PACKED_TARS, *_TABLES)):
        return None
    return Path(address)


def prune(settings: Settings) -> None:
    """Delete copies of folders that are not named any more."""
    lines = datasets.parse(settings.datasets) if settings.datasets else []
    told = [address_of(settings.data_dir), *(address_of(folder_in_storage(line.name)) for line in lines)]
    wanted = {_place(settings, str(one)).name for one in told if one}
    for copy in (settings.paths.raw / "folder").glob("*"):
        if copy.name not in wanted:
            shutil.rmtree(copy, ignore_errors=True)
    with contextlib.suppress(OSError):  # there is none, or something in it
        (settings.paths.raw / "folder").rmdir()


def _place(settings: Settings, address: str) -> Path:
    """Where the copy of a folder lies; its last part is the same for no two addresses."""
    return settings.paths.raw / "folder" / files.digest_bytes(address.encode())[:12]


def _time(one: Shard) -> float:
    """Seconds since 1970 that stand for an object's version."""
    return float(int(one.written) or int(files.digest_bytes(one.version.encode())[:7], 16))


def _is_here(path: Path, one: Shard) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_size == one.size and int(status.st_mtime) == int(one.written)


def _can_be_here(name: str) -> bool:
    """Whether an object's name is that of a file below the folder that is read."""
    parts = name.split("/")
    fits = all(part not in ("", "..") and len(part.encode()) <= _LONGEST for part in parts)
    return fits and not any(part.startswith(HIDDEN) for part in parts) and "\0" not in name


def _without_markers(listed: list[Shard]) -> list[Shard]:
    """Leave out objects without contents that some tools store to stand for a folder of that name."""
    folders = {above.as_posix() for one in listed for above in PurePosixPath(one.name).parents}
    return [one for one in listed if one.size or one.name not in folders]


def _files_below(folder: Path) -> Iterator[Path]:
    for found, _, names in os.walk(folder):
        yield from (Path(found, name) for name in names)
