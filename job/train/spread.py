"""Distribution of a step's work over the processes of a run, with a result that does not depend on their number.

A step is a fixed number of micro-batches (parts); each process takes every world-th one. torch's
DistributedDataParallel would deadlock when processes have different numbers of parts, or when one runs out of memory
and retries. `GradientSum` replaces it, and likewise overlaps the sums with the last backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.hooks import RemovableHandle

from job.processes.ranks import Ranks
from job.train.readings import fill

T = TypeVar("T")

#: Gradients of at least this size get a message (all-reduce) each; smaller ones are batched up to this size.
MESSAGE_BYTES = 4 << 20


class Spread:
    """How many processes share a step, and whether each holds the whole model.

    Args:
        ranks: the processes.
        sharded: DISTRIBUTED=fsdp: weights, gradients and optimizer state are sharded (FSDP2, `fully_shard`).
    """

    def __init__(self, ranks: Ranks, sharded: bool = False) -> None:
        self.ranks = ranks
        self.sharded = sharded and ranks.world > 1

    def shard(self, objective: nn.Module, layers: Iterable[nn.Module], low: bool) -> None:
        """Shard the model: each of `layers` as a unit, the rest as one more unit. Parameters become `DTensor`s.

        Args:
            objective: every parameter that is ever trained must require a gradient; the others, such as tables that
                are only looked up, are not sharded.
            layers: layers of `objective`.
            low: gather layers in bf16, of which autocast would make a copy anyway; gradients are summed in fp32.
        """
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        device = next(objective.parameters()).device
        mesh = dist.device_mesh.init_device_mesh(device.type, (self.ranks.world,))
        frozen = {p for p in objective.parameters() if not p.requires_grad}
        # The residual stream between layers, and the rotary angles, keep their dtype.
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy if low else MixedPrecisionPolicy())
        root = cast(Any, fully_shard(objective, mesh=mesh, ignored_params=frozen))
        # FSDP picks a group's gradient dtype from what is trained in its first pass. Initialised only then, it would
        # pick bf16, and fail when PROGRESSIVE_STAGES starts to train a layer later. So initialise it now.
        root._get_fsdp_state()._lazy_init()

    def mine(self, parts: Sequence[T]) -> list[tuple[int, T, bool]]:
        """Return (number, part, whether it counts) for each part this process computes.

        Under FSDP every pass is a collective, so all processes take equally many parts; surplus ones do not count.
        """
        ranks, count = self.ranks, len(parts)
        taken = [(n, parts[n], True) for n in range(ranks.rank, count, ranks.world)]
        rounds = -(-count // ranks.world)
        if self.sharded and len(taken) < rounds:
            taken.append((0, parts[0], False))
        return taken

    @property
    def loss_scale(self) -> float:
        """Factor on the loss: FSDP averages gradients over the processes, but we need their sum."""
        return float(self.ranks.world) if self.sharded else 1.0


class GradientSum:
    """Sums gradients over all processes, in place, overlapping with the last backward pass of a step.

    All processes send the same messages in the same order, once per attempt at a step, even if the attempt fails: a
    process that has no part, or has failed, sends zeros. So no process waits for a message that never comes, and
    whether the sums are valid is decided afterwards.

    A large gradient is its own message, summed in place; small ones are copied into one buffer. The order is that in
    which gradients became ready on the first process in the first step with these parameters. A gradient that is ready
    later on another process only delays the messages after it.

    Args:
        ranks: the processes; with only one, nothing is sent.
        parameters: the trained parameters, the same in all processes.
    """

    def __init__(self, ranks: Ranks, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self._ranks = ranks
        self._hooks: list[RemovableHandle] = []
        self._sent: list[tuple[dist.Work, torch.Tensor]] = []
        self._arrived: list[int] = []
        self._learned = False
        self._order(range(len(self.parameters)))

    def _order(self, order: Iterable[int]) -> None:
        self._messages = _messages(self.parameters, order)
        self._message_of = {number: index for index, numbers in enumerate(self._messages) for number in numbers}
        self._missing = [len(numbers) for numbers in self._messages]

    def watch(self) -> None:
        """Start sending gradients as they become ready; call between forward and backward of the last part."""
        if self._ranks.world > 1:
            for number, parameter in enumerate(self.parameters):
                hook = partial(self._ready, number)
                self._hooks.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]

    def _ready(self, number: int, _: torch.Tensor) -> None:
        self._arrived.append(number)
        self._missing[self._message_of[number]] -= 1
        while len(self._sent) < len(self._messages) and not self._missing[len(self._sent)]:
            self._send()

    def _send(self) -> None:
        """Send the next message."""
        gradients = self._gradients(len(self._sent))
        flat = gradients[0] if len(gradients) == 1 else torch.cat([g.reshape(-1) for g in gradients])
        self._sent.append((_started(flat), flat))

    def _gradients(self, message: int) -> list[torch.Tensor]:
        return [cast(torch.Tensor, self.parameters[number].grad) for number in self._messages[message]]

    def finish(self, failed: bool, *flags: bool) -> list[bool]:
        """Store the sums as the parameters' gradients. A parameter without a gradient in any process gets none.

        Args:
            failed: this process has no gradients: it ran out of memory, say.
            flags: others, such as that this process was asked to stop.

        Returns:
            all flags, true if they are in any process. If any process failed, the gradients are invalid.
        """
        if self._ranks.world == 1:
            return [failed, *flags]
        for hook in self._hooks:
            hook.remove()
        own = [p.grad is not None for p in self.parameters]
        if failed:
            self._send_nothing()
        else:
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            while len(self._sent) < len(self._messages):
                self._send()
        everywhere = self._ranks.any(failed, *flags, *own)
        found, anywhere = everywhere[: 1 + len(flags)], everywhere[1 + len(flags) :]
        for work, _ in self._sent:
            work.wait()
        if not found[0]:
            self._unpack()
            for parameter, there in zip(self.parameters, anywhere, strict=True):
                if not there:
                    parameter.grad = None
            self._learn()
        self._hooks, self._sent, self._arrived = [], [], []
        self._missing = [len(numbers) for numbers in self._messages]
        return found

    def _unpack(self) -> None:
        for message, (_, flat) in enumerate(self._sent):
            gradients = self._gradients(message)
            if len(gradients) > 1:
                pieces = torch.split(flat, [g.numel() for g in gradients])
                torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(pieces, gradients, strict=True)])

    def _learn(self) -> None:
        """Adopt the first process's order, once; that process has a part in every step."""
        if not self._learned:
            arrived = self._ranks.share(self._arrived)
            self._order([*arrived, *sorted(set(range(len(self.parameters))).difference(arrived))])
            self._learned = True

    def _send_nothing(self) -> None:
        """Send zeros for the messages the other processes still wait for, reusing the gradients' memory."""
        for work, _ in self._sent:
            work.wait()
        for parameter in self.parameters:
            parameter.grad = None
        for numbers in self._messages[len(self._sent) :]:
            like = self.parameters[numbers[0]]
            nothing = like.new_zeros(sum(self.parameters[number].numel() for number in numbers))
            _started(nothing).wait()


