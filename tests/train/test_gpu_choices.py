"""What is chosen for a GPU: kernels, precision, how memory is taken, and what is taken for memory being used up."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest
import torch

from job.config import settings as variables
from job.config import surroundings
from job.core.errors import BadInput
from job.core.out_of_memory import is_out_of_memory
from job.generation import recorded
from job.loss.chunked import summed
from job.model.loading import resolve_device, resolve_precision
from job.processes.ranks import ALONE
from job.train import setup

CUDA = torch.device("cuda", 0)


def settings(**values):
    return variables.load({"TRAIN_JSONL": "x.jsonl", "DEVICE": "cpu", "TRACKERS": "", **values})


@pytest.mark.parametrize("of_training", [False, True])
def test_the_attention_of_cudnn_is_never_used(of_training):
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        if of_training:
            with setup.accelerator_of(settings(), ALONE):
                pass
        else:
            resolve_device(settings())
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.parametrize(
    ("capability", "precision"), [((7, 0), "no"), ((7, 5), "no"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_bf16_is_chosen_where_the_gpu_has_it(capability, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision(settings(), CUDA) == precision
    if precision == "bf16":
        assert resolve_precision(settings(MIXED_PRECISION="bf16"), CUDA) == "bf16"
    else:
        with pytest.raises(BadInput, match=r"MIXED_PRECISION=bf16: .*emulate.*MIXED_PRECISION=auto"):
            resolve_precision(settings(MIXED_PRECISION="bf16"), CUDA)
    with pytest.raises(BadInput, match=r"MIXED_PRECISION=fp16: .*MIXED_PRECISION=auto"):
        resolve_precision(settings(MIXED_PRECISION="fp16"), CUDA)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("CUDA driver error: out of memory"),
    ],
)
def test_whoever_says_so_memory_is_used_up(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        torch.distributed.DistBackendError("NCCL error: Cuda failure 2 'out of memory'"),
        MemoryError("out of memory"),
    ],
)
def test_other_failures_are_not_taken_for_used_up_memory(error):
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "PYTORCH_ALLOC_CONF"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128"}, "PYTORCH_CUDA_ALLOC_CONF"),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:False"}, "PYTORCH_ALLOC_CONF"),
    ],
)
def test_memory_grows_in_place_unless_the_user_says_otherwise(given, name):
    env = dict(given)
    surroundings.settle(env)
    allocators = {key: value for key, value in env.items() if key in surroundings._ALLOCATOR}
    assert allocators == {name: given.get(name, "expandable_segments:True")}


@pytest.mark.slow
def test_torch_reads_that_variable():
    program = "import torch; torch._C._accelerator_setAllocatorSettings('max_split_size_mb:100')"
    wrong = {**os.environ, surroundings._ALLOCATOR[0]: "expandable_segments:Perhaps"}
    done = subprocess.run([sys.executable, "-c", program], env=wrong, capture_output=True, text=True, timeout=200)
    assert "'Perhaps'" in done.stderr


def test_inner_gradients_are_taken_without_autocast():
    """A product of two fp32 tensors in a backward pass stays one."""
    kinds = []

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return x.float() @ weight.float()

        @staticmethod
        def backward(ctx, gradient):
            x, weight = ctx.saved_tensors
            by_x = gradient.float() @ weight.T
            kinds.append(by_x.dtype)
            return by_x, x.T @ gradient.float()

    weight = torch.nn.Parameter(torch.randn(4, 3))
    with torch.autocast("cpu", torch.bfloat16):
        summed(lambda r, t: Product.apply(r, weight).float().sum(), torch.randn(6, 4, requires_grad=True),
               torch.zeros(6), [weight], 2)  # fmt: skip
    assert kinds == [torch.float32] * 3


def test_nothing_is_collected_while_a_graph_is_recorded():
    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="broken"), recorded._uncollected():
        assert not gc.isenabled()
        raise RuntimeError("broken")
    assert gc.isenabled()
