"""OPTIMIZER and MASTER_WEIGHTS save memory and nothing else: same training, exact resume, unbiased rounding."""

from __future__ import annotations

import json
import shutil
import time
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from job import pipeline
from job.config import optimizer_choice as rules
from job.config import settings as variables
from job.estimate import memory
from job.estimate.parameters import parameter_counts, shapes_of, trained_values
from job.optimizer import master_adamw, optimizers
from job.optimizer.compact import dynamic_map, quantized, restored, rounded
from job.optimizer.groups import Group
from job.optimizer.master_adamw import MasterAdamW
from job.optimizer.optimizers import CompactAdamW, optimizer_of
from job.train import resume
from job.train.update import Update
from tests.support.commands import run_job
from tests.test_pipeline import start
from tests.train.test_resume import outcome

QUICK = {
    "PRESET": "demo",
    "DEVICE": "cpu",
    "MAX_TRAIN_SAMPLES": "4",
    "BATCH_SIZE": "4",
    "EXPORT": "merged",
    "PROBE_SENTENCES": "0",
    "MIXED_PRECISION": "bf16",
}
#: fp32 weights have fp32 arithmetic here, so that nothing else differs from plain AdamW.
EIGHT_BIT = {"OPTIMIZER": "adamw_8bit", "MIXED_PRECISION": "no"}
STOCHASTIC = {"MASTER_WEIGHTS": "bf16_stochastic"}
BOTH = {"OPTIMIZER": "adamw_8bit", "MASTER_WEIGHTS": "bf16_stochastic"}
COPIES = {"MASTER_WEIGHTS": "bf16_with_fp32"}


