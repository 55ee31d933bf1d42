"""What a training step moves through a GPU's memory, counted without a GPU: where its time goes beside the products.

    python benchmarks/traffic.py [--size 1.7B] [--mode full] [--fraction 0.5] [--operations 10]
        [--master-weights bf16_with_fp32] [--candidate "turned by halves"]

The real objective runs forward and backward on tensors that have shapes and no values (`tests/support/memory.py`), a
batch of 8192 positions in bf16 autocast, with the branches of a GPU. Each operation counts as a kernel that reads its
inputs and writes its outputs once; views count as nothing. The seconds are what data sheets of an H100 (SXM) allow,
3.35 TB/s and 989 TFLOP/s: a floor of this sequence of operations, of which real kernels reach perhaps three quarters.
What is fused by TORCH_COMPILE is not counted here.
"""

from __future__ import annotations

import argparse
import collections
import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import common
import torch
from gpu import candidates
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from job.config.settings import Settings
from tests.support import memory
from tests.test_activations import lengths

BYTES_A_SECOND, FLOPS_A_SECOND = 3.35e12, 989e12
POSITIONS = 8192
#: Operations that only look at memory in another way, or take some without writing to it.
FREE = {
    "alias", "as_strided", "chunk", "detach", "device", "diagonal", "empty", "empty_like", "empty_strided", "expand",
    "is_same_size", "lift_fresh", "new_empty", "new_empty_strided", "permute", "select", "slice", "split",
    "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_reshape_alias", "_unsafe_view",
}  # fmt: skip


class Traffic(TorchDispatchMode):
    """By operation and its largest tensor: how often, bytes, and FLOPs of products."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0, 0])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        tensors = [t for t in tree_leaves((args, kwargs, results)) if isinstance(t, torch.Tensor)]
        if name in FREE or not tensors:
            return results
        largest = max(tensors, key=lambda t: t.numel())
        one = self.of[name, f"{str(largest.dtype)[6:]}{list(largest.shape)}"]
        one[0] += 1
        one[1] += sum(_bytes(t) for t in tensors)
        if name in ("mm", "addmm", "addmm_", "bmm"):
            left, right = args[-2:]
            one[2] += 2 * left.numel() * right.shape[-1]
        return results


def _bytes(tensor: torch.Tensor) -> int:
    """Of the values that there are: one that is repeated along an axis is read once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count * tensor.element_size()


@torch.library.custom_op("traffic::norm", mutates_args=())
def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    raise NotImplementedError


@_norm.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    kind = torch.promote_types(x.dtype, weight.dtype)
    return x.new_empty(x.shape, dtype=kind), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


@torch.library.custom_op("traffic::norm_backward", mutates_args=())
def _norm_backward(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    raise NotImplementedError


@_norm_backward.register_fake
def _(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x), torch.empty_like(weight)


class Fused(torch.autograd.Function):
    """RMS norm as a GPU's kernels compute it: an operation each way, and one that reads all again for the weight."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        normed, scale = _norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return normed  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        by_x, by_weight = _norm_backward(gradients[0], x, weight, scale)
        if ctx.needs_input_grad[1]:
            _norm(gradients[0], weight, 0.0)
            _norm(x, weight, 0.0)
        return by_x if ctx.needs_input_grad[0] else None, by_weight if ctx.needs_input_grad[1] else None, None


def count(base: Path, options: argparse.Namespace) -> tuple[Traffic, int]:
    """The traffic of a step without the optimizer, and its frames."""
    settings = Settings(
        train_mode=options.mode,
        sub_talker_frame_fraction=options.fraction,
        master_weights=options.master_weights,
    )
    config = common.released_config(options.size, base)
    model = memory.empty_model(config, settings, True)
    frames = lengths(POSITIONS)
    batch, _ = memory.batch_of(config, frames)
    traffic = Traffic()
    single = torch.nn.functional.rms_norm
    with (
        memory.as_on_cuda(),
        patch.object(memory, "FusedNorm", Fused),
        patch.object(torch.nn.functional, "rms_norm", single) if options.single_norms else nullcontext(),
        candidates.ALL[options.candidate](model.talker) if options.candidate else nullcontext(),
        traffic,
    ):
        memory.measure(model, batch, settings, bf16=True)
    return traffic, sum(frames)


def main() -> None:
    """Print the sums, and the operations that move most, as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(common.RELEASED), default="1.7B")
    parser.add_argument("--mode", choices=("full", "lora"), default="full")
    parser.add_argument("--fraction", type=float, default=Settings().sub_talker_frame_fraction)
    parser.add_argument("--single-norms", action="store_true", help="norms by single operations, as on a CPU")
    kept = ("fp32", "bf16_with_fp32", "bf16_stochastic")
    parser.add_argument("--master-weights", choices=kept, default="fp32")
    parser.add_argument("--candidate", choices=sorted(candidates.ALL), help="compute it as `gpu/candidates.py` does")
    parser.add_argument("--operations", type=int, default=0, help="of how many to print their own lines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        traffic, frames = count(common.small_base(Path(work) / "base"), options)
    products = [one for one in traffic.of.values() if one[2]]
    others = [one for one in traffic.of.values() if not one[2]]
    seconds = {
        "products": sum(max(one[2] / FLOPS_A_SECOND, one[1] / BYTES_A_SECOND) for one in products),
        "others": sum(one[1] for one in others) / BYTES_A_SECOND,
    }
    moved = {"products": sum(one[1] for one in products), "others": sum(one[1] for one in others)}
    print(json.dumps({
        "case": f"traffic, {options.size}, {options.mode}, {POSITIONS} positions",
        "frames": frames, "kernels": sum(one[0] for one in traffic.of.values()),
        "tflop": round(sum(one[2] for one in products) / 1e12, 1),
        "gigabytes": {name: round(value / 1e9) for name, value in moved.items()},
        "h100_ms": {name: round(1e3 * value, 1) for name, value in seconds.items()},
    }))  # fmt: skip
    most = sorted(traffic.of.items(), key=lambda item: -item[1][1])
    for (name, shape), (times, size, _) in most[: options.operations]:
        print(json.dumps({"operation": name, "largest": shape, "times": times, "gigabytes": round(size / 1e9, 1)}))


if __name__ == "__main__":
    main()
