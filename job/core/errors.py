"""The expected errors, each with the exit code that templates and schedulers rely on.

The command line (`job/cli.py`) prints each as one line on stderr that names the variable or the row and the fix,
without a traceback, and exits with the error's code.
"""

import re

OK = 0
BAD_INPUT = 2
DATA_REFUSED = 3
TRAINING_STOPPED = 4
PUBLISH_FAILED = 5
SPEECH_FAILED = 6
STOPPED_BY_SIGNAL = 143


class JobError(Exception):
    """Base class of all expected failures; the process exits with `exit_code`."""

    exit_code = 1


class BadInput(JobError):
    """Invalid settings or input. Exit code 2."""

    exit_code = BAD_INPUT


class Unreachable(BadInput):
    """An input cannot be reached now: no network, or the Hub is down. Exit code 1: try again later."""

    exit_code = 1


class DataRefused(JobError):
    """The data failed the quality gate. Exit code 3."""

    exit_code = DATA_REFUSED


class TrainingStopped(JobError):
    """Training diverged or a guard stopped it. Exit code 4."""

    exit_code = TRAINING_STOPPED


class PublishFailed(JobError):
    """Publishing failed; the artifacts are kept and `push` can be rerun. Exit code 5."""

    exit_code = PUBLISH_FAILED


class SpeechFailed(JobError):
    """The synthesized speech failed its checks. Exit code 6."""

    exit_code = SPEECH_FAILED


class StoppedBySignal(BaseException):
    """SIGTERM or SIGINT arrived; running the same command again continues. Exit code 143.

    Not an `Exception`: it may be raised inside any library, and those that catch every `Exception` must not swallow it.
    """

    exit_code = STOPPED_BY_SIGNAL


class PeerLost(StoppedBySignal):
    """Another process of a distributed run was lost; running the command again continues. Exit code 143.

    This process counts as stopped, not failed: the exit code of the lost process gives the reason.
    """


class FollowedRank(BaseException):
    """The first process has failed and has printed why: this one exits silently with the same exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the first process ended with {exit_code}")
        self.exit_code = exit_code


class MachineFault(JobError):
    """This machine gives different results for the same computation. Exit code 1: try again on another machine."""


class StorageFailed(JobError):
    """A disk, a network mount or a limit of this process failed. Exit code 1: running the command again continues."""


class NodesMissing(JobError):
    """Not all nodes started in time. Exit code 1, which schedulers count and retry."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or the name of its type when the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def loading_reason(error: BaseException) -> str:
    """Why transformers could not load a model, without the names of all models that it knows."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith("See the original errors:"):
        lines = [re.sub(r"^\w+: ", "", lines[-1])]  # the last traceback's last line, without the exception's name
    line = lines[0] if lines else type(error).__name__
    return re.split(r", or contain one of the following strings|\.? ?Model type should be one of", line)[0] or line


#: Names of the HTTP clients' exceptions for a server that cannot be reached or drops the connection.
NO_CONNECTION = {"ConnectionError", "Timeout", "TimeoutError", "ConnectError", "ReadError"}


def causes(error: BaseException, *, handled: bool = True) -> list[BaseException]:
    """The exception and its causes, outermost first; with `handled` also exceptions it was raised while handling."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        current = current.__cause__ or (current.__context__ if handled else None)
    return seen


def kinds_of(errors: list[BaseException]) -> set[str]:
    """Names of the exceptions' classes and base classes, to recognise clients' exceptions without importing them."""
    return {base.__name__ for one in errors for base in type(one).__mro__}


def status_of(errors: list[BaseException]) -> int | None:
    """The HTTP status of the first exception that has a response."""
    return next((s for e in errors if (s := getattr(getattr(e, "response", None), "status_code", None))), None)


def is_outage(error: BaseException) -> bool:
    """Whether an error of the Hub's clients may be temporary: no connection, or status 429 or 5xx."""
    errors = causes(error)
    kinds, status = kinds_of(errors), status_of(errors)
    if "OfflineModeIsEnabled" in kinds:
        return False
    if status is not None:
        return status == 429 or status >= 500
    return bool(kinds & NO_CONNECTION)
