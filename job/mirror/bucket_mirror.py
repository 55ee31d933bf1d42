"""A mirror in a bucket, S3's (or one that speaks its protocol) or Google's, through pyarrow."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from job.config.settings import Settings, environment
from job.core import buckets, threads
from job.core.errors import BadInput, Unreachable
from job.core.redact import one_line

#: Bytes that are in memory of a file that is sent or received.
CHUNK = 8 << 20
#: Files that are received at once.
AT_ONCE = 4


class BucketMirror:
    """Files below a path of a bucket. An object that was cut off has another size than its manifest says."""

    def __init__(self, scheme: str, root: str, settings: Settings) -> None:
        """`root` is `bucket/path`; keys come from the environment, as the providers' own tools read them."""
        self._address = f"{scheme}://{root}"
        self._scheme, self._root = scheme, root.rstrip("/")
        self._settings = settings
        self._opened: Any = None

    @property
    def _files(self) -> Any:
        """The file system, opened when it is first needed, since that may ask the network."""
        if self._opened is None:
            self._opened = buckets.opened(self._scheme, self._root.split("/")[0], environment())
        return self._opened

    def listing(self) -> dict[str, int]:
        """Every name and its size in bytes."""
        from pyarrow.fs import FileSelector

        found = self._files.get_file_info(FileSelector(self._root, recursive=True, allow_not_found=True))
        return {one.path.removeprefix(f"{self._root}/"): int(one.size) for one in found if one.is_file}

    def replace(self, new: Mapping[str, Path | bytes], gone: Collection[str] = ()) -> None:
        """Write `new`, in this order, then remove `gone`."""
        for name, source in new.items():
            self._write(name, source)
        for name in gone:
            self._files.delete_file(f"{self._root}/{name}")

    def bring(self, names: Collection[str], into: Path) -> None:
        """Copy files to `into`/<name>."""

        def receive(name: str) -> None:
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            # None: pyarrow would decompress what is called .gz
            opened = self._files.open_input_stream(f"{self._root}/{name}", compression=None)
            with opened as source, open(into / name, "wb") as target:
                shutil.copyfileobj(source, target, CHUNK)

        for _ in threads.in_order(names, receive, AT_ONCE, name="mirror"):
            pass

    def check(self) -> None:
        """Write a file and remove it again.

        Raises:
            BadInput: the bucket refuses.
            Unreachable: it cannot be reached.
        """
        try:
            self._write("doctor", b"ok")
            self.listing()
            self._files.delete_file(f"{self._root}/doctor")
        except OSError as error:
            if self._scheme == "gs" and buckets.lacks_credentials(error, environment()):
                raise BadInput(f"MIRROR_CHECKPOINTS={self._address}: {buckets.NO_CREDENTIALS}") from error
            kind = Unreachable if buckets.may_pass(error) else BadInput
            raise kind(
                f"MIRROR_CHECKPOINTS={self._address}: {self.explain(error)}; check bucket, keys and network"
            ) from error

    def explain(self, error: BaseException) -> str:
        """One line about a failure, without keys."""
        return one_line(error, self._settings.secrets)

    def _write(self, name: str, source: Path | bytes) -> None:
        path = f"{self._root}/{name}"
        with self._files.open_output_stream(path, compression=None) as target:
            if isinstance(source, bytes):
                target.write(source)
            else:
                with open(source, "rb") as opened:
                    shutil.copyfileobj(opened, target, CHUNK)
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if self._files.get_file_info(path).size != size:
            raise OSError(f"{name} has not arrived whole")