def dice(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- numbers in fewer bits -------------------------------------------------------------------------------------------


@given(st.floats(min_value=2.0**-60, max_value=2.0**60, width=32), st.booleans(), st.integers(0, 2**32))
@hypothesis_settings(max_examples=60)
def test_stochastic_rounding_is_unbiased(value, negative, seed):
    """Up or down to a neighbour in bf16, and right on average: within five standard errors of the mean."""
    value = -value if negative else value
    count = 1 << 14
    values = torch.full((count,), value)
    got = rounded(values, dice(seed)).double()
    below = (values[:1].view(torch.int32) & -65536).view(torch.float32).double()  # towards zero
    step = abs(float(below)) * 2.0**-7  # at most, within a binade
    assert (got - value).abs().max() <= step
    assert len(got.unique()) <= 2
    deviation = max(float(got.std()), step * 2.0**-16)
    assert abs(float(got.mean()) - value) <= 5 * max(deviation, step * 2.0**-8) / count**0.5


def test_rounding_keeps_what_bf16_holds_and_what_is_no_number():
    """Rows that no gradient reaches stay bit for bit; infinity stays infinity, and NaN does not become a weight."""
    exact = torch.randn(4096, generator=dice()).bfloat16()
    assert torch.equal(rounded(exact.float(), dice()), exact)
    odd = torch.tensor([torch.inf, -torch.inf, 0.0, -0.0])
    assert torch.equal(rounded(odd, dice()).float(), odd)
    # the NaN of CPUs, that of GPUs, and a negative one
    bits = torch.tensor([0x7FC00000, 0x7FFFFFFF, -1], dtype=torch.int32).repeat(100)
    assert rounded(bits.view(torch.float32), dice()).isnan().all()


@given(st.integers(1, 3000), st.booleans(), st.integers(0, 2**32), st.floats(-30, 10))
@hypothesis_settings(max_examples=40)
def test_eight_bits_hold_the_nearest_value_of_the_map(count, signed, seed, magnitude):
    """No other code would be nearer (but for the bits that the look-up leaves out), whatever the size and the scale;
    a block's largest and zeros are exact, and an unsigned value is never lost."""
    spread = torch.randn(count, generator=dice(seed)) * 10 ** (4 * torch.rand(count, generator=dice(seed)) - 4)
    values = spread * 10.0**magnitude
    values[::7] = 0.0
    values = values if signed else values.abs()
    codes, scales = quantized(values, signed)
    assert codes.dtype == torch.uint8 and len(codes) == count and len(scales) == -(-count // rules.BLOCK)
    back = restored(codes, scales, signed)
    scale = scales.repeat_interleave(rules.BLOCK)[:count]
    best = (dynamic_map(signed)[None] * scale[:, None] - values[:, None]).abs().amin(1)
    lowest = 0 * scale if signed else dynamic_map(False)[1] * scale
    assert ((back - values).abs() <= torch.maximum(best + values.abs() * 2.0**-9, lowest)).all()
    assert (back[values == 0] == 0).all()
    assert signed or torch.equal(back == 0, values == 0)
    assert (back == values)[values == scale].all()  # there is no -1 in the map


def test_the_map_has_256_values_that_get_finer_towards_zero():
    """0 and 1, ascending, seven decades; the signed map is symmetric but for 1 itself."""
    for signed in (True, False):
        values = dynamic_map(signed)
        assert len(values.unique()) == 256 and values.max() == 1 and (values == 0).sum() == 1
        assert values[values > 0].min() < 1e-6
    both = dynamic_map(True)
    assert torch.allclose(both[:127], -both[128:255].flip(0))


# ---- the optimizer ---------------------------------------------------------------------------------------------------


def parameters(dtype=torch.float32):
    """A matrix whose size is no multiple of a block or a piece, an odd one, and a vector."""
    shapes = ((300, 333), (70, 61), (50,))
    return [torch.nn.Parameter((torch.randn(s, generator=dice(n)) * 0.02).to(dtype)) for n, s in enumerate(shapes)]


def steps(optimizer, trained, first, last):
    """Gradients of very different sizes that follow from the step alone; one is not contiguous."""
    for step in range(first, last):
        for place, p in enumerate(trained):
            noise = dice(1000 * step + place)
            gradient = torch.randn(p.shape, generator=noise) * torch.rand(p.shape, generator=noise) ** 3 + 0.1
            gradient = (1e-3 * gradient).to(p.dtype)
            p.grad = gradient.t().contiguous().t() if p.ndim == 2 else gradient
        optimizer.step()


def made(trained, *, eight_bit, seed=3, fused=True):
    groups = [{"params": trained[:2], "lr": 1e-3, "weight_decay": 0.1}, {"params": trained[2:], "lr": 2e-3}]
    return CompactAdamW(groups, eight_bit=eight_bit, fused=fused, seed=seed)


def with_copies(trained, *, fused=True):
    groups = [{"params": trained[:2], "lr": 1e-3, "weight_decay": 0.1}, {"params": trained[2:], "lr": 2e-3}]
    return MasterAdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=fused or None)


def plain(trained):
    groups = [{"params": trained[:2], "lr": 1e-3, "weight_decay": 0.1}, {"params": trained[2:], "lr": 2e-3}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)


@pytest.mark.parametrize("fused", [True, False])
def test_eight_bit_moments_update_as_adamw(fused):
    """Fifty steps: within 2 % of the way that AdamW's weights went, and small tensors exactly as AdamW."""
    ours, theirs, start_at = parameters(), parameters(), parameters()
    steps(made(ours, eight_bit=True, fused=fused), ours, 0, 50)
    steps(plain(theirs), theirs, 0, 50)
    for a, b, c in zip(ours[:2], theirs[:2], start_at[:2], strict=True):
        assert (a - b).norm() < 0.02 * (b - c).norm()
    assert torch.allclose(ours[2], theirs[2], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("eight_bit", [True, False])
def test_bf16_weights_go_where_fp32_weights_go(eight_bit):
    """Rounded up and down at random: on average over the weights, the way of fp32 weights to 1 %."""
    ours, theirs, start_at = parameters(torch.bfloat16), parameters(), parameters()
    steps(made(ours, eight_bit=eight_bit), ours, 0, 50)
    steps(plain(theirs), theirs, 0, 50)
    ours_went, theirs_went = (float((p[0].float() - start_at[0]).mean()) for p in (ours, theirs))
    assert ours[0].dtype == torch.bfloat16
    assert ours_went == pytest.approx(theirs_went, rel=0.01)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("at_once", [1 << 26, 5000])
def test_weights_with_fp32_copies_are_those_of_adamw_rounded(monkeypatch, fused, at_once):
    """Fifty steps: the copies are fp32 AdamW's weights on the same gradients, and the weights their nearest in bf16."""
    monkeypatch.setattr(master_adamw, "AT_ONCE", at_once)
    ours, theirs = parameters(torch.bfloat16), parameters()
    for a, b in zip(ours, theirs, strict=True):
        b.data = a.detach().float()
    optimizer = with_copies(ours, fused=fused)
    reference = plain(theirs)
    for step in range(50):
        steps(optimizer, ours, step, step + 1)
        for a, b in zip(ours, theirs, strict=True):
            b.grad = a.grad.float()
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(optimizer.state[a]["master"], b, rtol=1e-5, atol=1e-7)
        assert torch.equal(a.detach(), optimizer.state[a]["master"].bfloat16())


def test_a_step_that_is_not_finite_changes_nothing_and_clipping_is_by_the_norm_in_fp32():
    """As with fp32 weights: the device decides, and the norm has more digits than the gradients."""
    trained = parameters(torch.bfloat16)
    optimizer = with_copies(trained)
    update = Update(optimizer, 0.5)
    steps(optimizer, trained, 0, 1)
    gradients = [p.grad.double() for p in trained]
    exact = float(torch.stack([g.square().sum() for g in gradients]).sum().sqrt())
    copies = [{n: v.clone() for n, v in optimizer.state[p].items()} for p in trained]
    assert float(update(trained, torch.tensor(torch.nan))) == pytest.approx(exact, rel=1e-4)
    for p, before in zip(trained, copies, strict=True):
        assert all(torch.equal(optimizer.state[p][name], value) for name, value in before.items())
    fp32 = [torch.nn.Parameter(c["master"].clone()) for c in copies]
    clipped = plain(fp32)
    for p, c in zip(fp32, copies, strict=True):
        clipped.state[p] = {n: c[n].clone() for n in ("step", "exp_avg", "exp_avg_sq")}
        p.grad = trained[len([q for q in fp32 if q.grad is not None])].grad.float()
    torch.nn.utils.clip_grad_norm_(fp32, 0.5)
    clipped.step()
    update(trained, torch.tensor(1.0))
    for p, q in zip(trained, fp32, strict=True):
        assert torch.allclose(optimizer.state[p]["master"], q, rtol=1e-5, atol=1e-8)


def small_matrices():
    """Sizes as of adapters: some fill whole blocks, some do not, some have too few values for 8 bits."""
    shapes = [(16, 256), (512, 16), (16, 300), (16, 64), (77, 90)] * 4
    return [torch.nn.Parameter(torch.randn(s, generator=dice(n)) * 0.02) for n, s in enumerate(shapes)]


@pytest.mark.parametrize("eight_bit", [True, False])
def test_small_tensors_updated_together_go_where_each_alone_goes(monkeypatch, eight_bit):
    """Up to the order of additions, also when some start to be trained later than others (PROGRESSIVE_STAGES)."""
    results = []
    for at_once in (1 << 14, 1 << 10):  # several together; none with another
        monkeypatch.setitem(optimizers.AT_ONCE, "cpu", at_once)
        trained = small_matrices()
        optimizer = made(trained, eight_bit=eight_bit)
        for few, first, last in ((trained[:9], 0, 2), (trained, 2, 5), (trained[9:], 5, 7)):
            optimizer.zero_grad(set_to_none=True)
            steps(optimizer, few, first, last)
        results.append([t for p in trained for t in (p.detach(), *optimizer.state[p].values())])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1.0 if a.dtype == torch.uint8 else 1e-9)


def test_adapters_take_few_operations_to_update(monkeypatch):
    """Hundreds of small matrices take a few dozen operations, not forty each: a GPU waits for each to be launched."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counted(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            on_device = any(isinstance(a, torch.Tensor) and a.ndim for a in args)  # step counts stay on the host
            moves = function.overloadpacket.__name__ not in ("view", "slice", "detach", "_unsafe_view", "split")
            Counted.found += on_device and moves
            return function(*args, **(kwargs or {}))

    monkeypatch.setitem(optimizers.AT_ONCE, "cpu", optimizers.AT_ONCE["cuda"])
    trained = [torch.nn.Parameter(torch.full((16, 256), 0.01, dtype=torch.bfloat16)) for _ in range(200)]
    optimizer = made(trained, eight_bit=True)
    for p in trained:
        p.grad = torch.full_like(p, 1e-3)
    optimizer.step()
    with Counted():
        optimizer.step()
    assert 0 < Counted.found < 150


def test_an_update_below_half_a_step_is_not_lost():
    """At a weight of 1 bf16 has steps of 2^-8 below: updates of 1e-4 vanish when rounded to the nearest, and add up to
    what they should when rounded stochastically. It is why MASTER_WEIGHTS=bf16_stochastic exists."""

    def after(make):
        weight = torch.nn.Parameter(torch.ones(1 << 14, dtype=torch.bfloat16))
        optimizer = make([{"params": [weight], "lr": 1e-4, "weight_decay": 0.0}])
        for _ in range(100):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        return weight.detach().float()

    assert (after(lambda groups: torch.optim.AdamW(groups, fused=True)) == 1).all()
    moved = after(lambda groups: CompactAdamW(groups, eight_bit=False, fused=True, seed=0))
    assert float(moved.mean()) == pytest.approx(0.99, abs=5e-4)


def test_all_processes_round_alike_and_another_seed_does_not():
    """What is random follows from SEED, place and step, whatever else a process has drawn from torch's generator."""
    results = []
    for state, seed in ((1, 3), (2, 3), (1, 4)):
        torch.manual_seed(state)
        torch.rand(state)
        trained = parameters(torch.bfloat16)
        steps(made(trained, eight_bit=True, seed=seed), trained, 0, 3)
        results.append([p.detach().clone() for p in trained])
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not torch.equal(results[0][0], results[2][0])


@pytest.mark.parametrize(
    ("make", "dtype", "moments"),
    [
        (partial(made, eight_bit=True), torch.float32, torch.uint8),
        (partial(made, eight_bit=False), torch.float32, torch.float32),
        (partial(made, eight_bit=True), torch.bfloat16, torch.uint8),
        (partial(made, eight_bit=False), torch.bfloat16, torch.float32),
        (with_copies, torch.bfloat16, torch.float32),
    ],
    ids=["8bit-fp32", "fp32", "8bit-bf16", "bf16", "copies"],
)
def test_a_checkpoint_holds_the_optimizer_to_the_last_bit(tmp_path, make, dtype, moments):
    """Snapshot, files, and back into a new optimizer that accelerate has prepared: the next steps are the same bits."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    trained = parameters(dtype)
    optimizer = make(trained)
    steps(optimizer, trained, 0, 3)
    named = [(str(n), p) for n, p in enumerate(trained)]
    resume.save(tmp_path, resume.snapshot(3, {}, named, optimizer, rules.PLAIN), keep=1)
    held = {name: value.clone() for name, value in optimizer.state[trained[0]].items()}
    steps(optimizer, trained, 3, 6)

    fresh = [torch.nn.Parameter(torch.zeros_like(p)) for p in trained]
    again = make(fresh)
    resume.restore(tmp_path / "checkpoint-3", [(str(n), p) for n, p in enumerate(fresh)], again, rules.PLAIN)
    try:
        prepared = Accelerator(cpu=True).prepare(again)
        state = again.state[fresh[0]]
        assert {name: value.dtype for name, value in state.items()} == {n: v.dtype for n, v in held.items()}
        assert all(torch.equal(state[name], value) for name, value in held.items())
        assert state["exp_avg"].dtype == moments
        steps(prepared, fresh, 3, 6)
    finally:
        AcceleratorState._reset_state(True)
    assert all(torch.equal(a, b) for a, b in zip(trained, fresh, strict=True))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 16),
        ({"OPTIMIZER": "adamw_8bit"}, 10),
        ({"MASTER_WEIGHTS": "bf16_stochastic"}, 12),
        ({"MASTER_WEIGHTS": "bf16_with_fp32"}, 16),
        ({"OPTIMIZER": "adamw_8bit", "MASTER_WEIGHTS": "bf16_stochastic"}, 6),
    ],
    ids=lambda v: "-".join(v.values()) if isinstance(v, dict) else str(v),
)
def test_the_bytes_of_a_parameter_are_those_that_are_planned_for(values, expected):
    """What a real optimizer holds after a step, with weight and gradient, is what `plan` and `doctor` reckon with."""
    settings = variables.load({**QUICK, **values})
    weight = torch.nn.Parameter(torch.zeros(512, 512, dtype=torch.bfloat16 if rules.in_bf16(settings) else None))
    optimizer = optimizer_of(settings, [Group("full", 1e-4, [("talker.w", weight)])])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    tensors = [weight, weight.grad, *optimizer.state[weight].values()]
    held = sum(t.numel() * t.element_size() for t in tensors) / weight.numel()
    assert held == pytest.approx(rules.trained_bytes(settings), rel=1e-3)
    assert held == pytest.approx(expected, rel=0.01)


# ---- in the job ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Four prepared clips, not to be changed."""
    work = tmp_path_factory.mktemp("optimizers") / "work"
    pipeline.run(variables.load({**QUICK, "WORK_DIR": str(work)}), "fetch", "prepare")
    return work


def train(prepared, output, *more):
    """Train into `output`; returns (settings, the last validation loss, the training log)."""
    from job.train import run

    values = {**QUICK, "WORK_DIR": str(prepared), "OUTPUT_DIR": str(output)}
    for some in more:
        values |= some
    settings = variables.load(values)
    result = run(settings)
    log = [json.loads(line) for line in settings.paths.training_log.read_text().splitlines()]
    return settings, result["last_loss"], log


@pytest.mark.thorough
def test_each_trains_as_adamw_does(prepared, tmp_path):
    """Forty steps from random weights: the loss falls as with fp32 and plain moments, to 5 % (bf16 arithmetic alone
    differs from fp32 by as much); bf16 weights are published as they are."""
    few = {"MAX_STEPS": "40", "LOGGING_STEPS": "1"}
    _, expected, log = train(prepared, tmp_path / "base", few)
    assert expected < 0.5 * log[0]["loss"]
    for name, values in (("8bit", EIGHT_BIT), ("stochastic", STOCHASTIC), ("both", BOTH), ("copies", COPIES)):
        settings, loss, _ = train(prepared, tmp_path / name, few, values)
        assert loss == pytest.approx(expected, rel=0.05), name
    from safetensors import safe_open

    with safe_open(settings.paths.last / "model.safetensors", "pt") as weights:
        assert weights.get_slice("talker.codec_head.weight").get_dtype() == "BF16"


@pytest.mark.slow
def test_adapters_can_be_in_bf16(prepared, tmp_path):
    """TRAIN_MODE=lora with both: the first losses are those of fp32 adapters, and the loss falls."""
    lora = {"TRAIN_MODE": "lora", "MAX_STEPS": "6", "LOGGING_STEPS": "1", "WARMUP_STEPS": "0"}
    _, _, expected = train(prepared, tmp_path / "fp32", lora)
    _, _, log = train(prepared, tmp_path / "bf16", lora, BOTH)
    assert log[0]["loss"] == pytest.approx(expected[0]["loss"], rel=0.01)
    assert log[-1]["loss"] == pytest.approx(expected[-1]["loss"], rel=0.03)
    assert log[-1]["loss"] < 0.9 * log[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [BOTH, COPIES], ids=["both", "copies"])
def test_a_killed_run_ends_as_an_undisturbed_one(prepared, tmp_path, capsys, kind):
    """SIGKILL in the middle, with 8-bit moments and bf16 weights, or fp32 copies of them: equal to the last bit."""
    work, alone = tmp_path / "work", tmp_path / "alone"
    values = {**QUICK, **kind, "MAX_STEPS": "30", "SAVE_STEPS": "2", "SUB_TALKER_FRAME_FRACTION": "0.5"}
    for copy in (work, alone):
        shutil.copytree(prepared, copy)
    process = start({**values, "WORK_DIR": str(work)}, ("train",))
    deadline = time.monotonic() + 120
    while not (work / "output/checkpoint-4").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=30)
    result = run_job(capsys, ["train"], {**values, "WORK_DIR": work})
    assert result.code == 0, result.err
    assert "resuming from checkpoint-" in result.out
    assert run_job(capsys, ["train"], {**values, "WORK_DIR": alone}).code == 0
    ours, theirs = outcome(work), outcome(alone)
    assert ours[1] == theirs[1]
    assert ours[0] == theirs[0]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"OPTIMIZER": "adamw_8bit", "DISTRIBUTED": "fsdp"}, "OPTIMIZER=adamw_8bit"),
        ({"MASTER_WEIGHTS": "bf16_stochastic", "DISTRIBUTED": "fsdp"}, "MASTER_WEIGHTS=bf16_stochastic"),
        ({"MASTER_WEIGHTS": "bf16_with_fp32", "DISTRIBUTED": "fsdp"}, "MASTER_WEIGHTS=bf16_with_fp32"),
        ({"MASTER_WEIGHTS": "bf16_with_fp32", "OPTIMIZER": "adamw_8bit"}, "OPTIMIZER=adamw_8bit"),
        ({"MASTER_WEIGHTS": "bf16_with_fp32", "MIXED_PRECISION": "no"}, "MIXED_PRECISION=no"),
        ({"MASTER_WEIGHTS": "bf16_stochastic", "MIXED_PRECISION": "no"}, "MIXED_PRECISION=no"),
        ({"MASTER_WEIGHTS": "bf16_stochastic", "MIXED_PRECISION": "fp16"}, "MIXED_PRECISION=fp16"),
        ({"MASTER_WEIGHTS": "bf16_stochastic", "MIXED_PRECISION": "auto"}, "gives no here"),
    ],
    ids=lambda v: "-".join(v.values()) if isinstance(v, dict) else "",
)
def test_what_does_not_go_together_is_refused_at_the_start(tmp_path, capsys, values, named):
    """`doctor`, exit code 2 and one line with the fix."""
    result = run_job(capsys, ["doctor"], {**QUICK, **values, "WORK_DIR": tmp_path / "w"})
    assert result.code == 2
    assert len(result.errors) == 1 and named in result.errors[0]
    assert any(
        fix in result.errors[0] for fix in ("use DISTRIBUTED=ddp", "set MIXED_PRECISION=bf16", "use adamw_fused")
    )


