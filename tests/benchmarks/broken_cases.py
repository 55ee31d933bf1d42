"""Cases that go wrong in every way that a case on a GPU can, for test_gpu_check.py; read by `gpu_check.py --cases`."""

from __future__ import annotations

import os
import signal
import time

from gpu import losses
from gpu.case import Case, Context, Finding, NotHere
from safetensors.torch import load_file


def raises(context):
    yield Finding("broken, raises, first half", {"value": 1})
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nand what that means")


def wrong(context: Context):
    finding = Finding("broken, wrong number")
    finding.most("off", 0.3, 0.02)
    finding.least("rate", 12.0, 10.0)
    yield finding


def undefined(context):
    finding = Finding("broken, not a number")
    finding.most("off", float("nan"), 0.02)
    yield finding


def hangs(context):
    time.sleep(600)
    yield Finding("broken, hangs")


def dies(context):
    os.kill(os.getpid(), signal.SIGKILL)
    yield Finding("broken, dies")


def nothing(context):
    yield from ()


def missing(context):
    raise NotHere("there is no such thing here")
    yield


def right(context):
    finding = Finding("sound, after all others", {"pid": os.getpid()})
    finding.most("off", 0.01, 0.02)
    yield finding


def as_rounded(context: Context):
    """Losses in bf16 that no fixed limit lets pass are as far from fp32's as those from weights that were rounded."""
    losses.MEAN = losses.END = 0.0
    losses.AS_ROUNDED = 1000.0
    for finding in losses.against_fp32("full")(context):
        finding.case = "sound, as rounded"
        base = losses.base_of(context)
        exact, moved = (load_file(one / "model.safetensors") for one in (base, losses.nudge(base)))
        off = [float(((moved[name] - value) / value.float()).nan_to_num().abs().max()) for name, value in exact.items()]
        finding.most("moved", max(off), 2**-8.9)
        finding.least("moved on purpose", max(off), 2**-9.1)
        yield finding


CASES = [
    Case("broken, raises", raises, 30),
    Case("broken, wrong number", wrong, 30),
    Case("broken, not a number", undefined, 30),
    Case("broken, nothing", nothing, 30),
    Case("broken, dies", dies, 30),
    Case("sound, missing", missing, 30),
    Case("sound, GPUs", right, 30, gpus=2),
    Case("sound, after all others", right, 30),
    Case("sound, as rounded", as_rounded, 300, alone=True),
    Case("broken, hangs", hangs, 1),
]
