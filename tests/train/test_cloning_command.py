"""`cloning` makes a model that clones, refuses with a line where it cannot, and never replaces what is not its own."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file

from tests.support.commands import run_job
from tests.support.short_run import trained


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_base):
    """The work directory of a finished training."""
    work = tmp_path_factory.mktemp("finished") / "work"
    trained(work, tiny_base, MAX_STEPS=1, EVAL_STEPS=1)
    return work


@pytest.fixture
def work(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "work")
    return tmp_path / "work"


def cloning(capsys, work, *to):
    return run_job(capsys, ["cloning", *map(str, to)], {"WORK_DIR": work})


def test_by_default_it_is_beside_the_voice_and_made_again(work, capsys):
    for _ in range(2):
        result = cloning(capsys, work)
        assert result.code == 0, result.err
    made, best = work / "output/cloning", work / "output/best"
    assert json.loads((made / "config.json").read_text())["tts_model_type"] == "base"
    weights, voice = load_file(made / "model.safetensors"), load_file(best / "model.safetensors")
    assert all(weights[name].equal(tensor) for name, tensor in voice.items())
    assert {name for name in weights if name not in voice} == set(load_file(best / "speaker_encoder.safetensors"))
    assert (made / "speech_tokenizer").is_dir() and not (made / "training_state.json").exists()


@pytest.mark.parametrize("there", ["file", "folder", "model", "link"])
def test_what_is_there_is_not_replaced(work, tmp_path, capsys, there):
    """A base model that was named by mistake is gone otherwise."""
    target = tmp_path / "there"
    if there == "file":
        target.write_text("mine")
    elif there == "link":
        target.symlink_to(tmp_path / "nothing")
    else:
        target.mkdir()
        if there == "model":
            (target / "config.json").write_text('{"tts_model_type": "base"}')
    result = cloning(capsys, work, target)
    assert result.code == 2 and f"{target} is there already; name a new folder" in result.err
    assert target.is_symlink() == (there == "link") and (there == "link" or target.exists())


def test_it_says_what_is_missing(work, tmp_path, capsys):
    best = work / "output/best"
    (best / "speaker_encoder.safetensors").unlink()
    result = cloning(capsys, work)
    assert result.code == 2 and "no speaker_encoder.safetensors, since its base had none" in result.err
    (best / "model.safetensors").unlink()
    result = cloning(capsys, work)
    assert result.code == 2 and "train with EXPORT=merged or both" in result.err
    result = cloning(capsys, tmp_path / "empty")
    assert result.code == 2 and "train first, or set OUTPUT_DIR" in result.err
    assert not (work / "output/cloning").exists()
