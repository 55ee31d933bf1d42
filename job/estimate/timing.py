"""Estimate how long a training step takes: what the GPU computes, and what its host needs to launch that.

Every forward and backward pass launches thousands of kernels, whatever the batch. With a small batch the GPU waits for
them: on an H200, 8 clips (700 positions) took 392 ms with full fine-tuning and 571 ms with LoRA, in which the GPU was
busy for 58 and 35 ms. Large batches are limited by the GPU, which reached 30 % of its data sheet's rate while it was
busy, or 39 % with TORCH_COMPILE (`make gpu-check`, 2026-11-29; benchmarks/RESULTS.md).
"""

from __future__ import annotations

import math

from job.config.settings import Settings

#: Share of a data sheet's rate that a GPU reaches while it works, in the worst and in the best case.
UTILIZATION = (0.25, 0.40)
#: Seconds in which a host launches the kernels of a pass, in the best and in the worst case.
LAUNCHING = (0.2, 0.6)


def passes_per_step(settings: Settings, mean: float) -> int:
    """Forward and backward passes of each process per step; training joins micro-batches where it can.

    Args:
        mean: mean length of a sample in positions.
    """
    from job.train.passes import most_joined

    joined = most_joined(settings, "cuda", sharded=settings.distributed == "fsdp")
    together = max(1, int(joined // (settings.batch_size * mean)))
    return math.ceil(settings.gradient_accumulation_steps / together)


def seconds_per_step(flops: float, passes: int, rate: float) -> tuple[float, float]:
    """Seconds of a step, in the best and in the worst case.

    At best the GPU computes while the host launches, at worst one waits for the other.

    Args:
        flops: of one process's share of a step.
        passes: of one process per step.
        rate: FLOP/s of the data sheet.
    """
    low, high = UTILIZATION
    fast, slow = LAUNCHING
    return max(flops / (high * rate), passes * fast), flops / (low * rate) + passes * slow
