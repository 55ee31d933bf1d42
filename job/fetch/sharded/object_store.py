"""List, open and fetch the objects at an address: in a bucket through pyarrow, on the Hub through its client."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from glob import has_magic
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import IO, Any

from job.config.object_storage import NO_KEYS, as_it_stands, holds_keys
from job.config.settings import Settings, environment
from job.core import buckets
from job.core.errors import BadInput, JobError, Unreachable, causes, is_outage, status_of
from job.core.redact import one_line
from job.fetch.table import RowError

_BUCKET = re.compile(r"(s3|gs)://([a-z0-9][a-z0-9._-]+(?:/.*)?)")
_HUB = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.*))?")
_FORMS = "use s3://bucket/path, gs://bucket/path or hf://datasets/owner/name/path"
#: Bytes that are in memory of an object that is fetched, and those of a recording beside a table at most.
_CHUNK, _MOST = 8 << 20, 1 << 30
_MISSING = re.compile(
    r"NoSuchBucket|NO_SUCH_BUCKET|NoSuchKey|Path does not exist|No such file|404|NOT_FOUND|not found", re.IGNORECASE
)
_REFUSED = re.compile(
    r"ACCESS_DENIED|AccessDenied|HTTP status: 40[13]|INVALID_ACCESS_KEY|SignatureDoesNotMatch|PERMISSION", re.IGNORECASE
)


@dataclass(frozen=True)
class Shard:
    """An object.

    Attributes:
        path: as its store names it.
        name: its path below the folder of the address.
        size: bytes.
        version: what changes with its contents, as far as the listing tells: a hash, or the time it was written.
        sha256: of its contents, where the listing has it.
        written: seconds since 1970; 0 where the listing has none.
    """

    path: str
    name: str
    size: int
    version: str
    sha256: str | None = None
    written: float = 0.0


class ObjectStore:
    """What lies at an address: an object, those below a folder, or those that a pattern names."""

    def __init__(self, address: str, where: str, settings: Settings, literal: bool = False) -> None:
        """List nothing yet.

        Args:
            where: names the variable in messages.
            literal: whether the address is no pattern, whatever signs are in it.

        Raises:
            BadInput: the address has none of the known forms.
        """
        self._where, self._settings = where, settings
        bucket, hub = _BUCKET.fullmatch(address), _HUB.fullmatch(address)
        if bucket is None and hub is None:
            variable = where.split("=")[0]
            if holds_keys(address):
                raise BadInput(f"{variable}: {NO_KEYS}; {_FORMS}")
            raise BadInput(f"{variable}={address[:100]}: {_FORMS}")
        self._scheme = bucket[1] if bucket else "hf"
        root = (bucket[2] if bucket else (hub[3] or "" if hub else "")).rstrip("/")
        names = [part if literal else as_it_stands(part) for part in root.split("/")]
        self._repo: str = hub[1] if hub else ""
        self._asked: str | None = hub[2] if hub else None
        plain = list(takewhile(lambda name: name is not None, names))
        self._folder = "/".join(str(name) for name in plain)
        self._pattern = root if len(plain) < len(names) else None
        taken = literal and has_magic(root)
        self._literal = "; a pattern of shards goes into TRAIN_JSONL, DATA_DIR names a folder" if taken else ""
        #: Whether it is a single object, once they are listed.
        self.is_one = False
        self.name = (plain[-1] if plain else "") or self._repo.rpartition("/")[2] or "shards"
        self._found: list[Shard] | None = None

    @cached_property
    def _files(self) -> Any:
        if self._scheme == "hf":
            from huggingface_hub import HfApi

            return HfApi(token=self._settings.token)
        return buckets.opened(self._scheme, self._folder.split("/")[0], environment())

    @cached_property
    def _revision(self) -> str | None:
        """One commit for the whole run, even if another one is pushed meanwhile."""
        asked = self._asked or self._settings.dataset_revision
        return str(self._files.dataset_info(self._repo, revision=asked, timeout=30.0).sha or asked)

    def listing(self) -> list[Shard]:
        """The objects that the address names, sorted by name; the storage is asked once.

        Raises:
            BadInput: there are none, or they may not be listed.
            Unreachable: the storage cannot be reached.
        """
        if self._found is not None:
            return self._found
        with self.reported():
            found = self._listed_hub() if self._scheme == "hf" else self._listed()
        if self._pattern is not None:
            found = [one for one in found if fnmatchcase(one.path, self._pattern)]
        self.is_one = len(found) == 1 and found[0].path == self._folder
        if not found:
            raise BadInput(f"{self._where}: {self._nothing}")
        self._found = sorted(found, key=lambda one: one.name)
        return self._found

    @property
    def _nothing(self) -> str:
        """What is said where there is nothing."""
        if self._pattern is None:
            return f"there is no such object, and nothing in a folder of that name{self._literal}"
        return "there is no object that the pattern names; a [, * or ? of a name itself is written [[], [*] or [?]"

    def _listed(self) -> list[Shard]:
        from pyarrow.fs import FileSelector

        info = self._files.get_file_info(self._folder)
        found = [info] if info.is_file else self._files.get_file_info(FileSelector(self._folder, recursive=True))
        return [
            Shard(one.path, self._below(one.path), int(one.size), str(one.mtime_ns), None, (one.mtime_ns or 0) / 1e9)
            for one in found
            if one.is_file and not one.base_name.startswith(".")
        ]

    def _listed_hub(self) -> list[Shard]:
        found = self._files.list_repo_tree(
            self._repo, recursive=True, revision=self._revision, repo_type="dataset", token=self._settings.token
        )
        shards = []
        for one in found:
            inside = not self._folder or one.path == self._folder or one.path.startswith(f"{self._folder}/")
            if inside and hasattr(one, "blob_id") and not PurePosixPath(one.path).name.startswith("."):
                sha256 = one.lfs.sha256 if one.lfs else None
                shards.append(Shard(one.path, self._below(one.path), int(one.size), sha256 or one.blob_id, sha256))
        return [one for one in shards if not one.path.endswith(".md")] or shards

    def _below(self, path: str) -> str:
        return path.removeprefix(f"{self._folder}/") if path != self._folder else path.rpartition("/")[2]

    def open(self, shard: Shard) -> IO[bytes]:
        """Open an object to read parts of it."""
        if self._scheme == "hf":
            from huggingface_hub import HfFileSystem

            system = HfFileSystem(token=self._settings.token)
            return system.open(f"datasets/{self._repo}@{self._revision}/{shard.path}", "rb")  # type: ignore[no-any-return]
        return self._files.open_input_file(shard.path)  # type: ignore[no-any-return]

    def fetch(self, shard: Shard, into: Path) -> None:
        """Copy an object to a file.

        Raises:
            BadInput, Unreachable: it is not there any more, or the storage cannot be reached.
        """
        with self.reported(shard), open(into, "wb") as target:
            if self._scheme == "hf":
                with self.open(shard) as source:
                    shutil.copyfileobj(source, target, _CHUNK)
            else:
                with self._files.open_input_stream(shard.path, compression=None) as source:
                    shutil.copyfileobj(source, target, _CHUNK)

    def recording(self, name: str) -> bytes:
        """Read the recording that a row names by its path beside the table.

        Raises:
            RowError: it is not there, or lies elsewhere: rows do not decide what is read with the run's rights.
        """
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if "://" in name or name.startswith("/") or ".." in parts:
            raise RowError("audio is missing", f"{name[:200]!r} is not below the folder of the table")
        root = self._folder.rpartition("/")[0] if self.is_one else self._folder
        path = "/".join([*([root] if root else []), *(part for part in parts if part != ".")])
        try:
            with self.open(Shard(path, name, 0, "")) as file:
                return bytes(file.read(_MOST))
        except Exception as error:
            if isinstance(error, FileNotFoundError) or _MISSING.search(str(error)) or status_of(causes(error)) == 404:
                raise RowError("audio is missing", f"{name[:200]!r} is not beside the table") from None
            with self.reported():
                raise

    @contextmanager
    def reported(self, shard: Shard | None = None) -> Iterator[None]:
        """Turn a failure of a client into one line that names the variable, without keys."""
        try:
            yield
        except JobError:
            raise
        except Exception as error:
            chain = causes(error)
            if any(getattr(one, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for one in chain):
                raise
            raise self._explained(error, "" if shard is None else f": {shard.name}") from None

    def _explained(self, error: Exception, what: str) -> JobError:
        said, status = one_line(error, self._settings.secrets), status_of(causes(error))
        where = f"{self._where}{what}"
        if self._scheme == "hf":
            keys = "HF_TOKEN"
            lost = is_outage(error)
        else:
            keys = (
                "the keys (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)" if self._scheme == "s3" else "the credentials"
            )
            lost = buckets.may_pass(error)
        if self._scheme == "gs" and buckets.lacks_credentials(error, environment()):
            return BadInput(f"{where}: {buckets.NO_CREDENTIALS}")
        if lost:
            other = self._scheme == "s3" and any(name.startswith("AWS_ENDPOINT_URL") for name in environment())
            todo = f"check the network{' and AWS_ENDPOINT_URL (http:// or https://)' if other else ''} and run it again"
            return Unreachable(f"{where}: the storage cannot be reached: {said}; {todo}")
        if status in (401, 403) or _REFUSED.search(str(error)):
            return BadInput(f"{where}: reading is refused; check {keys} and their rights")
        if isinstance(error, FileNotFoundError) or status == 404 or _MISSING.search(str(error)):
            missing = "no such bucket, repo or path, or no access to it"
            return BadInput(f"{where}: {missing}; check the address and {keys}{self._literal}")
        return BadInput(f"{where} cannot be read: {said}")
