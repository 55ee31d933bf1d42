"""Two processes on two GPUs: one that is lost while the other waits for it within NCCL, and one that is out of memory.

Without GPUs the same two runs go over gloo on the CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import common
import psutil

from gpu import losses
from gpu.case import Context, Finding

RUN = {
    **losses.RUN,
    **losses.MODES["full"],
    "MIXED_PRECISION": "no",
    "BATCH_SIZE": "2",
    "NUM_GPUS": "2",
    "MAX_RESTARTS": "0",
    "LEARNING_RATE": "1e-4",
    "WARMUP_STEPS": "0",
    "LR_SCHEDULER": "constant",  # the two runs are compared, and only one of them comes to its end
}
#: Seconds in which the process that is left must have noticed; of NCCL's own patience there are thirty minutes.
NOTICED = 60.0


def lost_process(context: Context) -> Iterator[Finding]:
    """The second process kills itself while the first one waits for it in a sum of gradients (`faulty`)."""
    finding = Finding("two processes, one killed")
    work = _work(context, "killed")
    with _running(context, work, {"MAX_STEPS": "100000", "GPU_CHECK_LOST_RANK": "1"}) as process:
        children: list[psutil.Process] = []
        lost = None
        while process.poll() is None and (lost is None or time.monotonic() < lost + NOTICED):
            assert time.monotonic() < context.until, "no process was lost"
            if len(children) < 2:
                children = psutil.Process(process.pid).children(recursive=True)
            elif lost is None and not all(map(_lives, children)):
                lost = time.monotonic()
            time.sleep(0.1)
        if process.poll() is None:
            finding.holds("ended", False, f"the run still hangs {NOTICED:.0f} s after a process was killed")
            yield finding
            return
        said = process.communicate()[0]
    finding.figures["seconds to end"] = round(time.monotonic() - lost, 1) if lost else 0.0
    finding.holds("exit code 1", process.returncode == 1, f"the exit code is {process.returncode}: {said[-300:]}")
    finding.holds("said", "killed by SIGKILL" in said, "no line says that a process was killed")
    finding.holds("no traceback", "Traceback" not in said, "there is a traceback")
    left = [child.pid for child in children if _lives(child)]
    finding.holds("nothing left", len(children) == 2 and not left, f"of {len(children)} processes, {left} are left")
    context.remember("undisturbed", _losses(work)[:4])
    yield finding


def _lives(child: psutil.Process) -> bool:
    try:
        return bool(child.is_running() and child.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def short_process(context: Context) -> Iterator[Finding]:
    """In one process a batch does not fit: both compute it in pieces, with the same losses."""
    finding = Finding("two processes, one out of memory")
    work = _work(context, "short")
    with _running(context, work, {"MAX_STEPS": "4", "GPU_CHECK_SHORT_RANK": "1"}) as process:
        said = process.communicate(timeout=max(1.0, context.until - time.monotonic()))[0]
    finding.holds("exit code 0", process.returncode == 0, f"the exit code is {process.returncode}: {said[-300:]}")
    finding.holds("in pieces", "in 2 pieces" in said, "no line says that batches are computed in pieces")
    expected, found = context.recall("undisturbed"), _losses(work)
    if expected and len(found) == len(expected):
        off = max(abs(one - other) / other for one, other in zip(found, expected, strict=True))
        finding.most("losses off", off, 1e-4)
    else:
        finding.figures["losses"] = len(found)
    yield finding


def _work(context: Context, name: str) -> Path:
    """A work directory with prepared data of its own, for the built-in model."""
    import shutil

    base = losses.built_in(context)
    work = context.work / "runs" / f"{name}-{time.monotonic_ns()}"
    shutil.copytree(losses.prepared(context, base) / "work", work)
    return work


@contextmanager
def _running(context: Context, work: Path, values: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """`python -m job train`, ended with the case; its processes, in sessions of their own, end with it."""
    kept = ("PATH", "HOME", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    path = os.pathsep.join([str(Path(__file__).parent / "faulty"), str(common.ROOT), os.environ.get("PYTHONPATH", "")])
    chosen = {
        **RUN,
        "ENV_FILE": context.own_file(),
        "DEVICE": context.device.type,
        "WORK_DIR": str(work),
        "INIT_MODEL_PATH": str(context.work / "built-in"),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "job", "train"],
        env={**environment, **chosen, **values, "PYTHONPATH": path.strip(os.pathsep), "PYTHONUNBUFFERED": "1"},
        cwd=common.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _losses(work: Path) -> list[float]:
    lines = (work / "output/training_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]
