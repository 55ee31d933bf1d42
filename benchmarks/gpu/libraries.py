"""Own code for speed against the library that would replace it, each in the place that it has in a training step.

What gains nothing over its library on a GPU is to go. Libraries that are no dependencies of the job (torchao,
bitsandbytes, Liger Kernel) are compared where they are installed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from types import MethodType
from typing import Any

import common
import loops
import torch

from gpu import candidates
from gpu.case import Case, Context, Finding, NotHere, rounded
from gpu.losses import base_of
from gpu.speed import Shape, measured_part
from job.config.settings import Settings
from job.fast import adapters
from job.optimizer import optimizers
from job.optimizer.groups import Group
from job.train import adapt
from job.train.update import Update

#: OPTIMIZER and MASTER_WEIGHTS of the job's own, beside the libraries'.
OWN = (
    ("adamw_fused", "fp32"),
    ("adamw_fused", "bf16_with_fp32"),
    ("adamw_8bit", "fp32"),
    ("adamw_fused", "bf16_stochastic"),
    ("adamw_8bit", "bf16_stochastic"),
)


def cases(size: str, positions: int) -> list[Case]:
    """Those of a model size and a batch size."""
    lora = Shape(size, "lora", (positions,))
    full = Shape(size, "full", (positions,))
    return [
        Case("libraries, adapters by peft", in_place("adapters by peft", lora, _by_peft), 90),
        Case("libraries, Liger Kernel", in_place("Liger Kernel", full, _by_liger), 90, gpus=1, alone=True),
        Case("libraries, optimizers", optimizer_steps(size), 180, alone=True),
    ]


def candidate_cases(size: str, positions: int) -> list[Case]:
    """What might come into the job, in full fine-tuning and in LoRA."""
    shapes = [Shape(size, mode, (positions,)) for mode in ("full", "lora")]

    def case(name: str, shape: Shape, use: Callable[[Any], AbstractContextManager[None]]) -> Case:
        run = in_place(
            f"{name}, {shape.mode}", shape, lambda bench: use(bench.model.talker), "candidates", "the candidate"
        )
        return Case(f"candidates, {name}, {shape.mode}", run, 90, gpus=int(shape is not shapes[0]))

    return [case(name, shape, use) for name, use in candidates.ALL.items() for shape in shapes]


def in_place(
    name: str,
    shape: Shape,
    instead: Callable[[Any], AbstractContextManager[None]],
    kind: str = "libraries",
    other: str = "the library's",
) -> Callable[..., Any]:
    """Training with the job's own code, and with another, one after the other in one process."""

    def run(context: Context) -> Iterator[Finding]:
        settings = Settings()
        bench = loops.make(context.work, shape.size, 24 if context.small else 1024, settings, context.device,
                           base=base_of(context))  # fmt: skip
        finding, rates = Finding(f"{kind}, {name}, {shape.positions[0]} positions"), {}
        for whose, changed in (("the job's", nullcontext()), (other, instead(bench))):
            with changed:
                loop = bench.ours(settings.sub_talker_frame_fraction, shape.mode, shape.positions[0])
                part = Finding(whose)
                measured_part(context, shape, bench, loop, part)
            rates[whose] = part.figures["frames a second"]
            finding.figures.update({f"{key}, {whose}": part.figures[key] for key in part.figures if key != "top"})
            finding.wrong += [f"{whose}: {wrong}" for wrong in part.wrong]
        finding.figures = {f"the job's / {other}": rounded(rates["the job's"] / rates[other])} | finding.figures
        yield finding

    return run


@contextmanager
def _by_peft(bench: loops.Bench) -> Iterator[None]:
    """Adapted layers compute as peft's own do, on inputs that are in the lower precision already."""
    stands = adapters.use

    def use(talker: Any, changes: Any, *, lowers: bool = False, leave: Any = ()) -> None:
        stands(talker, changes, lowers=lowers, leave=[talker])

    adapters.use = use
    try:
        yield
    finally:
        adapters.use = stands


@contextmanager
def _by_liger(bench: loops.Bench) -> Iterator[None]:
    """Rotation and gating by Liger Kernel's Triton kernels; norms stay torch's, which are fused already."""
    if find_spec("liger_kernel") is None:
        raise NotHere("takes the package liger-kernel")
    from liger_kernel.ops.rope import LigerRopeFunction
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction
    from qwen_tts.core.models import modeling_qwen3_tts as stock

    def rotated(q: Any, k: Any, cos: Any, sin: Any, *others: Any, **named: Any) -> Any:
        if cos.dim() == 4:  # three axes of positions, which are the same here
            cos, sin = cos[0], sin[0]
        return LigerRopeFunction.apply(q, k, cos, sin)

    def gated(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(LigerSiLUMulFunction.apply(self.gate_proj(x), self.up_proj(x)))

    names = ("apply_multimodal_rotary_pos_emb", "apply_rotary_pos_emb")
    stands = {name: getattr(stock, name) for name in names}
    gates = [m for m in bench.model.talker.modules() if all(hasattr(m, n) for n in ("gate_proj", "up_proj", "act_fn"))]
    try:
        for name in names:
            setattr(stock, name, rotated)
        for gate in gates:
            gate.forward = MethodType(gated, gate)
        yield
    finally:
        for name, function in stands.items():
            setattr(stock, name, function)
        for gate in gates:
            del gate.forward


def optimizer_steps(size: str) -> Callable[[Context], Iterator[Finding]]:
    """Milliseconds of an optimizer step over all weights of full fine-tuning, clipping included."""

    def run(context: Context) -> Iterator[Finding]:
        kinds: dict[str, tuple[bool, Callable[[Any], torch.optim.Optimizer]]] = {}
        for optimizer, weights in OWN:
            settings = Settings(optimizer=optimizer, master_weights=weights)  # type: ignore[arg-type]
            kinds[f"{optimizer}, {weights}"] = weights != "fp32", partial(optimizers.optimizer_of, settings)
        kinds |= _libraries()
        bench = loops.make(context.work, size, 8, Settings(), context.device, base=base_of(context))
        groups = adapt.adapt(bench.model, Settings())
        for name, (low, made) in kinds.items():
            finding = Finding(f"libraries, optimizers, {name}")
            try:
                _stepped(context, groups, low, made, finding)
            except Exception as error:  # a library's, which is not ours to mend
                finding.wrong.append(f"{type(error).__name__}: {str(error)[:200]}")
            yield finding

    return run


def _libraries() -> dict[str, tuple[bool, Callable[[Any], torch.optim.Optimizer]]]:
    """name -> whether its weights are bf16, and the optimizer over groups."""

    def flat(groups: Any) -> list[Any]:
        return [p for group in groups for _, p in group.parameters]

    found: dict[str, tuple[bool, Callable[[Any], torch.optim.Optimizer]]] = {}
    if find_spec("torchao"):
        from torchao.optim import AdamW8bit

        found["torchao AdamW8bit, fp32"] = False, lambda groups: AdamW8bit(flat(groups), lr=1e-5)
        found["torchao AdamW8bit, bf16_stochastic"] = (
            True,
            lambda groups: AdamW8bit(flat(groups), lr=1e-5, bf16_stochastic_round=True),
        )
    if find_spec("bitsandbytes"):
        from bitsandbytes.optim import AdamW8bit as Of8Bits

        found["bitsandbytes AdamW8bit, fp32"] = False, lambda groups: Of8Bits(flat(groups), lr=1e-5)
    return found


def _stepped(context: Context, groups: Any, low: bool, made: Callable[[Any], Any], finding: Finding) -> None:
    """Steps of one optimizer over copies of the groups' weights."""
    kind = torch.bfloat16 if low else torch.float32
    copies = [
        Group(g.name, 1e-5, [(n, torch.nn.Parameter(p.detach().to(kind, copy=True))) for n, p in g.parameters])
        for g in groups
    ]
    parameters = [p for group in copies for _, p in group.parameters]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter).mul_(1e-3)
    update, loss = Update(made(copies), 1.0), torch.ones((), device=context.device)
    for _ in range(2):  # what is compiled or made in the first
        update(parameters, loss)
    common.synchronize(context.device)
    before = torch.cuda.memory_allocated() if context.on_gpu else 0
    start, count = time.perf_counter(), 0
    while count < (2 if context.small else 10):
        update(parameters, loss)
        count += 1
    common.synchronize(context.device)
    finding.figures["ms a step"] = rounded(1000 * (time.perf_counter() - start) / count)
    if context.on_gpu:
        finding.figures["allocated GB"] = rounded(before / 1e9)
    finding.holds("finite", all(bool(torch.isfinite(p).all()) for p in parameters[:4]), "weights are not finite")
