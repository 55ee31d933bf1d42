"""Recognise out-of-memory errors of a GPU; torch's own exception covers only its allocator."""

from __future__ import annotations

#: The messages of CUDA, its driver and Triton, and of cuBLAS, cuDNN and the like when they allocate workspaces.
SAYINGS = ("out of memory", "_ALLOC_FAILED", "DEVICE_ALLOCATION_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the same work may succeed if it uses less GPU memory.

    accelerate's `should_reduce_batch_size` does not know cuBLAS's errors, and also matches the CPU's memory and
    unsupported operations. Errors of a lost connection are left to `job.processes.joining`, whatever cause they name.
    """
    import torch
    import torch.distributed as dist

    if isinstance(error, torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError) or isinstance(error, dist.DistError):
        return False
    return any(saying in str(error) for saying in SAYINGS)
