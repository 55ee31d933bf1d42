"""Torch's fused norm in the place of single operations: the same values and gradients, and only where it is right.

Its kernels are a GPU's. The operations are the same ones on a CPU, where torch composes the first and gives the second
as a decomposition.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._decomp import decomposition_table

from job.train import norms

BF16, FP32 = torch.bfloat16, torch.float32
CPU = torch.device("cpu")


@pytest.fixture
def on_cpu() -> Iterator[torch.library.Library]:
    """The second operation on a CPU too."""
    backward = torch.ops.aten._fused_rms_norm_backward.default
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_fused_rms_norm_backward", decomposition_table[backward], "CPU")
        norms._is_right.cache_clear()
        yield library
    norms._is_right.cache_clear()


@pytest.fixture
def fused(on_cpu: torch.library.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms of CPU tensors take the way of a GPU's."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)


def tensors(x: torch.dtype, weight: torch.dtype, kind: torch.dtype) -> list[torch.Tensor]:
    made = torch.Generator().manual_seed(0)
    values = torch.randn(3, 7, 24, generator=made)
    gradient = torch.randn(3, 7, 24, generator=made).to(kind)
    return [values.to(x), (1 + 0.3 * torch.randn(24, generator=made)).to(weight), gradient]


def result(x: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, trained: bool) -> list[torch.Tensor]:
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_(trained)
    normed = norms.RMSNorm.apply(x, weight, 1e-6, gradient.dtype)
    return [normed, *torch.autograd.grad(normed, [x, weight][: 1 + trained], gradient)]


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(
    "types",
    [(FP32, FP32, FP32), (FP32, FP32, BF16), (BF16, FP32, FP32), (BF16, BF16, BF16)],
    ids=["fp32", "lowered result", "lowered input", "bf16"],
)
def test_values_and_gradients_are_those_of_single_operations(
    types: tuple[torch.dtype, ...], trained: bool, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    """In all types that training gives a norm, in none further from the exact ones than single operations are."""
    given = tensors(*types)
    single = result(*given, trained)
    exact = result(*(t.double() for t in given), trained)
    request.getfixturevalue("fused")
    assert norms._is_right(24, torch.promote_types(*types[:2]), CPU)
    found = result(*given, trained)
    for ours, theirs, right in zip(found, single, exact, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert (ours - right).norm() <= 1.2 * (theirs - right).norm() + 1e-6 * right.norm()


def test_what_is_computed_again_is_the_same_to_the_bit(fused: None):
    """GRADIENT_CHECKPOINTING=selective keeps no norm's output."""
    x, weight, _ = tensors(BF16, FP32, BF16)
    normed = norms.RMSNorm.apply(x.requires_grad_(), weight, 1e-6, BF16)
    compute = norms.again(normed)
    assert compute is not None and torch.equal(compute(), normed)
    assert norms.again(normed * 1) is None


def test_a_kernel_that_is_wrong_or_missing_costs_speed_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], on_cpu: torch.library.Library
):
    """Tried before it is used; one line says what is not used, once."""
    given = tensors(FP32, FP32, FP32)
    single = result(*given, True)
    right = norms._fused
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(norms, "_fused", lambda x, weight, eps: right(1.1 * x, weight, eps))
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(result(*given, True), single, strict=True))
    assert capsys.readouterr().err.count("its results differ") == 1
    norms._is_right.cache_clear()

    def broken(*others: object) -> None:
        raise NotImplementedError("no kernel image is available")

    monkeypatch.setattr(norms, "_fused", broken)
    assert all(torch.equal(a, b) for a, b in zip(result(*given, True), single, strict=True))
    assert "no kernel image" in capsys.readouterr().err
    norms._is_right.cache_clear()

    def full(*others: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(norms, "_fused", full)
    with pytest.raises(torch.OutOfMemoryError):  # the step is begun again with less; the kernels are not given up
        result(*given, True)
    monkeypatch.setattr(norms, "_fused", right)
    result(*given, True)
    assert norms._is_right(24, FP32, CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch's fused norm is a GPU's")
@pytest.mark.parametrize("kind", [FP32, BF16])
@pytest.mark.parametrize("width", [64, 128, 1024, 2048])
def test_on_a_gpu_it_is_right(width: int, kind: torch.dtype):
    """For the widths of heads and of the released models."""
    assert norms._is_right(width, kind, torch.device("cuda", torch.cuda.current_device()))
