"""Background writing of checkpoints during training: one at a time, in order."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from job.core import files


class BackgroundWriter:
    """Context manager that writes in a thread.

    Only one write is in progress and the next one waits for it, so that at most one checkpoint's copy is in memory. The
    thread does not keep the process alive: an unfinished temporary file is then never renamed into place.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> BackgroundWriter:
        """Do nothing: the thread starts with `submit`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the current write; its error is raised unless another exception is already propagating."""
        with contextlib.ExitStack() as stack:
            if error is not None:
                stack.enter_context(contextlib.suppress(Exception))
            self.wait()

    @property
    def idle(self) -> bool:
        """Whether the next write would start at once."""
        return self._thread is None or not self._thread.is_alive()

    def submit(self, write: Callable[[], None]) -> None:
        """Start a write once the previous one is finished.

        Args:
            write: must work on its own copies, because training changes the weights meanwhile.

        Raises:
            whatever the previous write raised.
        """
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(write,), name="checkpoints", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until no write is in progress.

        Raises:
            whatever the last write raised.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, write: Callable[[], None]) -> None:
        try:
            with files.named_errors(Path("OUTPUT_DIR")):
                write()
        except BaseException as error:
            self._error = error
