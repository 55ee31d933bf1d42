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
