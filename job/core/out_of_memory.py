"""Whether a failure says that a GPU's memory is used up; torch has an exception of its own for its allocator only."""

from __future__ import annotations

#: What CUDA, its driver and Triton say, and cuBLAS, cuDNN and the like when they take their workspaces.
SAYINGS = ("out of memory", "_ALLOC_FAILED", "DEVICE_ALLOCATION_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the same work may pass with less of a GPU's memory in use.

    accelerate's `should_reduce_batch_size` knows nothing of cuBLAS, and takes a CPU's memory and unsupported operations
    for it. What a lost connection says is left to `job.processes.ranks`, whatever it names as the cause.
    """
    import torch
    import torch.distributed as dist

    if isinstance(error, torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError) or isinstance(error, dist.DistError):
        return False
    return any(saying in str(error) for saying in SAYINGS)
