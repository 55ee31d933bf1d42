"""A local Hub: the real HTTP protocol, for the real clients.

    with Hub() as hub:
        hub.add_repo("dataset", "alice/voices", {"data/train-00000-of-00001.parquet": data})
        subprocess.run([...], env={**os.environ, **hub.env(cache)})

`huggingface_hub` and `datasets` read `HF_ENDPOINT` and `HF_HOME` when they are imported, so they are used from a
process of their own. Large files go up through the LFS batch protocol (Xet is never offered) and come down through a
redirect to a signed address, as the Hub does it. `Hub.fail` and `Hub.drop` make it misbehave at one place, and
`Hub.weather` at any.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from tests.hub.protocol import Handler
from tests.hub.store import Blob, Repo, Token, is_large
from tests.hub.weather import Weather

WRITE = "hf_" + "W" * 34
READ = "hf_" + "R" * 34


@dataclass(frozen=True)
class Request:
    """A request as it was seen, and the status it was answered with (0: the connection was dropped)."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int


@dataclass
class Fault:
    """What to do, `times` times, to requests of `method` whose path matches `path`."""

    method: str
    path: re.Pattern[str]
    times: int
    status: int | None = None
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    after: int = 0


class Hub:
    """A Hub on a free local port, for the time of a `with` block.

    `tokens` maps a token to its owner and rights; at the start `WRITE` writes and `READ` reads as `alice`, a member
    (read) of `choir` and (write) of `studio`.
    """

    def __init__(self, *, page_size: int = 3, part_size: int | None = None) -> None:
        """`page_size`: entries a page of a tree listing; `part_size`: larger files are uploaded in parts, in bytes."""
        orgs = {"choir": "read", "studio": "write"}
        self.tokens: dict[str, Token] = {
            WRITE: Token("alice", "write", dict(orgs)),
            READ: Token("alice", "read", dict(orgs)),
        }
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[Request] = []
        self.page_size = page_size
        self.part_size = part_size
        self.secret = secrets.token_hex(8)
        self.parts: dict[tuple[str, int], bytes] = {}
        self.weather: Weather | None = None
        #: Called with the method and the path of each request before it is answered.
        self.before: Callable[[str, str], None] = lambda method, path: None
        self.lock = threading.RLock()
        self._faults: list[Fault] = []
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        hub = self

        class Bound(Handler):
            pass

        Bound.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        assert self._server is not None, "use it in a with block"
        return f"http://127.0.0.1:{self._server.server_port}"

    def env(self, home: Path) -> dict[str, str]:
        """The variables that point the clients here, with `home` as their cache; add a token if there is to be one."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def add_repo(self, kind: str, repo_id: str, files: dict[str, bytes | str], private: bool = False) -> Repo:
        """Create a repo (`kind` is `model` or `dataset`) that holds `files`."""
        repo = Repo(kind, repo_id, private)
        blobs = {}
        for path, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            blobs[path] = Blob(data, is_large(path, len(data)))
            if blobs[path].large:
                repo.objects[blobs[path].sha256] = data
        repo.commit("add files", blobs)
        with self.lock:
            self.repos[kind, repo_id] = repo
        return repo

    def files(self, kind: str, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Path -> contents at the head of `main`, or of another branch."""
        with self.lock:
            commit = self.repos[kind, repo_id].at(revision)
            assert commit is not None, f"{repo_id} has no {revision}"
            return {path: blob.data for path, blob in commit.files.items()}

    def fail(
        self, method: str, path: str, *, status: int = 500, times: int = 1, message: str = "", **headers: str
    ) -> None:
        """Answer the next `times` requests of `method` whose path matches the pattern `path` with `status`.

        `headers` are sent along; underscores in their names stand for dashes (`retry_after="1"`). `{authorization}` in
        `message` becomes what the request's header of that name holds.
        """
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._faults.append(Fault(method, re.compile(path), times, status, message or f"fault {status}", named))

    def answer(self, method: str, path: str, *, status: int, body: str, times: int = 1) -> None:
        """Answer the next `times` matching requests with `status` and this JSON."""
        self._faults.append(Fault(method, re.compile(path), times, status, body=body))

    def drop(self, method: str, path: str, *, times: int = 1, after: int = 0) -> None:
        """Close the connection of the next `times` matching requests without an answer, `after` bytes of the body."""
        self._faults.append(Fault(method, re.compile(path), times, after=after))

    def heal(self) -> None:
        """Forget all faults."""
        with self.lock:
            self._faults.clear()

    def take_fault(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets, counted down."""
        with self.lock:
            for fault in self._faults:
                if fault.times > 0 and fault.method == method and fault.path.search(path):
                    fault.times -= 1
                    return fault
        return None

    def log(self, request: Request) -> None:
        with self.lock:
            self.requests.append(request)

    def seen(self, method: str, path: str) -> list[Request]:
        """The requests of `method` whose path matches the pattern `path`."""
        with self.lock:
            return [r for r in self.requests if r.method == method and re.search(path, r.path)]

    def everything_received(self) -> bytes:
        """Every body that was sent and every file that is stored, in one piece, to search for what must not be there.

        Headers are left out: that is where a token belongs.
        """
        with self.lock:
            stored: list[Any] = [
                blob.data for repo in self.repos.values() for c in repo.every_commit() for blob in c.files.values()
            ]
            objects = [data for repo in self.repos.values() for data in repo.objects.values()]
            return b"\n".join([*(r.body for r in self.requests), *stored, *objects])
