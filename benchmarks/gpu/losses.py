"""The job's own training, in the precision that it takes on the device, against fp32 on the same data.

Both runs are the job's stages on the built-in clips: prepare, and a hundred steps of train. In fp32, kernels that are
made for lower types are not used, so a mistake in one of them shows as another curve.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import common
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from gpu.case import Case, Context, Finding, NotHere, rounded
from job import pipeline

STEPS, SMALL_STEPS = 100, 4
RUN = {
    "PRESET": "demo",
    "BATCH_SIZE": "8",
    "LEARNING_RATE": "1e-3",
    "SUB_TALKER_FRAME_FRACTION": "0.5",
    "LOGGING_STEPS": "1",
    "SAVE_STEPS": "100000",
    "EVAL_STEPS": "100000",
    "PROBE_SENTENCES": "0",
    "RESUME": "never",
    "EXPORT": "merged",
    "TRACKERS": "",
}
#: Of that, what is less where there is no GPU.
SMALL = {"MAX_TRAIN_SAMPLES": "4", "BATCH_SIZE": "2"}
MODES = {
    "full": {"TRAIN_MODE": "full"},
    "lora": {"TRAIN_MODE": "lora", "LORA_R": "16"},
    "layers": {"TRAIN_MODE": "layers", "REPLACE_LAST_N_LAYERS": "1", "ADD_NEW_LAYERS": "1"},
}
#: How far the losses may be from those in fp32: of all steps in the mean, and of the last tenth together.
MEAN, END = 0.02, 0.03
#: Or how many times as far as those of a run in fp32 whose weights were rounded to bf16 in the beginning: training from
#: random weights at a high rate makes any small difference large.
AS_ROUNDED = 2.0
#: Half of the last place of bf16's 8 digits, for a value of 1.
HALF_A_PLACE = 2.0**-9


def against_fp32(
    mode: str, name: str = "", more: dict[str, str] | None = None
) -> Callable[[Context], Iterator[Finding]]:
    """A case for a TRAIN_MODE, and `more` variables, called `name`, of the run that is compared with fp32."""

    def run(context: Context) -> Iterator[Finding]:
        context.want_for((more or {}).get("MASTER_WEIGHTS", "fp32"))
        base, steps = base_of(context), SMALL_STEPS if context.small else STEPS
        lowered = {**MODES[mode], **(more or {}), "MIXED_PRECISION": "bf16" if context.small else "auto"}
        exact = _exact(context, base, mode, steps)
        found = losses(context, base, f"{mode}-lowered", lowered, steps)
        tenth = max(1, steps // 10)
        first, last = (float(part.mean()) for part in (found[:tenth], found[-tenth:]))
        named = f"{mode}, {name}" if name else mode
        finding = Finding(f"losses, {named}, against fp32", {"steps": steps, "first": rounded(first)})
        off, bounds = _off(found, exact, tenth), (MEAN, END)
        if off[0] > MEAN or off[1] > END:
            nudged = losses(context, nudge(base), f"{mode}-nudged", {**MODES[mode], "MIXED_PRECISION": "no"}, steps)
            usual = _off(nudged, exact, tenth)
            finding.figures["off in the mean, fp32 from rounded weights"] = rounded(usual[0])
            finding.figures["off at the end, fp32 from rounded weights"] = rounded(usual[1])
            bounds = max(MEAN, AS_ROUNDED * usual[0]), max(END, AS_ROUNDED * max(usual))
        finding.most("off in the mean", off[0], bounds[0])
        finding.most("off at the end", off[1], bounds[1])
        finding.figures["last"] = rounded(last)
        if steps >= 100:  # or what it has learned is less than batches differ by
            finding.holds("learns", last < first, "the loss has not fallen")
        yield finding

    return run


def _exact(context: Context, base: Path, mode: str, steps: int) -> np.ndarray:
    """(steps,) losses of the run in fp32, which all cases of a mode are held against."""
    name = f"losses-{mode}-{steps}"
    if context.recall(name) is None:
        values = {**MODES[mode], "MIXED_PRECISION": "no"}
        context.remember(name, losses(context, base, f"{mode}-exact", values, steps).tolist())
    return np.array(context.recall(name))


def _off(found: np.ndarray, exact: np.ndarray, tenth: int) -> tuple[float, float]:
    """How far losses are from exact ones: of all steps in the mean, and of the last `tenth` steps together."""
    end = abs(found[-tenth:].mean() / exact[-tenth:].mean() - 1)
    return float((np.abs(found - exact) / exact).mean()), float(end)


def nudge(base: Path) -> Path:
    """A copy of a base, in fp32, each weight of which is moved at random by up to the half of bf16's last place."""
    to = base.with_name(f"{base.name}-nudged")
    if not to.exists():
        shutil.copytree(base, to)
        weights = to / "model.safetensors"
        made = torch.Generator().manual_seed(0)
        moved = {
            name: value.float() * (1 + (torch.rand(value.shape, generator=made) * 2 - 1) * HALF_A_PLACE)
            for name, value in load_file(weights).items()
        }
        save_file(moved, weights, {"format": "pt"})
    return to


