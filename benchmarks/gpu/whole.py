"""The job's own stages on the device, with what they do beside steps: sentences said, checkpoints, speech.

On a GPU all of these go other ways than on a CPU: copies that arrive later, state that moves to where the weights are,
CUDA graphs that are recorded in the middle of a training run.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import torch
from safetensors.torch import load_file

from gpu import losses
from gpu.case import Case, Context, Finding
from job import pipeline
from job.config.settings import Settings

#: Steps between two checkpoints of a run, which is resumed from the second; the third is compared.
EVERY, SMALL_EVERY = 4, 2
RUN = {
    **losses.RUN,
    "PROBE_SENTENCES": "2",
    "RESUME": "auto",
    "EXPORT": "both",
    "WARMUP_STEPS": "0",
    "LR_SCHEDULER": "constant",
}
#: What is resumed: the modes' names, and more variables.
KINDS = {
    "full": {**losses.MODES["full"], "EXPORT": "merged"},
    "full, bf16_with_fp32": {**losses.MODES["full"], "EXPORT": "merged", "MASTER_WEIGHTS": "bf16_with_fp32"},
    "lora, adamw_8bit": {**losses.MODES["lora"], "OPTIMIZER": "adamw_8bit", "MASTER_WEIGHTS": "bf16_stochastic"},
}
#: How far the weights may be from an undisturbed run's, as a share of the way that those have gone since the
#: checkpoint. Sums of a GPU differ from run to run in their last digits; moments that are lost change all of the way.
APART = 0.2
#: Warnings of the job that tell of something that the device cannot do, or that fails there.
TELLTALE = re.compile(
    r"left out|CUDA graph|stock `generate`|attention is not used|uncompiled|is not judged|judged: |not compared|no page"
)
#: The whole job with the built-in model and clips, short of steps and texts.
WHOLE = {
    "PRESET": "demo",
    "MAX_STEPS": "20",
    "EVAL_STEPS": "10",
    "PROBE_SENTENCES": "2",
    "MIXED_PRECISION": "auto",
    "KEPT_ABILITIES": "true",
    "SYNTH_GATE": "warn",
    "TRACKERS": "",
}
SMALL_WHOLE = {
    "MAX_STEPS": "2",
    "EVAL_STEPS": "2",
    "PROBE_SENTENCES": "1",
    "KEPT_ABILITIES": "false",
    "BASELINES": "false",
    "MOS_MODEL": "none",
}


def resumed(name: str) -> Callable[[Context], Iterator[Finding]]:
    """A case: a run that resumes from a checkpoint goes where an undisturbed one goes, and both say sentences."""

    def run(context: Context) -> Iterator[Finding]:
        context.want_for(KINDS[name].get("MASTER_WEIGHTS", "fp32"))
        finding = Finding(f"job, resumed, {name}")
        every = SMALL_EVERY if context.small else EVERY
        steps = {"SAVE_STEPS": str(every), "MAX_STEPS": str(3 * every + 1), "EVAL_STEPS": str(2 * every)}
        values = {**RUN, **KINDS[name], **steps, "MIXED_PRECISION": "bf16" if context.small else "auto"}
        values |= {"INIT_MODEL_PATH": str(losses.base_of(context)), **(losses.SMALL if context.small else {})}
        first, second = (_work(context, which) for which in ("undisturbed", "resumed"))
        _, wrong = _run(context, first, values, "train", "train")
        start = first / "output" / f"checkpoint-{2 * every}"
        _, more = _run(context, second, {**values, "RESUME": str(start)}, "train", "train")
        finding.wrong += dict.fromkeys([*wrong, *more])
        before, exact, found = (
            load_file(at / "trained.safetensors")
            for at in (start, *(work / "output" / f"checkpoint-{3 * every}" for work in (first, second)))
        )
        way, off = (
            torch.cat([(one[key].float() - other[key].float()).flatten() for key in one]).norm()
            for one, other in ((exact, before), (found, exact))
        )
        finding.most("apart", float(off / way), APART)
        states = [
            load_file(work / "output" / f"checkpoint-{3 * every}/optimizer.safetensors") for work in (first, second)
        ]
        kinds, others = ({key: (t.dtype, t.shape) for key, t in state.items()} for state in states)
        finding.holds("same state", kinds == others, "the optimizer's state has other types or shapes when resumed")
        lines = (first / "output/validation_log.jsonl").read_text(encoding="utf-8").splitlines()
        said = [len(json.loads(line).get("said", ())) for line in lines]
        finding.holds("sentences said", bool(said) and all(said), f"sentences said at evaluations: {said}")
        yield finding

    return run


def from_fetch_to_report(context: Context) -> Iterator[Finding]:
    """The built-in recordings become a voice that is heard by all judges, beside the base model."""
    finding = Finding("job, whole")
    work = context.work / "runs" / "whole"
    values = {**WHOLE, **(SMALL_WHOLE if context.small else {})}
    settings, finding.wrong = _run(context, work, values, "fetch", "report")
    stats = json.loads((settings.paths.samples / "stats.json").read_text(encoding="utf-8"))
    finding.figures["samples"] = len(stats["samples"])
    finding.holds("report", (work / "report/index.html").is_file(), "there is no report")
    yield finding


def _work(context: Context, name: str) -> Path:
    """A work directory with prepared data of its own."""
    base = losses.base_of(context)
    work = context.work / "runs" / name
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(losses.prepared(context, base) / "work", work)
    return work


def _run(context: Context, work: Path, values: dict[str, str], first: str, last: str) -> tuple[Settings, list[str]]:
    """Run stages in this process; returns their settings, and the warnings that tell of a fault."""
    settings = context.settings({**values, "DEVICE": str(context.device), "WORK_DIR": str(work)})
    said = _Both(sys.stderr)
    with contextlib.redirect_stderr(said):
        pipeline.run(settings, first, last)
    lines = [line for line in said.getvalue().splitlines() if "] warning: " in line and TELLTALE.search(line)]
    return settings, lines


class _Both(io.StringIO):
    """What is written, kept; it is in the log at once, for a case that is killed."""

    def __init__(self, log: TextIO) -> None:
        super().__init__()
        self._log = log

    def write(self, text: str) -> int:
        """Write to both."""
        self._log.write(text)
        self._log.flush()
        return super().write(text)


CASES = [
    *(Case(f"job, resumed, {name}", resumed(name), 120) for name in KINDS),
    Case("job, whole", from_fetch_to_report, 180),
]
