"""The cases of two GPUs, on the CPU: for test_gpu_check.py; read by `gpu_check.py --cases`."""

from __future__ import annotations

from gpu import ranks
from gpu.case import Case

CASES = [
    Case("over gloo, one killed", ranks.lost_process, 150),
    Case("over gloo, one out of memory", ranks.short_process, 150),
]
