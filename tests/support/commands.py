"""Running the real command line in this process: torch is imported once, the rest is as in a shell."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass

from job import cli


@dataclass
class Result:
    """What a shell would see."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def run_job(capsys, arguments, variables) -> Result:
    """`python -m job <arguments>` with exactly `variables` (and PATH, HOME) in the environment."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "OMP_NUM_THREADS") if name in os.environ}
    before, argv = dict(os.environ), sys.argv
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    os.environ.clear()
    os.environ.update({**kept, **{name: str(value) for name, value in variables.items()}})
    sys.argv = ["job", *arguments]
    capsys.readouterr()
    try:
        cli.main()
        code = 0
    except SystemExit as exit_request:
        code = int(exit_request.code or 0)
    finally:
        sys.argv = argv
        os.environ.clear()
        os.environ.update(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    captured = capsys.readouterr()
    return Result(code, captured.out, captured.err)
