"""The work of a step over the processes of a run, so that the result does not depend on how many there are.

A step is a fixed number of parts; a process takes every world-th of them. Without DistributedDataParallel: gradients
are summed after the last backward pass and not during it, so that the processes may have different numbers of parts,
and can agree to take the step again in smaller pieces when one of them is out of memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from job.ranks import Ranks
from job.train.readings import fill

T = TypeVar("T")

#: Gradients that are summed in one message.
BUCKET_BYTES = 256 << 20


class Spread:
    """How many processes share a step, and whether each holds the whole model.

    Args:
        ranks: the processes.
        sharded: DISTRIBUTED=fsdp: weights, gradients and optimizer are cut up (FSDP2, `fully_shard`).
    """

    def __init__(self, ranks: Ranks, sharded: bool = False) -> None:
        self.ranks = ranks
        self.sharded = sharded and ranks.world > 1

    def shard(self, objective: nn.Module, layers: Iterable[nn.Module]) -> None:
        """Cut the model up: each of `layers` for itself, and what is left together. Parameters become `DTensor`s."""
        from torch.distributed.fsdp import fully_shard

        device = next(objective.parameters()).device
        mesh = dist.device_mesh.init_device_mesh(device.type, (self.ranks.world,))
        frozen = {p for p in objective.parameters() if not p.requires_grad}
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(objective, mesh=mesh, ignored_params=frozen)  # tables that are only looked up stay whole

    def mine(self, parts: Sequence[T]) -> list[tuple[int, T, bool]]:
        """(number, part, whether it counts) of what this process takes.

        Under FSDP all take the same number, since every pass is a meeting; what is too much does not count.
        """
        ranks, count = self.ranks, len(parts)
        taken = [(n, parts[n], True) for n in range(ranks.rank, count, ranks.world)]
        rounds = -(-count // ranks.world)
        if self.sharded and len(taken) < rounds:
            taken.append((0, parts[0], False))
        return taken

    @property
    def loss_scale(self) -> float:
        """FSDP averages gradients over the processes where a sum is wanted."""
        return float(self.ranks.world) if self.sharded else 1.0

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add the processes' gradients up, in place. A parameter that has one nowhere is left without."""
        if self.ranks.world == 1 or self.sharded:
            return
        there = self.ranks.any(*(p.grad is not None for p in parameters))
        wanted = [p for p, anywhere in zip(parameters, there, strict=True) if anywhere]
        for bucket in _buckets(wanted):
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in bucket]
            flat = torch.cat([g.reshape(-1) for g in gradients])
            dist.all_reduce(flat)
            pieces = torch.split(flat, [g.numel() for g in gradients])
            for parameter, gradient, summed in zip(bucket, gradients, pieces, strict=True):
                parameter.grad = gradient.copy_(summed.view_as(gradient))


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    """Parameters of one type, in order, as many as fit a message."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        bytes_ = parameter.numel() * parameter.element_size()
        if bucket and (size + bytes_ > BUCKET_BYTES or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += bytes_
    if bucket:
        yield bucket


# ---- whole tensors and pieces of them --------------------------------------------------------------------------------


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or what it is a piece of. With pieces, all processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def copied(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The whole tensor's values on the CPU, of which training changes nothing; none in processes that write nothing."""
    tensor = whole(tensor.detach())
    if dist.is_initialized() and dist.get_rank() > 0:  # asked for its piece alone: no checkpoint a process on the host
        return torch.empty(0, dtype=dtype or tensor.dtype)
    copy = torch.empty(tensor.shape, dtype=dtype or tensor.dtype)
    if tensor.is_cuda:
        fill(copy, tensor)
    else:
        copy.copy_(tensor)
    return copy


def number(value: Any) -> float:
    """A one-element tensor as a number, whatever it is spread over."""
    return float(whole(value.detach())) if isinstance(value, torch.Tensor) else float(value)


def like(tensor: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """`tensor`, which is whole, cut up as `model` is."""
    if isinstance(model, DTensor) and tensor.shape == model.shape:
        return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements)
    return tensor