def against_cpu(context: Context) -> Iterator[Finding]:
    """In fp32 on the device and on the CPU, which share no kernel: the built-in model, so that the CPU is done soon."""
    if context.small:
        raise NotHere("there is no GPU whose losses could be compared with the CPU's")
    base, steps = built_in(context), 20
    exact, found = (
        losses(context, base, f"full-{device}", {**MODES["full"], "MIXED_PRECISION": "no"}, steps, device)
        for device in ("cpu", str(context.device))
    )
    finding = Finding("losses, fp32, against the CPU", {"steps": steps})
    finding.most("off at most", float((np.abs(found - exact) / exact).max()), 2e-3)
    yield finding


def losses(
    context: Context, base: Path, name: str, values: dict[str, str], steps: int, device: str | None = None
) -> np.ndarray:
    """(steps,) losses that the job's training logs."""
    work = prepared(context, base, device) / "work"
    copy = context.work / "runs" / f"{name}-{time.monotonic_ns()}"
    shutil.copytree(work, copy)
    chosen = {**_common(context), **values, "MAX_STEPS": str(steps), "DEVICE": device or str(context.device)}
    settings = context.settings({**chosen, "INIT_MODEL_PATH": str(base), "WORK_DIR": str(copy)})
    pipeline.run(settings, "train", "train")
    lines = settings.paths.training_log.read_text(encoding="utf-8").splitlines()
    shutil.rmtree(copy)
    found = np.array([json.loads(line)["loss"] for line in lines])
    assert len(found) == steps, f"{len(found)} losses of {steps} steps"
    return found


def prepared(context: Context, base: Path, device: str | None = None) -> Path:
    """A directory whose `work` holds the built-in clips as the job has prepared them for `base`; made once."""
    done = context.work / "prepared" / base.name
    if not (done / "work").exists():
        half = done / "half"
        shutil.rmtree(half, ignore_errors=True)
        values = {**_common(context), "DEVICE": device or str(context.device), "INIT_MODEL_PATH": str(base)}
        settings = context.settings({**values, "WORK_DIR": str(half)})
        pipeline.run(settings, "fetch", "prepare")
        half.rename(done / "work")
    return done


def _common(context: Context) -> dict[str, str]:
    return {**RUN, **(SMALL if context.small else {})}


def base_of(context: Context) -> Path:
    """The built-in model on a CPU, else eight layers of 512."""
    if context.small:
        return built_in(context)
    base = context.work / "base"
    return base if base.exists() else common.small_base(base)


def built_in(context: Context) -> Path:
    """The built-in model."""
    from job.demo.base import build

    base = context.work / "built-in"
    return base if base.exists() else build(base)


_COPIES = against_fp32("full", "bf16_with_fp32", {"MASTER_WEIGHTS": "bf16_with_fp32"})
_COMPILED = against_fp32("full", "compiled", {"TORCH_COMPILE": "true"})
CASES = [
    Case("losses, full", against_fp32("full"), 150),
    Case("losses, full, bf16_with_fp32", _COPIES, 150),
    Case("losses, lora", against_fp32("lora"), 150),
]
#: Those that take a check's time from what it is asked more often.
LONGER = [
    Case("losses, layers", against_fp32("layers"), 150),
    Case("losses, fp32, against the CPU", against_cpu, 90),
    Case("losses, full, compiled", _COMPILED, 200, gpus=1, alone=True),
]
