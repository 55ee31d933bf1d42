"""A local Google Cloud Storage: as much of its JSON API as pyarrow's client speaks when it lists and reads.

It serves the files of a folder as the objects of one bucket, `voices`, and runs in a process of its own: pyarrow holds
the interpreter's lock while it opens an object.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

ROOT = Path(__file__).resolve().parents[2]


class GoogleBucket:
    """A server of the files below a folder, for the time of a `with` block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder.with_name(f"{folder.name}.log")
        self._process: subprocess.Popen[str] | None = None
        self.env: dict[str, str] = {}

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.support.google", str(self.folder), str(self._log)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._process.stdout is not None
        port = int(self._process.stdout.readline())
        self.env = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}", "NO_PROXY": "127.0.0.1"}
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def reads(self) -> list[str]:
        """Names of the objects whose contents were asked for since the last call."""
        found = self._log.read_text().splitlines() if self._log.exists() else []
        self._log.write_text("")
        return found

    def wait(self, seconds: float) -> None:
        """Take so long for the contents of each object from now on."""
        (self.folder.with_name(f"{self.folder.name}.wait")).write_text(str(seconds))


class _Handler(BaseHTTPRequestHandler):
    folder: Path
    log: Path
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        found = re.fullmatch(r"/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?", split.path)
        if found is None or found[1] != "voices":
            self._error(404, "The specified bucket does not exist.")
        elif found[2] is None:
            listed = split.path.endswith("/o")
            self._json(self._listing(query) if listed else {"kind": "storage#bucket", "id": "voices", "name": "voices"})
        elif not (self.folder / unquote(found[2])).is_file():
            self._error(404, "No such object")
        elif query.get("alt") == "media":
            with self.log.open("a") as log:
                log.write(f"{unquote(found[2])}\n")
            slow = self.folder.with_name(f"{self.folder.name}.wait")
            time.sleep(float(slow.read_text()) if slow.exists() else 0.0)
            self._media((self.folder / unquote(found[2])).read_bytes())
        else:
            self._json(self._object(unquote(found[2])))

    def _listing(self, query: dict[str, str]) -> dict[str, Any]:
        prefix, at_once = query.get("prefix", ""), int(query.get("maxResults", "2"))  # pages, as of a large bucket
        names = sorted(str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file())
        names = [name for name in names if name.startswith(prefix) and name > query.get("pageToken", "")]
        more = {"nextPageToken": names[at_once - 1]} if len(names) > at_once else {}
        return {"kind": "storage#objects", "items": [self._object(name) for name in names[:at_once]], **more}

    def _object(self, name: str) -> dict[str, Any]:
        status = (self.folder / name).stat()
        made = datetime.fromtimestamp(int(status.st_mtime), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        return {
            "kind": "storage#object", "id": f"voices/{name}/1", "name": name, "bucket": "voices", "generation": "1",
            "metageneration": "1", "size": str(status.st_size), "timeCreated": made, "updated": made,
        }  # fmt: skip

    def _media(self, data: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._send(200, data, {})
            return
        part = data[int(wanted[1]) : int(wanted[2]) + 1 if wanted[2] else None]
        last = int(wanted[1]) + len(part) - 1
        self._send(206, part, {"Content-Range": f"bytes {wanted[1]}-{last}/{len(data)}"})

    def _error(self, status: int, message: str) -> None:
        self._json({"error": {"code": status, "message": message, "errors": [{"message": message}]}}, status)

    def _json(self, value: dict[str, Any], status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":  # a folder, and the file to which names of objects are written that are read

    class Bound(_Handler):
        folder, log = Path(sys.argv[1]), Path(sys.argv[2])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()
