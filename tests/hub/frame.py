"""What every request has in common: faults, bodies, answers, and who may see or change which repo."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.store import Commit, Repo, Token

if TYPE_CHECKING:
    from tests.hub.server import Hub

#: Bytes read from a connection at a time.
CHUNK = 1 << 16


class Refusal(Exception):
    """An answer that is an error: status, the words for people, and the code for the client."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class Dropped(Exception):
    """The connection was cut by a fault."""


class Answered(Exception):
    """The answer has been sent, and it is not the one to the request."""


class Frame(BaseHTTPRequestHandler):
    """One connection. Routes are tried in order; their groups are the method's arguments."""

    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is two writes, and the second would wait 40 ms for the client's system
    routes: ClassVar[list[tuple[str, re.Pattern[str], Callable[..., None]]]] = []

    def log_message(self, *_: object) -> None:
        """Silent: tests read `Hub.requests`."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    # -- the frame of every request ---------------------------------------------------------------------------------

    def _serve(self) -> None:
        self.body = b""
        self.status = 0
        split = urlsplit(self.path)
        self.query = parse_qs(split.query, keep_blank_values=True)
        self.after: str | None = None  # what happens to the answer once the request has been done
        try:
            self._answer(split.path)
        except Answered:
            pass
        except (Dropped, ConnectionError):
            self.close_connection = True
            with contextlib.suppress(OSError):  # a reset, not an orderly end
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        finally:
            from tests.hub.server import Request

            self.hub.log(Request(self.command, self.path, dict(self.headers.items()), self.body, self.status))

    def _answer(self, path: str) -> None:
        """Do what is asked, or what a fault says instead."""
        try:
            self.hub.before(self.command, self.path)
            self._weather()
            fault = self.hub.take_fault(self.command, self.path)
            if fault is not None and fault.status is None:
                self.body = self._read(fault.after)
                raise Dropped
            self.body = self._read(None)
            if fault is not None:
                assert fault.status is not None
                said = fault.message.replace("{authorization}", self.headers.get("Authorization", ""))
                content = {"error": said} if fault.body is None else json.loads(fault.body)
                self._send_json(content, fault.status, fault.headers)
            else:
                self._route(path)
        except Refusal as refusal:
            words = refusal.message.replace("\n", " ").encode("ascii", "replace").decode()
            headers = {"X-Error-Message": words}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self._send_json({"error": refusal.message}, refusal.status, headers)

    def _weather(self) -> None:
        """What goes wrong with this request by the Hub's weather, before it is done or (noted) after."""
        weather = self.hub.weather
        met = weather.draw() if weather else None
        if weather is None or met is None:
            return
        if met == "slow":
            time.sleep(weather.slow)
        elif met == "kill":
            weather.kill()
        elif met == "cut":
            raise Dropped
        elif met in ("429", "500", "503"):
            self.body = self._read(None)
            headers = {"Retry-After": "1"} if met == "429" else {}
            self._send_page(int(met), headers)
            raise Answered
        else:
            self.after = met

    def _spoil(self, data: bytes) -> None:
        """What goes wrong with an answer whose request has been done."""
        after, self.after = self.after, None
        if after == "late kill":
            assert self.hub.weather is not None
            self.hub.weather.kill()
        elif after == "late 500":
            self._send_page(500, {})
            raise Answered
        elif after == "silence":
            assert self.hub.weather is not None
            time.sleep(self.hub.weather.silence)
            raise Dropped
        elif after == "cut in the answer" and self.command != "HEAD" and len(data) > 1:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            raise Dropped
        elif after is not None:
            raise Dropped

    def _send_page(self, status: int, headers: dict[str, str]) -> None:
        """An error as what stands before the Hub sends it, which is no JSON."""
        page = f"<html><body><h1>{status}</h1></body></html>".encode()
        self._send(page, status, {"Content-Type": "text/html", **headers})

    def _route(self, path: str) -> None:
        for method, pattern, answer in self.routes:
            found = pattern.fullmatch(path)
            if found and method == ("GET" if self.command == "HEAD" else self.command):
                answer(self, **{name: unquote(value or "") for name, value in found.groupdict().items()})
                return
        raise Refusal(404, "Sorry, we can't find the page you are looking for.")

    def _read(self, limit: int | None) -> bytes:
        """The request's body (at most `limit` bytes of it), sent whole or in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            data = b""
            while (size := int(self.rfile.readline().split(b";")[0], 16)) > 0:
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        left = int(self.headers.get("Content-Length") or 0)
        left = left if limit is None else min(left, limit)
        pieces = []
        while left > 0:
            piece = self.rfile.read(min(left, CHUNK))
            if not piece:
                raise ConnectionError("the client went away")
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def _send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        self._spoil(data)
        self.status = status
        self.send_response(status)
        length = headers.pop("Content-Length", str(len(data)))
        for name, value in {**headers, "Content-Length": length, "X-Request-Id": "local"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _send_json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
        self._send(json.dumps(value).encode(), status, content)

    def _form(self) -> dict[str, Any]:
        """The body, from JSON or a form."""
        if "json" in self.headers.get("Content-Type", ""):
            return dict(json.loads(self.body))
        return dict(parse_qs(self.body.decode(), keep_blank_values=True))

    # -- who asks, and for what ---------------------------------------------------------------------------------------

    def _token(self) -> Token | None:
        header = self.headers.get("Authorization", "")
        if not header:
            return None
        token = self.hub.tokens.get(header.removeprefix("Bearer "))
        if token is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return token

    def _readable(self, kinds: str, repo_id: str) -> Repo:
        kind = (kinds or "models").removesuffix("s")
        token = self._token()
        repo = self.hub.repos.get((kind, repo_id))
        if repo is not None and (not repo.private or (token is not None and token.can_read(repo))):
            return repo
        if token is None:  # without a token the Hub does not say whether a repo exists
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        raise Refusal(404, "Repository not found", "RepoNotFound")

    def _writable(self, kinds: str, repo_id: str) -> Repo:
        repo = self._readable(kinds, repo_id)
        token = self._token()
        if token is None:
            raise Refusal(401, "Invalid username or password.")
        if not token.can_write(repo.kind, repo.id):
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository.")
        return repo

    def _commit_of(self, repo: Repo, revision: str) -> Commit:
        commit = repo.at(revision or "main")
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit
