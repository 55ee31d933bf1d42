"""The work of a step over the processes of a run, so that the result does not depend on how many there are.

A step is a fixed number of parts; a process takes every world-th of them. torch's DistributedDataParallel would wait
forever where processes have different numbers of parts, or where one of them is out of memory and begins again:
`GradientSum` is what it does for the rest, sums while the last backward pass still runs.
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

#: Gradients from this size on are summed in a message each; smaller ones together, until they are as much.
MESSAGE_BYTES = 4 << 20


class Spread:
    """How many processes share a step, and whether each holds the whole model.

    Args:
        ranks: the processes.
        sharded: DISTRIBUTED=fsdp: weights, gradients and optimizer are cut up (FSDP2, `fully_shard`).
    """

    def __init__(self, ranks: Ranks, sharded: bool = False) -> None:
        self.ranks = ranks
        self.sharded = sharded and ranks.world > 1

    def shard(self, objective: nn.Module, layers: Iterable[nn.Module], low: bool) -> None:
        """Cut the model up: each of `layers` for itself, and what is left together. Parameters become `DTensor`s.

        Args:
            objective: with all that is ever trained set to be so; others stay whole, as tables that are only looked up.
            layers: of it.
            low: layers are put together in bf16, which autocast would make a copy in; gradients are added up in fp32.
        """
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        device = next(objective.parameters()).device
        mesh = dist.device_mesh.init_device_mesh(device.type, (self.ranks.world,))
        frozen = {p for p in objective.parameters() if not p.requires_grad}
        # The stream between layers, and the rotation's angles, keep their type.
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy if low else MixedPrecisionPolicy())
        root = cast(Any, fully_shard(objective, mesh=mesh, ignored_params=frozen))
        # A group adds gradients up in the types of what is trained in its first pass: unless it looks now, in bf16, and
        # fails then, where PROGRESSIVE_STAGES trains a layer later.
        root._get_fsdp_state()._lazy_init()

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


class GradientSum:
    """Adds the processes' gradients up, in place, beginning while the last backward pass of a step still runs.

    All processes send the same messages in the same order, once in every attempt at a step, whatever becomes of it: one
    that has no part, or whose memory has run out, sends zeros. So nobody waits for a message that never comes, and
    whether the sums count is asked afterwards.

    A large gradient is a message by itself, in its own place; small ones are copied together. The order is that in
    which the first process came by its gradients in the first step with these parameters: one that came later, as it
    may elsewhere, holds up the messages after it and nothing else.

    Args:
        ranks: the processes; with one, nothing is sent.
        parameters: what is trained, the same in all.
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
        """Send from now on, as gradients are ready; between forward and backward of this process's last part."""
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
        """The next message."""
        gradients = self._gradients(len(self._sent))
        flat = gradients[0] if len(gradients) == 1 else torch.cat([g.reshape(-1) for g in gradients])
        self._sent.append((_started(flat), flat))

    def _gradients(self, message: int) -> list[torch.Tensor]:
        return [cast(torch.Tensor, self.parameters[number].grad) for number in self._messages[message]]

    def finish(self, short: bool, stop: bool) -> tuple[bool, bool]:
        """Leave the sums in the parameters. One that has a gradient nowhere is left without.

        Args:
            short: this process's memory has run out.
            stop: this process is to stop.

        Returns:
            both, whether it is so in any process. If memory has run out somewhere, the gradients are worth nothing.
        """
        if self._ranks.world == 1:
            return short, stop
        for hook in self._hooks:
            hook.remove()
        own = [p.grad is not None for p in self.parameters]
        if short:
            self._send_nothing()
        else:
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            while len(self._sent) < len(self._messages):
                self._send()
        short, stop, *anywhere = self._ranks.any(short, stop, *own)
        for work, _ in self._sent:
            work.wait()
        if not short:
            self._unpack()
            for parameter, there in zip(self.parameters, anywhere, strict=True):
                if not there:
                    parameter.grad = None
            self._learn()
        self._hooks, self._sent, self._arrived = [], [], []
        self._missing = [len(numbers) for numbers in self._messages]
        return short, stop

    def _unpack(self) -> None:
        for message, (_, flat) in enumerate(self._sent):
            gradients = self._gradients(message)
            if len(gradients) > 1:
                pieces = torch.split(flat, [g.numel() for g in gradients])
                torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(pieces, gradients, strict=True)])

    def _learn(self) -> None:
        """Take over the first process's order, once; it has a part in every step."""
        if not self._learned:
            arrived = self._ranks.share(self._arrived)
            self._order([*arrived, *sorted(set(range(len(self.parameters))).difference(arrived))])
            self._learned = True

    def _send_nothing(self) -> None:
        """The messages that the others still wait for, in the memory that the gradients leave."""
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
    """Numbers of the parameters whose gradients go together, of one type; in `order` as far as that is complete."""
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
