"""Log lines, warnings and progress bars."""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeVar

from job.core.redact import redact, redact_line

T = TypeVar("T")

#: Seconds between two progress lines when there is no terminal.
PLAIN_INTERVAL = 10.0


_quiet = False
_json = False
_secrets: tuple[str, ...] = ()


def be_quiet() -> None:
    """Print nothing more in this process: of several that do the same work, only the first one logs."""
    global _quiet
    _quiet = True


@contextmanager
def aloud() -> Iterator[None]:
    """Print in a quiet process too, meanwhile: what each node does for itself."""
    global _quiet
    before, _quiet = _quiet, False
    try:
        yield
    finally:
        _quiet = before


def set_format(name: str) -> None:
    """Set LOG_FORMAT: `text`, or `json` for an object a line."""
    global _json
    _json = name == "json"


def mask(secrets: Iterable[str]) -> None:
    """Never print these, whatever a server or a library puts them into."""
    global _secrets
    _secrets = tuple(secrets)


def mask_tracebacks() -> None:
    """Print tracebacks of unexpected errors, those of threads too, with secrets masked."""

    def shown(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        print(redact(text, _secrets), end="", file=sys.stderr, flush=True)

    sys.excepthook = shown
    threading.excepthook = lambda found: shown(found.exc_type, found.exc_value, found.exc_traceback)


def line(level: str, stage: str, message: str, **more: Any) -> str:
    """A line of the log, of level `info`, `warning` or `error`, secrets masked."""
    message = redact_line(message, _secrets)
    if _json:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": now, "level": level, "stage": stage, "message": message, **more}, ensure_ascii=False)
    if level == "error":
        return f"error: {message}"
    return f"[{stage}] {'warning: ' if level == 'warning' else ''}{message}"


def say(stage: str, message: str) -> None:
    """Print one log line to stdout, unbuffered (the logs of a dying container must not be lost in a buffer)."""
    if not _quiet:
        print(line("info", stage, message), flush=True)


def warn(stage: str, message: str) -> None:
    """Print one warning line to stderr."""
    if not _quiet:
        print(line("warning", stage, message), file=sys.stderr, flush=True)


def progress(items: Iterable[T], *, stage: str, total: int, unit: str) -> Iterator[T]:
    """Yield `items`, showing a bar on a terminal and a line every `PLAIN_INTERVAL` seconds elsewhere."""
    if _quiet:
        yield from items
        return
    if sys.stderr.isatty() and not _json:
        from tqdm import tqdm

        yield from tqdm(items, desc=stage, total=total, unit=f" {unit}", dynamic_ncols=True)
        return
    started = shown = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - shown >= PLAIN_INTERVAL and done < total:
            shown = now
            left = (now - started) / done * (total - done)
            say(stage, f"{done}/{total} {unit}, about {left:.0f} s left")