def _started(tensor: torch.Tensor) -> dist.Work:
    return cast(dist.Work, dist.all_reduce(tensor, async_op=True))


def _messages(parameters: Sequence[nn.Parameter], order: Iterable[int]) -> list[list[int]]:
    """Group parameter numbers into messages, each of one dtype; in `order` as far as that is complete."""
    messages: list[list[int]] = []
    small: dict[torch.dtype, list[int]] = {}
    for number in order:
        kind = parameters[number].dtype
        together = small.setdefault(kind, [])
        if _bytes([parameters[number]]) >= MESSAGE_BYTES:
            messages.append([number])
            continue
        together.append(number)
        if _bytes([parameters[one] for one in together]) >= MESSAGE_BYTES:
            messages.append(small.pop(kind))
    return messages + [together for together in small.values() if together]


def _bytes(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


# ---- whole tensors and pieces of them --------------------------------------------------------------------------------


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return the full tensor, gathered if it is sharded. That is a collective: all processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def copied(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Copy the full tensor to the CPU, safe from later training steps; empty in processes that write nothing."""
    tensor = whole(tensor.detach())
    if dist.is_initialized() and dist.get_rank() > 0:  # took part in the gather only: not one host copy per process
        return torch.empty(0, dtype=dtype or tensor.dtype)
    copy = torch.empty(tensor.shape, dtype=dtype or tensor.dtype)
    if tensor.is_cuda:
        fill(copy, tensor)
    else:
        copy.copy_(tensor)
    return copy


def like(tensor: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """Shard the full `tensor` the way `model` is sharded."""
    if isinstance(model, DTensor) and tensor.shape == model.shape:
        return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements)
    return tensor
