"""All cases, in order of worth: what has no time left is what stands last."""

from __future__ import annotations

from gpu import attention, audio, kernels, libraries, losses, one_rank, ranks, speech, updates, whole
from gpu.case import Case
from gpu.speed import Shape, naive, of

#: TOKENS_PER_BATCH: a large batch, as many as eight clips have, or one clip, and a very large batch.
POSITIONS = (8192, 700, 90, 32768)
SMALL_POSITIONS = (300, 100)


def cases_of(*, small: bool) -> list[Case]:
    """The cases of a GPU, or those that a CPU does with tiny shapes."""
    correct = [
        Case("kernels, norms", kernels.norm, 60),
        Case("kernels, adapters", kernels.adapted, 40),
        Case("attention, packed", attention.packed, 60),
        Case("attention, sub-talker", attention.of_frames, 40),
        Case("optimizers", updates.steps, 60),
        Case("generation", speech.same_codes, 120),
        *whole.CASES,
        *one_rank.CASES,
        *losses.CASES,
        Case("two processes, one killed", ranks.lost_process, 150, gpus=2),
        Case("two processes, one out of memory", ranks.short_process, 150, gpus=2),
    ]
    sizes = ("built-in",) if small else ("1.7B", "0.6B")
    return [*correct, *_speeds(sizes, SMALL_POSITIONS if small else POSITIONS)]


def _speeds(sizes: tuple[str, ...], positions: tuple[int, ...]) -> list[Case]:
    """What the aims and the choice of code ask first; then the longer comparisons, and what else there is to know."""
    first = positions[:1]
    large = sizes[0]
    kept = [Shape(size, "lora", first, checkpointing=kind) for kind in ("selective", True) for size in sizes]
    found = [
        Case(f"speed, naive, {large}", naive(large), 120),
        _case(Shape(large, "full", positions)),
        _case(Shape(large, "full", positions, weights="bf16_with_fp32"), gpus=1),  # few CPUs are fast in bf16
        *libraries.candidate_cases(large, first[0]),
        *map(_case, kept),
        Case("prepare", audio.speed, 120),
        *speech.cases(sizes),
        *losses.LONGER,
        _case(Shape(large, "full", positions, compiled=True), gpus=1),  # compiling takes a CPU minutes
        _case(Shape(large, "lora", positions)),
        _case(Shape(large, "lora", positions, weights="bf16_with_fp32"), gpus=1),
    ]
    for size in sizes[1:]:
        found += [_case(Shape(size, mode, positions)) for mode in ("full", "lora")]
    for size in sizes:
        found += [
            _case(Shape(size, mode, positions, compiled=True), gpus=1)
            for mode in ("full", "lora")
            if (size, mode) != (large, "full")
        ]
    return [*found, *libraries.cases(large, first[0])]


def _case(shape: Shape, gpus: int = 0) -> Case:
    """What is compiled stays with a process, so those are in one of their own."""
    return Case(shape.name, of(shape), 180 if shape.compiled else 90, gpus=gpus, alone=shape.compiled)
