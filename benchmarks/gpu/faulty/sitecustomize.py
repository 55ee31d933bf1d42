"""Read by Python at its start where this folder is in PYTHONPATH: lets something happen to one process of a run.

In the process of rank GPU_CHECK_SHORT_RANK a batch of more than one sample does not fit: on a GPU by asking for more
memory than any has. That of rank GPU_CHECK_LOST_RANK kills itself in step `LOST_AT`, seconds after the others have
begun to add up gradients and wait for it.
"""

import importlib.abc
import importlib.util
import os
import signal
import sys
import time

LOST_AT = 6


class _Finder(importlib.abc.MetaPathFinder):
    """Changes a module as it is imported.

    Args:
        name: the module's.
        change: is given it.
    """

    def __init__(self, name, change):
        self._name, self._change = name, change

    def find_spec(self, name, path=None, target=None):
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            self._change(module)

        spec.loader.exec_module = exec_module
        return spec


def _shorten(objective):
    """`job.loss.objective`."""
    import torch

    whole = objective.Objective.forward

    def forward(self, batch):
        if self.training and len(batch.speakers) > 1:
            if batch.frames.is_cuda:
                torch.empty(1 << 50, dtype=torch.uint8, device=batch.frames.device)
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, batch)

    objective.Objective.forward = forward


def _lose(spread):
    """`job.train.spread`: the process is gone where it would send its first message of a step's sum of gradients."""
    import torch.distributed as dist

    watch, add, steps = spread.GradientSum.watch, dist.all_reduce, []

    def watched(self):
        steps.append(1)
        watch(self)

    def all_reduce(tensor, *others, **named):
        if len(steps) == LOST_AT and named.get("group") is None:
            time.sleep(3)  # far longer than a step takes: by now the others wait
            os.kill(os.getpid(), signal.SIGKILL)
        return add(tensor, *others, **named)

    spread.GradientSum.watch = watched
    dist.all_reduce = all_reduce


RANK = os.environ.get("RANK")
if RANK and os.environ.get("GPU_CHECK_SHORT_RANK") == RANK:
    sys.meta_path.insert(0, _Finder("job.loss.objective", _shorten))
if RANK and os.environ.get("GPU_CHECK_LOST_RANK") == RANK:
    sys.meta_path.insert(0, _Finder("job.train.spread", _lose))
