"""Read the numbered lines of a user's text file, whatever its encoding and line endings."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from job.audio import audio_files
from job.core import storage
from job.core.errors import BadInput

#: Number of bytes at the start of a file that are read to detect its encoding and whether it is text.
HEAD_BYTES = 1 << 16

#: Byte order marks -> encoding. The mark of UTF-32 begins with that of UTF-16, so it comes first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _undecodable(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end  # becomes the byte FF, which is not valid UTF-8, so that the row is rejected


codecs.register_error("job-undecodable", _undecodable)


def encoding_of(head: bytes) -> str:
    """Return `utf-16` or `utf-32` if a file begins with a byte order mark, else `utf-8`: only marks are reliable."""
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), "utf-8")


def raw(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield each line's number, from 1, and its UTF-8 bytes without the line ending; no file contents raise an error.

    Lines end with LF or CRLF; with a lone CR only in a file that has no LF in its first `HEAD_BYTES`, as written by
    old Mac programs.
    """
    with open(path, "rb") as handle:
        head = handle.read(HEAD_BYTES)
    encoding = encoding_of(head)
    shown = head if encoding == "utf-8" else head.decode(encoding, "ignore").encode("utf-8", "ignore")
    old_mac = b"\r" in shown and b"\n" not in shown
    number = 0
    for number, line in enumerate(_split(path, encoding, old_mac), start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        yield number, line


def _split(path: Path, encoding: str, old_mac: bool) -> Iterator[bytes]:
    if encoding != "utf-8":
        end = "\r" if old_mac else "\n"
        with open(path, encoding=encoding, errors="job-undecodable", newline=end) as text:
            for decoded in text:
                encoded = decoded.removesuffix(end).encode("utf-8", "surrogateescape")
                yield encoded if old_mac else encoded.removesuffix(b"\r")
    elif old_mac:
        lines = path.read_bytes().split(b"\r")
        yield from lines[:-1] if not lines[-1] else lines
    else:
        with open(path, "rb") as handle:
            for line in handle:
                yield line.removesuffix(b"\n").removesuffix(b"\r")


def read(path: Path) -> Iterator[tuple[int, str]]:
    """Like `raw`, but yield strings; bytes that are not UTF-8 become lone surrogates, for which rows are rejected."""
    for number, line in raw(path):
        yield number, line.decode("utf-8", "surrogateescape")


class Spread:
    """An evenly spread sample (every n-th item) of a stream whose length is unknown."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.kept: list[Any] = []
        self._step = 1
        self.seen = 0

    def add(self, item: Any) -> None:
        """Add the next item of the stream, which may or may not be kept."""
        if self.seen % self._step == 0:
            self.kept.append(item)
            if len(self.kept) > self.most:
                self.kept = self.kept[::2]
                self._step *= 2
        self.seen += 1


def check(path: Path, where: str, form: str) -> None:
    """Check that a file can be read as text. `form` says what the file must contain, for the message.

    Raises:
        BadInput: it is missing, a folder, unreadable, UTF-16 without a byte order mark, or binary.
        PermissionError: this process may not read it.
    """
    if path.is_dir():
        raise BadInput(f"{where} is a folder; name the file in it, or set DATA_DIR to the folder")
    if not path.exists():
        raise BadInput(f"{where}: no such file")
    if not path.is_file():
        raise BadInput(f"{where} is not a regular file")
    try:
        with open(path, "rb") as handle:
            head = handle.read(HEAD_BYTES)
    except PermissionError:
        raise
    except OSError as error:
        storage.check(error, path)
        raise BadInput(f"{where}: {error.strerror}") from None
    if encoding_of(head) != "utf-8" or b"\0" not in head:
        return
    halves = (head[::2], head[1::2])
    if len(head) >= 8 and any(half.count(0) > 0.8 * len(half) for half in halves):
        raise BadInput(f"{where} looks like UTF-16 without its mark; save it as UTF-8")
    if head.count(0) > 1 + len(head) // 1000 or not _mostly_text(head):
        sheet = path.suffix.lower() in (".xlsx", ".xls", ".ods", ".numbers") or (
            head[:4] == b"PK\x03\x04" and b"xl/" in head
        )
        what = audio_files.what_it_is(head)
        todo = f": {what}" if what else ""
        todo = "; save a spreadsheet as CSV (UTF-8) first" if sheet else todo
        raise BadInput(f"{where} is a binary file; it must be text with {form}{todo}")


def _mostly_text(head: bytes) -> bool:
    controls = sum(head.count(bytes([byte])) for byte in range(1, 32) if byte not in b"\t\n\r")
    return controls == 0 and b"\n" in head.replace(b"\r", b"\n")
