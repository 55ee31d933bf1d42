"""Rewrite the report page at every evaluation while a stage trains, for people who look at it meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from job.config.settings import Settings
from job.core import console, files
from job.core.errors import first_line
from job.evaluate import report

#: Seconds between two looks at the validation log.
INTERVAL = 2.0


@contextmanager
def page(settings: Settings) -> Iterator[None]:
    """Keep `report/index.html` up to date with the logs, in a thread, until the block ends.

    The page is made of the files that training writes anyway, so training need not know of it.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(settings, stop), name="report", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(settings: Settings, stop: threading.Event) -> None:
    log = settings.paths.validation_log
    seen = files.stamp(log)
    while not stop.wait(INTERVAL):
        now = files.stamp(log)
        if now == seen:
            continue
        seen = now
        try:
            report.write_page(settings, training=True)
        except Exception as error:  # whatever the error, training continues
            console.warn("report", f"no page while training: {first_line(error)}")
            return
