"""Calls to the Hub with retries, and its errors as one line that names the fix."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from job.config.settings import Settings
from job.core.attempts import repeated
from job.core.errors import BadInput, JobError, Unreachable, causes, is_outage
from job.core.redact import one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

#: Attempts before giving up (fewer while a person waits), and seconds before the second.
ATTEMPTS = 8
FEW = 3
FIRST_WAIT = 2.0
#: Retried statuses besides 5xx: timeout, conflicting commit, concurrent commit, too many requests.
PASSING = (408, 409, 412, 429)


def client(settings: Settings) -> HfApi:
    """A client for the Hub at HF_ENDPOINT, with HF_TOKEN."""
    from huggingface_hub import HfApi

    from job.publish import sessions

    sessions.install()
    return HfApi(token=settings.token, library_name="qwen3-tts-job")


def retrying(what: str, call: Callable[[], T], settings: Settings, attempts: int = ATTEMPTS) -> T:
    """Retry a call with growing waits while its failure may be temporary.

    Raises:
        Exception: the last failure, or the first permanent one (bad token, no permission, bad metadata).
    """

    def reason(error: Exception) -> str | None:
        return f"{what}: {explain(error, settings)}" if may_pass(error) else None

    return repeated(call, attempts, FIRST_WAIT, "push", reason, _asked_wait)


def may_pass(error: BaseException) -> bool:
    """Whether a retry can help: after 5xx, 408, 409, 412, 429 and broken connections."""
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    for cause in _causes(error):
        if isinstance(cause, LocalEntryNotFoundError):
            continue  # how a download wraps whatever kept it from asking the Hub; the cause counts
        if _expired(cause):
            return True
        if isinstance(cause, OfflineModeIsEnabled | HFValidationError | FileNotFoundError | PermissionError):
            return False
        status = _status(cause)
        if status is not None:
            return status >= 500 or status in PASSING
    # Xet and the LFS upload wrap a broken transfer in RuntimeError; ValueError is permanent (card, settings).
    return isinstance(error, OSError | RuntimeError)


def asked(ask: Callable[[], T], settings: Settings, about: str, otherwise: str) -> T:
    """Ask the Hub in the first minute whether something will work.

    Args:
        about: what cannot be told if it does not answer, for the error.
        otherwise: what to do in order to go on without it, for the error.

    Raises:
        BadInput: it refuses.
        Unreachable: it cannot be reached.
    """
    try:
        return retrying("asking the Hub", ask, settings, FEW)
    except JobError:
        raise
    except Exception as error:  # the client and what it is built on raise many kinds
        raise (Unreachable if is_outage(error) else BadInput)(
            f"{about}: {explain(error, settings)}; check the network and HF_ENDPOINT, or {otherwise}"
        ) from None


#: The system's reason in the text of an exception: `[Errno 111] Connection refused`.
_SYSTEM = re.compile(r"\[Errno -?\d+\] ([^'\")\]]+)")


def explain(error: BaseException, settings: Settings) -> str:
    """The error message of the Hub or the network, on one line without secrets."""
    from huggingface_hub.errors import HfHubHTTPError

    secrets = settings.secrets
    for cause in _causes(error):
        status = _status(cause)
        if status is not None:
            said = cause.server_message if isinstance(cause, HfHubHTTPError) else None
            return one_line(f"{said or _first_line(cause)} (status {status})", secrets)
    if any(type(cause).__name__ == "JSONDecodeError" for cause in _causes(error)):
        return "the Hub's answer cannot be read; something between here and the Hub may have answered in its place"
    last = _causes(error)[-1]
    if _is_connection(error):
        system = _SYSTEM.findall(str(last))  # what the system said, in the printed objects of several libraries
        said = system[-1].strip() if system else f"{type(last).__name__}: {_first_line(last)}"
        return one_line(f"no connection to the Hub ({said})", secrets)
    return one_line(f"{_first_line(error)}", secrets)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    # for a rejected card, the lines after the first say what is wrong with it
    return " ".join(lines) if isinstance(error, ValueError) else (lines[0] if lines else type(error).__name__)


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an exception, or None."""
    return next((s for cause in _causes(error) if (s := _status(cause)) is not None), None)


def _causes(error: BaseException) -> list[BaseException]:
    return causes(error, handled=False)


def _response(error: BaseException) -> Any:
    import requests

    return error.response if isinstance(error, requests.HTTPError) else None


def _status(error: BaseException) -> int | None:
    response = _response(error)
    return int(response.status_code) if response is not None else None


def _expired(error: BaseException) -> bool:
    """Whether the storage behind the Hub rejected an upload: its signed URLs expire, and a retry gets new ones."""
    response = _response(error)
    return response is not None and response.status_code in (400, 403) and response.request.method == "PUT"


def _asked_wait(error: BaseException) -> float | None:
    """Seconds that the Hub asks to wait (`Retry-After`)."""
    for cause in _causes(error):
        response = _response(cause)
        value = response.headers.get("Retry-After", "") if response is not None else ""
        if value.strip().isdigit():
            return float(value)
    return None


def _is_connection(error: BaseException) -> bool:
    import requests

    broken = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, ConnectionError)
    return any(isinstance(cause, broken) for cause in _causes(error))
