"""Everything a user can get wrong ends in the right exit code and one line that names the variable or row and the fix.

Rows that are wrong by themselves are left out and listed, and the good ones are kept.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import soundfile

from job.core.errors import BadInput
from job.model.loading import explained
from tests.support import small_disk
from tests.support.commands import run_job
from tests.support.speech import spoken

RATE = 24_000


def talk(path, seconds=1.0, seed=0):
    """A recording of somebody speaking, another one for each seed."""
    soundfile.write(path, spoken(seconds, RATE, seed), RATE)
    return path


@pytest.fixture
def data(tmp_path):
    """Three good clips and a function that writes a JSONL of rows."""
    for number in range(3):
        talk(tmp_path / f"{number}.wav", 0.8 + 0.3 * number, seed=number)

    def write(rows):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path = tmp_path / "train.jsonl"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


GOOD = [{"audio": f"{n}.wav", "text": text} for n, text in enumerate(["One.", "Two and two.", "Three words here."])]


@pytest.fixture
def variables(tmp_path, tiny_base):
    return {
        "INIT_MODEL_PATH": tiny_base,
        "WORK_DIR": tmp_path / "work",
        "OUTPUT_DIR": tmp_path / "output",
        "DEVICE": "cpu",
        "MIXED_PRECISION": "no",
        "TRAIN_MODE": "full",
        "MAX_STEPS": 2,
        "UPLOAD_TO_HUB": "false",
        "TRANSCRIBE": "never",  # no recogniser is fetched for a missing text
        "SYNTH_GATE": "off",
    }


def refused(result, code, *words):
    """The run ended with `code` and one error line that holds `words`; no traceback."""
    assert result.code == code, (result.code, result.err)
    assert len(result.errors) == 1, result.err
    assert "Traceback" not in result.err
    for word in words:
        assert str(word) in result.errors[0], result.errors[0]


def test_a_manifest_that_is_not_there(capsys, variables, tmp_path):
    """TRAIN_JSONL names no file: exit 2 before anything starts."""
    missing = tmp_path / "nowhere.jsonl"
    refused(run_job(capsys, ["run"], {**variables, "TRAIN_JSONL": missing}), 2, "TRAIN_JSONL", missing)
    assert not (tmp_path / "work" / "data").exists()


def test_no_row_has_its_audio(capsys, variables, data):
    """Every audio file is missing (a wrong folder, say): exit 2, naming the first row and its path."""
    path = data([{**row, "audio": f"other/{row['audio']}"} for row in GOOD])
    refused(run_job(capsys, ["run"], {**variables, "TRAIN_JSONL": path}), 2, "other/0.wav", "1")


def test_every_text_is_empty(capsys, variables, data):
    """No transcripts: exit 2."""
    path = data([{**row, "text": "  "} for row in GOOD])
    refused(run_job(capsys, ["run"], {**variables, "TRAIN_JSONL": path}), 2, "text")


def test_not_json_at_all(capsys, variables, data):
    """A file of something else: exit 2, naming the file and the line."""
    path = data(["audio|text", "0.wav|One.", "1.wav|Two."])
    refused(run_job(capsys, ["run"], {**variables, "TRAIN_JSONL": path}), 2, "train.jsonl", "1", "JSON")


def test_a_column_that_no_row_has(capsys, variables, data):
    """TEXT_COLUMN names an unknown column: exit 2, naming the variable and the columns there are."""
    result = run_job(capsys, ["run"], {**variables, "TRAIN_JSONL": data(GOOD), "TEXT_COLUMN": "sentence_text"})
    refused(result, 2, "TEXT_COLUMN", "sentence_text", "audio")


def test_two_references_that_disagree(capsys, variables, data):
    """One speaker, two different ref_audio: exit 2, naming both rows and the variable that decides."""
    rows = [{**GOOD[0], "ref_audio": "0.wav"}, {**GOOD[1], "ref_audio": "1.wav"}, GOOD[2]]
    refused(run_job(capsys, ["run"], {**variables, "TRAIN_JSONL": data(rows)}), 2, "REF_AUDIO", "1", "2")


def test_a_value_of_the_wrong_type(capsys, variables, data):
    """MAX_STEPS=ten: exit 2, naming variable and value."""
    result = run_job(capsys, ["run"], {**variables, "TRAIN_JSONL": data(GOOD), "MAX_STEPS": "ten"})
    refused(result, 2, "MAX_STEPS", "ten")


def test_a_misspelled_variable(capsys, variables, data):
    """LEARNING_RAT=1: exit 2, with the name that was meant."""
    result = run_job(capsys, ["run"], {**variables, "TRAIN_JSONL": data(GOOD), "LEARNING_RAT": "1e-4"})
    refused(result, 2, "LEARNING_RAT", "LEARNING_RATE")


def test_a_decision_about_a_row_that_is_not_understood(capsys, variables, data):
    """In minute one, not once hours of recordings have been transcribed."""
    path = variables["WORK_DIR"] / "data" / "edits.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"id": "train-1", "bad": true}\n{"id": "train-2", "text": 5}\n')
    result = run_job(capsys, ["doctor"], {**variables, "TRAIN_JSONL": data(GOOD)})
    refused(result, 2, "edits.jsonl line 2", "text words in quotation marks")


def test_no_data_named(capsys, variables):
    """A base model but no data: exit 2, naming the variables that would name it."""
    refused(run_job(capsys, ["run"], variables), 2, "TRAIN_JSONL", "DATA_DIR", "DATASET_NAME")


def test_an_adapter_to_start_from_in_another_mode(capsys, variables, data, tmp_path):
    """RESUME=<adapter> with TRAIN_MODE=full: exit 2 by doctor, not after all is prepared."""
    (tmp_path / "adapter_model.safetensors").touch()
    values = {**variables, "TRAIN_JSONL": data(GOOD), "RESUME": tmp_path}
    refused(run_job(capsys, ["doctor"], values), 2, "RESUME", "TRAIN_MODE=lora")


@pytest.mark.parametrize("variable", ["ASR_MODEL", "MOS_MODEL", "SIMILARITY_MODEL"])
def test_a_model_of_a_judge_that_is_not_there(capsys, variables, data, tmp_path, variable):
    """A model that the test speech needs: exit 2 by doctor, not after hours of training.

    It is looked at once, so nothing is advised that would leave texts uncompared and the model still missing.
    """
    values = {**variables, "TRAIN_JSONL": data(GOOD), variable: tmp_path / "nothing"}
    result = run_job(capsys, ["doctor"], values)
    refused(result, 2, f"{variable}={tmp_path}/nothing")
    assert "CHECK_WORDS" not in result.err


def test_output_that_cannot_be_written(capsys, variables, data, tmp_path):
    """OUTPUT_DIR under a file: exit 2."""
    (tmp_path / "file").write_text("")
    result = run_job(
        capsys, ["run"], {**variables, "TRAIN_JSONL": data(GOOD), "OUTPUT_DIR": tmp_path / "file" / "output"}
    )
    refused(result, 2, "OUTPUT_DIR")


@pytest.fixture
def disk_of(tmp_path):
    """A function that mounts a disk with so many MB, for OUTPUT_DIR."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    small = tmp_path / "small"
    small.mkdir()

    def mount(megabytes):
        small_disk.mount(small, megabytes * 1024)
        return small / "output"

    yield mount
    subprocess.run(["umount", small], check=False, capture_output=True)


