"""Connect to a Ray cluster, RAY_ADDRESS or one of the job's own on this machine, and leave it again."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import job
from job.config.settings import Settings, environment
from job.core import console
from job.core.errors import BadInput, JobError, PeerLost, first_line
from job.prepare.row_encoder import STAGE

#: Longest path of the directory of a Ray, whose sockets are 61 characters further down: Linux allows 107.
LONGEST_DIRECTORY = 107 - 61
#: Another process may take one of the ports that were free.
STARTS = 3
#: Seconds in which it has either started or failed.
START_SECONDS = 120.0
#: Seconds that it has to end its processes.
STOP_SECONDS = 8.0
#: Variables that a Ray of the job's own and its workers get, and what others of theirs begin with: no tokens.
_PASSED_ON = ("PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTORCH_ALLOC_CONF")
_PREFIXES = ("PYTHON", "OMP_", "GOMP_", "MKL_", "CUDA_", "NVIDIA_", "NUMBA_", "LC_", "COVERAGE_")
#: What keeps Ray silent, in its processes and in this one; and its workers from yielding to everything else (nice 15).
_QUIET = {
    "RAY_worker_niceness": "0",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
}


@contextmanager
def connected(settings: Settings) -> Iterator[None]:
    """Context manager in which this process is connected to Ray.

    Raises:
        BadInput: Ray is not installed, or does not answer at RAY_ADDRESS, or is of another version there.
        PeerLost: the cluster was lost; running the job again continues.
    """
    os.environ.update(_QUIET)
    if find_spec("ray") is None:
        raise BadInput(
            "ENGINE=ray: the package ray is not installed here; run `make setup-ray`, or use an image that was built "
            "with WITH_RAY=1"
        )
    with contextlib.ExitStack() as stack:
        address = settings.ray_address or stack.enter_context(_own())
        import ray  # now, since it reads the variables of its own Ray when it is imported

        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            ray._private.worker._worker_logs_enabled = False  # it has no switch for what is said of lost workers
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, namespace=None)
        except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            ray.shutdown()
            raise BadInput(f"RAY_ADDRESS={address}: {_why(error)}") from error
        finally:
            for number, handler in handlers.items():  # Ray sets its own for SIGTERM
                signal.signal(number, handler)
        stack.callback(ray.shutdown)
        found = ray.cluster_resources()
        count = sum(node["Alive"] for node in ray.nodes())
        gpus, cpus = found.get("GPU", 0), found.get("CPU", 0)
        console.say(STAGE, f"Ray at {address}: {count} nodes with {cpus:g} CPUs and {gpus:g} GPUs")
        try:
            yield
        except (ray.exceptions.RayError, ConnectionError) as error:
            if isinstance(error, ray.exceptions.RayTaskError):
                raise
            raise PeerLost(
                f"the Ray cluster at {address} was lost ({first_line(error)[:120]}); run the same command again to "
                "continue"
            ) from error


def _why(error: BaseException) -> str:
    text = str(error)
    if "ersion mismatch" in text:
        return " ".join(text.split())[:300] + "; use the job's own image for all nodes"
    if "uthentication" in text:
        return "the cluster wants a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH as its nodes do"
    return f"no Ray cluster answers there ({first_line(error)[:160]}); unset it to start one on this machine"


@contextmanager
def _own() -> Iterator[str]:
    """Start a Ray on this machine; yields its address, and ends all its processes afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="ray-"))
    process: subprocess.Popen[bytes] | None = None
    try:
        if len(os.fsencode(directory)) > LONGEST_DIRECTORY:
            raise BadInput(
                f"TMPDIR={directory.parent}: too long for the paths of Ray's sockets, which may have 107 characters; "
                "set TMPDIR=/tmp"
            )
        # Ray listens on the network. Whoever does not know this token is refused.
        token = directory / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32), encoding="ascii")
        access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        os.environ.update(access)
        for attempt in range(STARTS):
            process = _start(directory / str(attempt), {**_environment(environment()), **access})
            if (address := _address(process, directory / str(attempt))) is not None:
                break
            _stop(process, directory)
        else:
            raise JobError(
                f"ENGINE=ray: Ray could not be started on this machine, in {STARTS} attempts; give it more CPUs or "
                "less other work, or use ENGINE=local"
            )
        yield address
    finally:
        if process is not None:
            _stop(process, directory)
        shutil.rmtree(directory, ignore_errors=True)


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    """The variables of a Ray of the job's own, which its workers have as well: no tokens."""
    package = str(Path(job.__file__).parents[1])
    passed = {name: value for name, value in env.items() if name in _PASSED_ON or name.startswith(_PREFIXES)}
    path = os.pathsep.join(dict.fromkeys([package, *passed.get("PYTHONPATH", "").split(os.pathsep)]))
    return {**passed, **_QUIET, "PYTHONPATH": path.rstrip(os.pathsep)}


def _start(directory: Path, env: Mapping[str, str], *more: str) -> subprocess.Popen[bytes]:
    directory.mkdir()
    options = [
        f"--temp-dir={directory}",
        "--include-dashboard=false",
        "--include-log-monitor=false",
        "--no-monitor",
        "--disable-usage-stats",
        *more,
    ]
    argv = [sys.executable, "-m", "job.prepare.on_ray.head", str(os.getpid()), *options]
    with open(directory / "start.log", "wb") as log:
        return subprocess.Popen(
            argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _address(process: subprocess.Popen[bytes], directory: Path) -> str | None:
    """The address of a Ray that is being started; None if it fails."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            if address := (directory / "ray_current_cluster").read_text(encoding="ascii").strip():
                return address
        time.sleep(0.2)
    return None


def _stop(process: subprocess.Popen[bytes], directory: Path) -> None:
    """End a Ray, and whatever it has started."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    left = processes_of(directory)
    for number in [process.pid, *left]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()


def processes_of(directory: Path) -> list[int]:
    """The processes whose environment names the directory: all that a Ray there has started. Empty without Linux."""
    mark, found = f"RAY_AUTH_TOKEN_PATH={directory / 'token'}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0") and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def started_with(settings: Settings, stack: contextlib.ExitStack) -> Any:
    """Connect until `stack` ends, and return the pool of the cluster's workers."""
    stack.enter_context(connected(settings))
    from job.prepare.on_ray.pool import Pool

    return Pool(settings)