@pytest.mark.parametrize(
    ("values", "written"),
    [(EIGHT_BIT, "OPTIMIZER=adamw_8bit"), (STOCHASTIC, "MASTER_WEIGHTS=bf16_stochastic"), ({}, "MASTER_WEIGHTS=fp32")],
    ids=["8bit", "stochastic", "plain"],
)
def test_a_checkpoint_of_another_optimizer_is_refused_at_the_start(tmp_path, capsys, values, written):
    """Not after hours of prepare: `doctor` says what RESUME was written with, and takes what the settings write."""
    settings = variables.load({**QUICK, **values})
    count = trained_values(settings, shapes_of(settings))
    weight = torch.nn.Parameter(torch.zeros(count, dtype=torch.bfloat16 if rules.in_bf16(settings) else None))
    optimizer = optimizer_of(settings, [Group("full", 1e-4, [("talker.w", weight)])])
    kind = rules.kind_of(settings)
    resume.save(tmp_path, resume.snapshot(3, {}, [("talker.w", weight)], optimizer, kind), keep=1)
    named = {"RESUME": tmp_path / "checkpoint-3", "WORK_DIR": tmp_path / "w"}
    refused = run_job(capsys, ["doctor"], {**QUICK, **COPIES, **named})
    assert refused.code == 2 and len(refused.errors) == 1
    assert written in refused.errors[0] and "RESUME=never" in refused.errors[0]
    assert run_job(capsys, ["doctor"], {**QUICK, **values, **named}).code == 0
    (tmp_path / "checkpoint-3/trained.safetensors").write_bytes(b"half a file")
    damaged = run_job(capsys, ["doctor"], {**QUICK, **values, **named, "FORCE": "true"})
    assert damaged.code == 2 and "its weights are damaged" in damaged.errors[0]


