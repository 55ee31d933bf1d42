"""One run a work directory: a second one refuses instead of writing into the first one's files.

The lock is a file that only one process can create, so that it works on network volumes too (no `flock`). Its owner
touches it as long as it lives. An owner on this machine is looked up by process id and start time; one elsewhere, or in
another container that has this machine's name, is taken for dead when its file is not touched while we watch, whatever
the two clocks say.
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

#: Seconds between two touches of the owner.
HEARTBEAT = 5.0
#: Seconds that a process which was killed may take to be gone.
ENDING = 3.0
#: Seconds that a lock of another machine is watched for a touch.
WATCH = 20.0


class WorkLock:
    """Holds `WORK_DIR/state/run.lock` while entered.

    Raises:
        BadInput: on entering, when another run that lives holds it, or when there can be no such directory.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "run.lock"
        self._stop = threading.Event()

    def __enter__(self) -> WorkLock:
        """Take the lock, over a dead owner's if need be."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            work = self.path.parent.parent
            raise BadInput(f"WORK_DIR={work} cannot be written to: {error.strerror}; set it elsewhere") from error
        while not self._create():
            owner = self._owner()
            if owner is not None and self._lives(owner):
                since = owner.get("started", "")
                raise BadInput(
                    f"WORK_DIR={self.path.parent.parent} is in use by another run (process {owner.get('process')} on "
                    f"{owner.get('host')} since {since}); wait for it, or set another WORK_DIR"
                )
            self._remove(owner)
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
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
            os.link(aside, self.path)  # there with its contents, or not at all
        except FileExistsError:
            return False
        except OSError:  # a volume without hard links
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
        """A name that is only this thread's."""
        return self.path.with_name(f".run.lock-{os.getpid()}-{threading.get_ident()}")

    def _owner(self, path: Path | None = None) -> dict[str, Any] | None:
        """Who holds it; None when it has just been given back."""
        try:
            text = (path or self.path).read_text(encoding="utf-8")
            return dict(json.loads(text)) if text.strip() else {"host": "?"}  # being written, or cut short
        except FileNotFoundError:
            return None
        except ValueError:
            return {"host": "?"}

    def _remove(self, owner: dict[str, Any] | None) -> None:
        """Take a dead owner's lock away, and nobody else's: another run may have done so and be the owner by now."""
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
        # A lock of an older version says nothing of a namespace.
        here = owner["host"] == socket.gethostname() and owner.get("namespace", _namespace()) == _namespace()
        if here:
            end = time.monotonic() + ENDING
            while _runs(owner["process"], owner["created"]):
                if time.monotonic() > end:
                    return True
                time.sleep(0.1)
            return False
        say("run", f"WORK_DIR is held from {owner['host']}: watching for {WATCH:.0f} s whether that run lives")
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
                return  # given back, or the volume is gone: whoever writes next will say so


def _namespace() -> str:
    """What process ids are valid in. With `docker run --network host` containers share a host name, but not these."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _runs(process: int, created: float) -> bool:
    """Whether a process is that very one and alive; one that has ended and waits to be noticed is not.

    A process id is given out again, in a restarted container above all; its start time is not.
    """
    import psutil

    try:
        found = psutil.Process(process)
        same = abs(found.create_time() - created) < 1.0
        return same and found.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
