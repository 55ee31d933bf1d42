"""What a request gets back, read from the work directory when the job has ended."""

from __future__ import annotations

import math
import re
from typing import Any

from handler_request import Request

from job.core import errors, files
from job.core.redact import redact
from job.stages import NAMES

#: Samples that a result describes one by one.
MOST_SAMPLES = 50
#: What a result tells of a sample; everything else is in samples/stats.json.
OF_A_SAMPLE = ("file", "text", "speaker", "seconds", "stopped_by_eos", "passed", "problems", "wer", "cer", "similarity")


def success(request: Request) -> dict[str, Any]:
    """The result of a run that ended well.

    Returns:
        `exit_code`, `name`, `work_dir`, `output_dir`, `log_file`, `report`; `stages`: counts and seconds of every stage
        that is done; `repo`: what push returned (`repo`, `url`, `commit`, or why it was skipped); `samples`: a summary
        of samples/stats.json. Paths are in the worker: on its network volume where it has one.
    """
    paths = request.settings.paths
    stages = {}
    for name in NAMES:
        state = _read(paths.state / f"{name}.json")
        if state:
            stages[name] = {key: state.get(key) for key in ("counts", "seconds", "finished")}
    found = {
        **_where(request),
        "exit_code": errors.OK,
        "output_dir": str(paths.output),
        "report": str(paths.report) if paths.report.exists() else None,
        "stages": stages,
        "repo": (stages.get("push") or {}).get("counts"),
        "samples": _samples(request),
    }
    return {key: value for key, value in found.items() if value is not None}


def failure(line: str, exit_code: int, request: Request | None = None) -> dict[str, Any]:
    """The result of a run that failed or never began.

    RunPod keeps nothing of a failed job's output but the text of `error`: so that ends with the exit code.
    """
    where = _where(request) if request else {}
    return {**where, "error": f"{line} (exit code {exit_code})", "exit_code": exit_code}


def reason(tail: list[str], exit_code: int) -> str:
    """Why the job failed: its own error line, or else the last thing that it said."""
    if exit_code == errors.STOPPED_BY_SIGNAL:
        return "stopped; send the same input again, and it resumes from here"
    said = [line for line in tail if line.strip()]
    for line in reversed(said):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    return said[-1] if said else "the job ended without a word"


def clean(result: Any, secrets: list[str]) -> Any:
    """`result` without secrets, wherever they may stand in it, and without numbers that JSON does not have."""
    if isinstance(result, str):
        return redact(result, secrets)
    if isinstance(result, float):
        return result if math.isfinite(result) else None
    if isinstance(result, list):
        return [clean(one, secrets) for one in result]
    if isinstance(result, dict):
        return {redact(str(key), secrets): clean(one, secrets) for key, one in result.items()}
    return result


def _where(request: Request) -> dict[str, Any]:
    return {"name": request.name, "work_dir": str(request.settings.paths.work), "log_file": str(request.log)}


def _samples(request: Request) -> dict[str, Any] | None:
    stats = _read(request.settings.paths.samples / "stats.json")
    rows = [row for row in (stats or {}).get("samples") or [] if isinstance(row, dict)]
    if not rows:
        return None
    return {
        "count": len(rows),
        "failed": sum(not row.get("passed") for row in rows),
        "seconds": round(sum(float(row.get("seconds") or 0) for row in rows), 3),
        "directory": str(request.settings.paths.samples),
        "files": [{key: row[key] for key in OF_A_SAMPLE if key in row} for row in rows[:MOST_SAMPLES]],
    }


def _read(path: Any) -> dict[str, Any] | None:
    try:
        value = files.read_json(path)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


#: `[train] 120/400 steps`: the stage that speaks, and what it says.
_STAGE = re.compile(r"^\[(\w+)\] (.*)")


def progress_of(lines: list[str]) -> dict[str, Any] | None:
    """Where the job is, from the last of `lines` that a stage said; None when no stage said any."""
    for line in reversed(lines):
        found = _STAGE.match(line)
        if found and found[1] in NAMES:
            return {"stage": found[1], "number": NAMES.index(found[1]) + 1, "of": len(NAMES), "line": found[2][:300]}
    return None
