"""A local S3: as much of the protocol as pyarrow's client speaks when it lists, writes, reads and deletes."""

from __future__ import annotations

import hashlib
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

KEYS = {"AWS_ACCESS_KEY_ID": "AKIA" + "T" * 16, "AWS_SECRET_ACCESS_KEY": "s3cret" + "K" * 34}


def environment(host: str, port: int) -> dict[str, str]:
    """The variables that lead a client to a bucket there."""
    return {
        **KEYS,
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": host,
    }


class Bucket:
    """A server with one bucket, `voices`, for the time of a `with` block.

    Attributes:
        objects: key -> contents.
        refused: requests of these methods are answered as forbidden.
        seen: method and key of every request.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._address = host, port
        self.objects: dict[str, bytes] = {}
        self.refused: set[str] = set()
        self.seen: list[tuple[str, str]] = []
        self.uploads: dict[str, dict[int, bytes]] = {}
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        here = self

        class Bound(_Handler):
            bucket: Bucket = here

        self._server = ThreadingHTTPServer(self._address, Bound)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    @property
    def env(self) -> dict[str, str]:
        """The variables that lead a client here."""
        assert self._server is not None, "use it in a with block"
        return environment(self._address[0], self._server.server_port)


class _Handler(BaseHTTPRequestHandler):
    bucket: Bucket
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        self.query: dict[str, Any] = {
            name: values[0] for name, values in parse_qs(split.query, keep_blank_values=True).items()
        }
        name, _, key = unquote(split.path).lstrip("/").partition("/")
        body = self._body()
        self.bucket.seen.append((self.command, key))
        if name != "voices":
            self._error(404, "NoSuchBucket")
        elif self.command in self.bucket.refused:
            self._error(403, "AccessDenied")
        else:
            getattr(self, f"_{self.command.lower()}")(key, body)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            data = self._chunks()
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        whole, rest = b"", data
        while rest:  # size;signature, CRLF, contents, CRLF, and after a chunk of no size the checksums
            line, _, rest = rest.partition(b"\r\n")
            size = int(line.split(b";")[0], 16)
            if not size:
                break
            whole, rest = whole + rest[:size], rest[size + 2 :]
        return whole

    def _chunks(self) -> bytes:
        whole = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _get(self, key: str, body: bytes) -> None:
        if not key:
            self._list()
        elif key not in self.bucket.objects:
            self._error(404, "NoSuchKey")
        else:
            data = self.bucket.objects[key]
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            part = data[int(wanted[1]) : int(wanted[2]) + 1 if wanted[2] else None] if wanted else data
            headers = {"ETag": _etag(data)}
            if wanted:
                headers["Content-Range"] = f"bytes {wanted[1]}-{int(wanted[1]) + len(part) - 1}/{len(data)}"
            self._send(206 if wanted else 200, part, headers)

    def _head(self, key: str, body: bytes) -> None:
        if key and key not in self.bucket.objects:
            self._error(404, "NoSuchKey")
        else:
            data = self.bucket.objects.get(key, b"")
            self._send(200, data, {"ETag": _etag(data), "Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT"})

    def _put(self, key: str, body: bytes) -> None:
        if "uploadId" in self.query:
            self.bucket.uploads[self.query["uploadId"]][int(self.query["partNumber"])] = body
        else:
            self.bucket.objects[key] = body
        self._send(200, b"", {"ETag": _etag(body)})

    def _post(self, key: str, body: bytes) -> None:
        if "uploads" in self.query:
            number = str(len(self.bucket.uploads) + 1)
            self.bucket.uploads[number] = {}
            self._xml("InitiateMultipartUploadResult", f"<Key>{escape(key)}</Key><UploadId>{number}</UploadId>")
        elif "uploadId" in self.query:
            parts = self.bucket.uploads.pop(self.query["uploadId"])
            self.bucket.objects[key] = b"".join(parts[number] for number in sorted(parts))
            self._xml("CompleteMultipartUploadResult", f"<Key>{escape(key)}</Key><ETag>x</ETag>")
        else:
            for one in re.findall(r"<Key>(.*?)</Key>", body.decode()):
                self.bucket.objects.pop(one, None)
            self._xml("DeleteResult", "")

    def _delete(self, key: str, body: bytes) -> None:
        self.bucket.objects.pop(key, None)
        self._send(204, b"", {})

    def _list(self) -> None:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        inside, folders = [], set()
        for key, data in sorted(self.bucket.objects.items()):
            if not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                date = "<LastModified>2025-01-01T00:00:00.000Z</LastModified>"
                inside.append(f"<Contents><Key>{escape(key)}</Key>{date}<Size>{len(data)}</Size></Contents>")
        shown = [f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders)]
        counted = f"<KeyCount>{len(inside) + len(shown)}</KeyCount><IsTruncated>false</IsTruncated>"
        self._xml("ListBucketResult", f"<Name>voices</Name>{counted}{''.join(inside)}{''.join(shown)}")

    def _xml(self, root: str, inner: str) -> None:
        data = f'<?xml version="1.0" encoding="UTF-8"?><{root}>{inner}</{root}>'.encode()
        self._send(200, data, {"Content-Type": "application/xml"})

    def _error(self, status: int, code: str) -> None:
        data = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self._send(status, data, {"Content-Type": "application/xml"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


if __name__ == "__main__":  # in a network namespace of its own: address, port
    with Bucket(sys.argv[1], int(sys.argv[2])):
        print("serving", flush=True)
        threading.Event().wait()
