"""Errors a user can cause, each with the exit code that templates and schedulers rely on.

Every one of them is shown as a single line on stderr that names the variable or the row and the fix; the command line
(`job/cli.py`) turns them into exit codes and prints no traceback.
"""

OK = 0
BAD_INPUT = 2
DATA_REFUSED = 3
TRAINING_STOPPED = 4
PUBLISH_FAILED = 5
SPEECH_FAILED = 6
STOPPED_BY_SIGNAL = 143


class JobError(Exception):
    """Base of all expected failures. `exit_code` is what the process returns."""

    exit_code = 1


class BadInput(JobError):
    """Bad settings or bad input; nothing was started. Exit code 2."""

    exit_code = BAD_INPUT


class Unreachable(BadInput):
    """What the input names cannot be had now: no network, or the Hub is out of order. Exit code 1: try again later."""

    exit_code = 1


class DataRefused(JobError):
    """The quality gate refused the data. Exit code 3."""

    exit_code = DATA_REFUSED


class TrainingStopped(JobError):
    """Training diverged or a guard refused to go on. Exit code 4."""

    exit_code = TRAINING_STOPPED


class PublishFailed(JobError):
    """Publishing failed; the artifacts are kept and `push` can be rerun. Exit code 5."""

    exit_code = PUBLISH_FAILED


class SpeechFailed(JobError):
    """The synthesized speech failed its checks. Exit code 6."""

    exit_code = SPEECH_FAILED


class StoppedBySignal(BaseException):
    """SIGTERM or SIGINT arrived; rerunning the same command goes on. Exit code 143.

    Not an `Exception`: it may be raised inside any library, and those that catch everything must not swallow it.
    """

    exit_code = STOPPED_BY_SIGNAL


class PeerLost(StoppedBySignal):
    """Another process of a run that is spread over several was lost; rerunning goes on. Exit code 143.

    It counts as stopped, since that is what has happened to the run as a whole: the lost process's own end tells why.
    """


class FollowedRank(BaseException):
    """The first process has failed and has said why: this one ends with the same exit code and says nothing."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the first process ended with {exit_code}")
        self.exit_code = exit_code


class MachineFault(JobError):
    """This machine gives different results for the same computation. Exit code 1: try again on another one."""


class NodesMissing(JobError):
    """Not all nodes have come in time. Exit code 1, which schedulers count and try again."""


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line: its first, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


#: Names of the clients' exceptions for a Hub that is not there, or goes away.
NO_CONNECTION = {"ConnectionError", "Timeout", "TimeoutError", "ConnectError", "ReadError"}


def causes(error: BaseException, *, handled: bool = True) -> list[BaseException]:
    """The exception and what it was raised from, outermost first; with `handled` also while handling what."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        current = current.__cause__ or (current.__context__ if handled else None)
    return seen


def kinds_of(errors: list[BaseException]) -> set[str]:
    """Names of their classes and of all that those derive from: which client raised them needs no import."""
    return {base.__name__ for one in errors for base in type(one).__mro__}


def status_of(errors: list[BaseException]) -> int | None:
    """The HTTP status that the first of them with an answer has."""
    return next((s for e in errors if (s := getattr(getattr(e, "response", None), "status_code", None))), None)


def is_outage(error: BaseException) -> bool:
    """Whether a failure of the Hub's clients may pass by itself: no connection, or an answer of 429 or 5xx."""
    errors = causes(error)
    kinds, status = kinds_of(errors), status_of(errors)
    if "OfflineModeIsEnabled" in kinds:
        return False
    if status is not None:
        return status == 429 or status >= 500
    return bool(kinds & NO_CONNECTION)
