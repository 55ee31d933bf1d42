"""The lock of a work directory: a second run stops with an error instead of writing into the first one's files.

The lock is a file that only one process can create, which works on network volumes too (unlike `flock`). Its owner
touches it as long as it lives. An owner on this machine is looked up by process id and start time. One on another
machine, or in another container with this machine's name, counts as dead when its file is not touched while we watch;
this does not depend on the clocks.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from job.core.console import say
from job.core.errors import BadInput

#: Seconds between two touches by the owner.
HEARTBEAT = 5.0
#: Seconds that a killed process may take to disappear.
ENDING = 3.0
#: Seconds for which another machine's lock is watched for a touch.
WATCH = 20.0


class WorkLock:
    """Context manager that holds `WORK_DIR/state/run.lock`.

    Raises:
        BadInput: on entering, when another live run holds it, or when the directory cannot be created.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "run.lock"
        self._stop = threading.Event()

    def __enter__(self) -> WorkLock:
        """Take the lock, replacing a dead owner's if necessary."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            work = self.path.parent.parent
            raise BadInput(f"WORK_DIR={work} is not writable: {error.strerror}; set another directory") from error
        while not self._create():
            owner = self._owner()
            if owner is not None and self._lives(owner):
                since = owner.get("started", "")
                raise BadInput(
                    f"WORK_DIR={self.path.parent.parent} is in use by another run (process {owner.get('process')} on "
                    f"{owner.get('host')} since {since}); wait for it to finish, or set another WORK_DIR"
                )
            self._remove(owner)
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        self._stop.set()
        self.path.unlink(missing_ok=True)

    def _create(self) -> bool:
        import psutil

        me = {
            "host": socket.gethostname(),
            "namespace": _namespace(),
            "process": os.getpid(),
            "created": psutil.Process().create_time(),
            "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        }
        text = json.dumps(me) + "\n"
        aside = self._aside()
        aside.write_text(text, encoding="utf-8")
        try:
            os.link(aside, self.path)  # appears with its contents, or not at all
        except FileExistsError:
            return False
        except OSError:  # the volume has no hard links
            return self._create_in_place(text)
        finally:
            aside.unlink(missing_ok=True)
        return True

    def _create_in_place(self, text: str) -> bool:
        try:
            descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as handle:
            handle.write(text)
        return True

    def _aside(self) -> Path:
        """A file name that only this thread uses."""
        return self.path.with_name(f".run.lock-{os.getpid()}-{threading.get_ident()}")

    def _owner(self, path: Path | None = None) -> dict[str, Any] | None:
        """The lock's owner; None when it has just been released."""
        try:
            text = (path or self.path).read_text(encoding="utf-8")
            return dict(json.loads(text)) if text.strip() else {"host": "?"}  # still being written, or truncated
        except FileNotFoundError:
            return None
        except ValueError:
            return {"host": "?"}

    def _remove(self, owner: dict[str, Any] | None) -> None:
        """Remove a dead owner's lock, and only that one: another run may already have replaced it."""
        aside = self._aside()
        try:
            os.replace(self.path, aside)
        except FileNotFoundError:
            return
        if owner is not None and self._owner(aside) != owner:
            with contextlib.suppress(OSError):
                os.link(aside, self.path)
        aside.unlink(missing_ok=True)

    def _lives(self, owner: dict[str, Any]) -> bool:
        # A lock of an older version has no namespace.
        here = owner["host"] == socket.gethostname() and owner.get("namespace", _namespace()) == _namespace()
        if here:
            end = time.monotonic() + ENDING
            while _runs(owner["process"], owner["created"]):
                if time.monotonic() > end:
                    return True
                time.sleep(0.1)
            return False
        say("run", f"WORK_DIR is held from {owner['host']}: watching for {WATCH:.0f} s whether that run is alive")
        before = self._touched()
        end = time.monotonic() + WATCH
        while time.monotonic() < end:
            time.sleep(0.2)
            if self._touched() != before:
                return self._touched() is not None
        return False

    def _touched(self) -> int | None:
        try:
            return self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            try:
                os.utime(self.path)
            except OSError:
                return  # released, or the volume is gone, which the next write will report


def _namespace() -> str:
    """The process-id namespace. With `docker run --network host`, containers share a host name but not this."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _runs(process: int, created: float) -> bool:
    """Whether exactly this process is alive (a zombie is not).

    Process ids are reused, especially in restarted containers; the start time tells the processes apart.
    """
    import psutil

    try:
        found = psutil.Process(process)
        same = abs(found.create_time() - created) < 1.0
        return same and found.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
