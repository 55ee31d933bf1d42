"""What only a GPU would show, shown without one where that is possible: numbers of devices, waiting, memory."""

from __future__ import annotations

import ctypes
import gc
import importlib
import math
import shutil
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from job import pipeline
from job.config import settings as variables
from job.core import files
from job.core.errors import BadInput, FollowedRank, PeerLost, StoppedBySignal, TrainingStopped
from job.core.stopping import StopRequest
from job.estimate import memory
from job.fast import attention
from job.generation import recorded
from job.model.loading import resolve_device
from job.processes import joining
from job.processes.ranks import ALONE, Ranks
from job.train import adapt, added_languages, loop, setup
from job.train.passes import Pass
from job.train.readings import fill
from job.train.schedule import Planned
from job.train.spread import Spread, copied
from job.train.step import Stepper
from tests.support.memory import Live

BASE = {"TRAIN_JSONL": "x.jsonl", "MIXED_PRECISION": "no", "TRACKERS": ""}


@contextmanager
def gpus(count, current=0):
    """A machine with so many GPUs, as far as torch is asked for them; yields the numbers that are made current."""
    chosen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: count > 0)
        patch.setattr(torch.cuda, "device_count", lambda: count)
        patch.setattr(torch.cuda, "current_device", lambda: current)
        patch.setattr(torch._C, "_cuda_setDevice", chosen.append)
        yield chosen


@pytest.mark.parametrize(("device", "number"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_a_gpu_has_its_number(device, number):
    """`torch.cuda.set_device` refuses a device without one, and accelerate's has none; a thread begins at the first."""
    settings = variables.load({**BASE, "DEVICE": device})
    with gpus(2) as chosen, setup.accelerator_of(settings, ALONE) as accelerator:
        accelerator.prepare(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]))  # which makes states of its own
        assert accelerator.device == torch.device("cuda", number)
        torch.cuda.set_device(accelerator.device)
        assert chosen == [number, number]


def test_each_process_keeps_the_gpu_that_it_has_taken():
    with gpus(8, current=5):
        assert resolve_device(variables.load({**BASE, "DEVICE": "auto"})) == torch.device("cuda", 5)


def test_a_gpu_that_is_not_there_is_bad_input():
    with gpus(2), pytest.raises(BadInput, match=r"DEVICE=cuda:2: 2 GPUs are visible"):
        resolve_device(variables.load({**BASE, "DEVICE": "cuda:2"}))


def test_comparing_attention_is_no_part_of_a_checkpointed_layer(monkeypatch):
    """GRADIENT_CHECKPOINTING=true: the first call compares the fused kernel, the second one, in the backward pass, does
    not, and torch refuses a layer that keeps other tensors the second time."""

    def fused(query, key, value, bounds, longest, scaling, repeats):
        return attention._sample_by_sample(query, key, value, bounds.diff().tolist(), scaling)

    monkeypatch.setattr(attention, "_varlen", fused)
    attention._repeats.cache_clear()
    x = torch.randn(3, 4, requires_grad=True)
    compared = []

    def layer(x):
        compared.append(attention._repeats(2, 1, 8, torch.float32, torch.device("cpu")))
        return x.sin() * x

    try:
        checkpoint(layer, x, use_reentrant=False).sum().backward()
    finally:
        attention._repeats.cache_clear()
    assert compared == [1, 1]
    torch.testing.assert_close(x.grad, (x.cos() * x + x.sin()).detach())


def test_memory_that_runs_out_while_attention_is_compared_says_nothing_about_it(monkeypatch):
    """The step is begun again in pieces; the fused kernel must not be given up for the whole run."""

    def full(*others):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def fused(query, key, value, bounds, longest, scaling, repeats):
        return attention._sample_by_sample(query, key, value, bounds.diff().tolist(), scaling)

    attention._repeats.cache_clear()
    try:
        monkeypatch.setattr(attention, "_varlen", full)
        with pytest.raises(torch.OutOfMemoryError):
            attention._repeats(2, 1, 8, torch.float32, torch.device("cpu"))
        monkeypatch.setattr(attention, "_varlen", fused)
        assert attention._repeats(2, 1, 8, torch.float32, torch.device("cpu")) == 1
    finally:
        attention._repeats.cache_clear()


