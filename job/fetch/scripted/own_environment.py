"""The environment in which loading scripts run: a venv with what `requirements.lock` beside this file names."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from job.core import console, files
from job.core.errors import BadInput, Unreachable
from job.core.redact import one_line
from job.fetch.scripted import child

LOCK = Path(__file__).with_name("requirements.lock")
#: What pip says when the package index cannot be reached.
_NO_NETWORK = re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|Max retries")


def lock_digest() -> str:
    """Digest of the lock, which says what a script runs with."""
    return files.digest_file(LOCK)[:16]


def directory(within: Path) -> Path:
    """Where the environment is, below the directory for all of this."""
    return within / f"environment-{sys.version_info[0]}.{sys.version_info[1]}-{lock_digest()}"


def is_made(within: Path) -> bool:
    """Whether the environment is there, whole, and its interpreter still works."""
    return (directory(within) / "bin" / "python").exists()


def check() -> None:
    """Refuse a Python that cannot make environments.

    Raises:
        BadInput: the modules `venv` and `ensurepip` are not installed (on Debian they are a package of their own).
    """
    if any(find_spec(name) is None for name in ("venv", "ensurepip")):
        raise BadInput(
            "DATASET_TRUST_REMOTE_CODE=true: this Python lacks venv or ensurepip, which make the environment that "
            "loading scripts run in; install them (Debian: python3-venv)"
        )


def make(within: Path, env: Mapping[str, str]) -> Path:
    """Return the interpreter of the environment, which is made first if it is not there.

    `env` is the job's; pip gets what is in it for pip and for the network.

    Raises:
        BadInput: it cannot be installed.
        Unreachable: the package index cannot be reached.
    """
    place = directory(within)
    interpreter = place / "bin" / "python"
    if interpreter.exists():
        return interpreter
    check()
    console.say("fetch", "installing datasets 3.6 into an environment of its own (400 MB, once)")
    within.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}{files.TEMPORARY_SUFFIX}")
    shutil.rmtree(temporary, ignore_errors=True)
    small = {**for_pip(env), "TMPDIR": str(temporary), "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    try:
        temporary.mkdir()
        python = str(temporary / "bin" / "python")
        # Wheels only: nothing of a package runs when it is installed.
        options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-cache-dir"]
        for argv in (
            [sys.executable, "-I", "-m", "venv", str(temporary)],
            [python, "-m", "pip", "install", "--quiet", *options, "-r", str(LOCK)],
        ):
            code, output = child.run(argv, small, within, _still)
            if code:
                raise _failed(output)
        os.sync()
        shutil.rmtree(place, ignore_errors=True)  # one whose interpreter is gone
        os.replace(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    files.sync_directory(within)
    return interpreter


def of_script(own: Path, env: Mapping[str, str]) -> dict[str, str]:
    """All variables that a script sees."""
    endpoint = env.get("HF_ENDPOINT", "")
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(own / "home"),
        "HF_HOME": str(own / "home" / "huggingface"),
        "TMPDIR": str(own / "tmp"),
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **child.network(env),
        **({"HF_ENDPOINT": endpoint} if endpoint and "@" not in endpoint else {}),
    }


def for_pip(env: Mapping[str, str]) -> dict[str, str]:
    """What pip needs: its own settings and the network; a password in these is for the package index, and only pip."""
    names = ("PATH", "LANG", "HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", *child.CERTIFICATES)
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    return {
        name: value
        for name, value in env.items()
        if name in names or name.startswith("PIP_") or name.upper() in proxies
    }


def _still(seconds: float) -> None:
    console.say("fetch", f"still installing after {seconds / 60:.0f} min")


def _failed(output: str) -> BadInput:
    errors = [line for line in output.splitlines() if line.startswith("ERROR: ")] or [child.last_line(output)]
    reason = one_line(errors[0].removeprefix("ERROR: "))
    kind = Unreachable if _NO_NETWORK.search(output) else BadInput
    return kind(
        f"DATASET_TRUST_REMOTE_CODE=true: datasets 3.6 cannot be installed ({reason}); pip must reach a package index "
        "(PIP_INDEX_URL), once"
    )
