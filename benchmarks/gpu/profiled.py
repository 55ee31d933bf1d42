"""What torch's profiler says about a step: how many kernels, how long the GPU works, and on what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from gpu.case import Context, rounded

#: Kernels that are named, by the time that they take together.
TOP = 8
#: What is on a GPU's time line and is no kernel.
COPIES = ("Memcpy", "Memset")


def profiled(context: Context, step: Callable[[], Any]) -> dict[str, Any]:
    """Figures of one step. On a CPU its operations stand for kernels."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if context.on_gpu else [])]
    with profile(activities=activities) as found:
        step()
        if context.on_gpu:
            torch.cuda.synchronize(context.device)
    kind = DeviceType.CUDA if context.on_gpu else DeviceType.CPU
    events = [event for event in found.key_averages() if event.device_type == kind]
    if context.on_gpu:
        # Ranges that were named on the host are on the GPU's time line too, around the kernels that they launched.
        events = [event for event in events if not getattr(event, "is_user_annotation", False)]
    kernels = [event for event in events if not event.key.startswith(COPIES)]
    took = {
        event.key: event.self_device_time_total if context.on_gpu else event.self_cpu_time_total for event in events
    }
    if not kernels:
        return {"kernels": None}  # the profiler is not allowed to look at this GPU
    ordered = sorted(kernels, key=lambda event: -took[event.key])
    for event in ordered:  # into the log
        print(f"{took[event.key] / 1000:9.3f} ms {event.count:6d} {event.key[:300]}")
    most = ordered[:TOP]
    return {
        "kernels" if context.on_gpu else "operations": sum(event.count for event in kernels),
        "busy ms": rounded(sum(took.values()) / 1000),
        "top": {event.key[:100]: [event.count, rounded(took[event.key] / 1000)] for event in most},
    }
