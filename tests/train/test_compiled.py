"""TORCH_COMPILE: other code for the same layers, and never a run that fails or compiles for ever because of it."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from job.config import settings as variables
from job.core.errors import BadInput
from job.core.stopping import StopRequest
from job.fast import compiled
from job.fast.changes import Changes
from job.loss.batch import collate
from job.processes.ranks import ALONE
from job.train import adapt
from job.train.schedule import Planned
from job.train.spread import Spread
from job.train.step import Stepper
from tests.support.commands import run_job
from tests.test_pipeline import start
from tests.train import adapters
from tests.train.test_contract import TEXTS, one_case, spread
from tests.train.test_gradient_sum import without_backward
from tests.train.test_passes import rows_of
from tests.train.test_resume import outcome
from tests.train.trained import objective_of

CPU = torch.device("cpu")
CASE = {"streaming": False, "language": "Auto", "speaker": True, "instruct": False, "icl": 0}
#: Which of the three samples share a batch: rows of different lengths, with different numbers of samples.
BATCHES = ([0, 1, 2], [1], [2, 0], [0], [2], [1, 2, 0, 1, 2], [1, 0])
MODES = {
    "full": {},
    "lora": {"LORA_R": "4", "GRADIENT_CHECKPOINTING": "true"},
    "layers": {"REPLACE_LAST_N_LAYERS": "1"},
}


@pytest.fixture(scope="module")
def tts(tiny_base):
    return spread(tiny_base)


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def graphs() -> int:
    """How many graphs torch has made in this process."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def settings_of(mode, **values):
    return variables.load({"PRESET": "demo", "DEVICE": "cpu", "TRAIN_MODE": mode, **MODES[mode], **values})


def adapted(base, mode):
    """A model adapted as TRAIN_MODE says, always the same; adapters are no longer zero."""
    settings = settings_of(mode)
    model = spread(base).model
    torch.manual_seed(0)
    adapt.adapt(model, settings)
    adapters.move(model)
    return model


def batches(tts):
    samples = [one_case(tts, number, **CASE) for number in range(len(TEXTS))]
    for rows in BATCHES:
        yield collate([samples[row][0] for row in rows], [samples[row][1] for row in rows], packed=True)


def losses_and_gradients(objective, batch):
    objective.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    losses = objective(batch)
    ((losses.talker + losses.sub_talker) / losses.talker_terms).backward()
    return losses, {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}


def assert_the_same(tts, stock, ours):
    for batch in batches(tts):
        one, expected = losses_and_gradients(stock, batch)
        other, found = losses_and_gradients(ours, batch)
        for part in ("talker", "sub_talker"):
            torch.testing.assert_close(getattr(other, part), getattr(one, part), rtol=1e-5, atol=0)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name


def said(model):
    """What stock generation says, through the model that is trained."""
    ids = torch.arange(20, 32)[None]
    config = model.talker.config
    model.eval()
    with torch.no_grad():
        codes, _ = model.generate(
            input_ids=[ids], languages=["Auto"], do_sample=False, subtalker_dosample=False, max_new_tokens=12,
            voice_clone_prompt={
                "ref_code": [None], "ref_spk_embedding": [torch.ones(config.hidden_size)],
                "x_vector_only_mode": [True], "icl_mode": [False],
            },
        )  # fmt: skip
    model.train()
    return codes[0].tolist()


@pytest.mark.thorough
@pytest.mark.parametrize("mode", ["lora", *(pytest.param(m, marks=pytest.mark.thorough) for m in MODES if m != "lora")])
def test_compiled_training_is_uncompiled_training(tiny_base, tts, mode, capsys):
    """The same losses to 1e-5 and the same gradients, from a few graphs whatever the lengths; speaking makes none."""
    stock, ours = adapted(tiny_base, mode), adapted(tiny_base, mode)
    before = graphs()
    stock = objective_of(stock, settings_of(mode)).train()
    ours = objective_of(ours, settings_of(mode, TORCH_COMPILE="true")).train()
    assert "compiled" in capsys.readouterr().out
    assert_the_same(tts, stock, ours)
    # Four pieces of two kinds of layers, before and after attention; of the trained ones of `layers` other graphs than
    # of the frozen ones; and on a CPU other sums, where weights of norms are trained, for short rows.
    assert 4 <= graphs() - before <= (12 if mode == "lora" else 32)
    made = graphs()
    assert_the_same(tts, stock, ours)
    with torch.no_grad():
        for batch in batches(tts):
            ours.eval()(batch)
    assert said(ours.model) == said(stock.model)
    assert graphs() == made
    assert list(ours.state_dict()) == list(stock.state_dict())
    if mode == "lora":
        assert list(dict(adapt.merged_weights(ours.model))) == list(dict(adapt.merged_weights(stock.model)))


