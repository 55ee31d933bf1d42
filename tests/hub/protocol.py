"""The Hub's HTTP protocol: which request is answered how."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import quote, urlsplit

from tests.hub import metadata
from tests.hub.frame import Frame, Refusal
from tests.hub.store import Blob, Repo, describe_file, describe_folder, is_large, tree


class Handler(Frame):
    """The endpoints."""

    # -- accounts and repos -------------------------------------------------------------------------------------------

    def whoami(self) -> None:
        token = self._token()
        if token is None:
            raise Refusal(401, "Invalid username or password.")
        self._send_json(token.whoami())

    def create(self) -> None:
        wanted, token = self._form(), self._token()
        if token is None:
            raise Refusal(401, "Invalid username or password.")
        kind, owner = wanted.get("type") or "model", wanted.get("organization") or token.user
        repo_id = f"{owner}/{wanted['name']}"
        url = self.hub.url + ("/" if kind == "model" else f"/{kind}s/") + repo_id
        if not token.can_write(kind, repo_id):
            raise Refusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        if (kind, repo_id) in self.hub.repos:
            self._send_json({"error": f"You already created this {kind} repo: {repo_id}", "url": url}, 409)
            return
        self.hub.repos[kind, repo_id] = Repo(kind, repo_id, bool(wanted.get("private")))
        self._send_json({"url": url, "name": repo_id, "id": repo_id})

    def remove(self) -> None:
        wanted, token = self._form(), self._token()
        kind = wanted.get("type") or "model"
        owner = wanted.get("organization") or (token.user if token else "")
        repo = self._writable(f"{kind}s", f"{owner}/{wanted['name']}")
        del self.hub.repos[repo.kind, repo.id]
        self._send(b"OK", 200, {})

    def info(self, kinds: str, repo: str, revision: str = "") -> None:
        found = self._readable(kinds, repo)
        commit = self._commit_of(found, revision)
        blobs = "blobs" in self.query
        siblings = []
        for path, blob in sorted(commit.files.items()):
            sibling: dict[str, Any] = {"rfilename": path}
            if blobs:
                sibling |= {"size": blob.size, "blobId": blob.git_oid}
                if blob.large:
                    sibling["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
            siblings.append(sibling)
        date = "2025-01-01T00:00:00.000Z"
        described: dict[str, Any] = {
            "id": found.id,
            "author": found.id.split("/")[0],
            "sha": commit.oid,
            "siblings": siblings,
        }
        described |= {"private": found.private, "gated": False, "disabled": False, "createdAt": date}
        described |= {"lastModified": date, "downloads": 0, "likes": 0, "tags": []}
        self._send_json(described | ({"modelId": found.id} if found.kind == "model" else {}))

    def listing(self, kinds: str, repo: str, revision: str, folder: str = "") -> None:
        found = self._readable(kinds, repo)
        commit = self._commit_of(found, revision)
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        entries = tree(commit.files, folder, recursive)
        if folder and not entries:
            raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        start = int(self.query.get("cursor", ["0"])[0])
        headers = {}
        if start + self.hub.page_size < len(entries):
            here = f"{self.hub.url}{urlsplit(self.path).path}?recursive={recursive}&expand=False"
            headers["Link"] = f'<{here}&cursor={start + self.hub.page_size}>; rel="next"'
        self._send_json(entries[start : start + self.hub.page_size], 200, headers)

    def paths_info(self, kinds: str, repo: str, revision: str) -> None:
        commit = self._commit_of(self._readable(kinds, repo), revision)
        paths = self._form().get("paths", [])
        answer = []
        for path in [paths] if isinstance(paths, str) else paths:
            if path in commit.files:
                answer.append(describe_file(path, commit.files[path]))
            elif any(name.startswith(f"{path}/") for name in commit.files):
                answer.append(describe_folder(path))
        self._send_json(answer)

    def refs(self, kinds: str, repo: str) -> None:
        found = self._readable(kinds, repo)
        heads = {"main": found.head, **{name: history[-1] for name, history in found.branches.items()}}
        branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c.oid} for n, c in heads.items()]
        tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": oid} for n, oid in found.tags.items()]
        self._send_json({"branches": branches, "converts": [], "tags": tags})

    def make_tag(self, kinds: str, repo: str, revision: str) -> None:
        found, name = self._writable(kinds, repo), self._form()["tag"]
        if name in found.tags:
            raise Refusal(409, f"Reference already exists: refs/tags/{name}")
        found.tags[name] = self._commit_of(found, revision).oid
        self._send(b"OK", 201, {})

    def make_branch(self, kinds: str, repo: str, branch: str) -> None:
        found = self._writable(kinds, repo)
        start = self._commit_of(found, dict(json.loads(self.body or b"{}")).get("startingPoint") or "main")
        if found.history(branch) is not None:
            raise Refusal(409, f"Reference already exists: refs/heads/{branch}")
        found.branches[branch] = [start]
        self._send(b"OK", 201, {})

    def remove_branch(self, kinds: str, repo: str, branch: str) -> None:
        found = self._writable(kinds, repo)
        if branch == "main":
            raise Refusal(403, "The main branch cannot be deleted")
        if found.branches.pop(branch, None) is None:
            raise Refusal(404, f"Invalid rev id: refs/heads/{branch}", "RevisionNotFound")
        self._send(b"OK", 200, {})

    def squash(self, kinds: str, repo: str, branch: str) -> None:
        found = self._writable(kinds, repo)
        self._commit_of(found, branch)
        found.squash(branch, dict(json.loads(self.body or b"{}")).get("message") or "Super-squash")
        self._send_json({})

    def history(self, kinds: str, repo: str, revision: str) -> None:
        found = self._readable(kinds, repo)
        self._commit_of(found, revision)
        past = found.history(revision) or found.commits
        date = "2025-01-01T00:00:00.000Z"
        commits = [{"id": c.oid, "title": c.message, "message": "", "date": date, "authors": []} for c in past]
        self._send_json(commits[::-1])

    def auth_check(self, kinds: str, repo: str) -> None:
        self._readable(kinds, repo)
        self._send(b"", 200, {})

    # -- downloads ----------------------------------------------------------------------------------------------------

    def resolve(self, kinds: str, repo: str, revision: str, path: str) -> None:
        found = self._readable(kinds, repo)
        commit = self._commit_of(found, revision)
        blob = commit.files.get(path)
        if blob is None:
            headers = {"X-Repo-Commit": commit.oid, "X-Error-Code": "EntryNotFound", "X-Error-Message": "not found"}
            self._send_json({"error": "Entry not found"}, 404, headers)
            return
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if blob.large:
            location = f"{self.hub.url}/_cdn/{found.kind}s/{quote(found.id)}/{blob.sha256}?signature={self.hub.secret}"
            linked = {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(blob.size), "Location": location}
            self._send(b"", 302, headers | linked)
        else:
            self._send_range(blob.data, headers | {"ETag": f'"{blob.etag}"'})

    def cdn(self, kinds: str, repo: str, oid: str) -> None:
        self._check_signature()
        for commit in self.hub.repos[kinds.removesuffix("s"), repo].every_commit():
            for blob in commit.files.values():
                if blob.large and blob.sha256 == oid:
                    self._send_range(blob.data, {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})
                    return
        raise Refusal(404, "no such object")

    def _send_range(self, data: bytes, headers: dict[str, str]) -> None:
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not found or found.group(0) == "bytes=-":
            self._send(data, 200, headers)
            return
        first, last = found.groups()
        start = int(first) if first else max(len(data) - int(last), 0)
        end = min(int(last), len(data) - 1) if first and last else len(data) - 1
        if start > end:
            self._send(b"", 416, headers | {"Content-Range": f"bytes */{len(data)}"})
            return
        self._send(data[start : end + 1], 206, headers | {"Content-Range": f"bytes {start}-{end}/{len(data)}"})

    def _check_signature(self) -> None:
        if self.query.get("signature") != [self.hub.secret]:
            raise Refusal(403, "SignatureDoesNotMatch")

    # -- uploads ------------------------------------------------------------------------------------------------------

    def validate_yaml(self) -> None:
        self._token()
        wanted = {k: v[0] if isinstance(v, list) else v for k, v in self._form().items()}
        errors, warnings = metadata.validate(wanted["content"], wanted.get("repoType") or "model")
        answer = {"errors": [{"message": m} for m in errors], "warnings": [{"message": m} for m in warnings]}
        self._send_json(answer, 400 if errors else 200)

    def preupload(self, kinds: str, repo: str, revision: str) -> None:
        commit = self._commit_of(self._writable(kinds, repo), revision)
        answer = []
        for file in self._form()["files"]:
            mode = "lfs" if is_large(file["path"], file["size"]) else "regular"
            entry = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            if file["path"] in commit.files:
                entry["oid"] = commit.files[file["path"]].etag
            answer.append(entry)
        self._send_json({"files": answer, "commitOid": commit.oid})

    def batch(self, kinds: str, repo: str) -> None:
        found = self._writable(kinds, repo)
        objects = []
        for wanted in self._form()["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            entry: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
            if oid not in found.objects:
                base = f"{self.hub.url}/_upload/{found.kind}s/{found.id}/{oid}"
                upload: dict[str, Any] = {"href": f"{base}?signature={self.hub.secret}"}
                part_size = self.hub.part_size
                if part_size and size > part_size:
                    parts = range(1, -(-size // part_size) + 1)
                    urls = {str(n): f"{base}/{n}?signature={self.hub.secret}" for n in parts}
                    upload["header"] = {"chunk_size": str(part_size), **urls}
                verify = {"href": f"{self.hub.url}/api/{found.kind}s/{found.id}/lfs-verify"}
                entry["actions"] = {"upload": upload, "verify": verify}
            objects.append(entry)
        self._send_json({"transfer": "multipart" if self.hub.part_size else "basic", "objects": objects})

    def put_object(self, kinds: str, repo: str, oid: str) -> None:
        self._check_signature()
        self._keep_object(kinds, repo, oid, self.body)
        self._send(b"", 200, {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})

    def put_part(self, kinds: str, repo: str, oid: str, part: str) -> None:
        self._check_signature()
        self.hub.parts[oid, int(part)] = self.body
        self._send(b"", 200, {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})

    def complete(self, kinds: str, repo: str, oid: str) -> None:
        self._check_signature()
        numbers = [part["partNumber"] for part in self._form()["parts"]]
        self._keep_object(kinds, repo, oid, b"".join(self.hub.parts.pop((oid, n)) for n in numbers))
        self._send_json({"success": True})

    def _keep_object(self, kinds: str, repo: str, oid: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refusal(400, "XAmzContentSHA256Mismatch")
        self.hub.repos[kinds.removesuffix("s"), repo].objects[oid] = data

    def verify(self, kinds: str, repo: str) -> None:
        found, wanted = self._writable(kinds, repo), self._form()
        if len(found.objects.get(wanted["oid"], b"")) != wanted["size"]:
            raise Refusal(404, "object not found")
        self._send_json({"message": "ok"})

    def commit(self, kinds: str, repo: str, revision: str) -> None:
        found = self._writable(kinds, repo)
        self._commit_of(found, revision)
        history = found.history(revision)
        if history is None:
            raise Refusal(400, f"{revision} is not a branch")
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, history[-1].oid):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        with self.hub.lock:
            files = dict(history[-1].files)
            for line in lines:
                self._apply(found, files, line["key"], line["value"])
            commit = found.commit(header["summary"], files, revision)
        prefix = "" if found.kind == "model" else f"{found.kind}s/"
        url = f"{self.hub.url}/{prefix}{found.id}/commit/{commit.oid}"
        self._send_json({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def _apply(self, repo: Repo, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
        path = value.get("path", "")
        if key == "file":
            data = base64.b64decode(value["content"])
            errors = metadata.validate(data.decode(), repo.kind)[0] if path == "README.md" else []
            if errors:
                raise Refusal(400, "Invalid metadata in README.md: " + "; ".join(errors))
            if is_large(path, len(data)):
                raise Refusal(400, f"Your push was rejected because it contains binary files: {path}")
            files[path] = Blob(data, large=False)
        elif key == "lfsFile":
            if value["oid"] not in repo.objects:
                raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {path}")
            files[path] = Blob(repo.objects[value["oid"]], large=True)
        elif key in ("deletedFile", "deletedFolder"):
            gone = [n for n in files if n == path or (key == "deletedFolder" and n.startswith(path.rstrip("/") + "/"))]
            if not gone:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
            for name in gone:
                del files[name]


_KINDS = r"/api/(?P<kinds>models|datasets)"
_REPO = r"/(?P<repo>[^/]+/[^/]+?)"
_PAGE = r"/(?:(?P<kinds>datasets)/)?(?P<repo>[^/]+/[^/]+?)"
Handler.routes = [
    (method, re.compile(pattern), answer)
    for method, pattern, answer in (
        ("GET", "/api/whoami-v2", Handler.whoami),
        ("POST", "/api/repos/create", Handler.create),
        ("DELETE", "/api/repos/delete", Handler.remove),
        ("POST", "/api/validate-yaml", Handler.validate_yaml),
        ("GET", _KINDS + _REPO, Handler.info),
        ("GET", _KINDS + _REPO + "/revision/(?P<revision>[^/]+)", Handler.info),
        ("GET", _KINDS + _REPO + "/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", Handler.listing),
        ("POST", _KINDS + _REPO + "/paths-info/(?P<revision>[^/]+)", Handler.paths_info),
        ("GET", _KINDS + _REPO + "/refs", Handler.refs),
        ("POST", _KINDS + _REPO + "/branch/(?P<branch>[^/]+)", Handler.make_branch),
        ("DELETE", _KINDS + _REPO + "/branch/(?P<branch>[^/]+)", Handler.remove_branch),
        ("POST", _KINDS + _REPO + "/super-squash/(?P<branch>[^/]+)", Handler.squash),
        ("POST", _KINDS + _REPO + "/tag/(?P<revision>[^/]+)", Handler.make_tag),
        ("GET", _KINDS + _REPO + "/commits/(?P<revision>[^/]+)", Handler.history),
        ("GET", _KINDS + _REPO + "/auth-check", Handler.auth_check),
        ("POST", _KINDS + _REPO + "/preupload/(?P<revision>[^/]+)", Handler.preupload),
        ("POST", _KINDS + _REPO + "/lfs-verify", Handler.verify),
        ("POST", _KINDS + _REPO + "/commit/(?P<revision>[^/]+)", Handler.commit),
        ("POST", _PAGE + r"\.git/info/lfs/objects/batch", Handler.batch),
        ("GET", _PAGE + "/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
        ("GET", r"/_cdn/(?P<kinds>models|datasets)" + _REPO + "/(?P<oid>[0-9a-f]{64})", Handler.cdn),
        ("PUT", r"/_upload/(?P<kinds>models|datasets)" + _REPO + "/(?P<oid>[0-9a-f]{64})", Handler.put_object),
        ("POST", r"/_upload/(?P<kinds>models|datasets)" + _REPO + "/(?P<oid>[0-9a-f]{64})", Handler.complete),
        (
            "PUT",
            r"/_upload/(?P<kinds>models|datasets)" + _REPO + r"/(?P<oid>[0-9a-f]{64})/(?P<part>\d+)",
            Handler.put_part,
        ),
    )
]