def test_no_space_left(capsys, variables, data, disk_of):
    """OUTPUT_DIR on a full disk: exit 2 with what is free and what is needed, before training."""
    result = run_job(capsys, ["run"], {**variables, "TRAIN_JSONL": data(GOOD), "OUTPUT_DIR": disk_of(8)})
    refused(result, 2, "OUTPUT_DIR", "free")


def test_too_little_space_for_all_checkpoints(capsys, variables, data, disk_of):
    """There is room for the models and two checkpoints to resume from, of up to four: doctor says which limit fits."""
    given = {**variables, "TRAIN_JSONL": data(GOOD), "TRAIN_MODE": "full", "OUTPUT_DIR": disk_of(250)}
    result = run_job(capsys, ["doctor"], {**given, "MAX_STEPS": ""})
    assert result.code == 0, result.err
    assert "enough for 2 of the up to 4 checkpoints" in result.err and "set SAVE_TOTAL_LIMIT=1, " in result.err
    assert "enough for" not in run_job(capsys, ["doctor"], {**given, "MAX_STEPS": "", "SAVE_TOTAL_LIMIT": "1"}).err
    assert "enough for" not in run_job(capsys, ["doctor"], {**given, "MAX_STEPS": "600"}).err


@pytest.mark.parametrize("missing", ["speech_tokenizer", "config.json", "model.safetensors"])
def test_a_base_model_that_is_not_whole(capsys, variables, data, tiny_base, tmp_path, missing):
    """A base without its codec, configuration or weights: exit 2, naming what is missing."""
    broken = tmp_path / "broken"
    shutil.copytree(tiny_base, broken)
    target = broken / missing
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    result = run_job(capsys, ["run"], {**variables, "TRAIN_JSONL": data(GOOD), "INIT_MODEL_PATH": broken})
    refused(result, 2, "INIT_MODEL_PATH", missing.replace("model", "").lstrip("."))


