"""A mirror in a directory: a network volume, or a bucket that is mounted."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from job.core import files
from job.core.errors import BadInput
from job.core.redact import one_line


class FolderMirror:
    """Files below a directory, each written under a temporary name and renamed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def listing(self) -> dict[str, int]:
        """Every name and its size in bytes."""
        found = (path for path in sorted(self._root.rglob("*")) if path.is_file() and not path.name.startswith("."))
        return {path.relative_to(self._root).as_posix(): path.stat().st_size for path in found}

    def replace(self, new: Mapping[str, Path | bytes], gone: Collection[str] = ()) -> None:
        """Write `new`, in this order, then remove `gone`."""
        for name, source in new.items():
            self._write(name, source)
        for name in gone:
            (self._root / name).unlink(missing_ok=True)

    def bring(self, names: Collection[str], into: Path) -> None:
        """Copy files to `into`/<name>."""
        for name in names:
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._root / name, into / name)

    def check(self) -> None:
        """Write a file and remove it again.

        Raises:
            BadInput: that is not possible.
        """
        try:
            self._write("doctor", b"ok")
            (self._root / "doctor").unlink()
        except OSError as error:
            raise BadInput(
                f"MIRROR_CHECKPOINTS={self._root} is not writable: {error.strerror}; name another directory"
            ) from error

    def explain(self, error: BaseException) -> str:
        """One line about a failure."""
        return one_line(error)

    def _write(self, name: str, source: Path | bytes) -> None:
        def write(temporary: Path) -> None:
            if isinstance(source, bytes):
                temporary.write_bytes(source)
            else:
                shutil.copyfile(source, temporary)

        files.write_with(self._root / name, write)
