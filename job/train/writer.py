"""Checkpoints are written while training goes on: one at a time, in the order they were taken."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from types import TracebackType

from job.core import files


class BackgroundWriter:
    """A thread that writes, a context manager.

    At most one writing is under way and the next one waits for it, so that no more than one checkpoint's copy is in
    memory. The thread is no obstacle to ending the process: what it was writing aside is then never moved into place.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> BackgroundWriter:
        """Nothing runs until `submit`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is under way; its failure is raised unless something else has failed already."""
        with contextlib.ExitStack() as stack:
            if error is not None:
                stack.enter_context(contextlib.suppress(Exception))
            self.wait()

    def submit(self, write: Callable[[], None]) -> None:
        """Write when all before is written.

        Args:
            write: works on copies of its own; training changes the weights meanwhile.

        Raises:
            whatever the writing before it has raised.
        """
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(write,), name="checkpoints", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is under way.

        Raises:
            whatever the last writing has raised.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:
            self._error = error
            if files.is_full(error) and not isinstance(error, OSError):
                self._error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "OUTPUT_DIR")