class Copies(TorchDispatchMode):
    """Counts copies to another type or device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


def test_which_rows_are_trained_is_told_the_device_once():
    """Not in every backward pass, which would be waited for: such a copy ends when all before it has."""
    table = torch.nn.Parameter(torch.ones(5, 2))
    added_languages.train_only(table, [3])
    table.data = table.data.double()  # as it goes to where it is trained after this
    counts = []
    for _ in range(2):
        table.grad = None
        with Copies() as copies:
            (table * 2).sum().backward()
        counts.append(copies.count)
        assert table.grad[:, 0].tolist() == [0, 0, 0, 2, 0]
    assert counts == [1, 0]


def test_merging_adapters_takes_what_plan_says(tiny_base):
    """Not a second model, on a GPU that may just hold the first."""
    from job.model.loading import load_model

    model: Any = load_model(tiny_base, torch.device("cpu"), torch.float32).model
    groups = adapt.adapt(model, variables.load({**BASE, "TRAIN_MODE": "lora", "LORA_R": "2"}))
    shapes = [module.weight.shape for module in model.modules() if hasattr(module, "lora_A")]
    assert groups and len(shapes) > 10
    with torch.no_grad(), Live(iter([*model.parameters(), *model.buffers()])) as live:
        names = [name for name, _ in adapt.merged_weights(model)]
    assert 0 < live.peak <= memory.MERGED_BYTES * max(math.prod(shape) for shape in shapes)
    assert not any("lora" in name or "base_layer" in name for name in names)


def test_out_of_memory_in_a_sharded_model_is_not_put_to_the_vote():
    """DISTRIBUTED=fsdp: the others are in the middle of a pass and wait for this process's part of it, not its vote."""

    def full(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    batch: Any = SimpleNamespace(to=lambda device: None)
    training: Any = SimpleNamespace(train_rows=SimpleNamespace(frames=np.array([3, 4])), codebooks=16, parameters=[])
    accelerator = SimpleNamespace(device=torch.device("cpu"), autocast=nullcontext)
    spread = Spread(Ranks(0, 2), sharded=True)  # there is nobody to vote: asking would fail in another way
    stepper = Stepper(variables.load(BASE), accelerator, full, training, spread, StopRequest())
    with pytest.raises(TrainingStopped, match="out of GPU memory at step 7, with few samples"):
        stepper.take(Planned(7, 0, [[0], [1]]), [(Pass(0, 0, [0], True), batch)])


def test_memory_that_runs_out_between_steps_is_one_line(monkeypatch, tmp_path):
    """The optimizer makes its moments in the first step, and nothing there can be cut into pieces."""

    def full(*others):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee the documentation.")

    monkeypatch.setattr(loop, "_Run", full)
    settings = variables.load({**BASE, "DEVICE": "cpu", "WORK_DIR": str(tmp_path)})
    with pytest.raises(TrainingStopped) as stopped:
        loop.train(settings)
    assert str(stopped.value).startswith("out of GPU memory (CUDA out of memory. Tried to allocate 2 GiB.")
    assert "TRAIN_MODE=lora" in str(stopped.value) and "\n" not in str(stopped.value)


FEW = {"PRESET": "demo", "DEVICE": "cpu", "MAX_STEPS": "2", "MAX_TRAIN_SAMPLES": "2", "PROBE_SENTENCES": "0"}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work directory with prepared data."""
    directory = tmp_path_factory.mktemp("work")
    settings = variables.load({**FEW, "WORK_DIR": str(directory)})
    pipeline.run(settings, "fetch", "prepare")
    return directory


@pytest.fixture(scope="module")
def larger_base(tiny_base, tmp_path_factory):
    """The tiny base with more and wider layers, of zeros: (directory, bytes of its weights, in bf16)."""
    from qwen_tts.core.models import Qwen3TTSConfig, Qwen3TTSForConditionalGeneration

    directory = tmp_path_factory.mktemp("larger") / "base"
    shutil.copytree(tiny_base, directory)
    config = files.read_json(directory / "config.json")
    config["talker_config"].update(hidden_size=512, intermediate_size=3072, num_hidden_layers=7)
    config["speaker_encoder_config"]["enc_dim"] = 512
    files.write_json(directory / "config.json", config)
    with torch.device("meta"):
        model = Qwen3TTSForConditionalGeneration._from_config(Qwen3TTSConfig(**config))
    weights = {name: torch.zeros(value.shape, dtype=torch.bfloat16) for name, value in model.state_dict().items()}
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    return directory, sum(value.nbytes for value in weights.values())


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: what its driver takes of the host")


@pytest.mark.slow
@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])])
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_the_host_never_has_a_copy_of_the_model(work, larger_base, tmp_path, monkeypatch, device, mode):
    """Not even of what is trained in fp32: the file is mapped, which the system may drop, and read a tensor at a time.

    With a copy in fp32 it is three times the file. Without a GPU, torch's device without memory stands for one: tensors
    take their type before they are moved there, and what malloc keeps of them is some half of the file.
    """
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        pytest.skip("needs Linux, which forgets a process's peak when asked to")
    base, size = larger_base
    shutil.copytree(work, tmp_path / "work")
    values = {**FEW, "WORK_DIR": str(tmp_path / "work"), "INIT_MODEL_PATH": str(base), "TRAIN_MODE": mode}
    settings = variables.load(values)
    voices = {name: torch.zeros(512) for name in load_file(settings.paths.speakers)}  # as wide as that base
    save_file(voices, settings.paths.speakers)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from common import Peak

    accelerator = SimpleNamespace(device=torch.device(device), mixed_precision="bf16", autocast=nullcontext)
    importlib.import_module("peft")
    torch.ones(1, device=device).add_(1)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests have left would be filled first
    clear.write_text("5")
    peak = Peak(torch.device("cpu"))
    training = setup.set_up(settings, accelerator)
    assert peak.bytes() < 2 * size
    assert {parameter.device.type for parameter in training.model.parameters()} == {device}
    assert {parameter.dtype for _, parameter in training.parameters} == {torch.float32}
    frozen = {parameter.dtype for parameter in training.model.parameters() if not parameter.requires_grad}
    assert frozen == {torch.bfloat16 if mode == "lora" else torch.float32}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_checkpoint_is_copied_whole_piece_by_piece(device, kind):
    """Of any shape, in the type it is saved in; what training does to the tensor afterwards does not reach the copy."""
    for source in (torch.randn(50, 7), torch.randn(64), torch.tensor(2.5), torch.randn(33, 40).t(), torch.empty(0, 3)):
        expected, source = source.to(kind, copy=True), source.to(device)
        copy = torch.full(source.shape, math.nan, dtype=kind)
        fill(copy, source, piece_bytes=256)
        source.zero_()
        assert torch.equal(copy, expected)
        whole = copied(source, kind)
        assert whole.device.type == "cpu" and whole.dtype is kind and torch.equal(whole, torch.zeros_like(expected))


def test_gpus_of_one_machine_connect_when_their_processes_meet(monkeypatch):
    """Not in the first backward pass, where there may be no memory left for it, and a late process finds the others
    gone; and what a container lacks is said in the first seconds."""
    begin, asked = dist.init_process_group, []

    def over_gloo(backend, **named):
        asked.append(backend)
        begin("gloo", **named)

    def answers(device):
        asked.append(device)

    def says_nothing(device):
        raise RuntimeError("NCCL gives no answer in 120 s")

    def full(device):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64 MiB.")

    def full_for_nccl(device):
        raise dist.DistBackendError("NCCL error in: x.cpp:1\nLast error:\nCuda failure 2 'out of memory'")

    def ended(device):
        raise StoppedBySignal("stopped by SIGTERM")

    monkeypatch.setattr(dist, "init_process_group", over_gloo)
    for exchange, outcome in (
        (answers, nullcontext()),
        (says_nothing, pytest.raises(PeerLost, match=r"--ipc=host.*/dev/shm.*NCCL gives no answer")),
        (full, pytest.raises(BadInput, match=r"GPU 0 of this node has no memory left .*CUDA_VISIBLE_DEVICES")),
        (full_for_nccl, pytest.raises(BadInput, match=r"no memory left \(Cuda failure 2 'out of memory'\)")),
        (ended, pytest.raises(FollowedRank)),  # by the launcher, which says why
    ):
        monkeypatch.setattr(joining, "exchanged", exchange)
        monkeypatch.setattr(joining, "_abandoned", False)
        try:
            with gpus(2, current=1), outcome:
                joining._met(dist.HashStore(), 0, 1, 0, cuda=True, apart=False, exchange=True)
            assert joining._abandoned, "NCCL waits for the others when a process that fails ends normally"
        finally:
            dist.destroy_process_group()
    assert asked == ["cpu:gloo,cuda:nccl", torch.device("cuda", 1), *["cpu:gloo,cuda:nccl"] * 4]


def test_gpus_that_will_not_train_need_not_reach_one_another(monkeypatch):
    """PREPARE_ONLY, or `python -m job prepare`, in a container that lacks what NCCL needs."""
    begin = dist.init_process_group
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **named: begin("gloo", **named))
    monkeypatch.setattr(joining, "exchanged", lambda device: pytest.fail("through NCCL"))
    try:
        with gpus(2, current=1):
            joining._met(dist.HashStore(), 0, 1, 0, cuda=True, apart=False, exchange=False)
    finally:
        dist.destroy_process_group()


def test_processes_that_do_not_answer_end_themselves(monkeypatch):
    """Within a time, and with a reason: torch kills a process that waits for NCCL too long, and says nothing."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        joining.exchanged(torch.device("cpu"))
        monkeypatch.setattr(dist, "all_reduce", lambda *_, **__: SimpleNamespace(is_completed=lambda: False))
        with pytest.raises(RuntimeError, match=r"gives no answer in 0.1 s") as silent:
            joining.exchanged(torch.device("cpu"), seconds=0.1)
        assert joining._is_connection(silent.value)
    finally:
        dist.destroy_process_group()


def test_recording_a_graph_says_nothing(monkeypatch):
    """torch warns of the mode in which waiting is an error: a line in the middle of every training on a GPU."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)  # the mode is the host's
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with recorded._without_waiting():
                assert torch.cuda.get_sync_debug_mode() == 2
        assert torch.cuda.get_sync_debug_mode() == 0
    finally:
        torch.set_warn_always(before)
    assert not said


def test_what_nccl_itself_says_is_passed_on():
    """Its first line is the same for memory that is missing, on the GPU or in /dev/shm, and for a lost process."""
    error = dist.DistBackendError(
        "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL "
        "version 2.28.9\nncclSystemError: System call (e.g. socket, malloc) or external library call failed or device "
        "error. \nLast error:\nError while creating shared memory segment /dev/shm/nccl-5Tz (size 9637888)\n"
    )
    found = joining._unmet(dist.HashStore(), 0, error, apart=False)
    assert "--ipc=host" in found and "shared memory segment /dev/shm/nccl-5Tz (size 9637888))" in found
    assert "Connection closed" in joining._lost(RuntimeError("Connection closed by peer\nand where"))


def test_only_the_process_that_writes_a_checkpoint_has_a_copy_of_it():
    """DISTRIBUTED=fsdp: all take part in putting tensors together, and eight checkpoints are more than a host holds."""
    dist.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    try:
        assert copied(torch.ones(5), torch.bfloat16).numel() == 0
    finally:
        dist.destroy_process_group()
    assert copied(torch.ones(5)).numel() == 5


@pytest.mark.slow
def test_training_leaves_no_model_behind(work):
    """Synthesis follows in the same process, and must not find the GPU full of what Python has not looked for yet."""
    settings = variables.load({**FEW, "WORK_DIR": str(work)})

    def alive():
        # Not `isinstance`, which asks the thing itself: a weak reference whose object has gone raises then.
        return {id(thing): thing for thing in gc.get_objects() if issubclass(type(thing), torch.nn.Parameter)}

    before = alive()
    gc.disable()
    try:
        pipeline.run(settings, "train", "train")
        left = [parameter.shape for key, parameter in alive().items() if key not in before]
    finally:
        gc.enable()
    assert left == []
