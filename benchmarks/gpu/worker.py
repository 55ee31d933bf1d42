"""The process that runs cases: it reads their names from stdin and writes events to what was its stdout, as JSON lines.

A case may hang, or leave a GPU that fails at everything that follows: so the cases are not run in the process that
reports on them. What the cases themselves print goes to stderr.

Events: `ready` with what there is to do and on what; `finding` for each one; `end` of a case, with `error` if it
raised, and whether the process `leaves` with it.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

#: Bytes that may be left of a GPU's memory after a case without another process being started for the next.
LEFT_OVER = 256 << 20


def serve(options: argparse.Namespace) -> None:
    """Run cases until stdin ends."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def tell(event: str, **more: Any) -> None:
        channel.write(json.dumps({"event": event, **more}) + "\n")
        channel.flush()

    import torch

    from gpu.registry import cases_of
    from job.config.settings import Settings
    from job.model.loading import resolve_device

    resolve_device(Settings(device="cpu"))  # which turns off, for all devices, what the job does not use
    on_gpu = options.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    if not on_gpu:
        torch.set_num_threads(1)  # tiny tensors: a second one costs more than it brings
    cases = {case.name: case for case in [*cases_of(small=not on_gpu), *_more(options.cases)]}
    name = torch.cuda.get_device_name(device) if on_gpu else f"cpu, {torch.get_num_threads()} threads"
    listed = [{"name": c.name, "limit": c.limit, "gpus": c.gpus, "alone": c.alone and on_gpu} for c in cases.values()]
    gpus = torch.cuda.device_count() if on_gpu else 0
    tell("ready", device=name, gpus=gpus, torch=torch.__version__, cases=listed)
    for line in sys.stdin:
        asked = json.loads(line)
        error = _run(cases[asked["name"]], asked["seconds"], device, options.work, tell)
        left = _tidied(device) if error is None else 0
        leaves = (error is not None and on_gpu) or left > LEFT_OVER
        tell("end", error=error, leaves=leaves)
        if leaves:
            return


def _run(case: Any, seconds: float, device: Any, work: Path, tell: Callable[..., None]) -> str | None:
    """Run a case; returns what it raised, in one line, or None."""
    from gpu.case import Context, NotHere
    from job.core.errors import first_line

    until = time.monotonic() + seconds
    try:
        for finding in case.run(Context(device, device.type == "cpu", work, until)):
            tell("finding", **asdict(finding))
    except NotHere as reason:
        tell("finding", case=case.name, figures={}, wrong=[], undone=str(reason))
    except BaseException as error:  # whatever it is, the others go on
        traceback.print_exc()
        return f"{type(error).__name__}: {first_line(error)}"[:300]
    return None


def _tidied(device: Any) -> int:
    """Let go of what the case has left; returns the bytes of the GPU that could not be let go of."""
    import torch

    gc.collect()
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return int(torch.cuda.memory_reserved(device))


def _more(path: Path | None) -> list[Any]:
    """The `CASES` of a Python file."""
    if path is None:
        return []
    spec = importlib.util.spec_from_file_location("more_cases", path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: list[Any] = module.CASES
    return found
