"""The HTTP sessions that the Hub's client uses here: none waits for ever, and no address it warns of holds a signature.

`huggingface_hub` sets no limit on how long it waits for an answer to most requests. It repeats an upload to the storage
after 5xx and broken connections, but not after 429: of a large file all parts would then be sent again.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import requests

from job.core.redact import redact

#: Seconds to wait for a connection, and for the next bytes of an answer.
PATIENCE = (30.0, 300.0)
#: Statuses after which a file, or a part of one, is sent again, and how often; seconds to wait if the Hub does not say.
BUSY = (408, 425, 429)
TRIES = 8
WAIT = 1.0
LONGEST_WAIT = 60.0


class Session(requests.Session):
    """A session with a limit on waiting, which sends a part again where the storage is too busy for it."""

    def request(self, method: Any, url: Any, *args: Any, **more: Any) -> requests.Response:  # type: ignore[override]
        """Send a request as `requests` does, with a limit on waiting where none is given."""
        if more.get("timeout") is None:
            more["timeout"] = PATIENCE
        body: Any = more.get("data")
        start = body.tell() if hasattr(body, "tell") else None
        tries = TRIES if str(method).upper() == "PUT" and (start is not None or body is None) else 1
        while True:
            answer = super().request(method, url, *args, **more)
            tries -= 1
            if answer.status_code not in BUSY or not tries:
                return answer
            asked = answer.headers.get("Retry-After", "")
            answer.close()
            time.sleep(min(LONGEST_WAIT, float(asked) if asked.strip().isdigit() else WAIT))
            if start is not None:
                body.seek(start)


class _Redacted(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), ()
        return True


_installed = False


def install() -> None:
    """Let `huggingface_hub` use such sessions in this process, with its own adapters (offline mode is one)."""
    global _installed
    if _installed:
        return
    from huggingface_hub import configure_http_backend, get_session

    adapters = {prefix: type(adapter) for prefix, adapter in get_session().adapters.items()}

    def made() -> requests.Session:
        session = Session()
        for prefix, kind in adapters.items():
            session.mount(prefix, kind())
        return session

    configure_http_backend(made)
    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(_Redacted())
    _installed = True
