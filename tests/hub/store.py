"""What a Hub keeps: repos, their commits, the objects uploaded for them, and the tokens that open them."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import PurePosixPath

#: Stored as large files whatever their size (the Hub's default `.gitattributes`, as far as this project meets it).
LARGE_PATTERNS = (
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.npy", "*.npz", "*.zip", "*.tar", "*.gz"),
    *("*.parquet", "*.arrow", "*.wav", "*.flac", "*.mp3", "*.ogg", "*.opus"),
)
#: Other files are stored as large ones from this size on, in bytes.
LARGE_BYTES = 10 << 20
#: Rights of a member of an organisation that let it create repos there.
WRITING_ROLES = ("admin", "write", "contributor")

_ids = itertools.count(1)


@dataclass(frozen=True)
class Token:
    """An access token of `user`: `read`, `write`, or `fineGrained` with permissions by user, organisation or repo."""

    user: str
    role: str = "write"
    orgs: dict[str, str] = field(default_factory=dict)
    scoped: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def can_read(self, repo: Repo) -> bool:
        if not repo.private:
            return True
        owner = repo.id.split("/")[0]
        if self.role == "fineGrained":
            return bool(self._scopes(repo.kind, repo.id) & {"repo.content.read", "repo.write"})
        return owner == self.user or owner in self.orgs

    def can_write(self, kind: str, repo_id: str) -> bool:
        """Whether it may create `repo_id` or commit to it."""
        owner = repo_id.split("/")[0]
        if self.role == "fineGrained":
            return "repo.write" in self._scopes(kind, repo_id)
        return self.role == "write" and (owner == self.user or self.orgs.get(owner) in WRITING_ROLES)

    def _scopes(self, kind: str, repo_id: str) -> set[str]:
        owner = repo_id.split("/")[0]
        entities = (("user", owner), ("org", owner), (kind, repo_id))
        return {permission for entity in entities for permission in self.scoped.get(entity, ())}

    def whoami(self) -> dict[str, object]:
        """The body of `/api/whoami-v2`."""
        access: dict[str, object] = {"displayName": "test", "role": self.role, "createdAt": "2025-01-01T00:00:00.000Z"}
        if self.role == "fineGrained":
            access["fineGrained"] = {
                "canReadGatedRepos": True,
                "global": [],
                "scoped": [
                    {"entity": {"_id": "0" * 24, "type": kind, "name": name}, "permissions": list(permissions)}
                    for (kind, name), permissions in self.scoped.items()
                ],
            }
        return {
            "type": "user",
            "id": "1" * 24,
            "name": self.user,
            "fullname": self.user.title(),
            "isPro": False,
            "orgs": [{"type": "org", "id": "2" * 24, "name": o, "roleInOrg": r} for o, r in self.orgs.items()],
            "auth": {"type": "access_token", "accessToken": access},
        }


@dataclass(frozen=True)
class Blob:
    """The contents of a file."""

    data: bytes
    large: bool

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What git itself holds for a large file."""
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
        return text.encode()

    @property
    def git_oid(self) -> str:
        """Git's id of the blob (of the pointer, for a large file)."""
        data = self.pointer if self.large else self.data
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.git_oid


@dataclass(frozen=True)
class Commit:
    """One state of a repo."""

    oid: str
    message: str
    files: dict[str, Blob]


@dataclass
class Repo:
    """A repo and the history of its `main`, oldest commit first; other branches beside it."""

    kind: str
    id: str
    private: bool
    commits: list[Commit] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    branches: dict[str, list[Commit]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("initial commit", {})

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def history(self, branch: str = "main") -> list[Commit] | None:
        """The commits of a branch, oldest first."""
        name = branch.removeprefix("refs/heads/")
        return self.commits if name == "main" else self.branches.get(name)

    def commit(self, message: str, files: dict[str, Blob], branch: str = "main") -> Commit:
        oid = hashlib.sha1(f"{self.kind}/{self.id}/{next(_ids)}/{message}".encode()).hexdigest()
        history = self.history(branch)
        assert history is not None
        history.append(Commit(oid, message, files))
        return history[-1]

    def squash(self, branch: str, message: str) -> None:
        """Replace a branch's history by one commit; what only its older ones had no longer fills the quota."""
        history = self.history(branch)
        assert history is not None
        self.commit(message, history[-1].files, branch)
        del history[:-1]
        live = {blob.sha256 for commit in self.every_commit() for blob in commit.files.values()}
        self.objects = {oid: data for oid, data in self.objects.items() if oid in live}

    def every_commit(self) -> list[Commit]:
        return [commit for history in (self.commits, *self.branches.values()) for commit in history]

    def at(self, revision: str) -> Commit | None:
        history = self.history(revision)
        if history:
            return history[-1]
        found = [c for c in self.every_commit() if len(revision) >= 7 and c.oid.startswith(revision)]
        return found[-1] if found else None


def is_large(path: str, size: int) -> bool:
    """Whether the Hub asks for `path` as a large file. Empty files are always regular."""
    name = PurePosixPath(path).name
    return size > 0 and (size >= LARGE_BYTES or any(fnmatch(name, pattern) for pattern in LARGE_PATTERNS))


def describe_file(path: str, blob: Blob) -> dict[str, object]:
    """A file as the tree listing and `paths-info` show it."""
    entry: dict[str, object] = {"type": "file", "oid": blob.git_oid, "size": blob.size, "path": path}
    if blob.large:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    return entry


def describe_folder(path: str) -> dict[str, object]:
    return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}


def tree(files: dict[str, Blob], folder: str, recursive: bool) -> list[dict[str, object]]:
    """The entries of `folder` (all below it with `recursive`), folders first, as the Hub sorts them."""
    prefix = f"{folder}/" if folder else ""
    folders: set[str] = set()
    entries = []
    for path, blob in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        depth = len(parts) - 1 if recursive else min(len(parts) - 1, 1)
        folders.update(prefix + "/".join(parts[: i + 1]) for i in range(depth))
        if recursive or len(parts) == 1:
            entries.append(describe_file(path, blob))
    return [describe_folder(name) for name in sorted(folders)] + entries
