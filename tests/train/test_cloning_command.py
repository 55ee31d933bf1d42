"""`cloning` makes a model that clones, refuses with a line where it cannot, and never replaces what is not its own."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file

from tests.support.commands import run_job
from tests.support.short_run import trained
from tests.support.small_disk import small_disk


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
    assert result.code == 2 and f"{target} is there already and is left as it is; name a new folder" in result.err
    assert target.is_symlink() == (there == "link") and (there == "link" or target.exists())


@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_nor_is_it_where_the_model_is_put_by_default(work, tmp_path, capsys, there):
    target = work / "output/cloning"
    if there == "file":
        target.write_text("mine")
    elif there == "link":
        target.symlink_to(tmp_path)
    else:
        target.mkdir()
        (target / "recordings.txt").write_text("mine")
    result = cloning(capsys, work)
    assert result.code == 2 and f"{target} is there already" in result.err
    assert target.is_symlink() if there == "link" else target.exists()
    assert there != "folder" or (target / "recordings.txt").read_text() == "mine"


@pytest.mark.parametrize("target", ["/dev/null/voice", "/proc/voice", "~nobody-of-that-name/voice"])
def test_where_nothing_can_be_written_is_one_line(work, capsys, target):
    result = cloning(capsys, work, target)
    assert result.code == 2 and target in result.err and len(result.errors) == 1, result.err
    assert "name a" in result.err


def test_training_would_replace_what_is_inside_of_the_voice(work, capsys):
    result = cloning(capsys, work, work / "output/best/inner")
    assert result.code == 2 and "inside of what training replaces" in result.err


def test_a_full_disk_is_one_line(work, tmp_path, capsys):
    with small_disk(tmp_path / "disk", 64) as disk:
        result = cloning(capsys, work, disk / "voice")
        assert result.code == 2 and "No space left on device" in result.err and len(result.errors) == 1, result.err
        assert not (disk / "voice").exists()


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
