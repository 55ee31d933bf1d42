"""Sets of files in a store, each complete or invisible: contents named by their hash, and a manifest written last.

    <folder>/objects/<sha256><suffix>   contents, kept once however many sets have them
    <folder>/<name>.json                a set's manifest: paths, sizes and hashes; written after all its objects

An upload that is cut off leaves objects that no manifest names. The next one uses them, or removes them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from job.core import files
from job.core.console import warn

FORMAT = 1


class Store(Protocol):
    """A place for files with flat names such as `run-1a2b/objects/3c4d.json`."""

    def listing(self) -> dict[str, int]:
        """Every name and its size in bytes; empty when there is nothing yet."""

    def replace(self, new: Mapping[str, Path | bytes], gone: Collection[str] = ()) -> None:
        """Write `new`, in this order, then remove `gone`; or all of it at once."""

    def bring(self, names: Collection[str], into: Path) -> None:
        """Copy files to `into`/<name>."""

    def check(self) -> None:
        """Raise BadInput if it may not be written to, Unreachable if that cannot be told now."""

    def explain(self, error: BaseException) -> str:
        """One line about a failure, without secrets."""


class Damaged(Exception):
    """What the store gives back is not what its manifest says."""


@dataclass(frozen=True)
class Entry:
    """A file of a set: how large it is, and the SHA-256 of its contents."""

    size: int
    sha256: str
    suffix: str

    @property
    def object(self) -> str:
        """The name of its contents in the archive."""
        return f"objects/{self.sha256}{self.suffix}"


@dataclass(frozen=True)
class Manifest:
    """A set of files.

    Attributes:
        facts: what else is known of it.
        entries: path -> file; the first part of a path names the directory that it belongs to.
    """

    name: str
    facts: dict[str, Any]
    entries: dict[str, Entry]

    @property
    def size(self) -> int:
        """The size of all files."""
        return sum(entry.size for entry in self.entries.values())

    @property
    def objects(self) -> dict[str, int]:
        """Name and size of all contents."""
        return {entry.object: entry.size for entry in self.entries.values()}

    def encoded(self) -> bytes:
        """As it is stored."""
        entries = {path: [entry.size, entry.sha256] for path, entry in self.entries.items()}
        return json.dumps({"format": FORMAT, "facts": self.facts, "files": entries}, indent=1).encode()


def decoded(name: str, data: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        ValueError: it is none of this format, or names a path outside.
    """
    try:
        found = json.loads(data)
        entries = {
            str(path): Entry(int(size), str(sha256), PurePosixPath(path).suffix)
            for path, (size, sha256) in found["files"].items()
        }
        if found["format"] != FORMAT or any(not _inside(path) for path in entries):
            raise ValueError("another format")
        return Manifest(name, dict(found["facts"]), entries)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def _inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return len(parts) > 1 and not path.startswith("/") and ".." not in parts


@dataclass
class Archive:
    """A folder of a store with sets of files.

    Attributes:
        digests: SHA-256 by stamp of files that were read before.
    """

    store: Store
    folder: str
    digests: dict[tuple[int, int, int], str] = field(default_factory=dict)

    def manifests(self, there: Mapping[str, int] | None = None) -> list[Manifest]:
        """All complete sets, without those whose manifest cannot be understood."""
        listed = self.store.listing() if there is None else there
        names = [name for name in listed if self._is_manifest(name)]
        found = []
        with tempfile.TemporaryDirectory() as scratch:
            self.store.bring(names, Path(scratch))
            for name in names:
                short = name.removeprefix(f"{self.folder}/").removesuffix(".json")
                try:
                    found.append(decoded(short, (Path(scratch) / name).read_bytes()))
                except ValueError:
                    warn("mirror", f"{name} cannot be read and is left out")
        return found

    def keep(
        self,
        name: str,
        facts: dict[str, Any],
        sources: Mapping[str, Path],
        forget: Collection[str] = (),
        there: Mapping[str, int] | None = None,
    ) -> int | None:
        """Store a set of files, replacing the one of that name, and remove the sets `forget`.

        Args:
            sources: path in the set -> file, which must not change meanwhile.
            there: the store's listing, if it has just been asked for.

        Returns:
            The number of bytes that had to be sent; None if it was there already.
        """
        manifest = Manifest(name, facts, {path: self._entry(path, source) for path, source in sources.items()})
        there = self.store.listing() if there is None else there
        sizes = manifest.objects
        new: dict[str, Path | bytes] = {
            f"{self.folder}/{manifest.entries[path].object}": source
            for path, source in sources.items()
            if there.get(f"{self.folder}/{manifest.entries[path].object}") != manifest.entries[path].size
        }
        sent = sum(sizes[object_.removeprefix(f"{self.folder}/")] for object_ in new)
        known = self.manifests(there)
        kept = [one for one in known if one.name != name and one.name not in forget]
        new[f"{self.folder}/{name}.json"] = manifest.encoded()
        live = {f"{self.folder}/{object_}" for one in [*kept, manifest] for object_ in one.objects}
        live |= {f"{self.folder}/{one.name}.json" for one in [*kept, manifest]}
        gone = [other for other in there if other.startswith(f"{self.folder}/") and other not in live]
        if len(new) == 1 and not gone and manifest in known:
            return None
        self.store.replace(new, sorted(gone, key=lambda other: not self._is_manifest(other)))
        return sent

    def bring(self, manifest: Manifest, into: Mapping[str, Path]) -> None:
        """Bring a set's files back, and check the hash of each.

        Args:
            into: first part of a path -> the directory for the rest of it.

        Raises:
            Damaged: something is missing or differs.
        """
        scratch = next(iter(into.values())) / ".objects"
        try:
            self.store.bring([f"{self.folder}/{name}" for name in manifest.objects], scratch)
            for path, entry in manifest.entries.items():
                source = scratch / self.folder / entry.object
                if not source.is_file() or source.stat().st_size != entry.size:
                    raise Damaged(f"{path} of {manifest.name} is not whole")
                root, _, rest = path.partition("/")
                target = into[root] / rest
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target) if _shared(manifest, entry) else shutil.move(source, target)
                if files.digest_file(target) != entry.sha256:
                    raise Damaged(f"{path} of {manifest.name} is damaged")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _entry(self, path: str, source: Path) -> Entry:
        status = source.stat()
        stamp = status.st_ino, status.st_size, status.st_mtime_ns
        if stamp not in self.digests:
            self.digests[stamp] = files.digest_once(source)
        return Entry(status.st_size, self.digests[stamp], PurePosixPath(path).suffix)

    def _is_manifest(self, name: str) -> bool:
        return name.startswith(f"{self.folder}/") and name.count("/") == 1 and name.endswith(".json")


def _shared(manifest: Manifest, entry: Entry) -> bool:
    return sum(other.object == entry.object for other in manifest.entries.values()) > 1