@pytest.mark.thorough
def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(tmp_path):
    """To the last bit, in another process, dropout and all."""
    values = {
        "PRESET": "demo", "TORCH_COMPILE": "true", "TRAIN_MODE": "lora", "LORA_DROPOUT": "0.2", "DEVICE": "cpu",
        "MAX_TRAIN_SAMPLES": "6", "BATCH_SIZE": "2", "MAX_STEPS": "6", "EVAL_STEPS": "3", "SAVE_STEPS": "2",
        "LOGGING_STEPS": "1",
    }  # fmt: skip
    ends = []
    for _ in range(2):
        process = start({**values, "WORK_DIR": str(tmp_path)}, ("run", "--until", "train"))
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        assert "compiled" in out and "uncompiled" not in err
        ends.append((outcome(tmp_path), out))
        if len(ends) == 1:  # as if it had been stopped after step 2
            output = tmp_path / "output"
            for name in ("best", "last", "checkpoint-4"):
                shutil.rmtree(output / name)
            (tmp_path / "state" / "train.json").unlink()
    assert "resuming from checkpoint-2" in ends[1][1]
    assert ends[0][0][1] == ends[1][0][1]
    assert ends[0][0][0] == ends[1][0][0]
    log = [json.loads(line) for line in (tmp_path / "output" / "training_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]


@pytest.fixture
def no_compiler():
    """A machine without a C++ compiler, and nothing compiled on it before."""
    import torch._inductor.config

    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}):
        yield


@pytest.mark.slow
def test_without_a_compiler_training_goes_on_uncompiled(tiny_base, no_compiler, capsys):
    """One line, no traceback, and the layers as they were."""
    model = adapted(tiny_base, "full")
    assert not compiled.use(model.talker, CPU, Changes())
    (line,) = capsys.readouterr().err.splitlines()
    assert "TORCH_COMPILE" in line and "compiler" in line
    assert not any("forward" in vars(layer) for layer in model.talker.modules())


@pytest.mark.slow
def test_a_graph_that_cannot_be_made_later_on_costs_speed_only(tiny_base, tts, no_compiler, monkeypatch, capsys):
    """What was tried worked, and a layer does not: one line a stack of layers, and the same losses."""
    stock, ours = adapted(tiny_base, "full"), adapted(tiny_base, "full")
    monkeypatch.setattr(compiled, "check", lambda device: None)
    ours = objective_of(ours, settings_of("full", TORCH_COMPILE="true")).train()
    capsys.readouterr()
    assert_the_same(tts, objective_of(stock).train(), ours)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("TORCH_COMPILE" in line and "compiler" in line for line in lines)


def dropped_out(base, monkeypatch, fails):
    """Losses and gradients of two steps of LoRA with dropout, compiled with no way to make backward graphs, or, unless
    it `fails`, with compiled code given up before the first step."""
    settings = settings_of("lora", LORA_DROPOUT="0.3", TORCH_COMPILE="true")
    monkeypatch.setattr(compiled, "check", lambda device: None)
    monkeypatch.setattr(torch, "compile", partial(without_backward, torch.compile))
    model = adapted(base, "lora")
    parameters = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    codebooks = model.config.talker_config.num_code_groups
    rows = rows_of(model, [3, 5, 2, 4])
    training = SimpleNamespace(train_rows=rows, codebooks=codebooks, parameters=parameters)
    objective = objective_of(model, settings).train()
    monkeypatch.undo()
    if not fails:
        compiled.give_up(objective)
    accelerator = SimpleNamespace(device=CPU, autocast=nullcontext)
    stepper = Stepper(settings, accelerator, objective, training, Spread(ALONE), StopRequest())
    steps = []
    for number in (1, 2):
        planned = Planned(number, 0, [[0, 1], [2, 3]])
        losses, _ = stepper.take(planned, stepper.build(planned))
        steps.append({"losses": losses, **{name: one.grad.clone() for name, one in parameters}})
        objective.zero_grad()
    return steps


@pytest.mark.slow
def test_a_backward_graph_that_cannot_be_made_costs_speed_only(tiny_base, monkeypatch, capsys):
    """One line, and the step is computed again, dropout and all, with the bits of what was never compiled."""
    expected = dropped_out(tiny_base, monkeypatch, fails=False)
    before = graphs()
    found = dropped_out(tiny_base, monkeypatch, fails=True)
    assert graphs() > before, "nothing was compiled"
    for ours, theirs in zip(found, expected, strict=True):
        assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert capsys.readouterr().err.splitlines() == [
        "[train] warning: TORCH_COMPILE: layers stay uncompiled, and step 1 is computed again, with the same result: "
        "no registers left"
    ]


def test_doctor_refuses_to_compile_without_a_compiler(no_compiler, tmp_path, capsys):
    """In the first minute, with exit code 2 and one line that names the variable and the ways out."""
    values = {"PRESET": "demo", "TORCH_COMPILE": "true", "DEVICE": "cpu", "WORK_DIR": tmp_path}
    result = run_job(capsys, ["doctor"], values)
    assert result.code == 2
    (line,) = result.errors
    assert "TORCH_COMPILE=true" in line and "C++ compiler" in line and "WITH_COMPILER=1" in line
    assert "Traceback" not in result.err


def test_doctor_refuses_to_compile_a_sharded_model(tmp_path, capsys):
    values = {"PRESET": "demo", "TORCH_COMPILE": "true", "DISTRIBUTED": "fsdp", "TRAIN_MODE": "full", "DEVICE": "cpu"}
    result = run_job(capsys, ["doctor"], {**values, "WORK_DIR": tmp_path})
    assert result.code == 2
    assert "TORCH_COMPILE" in result.errors[0] and "DISTRIBUTED" in result.errors[0]


@pytest.mark.slow
def test_what_doctor_compiles_works_here():
    """The check passes where there is a compiler, so that it refuses nobody without a reason."""
    if shutil.which("g++") is None:
        with pytest.raises(BadInput):
            compiled.check(CPU)
    else:
        compiled.check(CPU)
