"""Atomic writes (a kill at any instant leaves either the old file or the new one), and reading what was written.

Every file that the job keeps is written here: a temporary name in the same directory, fsync, rename, fsync of the
directory.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from job.core import inside

TEMPORARY_SUFFIX = ".partial"
#: Bytes at each end of a large file that `digest_ends` reads.
_ENDS = 1 << 20
#: Nanoseconds after which another change of a file has another time on any file system.
SETTLED_NS = 2_000_000_000


def sync_directory(directory: Path) -> None:
    """Flush a directory's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse fsync on a directory; the rename itself is still atomic there
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Flush one file's contents to disk."""
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())


def write_with(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write(temporary_path)` create a file, then rename it to `path` atomically.

    Raises whatever `write` raises; the temporary file is then removed and `path` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    try:
        with named_errors(path):
            write(temporary)
            sync_file(temporary)
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Add the file's name to errors of the system: those of writing to an open file lack it, safetensors' are texts."""
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else errno.ENOSPC if is_full(error) else None
        if number is not None and getattr(error, "filename", None) is None:
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Atomically replace `path` with `text` (UTF-8)."""
    write_with(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Atomically replace `path` with `value` as indented JSON."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, sort_keys=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Atomically replace `path` with one JSON object per line. Returns the number of rows."""
    count = 0

    def write(temporary: Path) -> None:
        nonlocal count
        with open(temporary, "w", encoding="utf-8") as handle:
            for row in rows:
                handle.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1

    write_with(path, write)
    return count


def read_json(path: Path) -> Any:
    """Parse a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file that this project wrote (use `fetch.jsonl` for files from outside)."""
    with open(path, encoding="utf-8") as handle:
        for line in handle:
            if line.strip():
                yield json.loads(line)


def replace_directory(directory: Path, fill: Callable[[Path], Any]) -> None:
    """Build a directory under a temporary name with `fill(temporary)`, then swap it in for `directory`.

    A kill between the two renames leaves the previous contents under `.<name>.previous`, which
    `recover_directory` (called first on the next run) moves back.
    """
    recover_directory(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary, previous = _beside(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        fill(temporary)
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                sync_file(path)
            elif path.is_dir():
                sync_directory(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if directory.exists():
        os.replace(directory, previous)
    os.replace(temporary, directory)
    sync_directory(directory.parent)
    shutil.rmtree(previous, ignore_errors=True)


def remove_directory(directory: Path) -> None:
    """Remove a directory so that a kill leaves all of it or nothing; what it leaves otherwise, `replace_directory` and
    another removal of the same name clear away."""
    temporary, _ = _beside(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    with suppress(FileNotFoundError):
        os.replace(directory, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def recover_directory(directory: Path) -> None:
    """Clean up after a `replace_directory` that was killed: keep the newest complete version, remove the rest."""
    temporary, previous = _beside(directory)
    if previous.exists():
        if directory.exists():
            shutil.rmtree(previous, ignore_errors=True)
        else:
            os.replace(previous, directory)
    shutil.rmtree(temporary, ignore_errors=True)


def _beside(directory: Path) -> tuple[Path, Path]:
    return (
        directory.with_name(f".{directory.name}{TEMPORARY_SUFFIX}"),
        directory.with_name(f".{directory.name}.previous"),
    )


def is_full(error: BaseException) -> bool:
    """Whether the disk was full; safetensors turns the system's error into one of its own, as text."""
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError):
        return error.errno in full
    return any(f"os error {number}" in str(error) for number in full)


def digest_bytes(data: bytes) -> str:
    """SHA-256 of `data`, in hex."""
    return hashlib.sha256(data).hexdigest()


def digest_tree(root: Path) -> str:
    """One SHA-256 over the names and contents of all files below a folder that are written whole, in hex.

    Mirrors hold it (`job/mirror`), so another form of it would not be found there.
    """
    found = sorted(path for path in tree(root) if path.is_file() and is_whole(path))
    return digest_bytes("\n".join(f"{path.relative_to(root)} {digest_once(path)}" for path in found).encode())


def is_whole(path: Path) -> bool:
    """Whether a file is not one that is being written, by its name."""
    return not path.name.endswith(TEMPORARY_SUFFIX)


def digest_file(path: Path) -> str:
    """SHA-256 of a file's contents, in hex."""
    with inside.open_binary(path) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()  # type: ignore[arg-type]


def digest_once(path: Path) -> str:
    """SHA-256 of a file's contents, in hex; this process does not read it again while it is the same by its status.

    Of a file that has changed just now that would not tell whether it changes again: such a one is read each time.
    """
    status = path.stat()
    times = status.st_mtime_ns, status.st_ctime_ns
    if time.time_ns() - max(times) < SETTLED_NS:
        return digest_file(path)
    return _digest_of(path, (status.st_dev, status.st_ino, status.st_size, *times))


@lru_cache(maxsize=10_000)
def _digest_of(path: Path, status: tuple[int, ...]) -> str:
    return digest_file(path)


def read_end(path: Path, most: int) -> bytes:
    """Read the last `most` bytes of a file, or all of it."""
    with open(path, "rb") as handle:
        handle.seek(max(0, handle.seek(0, os.SEEK_END) - most))
        return handle.read()


def digest_ends(path: Path) -> str:
    """Short digest of a file's size, beginning and end; copying or touching the file does not change it."""
    with inside.open_binary(path) as handle:
        size = inside.size_of(handle)
        ends = handle.read(_ENDS)
        handle.seek(max(0, size - _ENDS))
        ends += handle.read(_ENDS)
    return digest_bytes(str(size).encode() + ends)[:16]


def digest_weights(path: Path) -> str:
    """SHA-256 of a file; without reading it where the Hub's cache has named it so."""
    blob = path.resolve()
    return blob.name if blob.parent.name == "blobs" and len(blob.name) == 64 else digest_file(path)


def stamp(path: Path) -> tuple[str, int, int]:
    """Path, size and modification time of a file, to detect cheaply that it changed; (-1, -1) when it is missing."""
    if (place := inside.place_of(path)) is not None:
        return inside.stamp(place)
    try:
        status = path.stat()
    except OSError:
        return str(path), -1, -1
    return str(path), status.st_size, status.st_mtime_ns


def tree(
    root: Path,
    leave_out: tuple[str, ...] = (),
    unread: Callable[[OSError], None] | None = None,
    skip: Callable[[Path], bool] = lambda path: False,
) -> Iterator[Path]:
    """Yield all files below a folder; symbolic links to folders are followed, each folder once.

    Folders whose name begins with one of `leave_out` are skipped, and files and folders for which `skip` holds. Files
    that can be reached with and without a link have the path without it. A folder that cannot be listed is passed over,
    unless `unread` raises.
    """
    seen: set[str] = set()
    for folder, below, names in os.walk(root, onerror=unread, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        inner = [Path(folder, name) for name in below if not name.startswith(leave_out)]
        below[:] = [path.name for path in sorted(inner, key=lambda path: (path.is_symlink(), path)) if not skip(path)]
        yield from (path for name in sorted(names) if not skip(path := Path(folder, name)))


def identity(path: Path, skip: Callable[[Path], bool] = lambda path: False) -> Any:
    """A value that changes when an input file or directory changes.

    For a small file it is from its contents (so that touching or copying it changes nothing), for a large one its
    stamp, for a directory the stamps of its files, but those for which `skip` holds.
    """
    if path.is_dir():
        return [stamp(p) for p in sorted(tree(path, skip=skip)) if p.is_file()]
    if path.is_file() and path.stat().st_size <= 1 << 20:
        return digest_file(path)
    return stamp(path)


def named_identity(name: str) -> str:
    """Identify a model by its name, and a local one also by what shows that its files have not changed."""
    path = Path(name).expanduser()
    if not path.exists():
        return name
    return f"{name} ({digest_bytes(repr(identity(path)).encode())[:12]})"