def test_the_plan_counts_what_is_saved(prepared):
    """Full fine-tuning: 16 bytes a trained parameter become 6, and frozen weights are in bf16 too."""
    settings = variables.load({**QUICK, "WORK_DIR": str(prepared)})
    least = settings.model_copy(update={"optimizer": "adamw_8bit", "master_weights": "bf16_stochastic"})
    count, trained = parameter_counts(settings)
    assert memory.state_bytes(settings) == 16 * trained + 4 * (count - trained)
    assert memory.state_bytes(least) == pytest.approx(6.03 * trained + 2 * (count - trained), rel=1e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("values", [EIGHT_BIT, STOCHASTIC, BOTH, COPIES], ids=["8bit", "stochastic", "both", "copies"])
def test_each_recites(prepared, tmp_path, values):
    """Trained until it knows its clips by heart: all codes, and it stops where it should."""
    from job.dataset.prepared import read_split
    from job.evaluate.recite import recite

    settings, _, _ = train(prepared, tmp_path, {"MAX_STEPS": "300"}, values)
    said = read_split(settings.paths, "train").to_pylist()
    said = [{**row, "codes": np.asarray(row["codes"], dtype=np.int16)} for row in said]
    heard = recite(settings.paths.best, said, device=torch.device("cpu"))
    assert min(r.match for r in heard) >= 0.99
    assert all(r.right_stop for r in heard)


@pytest.mark.thorough
@pytest.mark.parametrize("values", [EIGHT_BIT, BOTH], ids=["8bit", "both"])
def test_two_processes_train_as_one(prepared, tmp_path, capsys, values):
    """The same global batch: the same curve, but for gradients that are summed in another order, in bf16 even."""
    some = {**QUICK, **values, "BATCH_SIZE": "1", "MAX_STEPS": "12", "LOGGING_STEPS": "1"}
    losses = []
    for name, more in (("alone", {"GRAD_ACCUM": "2"}), ("two", {"NUM_GPUS": "2"})):
        work = tmp_path / name
        shutil.copytree(prepared, work)
        process = start({**some, **more, "WORK_DIR": str(work)}, ("train",))
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        lines = [json.loads(line) for line in (work / "output/training_log.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