def test_no_clip_can_be_decoded(capsys, variables, data, tmp_path):
    """Every audio file is garbage: exit 2 from the first look, naming the row and the reason."""
    for number in range(3):
        (tmp_path / f"{number}.wav").write_bytes(b"RIFF not really a wave file")
    refused(
        run_job(capsys, ["run", "--until", "prepare"], {**variables, "TRAIN_JSONL": data(GOOD)}), 2, "row 1", "0.wav"
    )


def test_every_clip_is_the_same(capsys, variables, data, tmp_path):
    """All rows have the same codes (one recording under many names): exit 3."""
    for number in (1, 2):
        shutil.copy(tmp_path / "0.wav", tmp_path / f"{number}.wav")
    refused(run_job(capsys, ["run"], {**variables, "TRAIN_JSONL": data(GOOD)}), 3, "same codes")


def test_silence(capsys, variables, data, tmp_path):
    """All clips silent: exit 3."""
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(RATE, dtype=np.float32), RATE)
    refused(run_job(capsys, ["run"], {**variables, "TRAIN_JSONL": data(GOOD)}), 3, "silent")


@pytest.mark.slow
def test_loss_that_is_not_a_number(capsys, variables, data, tiny_base, tmp_path):
    """A base model with NaN weights: exit 4 at the first step, and nothing that could be published is left."""
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "nan"
    shutil.copytree(tiny_base, broken)
    weights = load_file(broken / "model.safetensors")
    weights["talker.codec_head.weight"] = weights["talker.codec_head.weight"] * float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    result = run_job(capsys, ["run"], {**variables, "TRAIN_JSONL": data(GOOD), "INIT_MODEL_PATH": broken})
    refused(result, 4, "loss is nan", "step 1")
    assert not (tmp_path / "output" / "best").exists()


def test_bad_rows_are_listed_and_good_ones_kept(capsys, variables, data, tmp_path):
    """A missing file, an unreadable one, an empty text, a broken line and a silent clip among good rows: the run goes
    on with the good ones, and rejected.jsonl names each bad row with its reason."""
    (tmp_path / "garbage.wav").write_bytes(b"not audio at all" * 50)
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE, dtype=np.float32), RATE)
    for number in range(3, 8):
        talk(tmp_path / f"{number}.wav", 1.0, seed=number)
    rows = [
        *GOOD,
        {"audio": "missing.wav", "text": "Not there."},
        {"audio": "garbage.wav", "text": "Not audio."},
        {"audio": "0.wav", "text": ""},
        '{"audio": "0.wav", "text": ',
        {"audio": "silent.wav", "text": "Nothing to hear."},
        *({"audio": f"{n}.wav", "text": f"Sentence number {n}."} for n in range(3, 8)),
    ]
    result = run_job(capsys, ["run", "--until", "prepare"], {**variables, "TRAIN_JSONL": data(rows)})
    assert result.code == 0, result.err
    rejected = [json.loads(line) for line in (tmp_path / "work/data/rejected.jsonl").read_text().splitlines()]
    assert sorted(row["row"] for row in rejected) == [4, 5, 6, 7, 8]
    assert all(row["reason"] for row in rejected)
    summary = json.loads((tmp_path / "work/data/prepared/summary.json").read_text())
    assert summary["splits"]["train"]["rows"] == len(GOOD) + 5


def test_commands_that_do_not_exist(capsys):
    """Wrong commands, options and stages: exit 2 with one line."""
    refused(run_job(capsys, ["trane"], {}), 2, "trane")
    refused(run_job(capsys, ["run", "--form", "train"], {}), 2, "--form")
    refused(run_job(capsys, ["run", "--from", "trane"], {}), 2, "trane", "train")
    refused(run_job(capsys, ["run", "--from", "push", "--until", "train"], {}), 2, "--from")


def test_a_model_that_no_variable_names_is_not_looked_for_in_the_current_directory():
    """Whisper, where ASR_MODEL is not set: without a network it was said to have no config.json."""
    with (
        pytest.raises(BadInput, match=r"cannot be loaded \(the Hub said no\)"),
        explained("openai/whisper-small (unset)"),
    ):
        raise OSError("the Hub said no")
    with pytest.raises(BadInput, match=r"no config\.json in it"), explained("ASR_MODEL=."):
        raise OSError("unrecognized model")
