"""The state files of finished stages, and the fingerprints that tell whether a rerun can skip a stage."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from job import __version__
from job.core import files

#: Increased when the meaning of a stage's outputs changes, so that results in an older format are redone.
FORMAT = 2


def fingerprint(stage: str, values: dict[str, Any], inputs: Any, upstream: dict[str, str]) -> str:
    """Hash of everything that a stage's result depends on.

    Args:
        stage: the stage's name.
        values: the variables it uses.
        inputs: identities of the files it reads from outside the work directory (`files.identity`).
        upstream: digests of the state files of the stages it builds on, which change when a stage is redone.
    """
    everything = {"format": FORMAT, "stage": stage, "values": values, "inputs": inputs, "upstream": upstream}
    return files.digest_bytes(json.dumps(everything, sort_keys=True, default=str).encode())


#: Differences that a message names, and characters of a value in it.
FEW, SHOWN = 3, 60


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is another one in `now` than before, by name: `X was 1 and is 2`."""
    return [
        f"{name} was {_short(before.get(name))} and is {_short(now.get(name))}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def some_of(found: list[str], between: str) -> str:
    """The first few of what was found, and how many more there are: enough to tell which change it was."""
    more = f", and {len(found) - FEW} more" if len(found) > FEW else ""
    return between.join(found[:FEW]) + more


def _short(value: Any) -> str:
    return str(value)[:SHOWN] if value is not None else "not set"


def read(directory: Path, stage: str) -> dict[str, Any] | None:
    """The state of a stage; None if it never finished or its state file is unreadable."""
    try:
        state = files.read_json(directory / f"{stage}.json")
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def digest(directory: Path, stage: str) -> str:
    """Digest of a stage's state file, or of an earlier one's whose contents it made again; `none` if it has none."""
    path = directory / f"{stage}.json"
    if not path.exists():
        return "none"
    return (read(directory, stage) or {}).get("as_before") or files.digest_file(path)


def begin(directory: Path, stage: str) -> None:
    """Record that a stage starts to replace its outputs, which are those of the recorded settings no longer.

    What later stages know it by stays, in case that it makes the same again; so does what it said of itself.
    """
    before = read(directory, stage)
    if before is not None:
        known = {**before, "fingerprint": "", "as_before": digest(directory, stage)}
        files.write_json(directory / f"{stage}.json", known)


def write(
    directory: Path,
    stage: str,
    *,
    fingerprint: str,
    outputs: list[Path],
    counts: dict[str, Any],
    values: dict[str, Any],
    started: float,
    contents: str | None = None,
    anew: bool = False,
) -> None:
    """Record that a stage has finished. Written last, so that a state file means that the outputs are complete.

    Args:
        started: `time.monotonic()` of the stage's start.
        contents: a digest of what it made, where that decides whether later stages are redone.
        anew: later stages are redone also if the contents are the same as before.
    """
    before = read(directory, stage) or {}
    same = contents is not None and not anew and before.get("contents") == contents
    more = {"contents": contents} if contents is not None else {}
    more |= {"as_before": digest(directory, stage)} if same else {}
    files.write_json(
        directory / f"{stage}.json",
        {
            "stage": stage,
            "fingerprint": fingerprint,
            "outputs": [str(path) for path in outputs],
            "counts": counts,
            "seconds": round(time.monotonic() - started, 3),
            "finished": datetime.now(UTC).isoformat(timespec="microseconds"),
            "variables": values,
            "versions": _versions(),
            **more,
        },
    )


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"job": __version__, "python": platform.python_version()}
    for package in ("torch", "qwen-tts", "transformers", "accelerate", "peft", "datasets", "huggingface_hub"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found
