"""What training holds, measured without a GPU: the real objective on tensors that have shapes and no values.

`Live` sees every operation of forward and backward pass and counts the storages that exist, temporary ones included.
Under torch's FakeTensorMode an operation gives a tensor of the right shape and type and computes nothing, so models of
any size can be measured in seconds. The tensors are said to be the CPU's, since autograd wants a GPU for those of one;
`as_on_cuda` lets the code take the branches that it takes there, with the fake kernel that torch registers for its
variable-length attention.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from job import fast
from job.config.settings import Settings
from job.estimate.activations import Load
from job.fast import attention
from job.loss import layout, objective
from job.loss.batch import Batch, collate
from job.train import adapt, setup


class Live(TorchDispatchMode):
    """Bytes of the storages that operations made and that still exist: `now`, and at most (`peak`).

    Args:
        known: tensors that are not counted.
    """

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {id(t.untyped_storage()): 0 for t in known}
        self._known = list(known)
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return results

    def _note(self, storage: Any) -> None:
        key = id(storage)
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


@dataclass(frozen=True)
class Measured:
    """Bytes beside weights: at the end of the forward pass, at its highest, at the highest of the backward pass."""

    after_forward: int
    forward: int
    backward: int
    gradients: int

    @property
    def peak(self) -> int:
        return max(self.forward, self.backward)


def sequences(config: Any, frames: list[int], seed: int = 0) -> list[layout.Sequence]:
    """Samples of so many frames, a third as many text tokens."""
    ids = layout.SpecialIds.from_config(config.to_dict())
    random = np.random.default_rng(seed)
    texts = min(1000, config.talker_config.text_vocab_size)
    return [
        layout.build(
            ids,
            random.integers(0, texts, count // 3 + 9),
            random.integers(0, 2048, (count, ids.codebooks)).astype(np.int16),
            streaming=False,
        )
        for count in frames
    ]


def batch_of(config: Any, frames: list[int]) -> tuple[Batch, Load]:
    """A packed batch, and what the estimate is told of it."""
    samples = sequences(config, frames)
    width = config.talker_config.hidden_size
    batch = collate(samples, [np.zeros(width, np.float32)] * len(samples), packed=True)
    positions = int(batch.text_index.shape[1])
    return batch, Load(positions, sum(frames), len(frames), texts=len(batch.text_rows))


def config_of(
    base: Path,
    *,
    width: int,
    text_width: int,
    layers: int,
    heads: int,
    groups: int,
    head: int,
    inner: int,
    sub_width: int,
    sub_layers: int,
) -> Any:
    """`base`'s configuration in another shape: `groups` query heads for each key head, `head` values a head."""
    from qwen_tts.core.models import Qwen3TTSConfig

    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    talker = config["talker_config"]
    attention = {"num_attention_heads": heads, "num_key_value_heads": heads // groups, "head_dim": head}
    talker.update(attention, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers)
    talker.update(text_hidden_size=text_width)
    talker["rope_scaling"]["mrope_section"] = [head // 2 - 2 * (head // 6), head // 6, head // 6]
    talker["code_predictor_config"].update(
        attention, hidden_size=sub_width, intermediate_size=3 * sub_width, num_hidden_layers=sub_layers,
        layer_types=["full_attention"] * sub_layers,
    )  # fmt: skip
    config["speaker_encoder_config"]["enc_dim"] = width
    return Qwen3TTSConfig(**config)


def empty_model(config: Any, settings: Settings, bf16: bool) -> Any:
    """The model as training keeps it, on the device that has no memory."""
    from qwen_tts.core.models import Qwen3TTSForConditionalGeneration

    from job.config import optimizer_choice

    with torch.device("meta"):
        model = Qwen3TTSForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=torch.float32)
        adapt.adapt(model, settings)
        everything = optimizer_choice.in_bf16(settings)
        if everything or (bf16 and settings.train_mode != "full"):
            setup.lower_weights(model, everything)
        fast.apply(model, settings, torch.device("cpu"), "bf16" if bf16 else "no")
    return model


def shapes_of(model: Any) -> Mapping[str, tuple[int, ...]]:
    """Shapes as in the headers of the base's files: of a model before it is adapted."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


class FusedNorm(torch.autograd.Function):
    """RMS norm as a GPU's kernels compute it: one pass each way, which keep the input and a scale for a row."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        ctx.save_for_backward(x, weight, x.new_empty((*x.shape[:-1], 1), dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, weight, _ = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return torch.empty_like(x) if wanted[0] else None, torch.empty_like(weight) if wanted[1] else None, None


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """The branches of a GPU, on CPU tensors."""

    def attend(query: Any, key: Any, value: Any, lengths: list[int], scaling: Any, dropout: float = 0.0) -> Any:
        bounds = torch.zeros(len(lengths) + 1, dtype=torch.int32)
        repeats = query.shape[1] // key.shape[1]  # what takes most
        return attention._varlen(query, key, value, bounds, max(lengths), scaling, repeats)

    def dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        return torch.native_dropout(x, p, training)[0] if p and training else x

    def rms_norm(x: Any, shape: Any, weight: Any, eps: float) -> Any:
        return FusedNorm.apply(x, weight, eps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "dropout", dropout)
        patch.setattr(attention, "_sample_by_sample", attend)
        patch.setattr(torch.nn.functional, "rms_norm", rms_norm)
        patch.setattr(attention, "_kind", torch.get_autocast_dtype)
        patch.setitem(objective.FRAMES_AT_ONCE, "cpu", objective.FRAMES_AT_ONCE["cuda"])
        yield


def measure(model: Any, batch: Batch, settings: Settings, *, bf16: bool) -> Measured:
    """A step's forward and backward pass, on fake tensors of the shapes and types of `model`'s."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        for module in model.modules():
            for name, tensor in list(module._parameters.items()):
                if tensor is not None:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    module._parameters[name] = torch.nn.Parameter(empty, requires_grad=tensor.requires_grad)
            for name, tensor in list(module._buffers.items()):
                if tensor is not None:
                    module._buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        return watch(model, batch._map(fake.from_tensor), settings, bf16=bf16)


def watch(model: Any, batch: Batch, settings: Settings, *, bf16: bool) -> Measured:
    """A step's forward and backward pass, whatever its tensors are."""
    wrapped = objective.Objective(model).train()
    live = Live([*model.parameters(), *model.buffers()])
    with live:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses = wrapped(batch.turn(settings.sub_talker_frame_fraction))
        after, forward = live.now, live.peak
        live.peak = live.now
        (losses.talker / losses.talker_terms + 0.3 * losses.sub_talker / losses.sub_talker_terms).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return Measured(after, forward, live.peak, sum(g.numel() * g.element_size() for g in gradients))
