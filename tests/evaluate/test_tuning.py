"""TUNE_SPEECH: at which temperature the best checkpoint speaks, found by judges of its speech."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from job.config.settings import Settings
from job.core import files
from job.evaluate import choose, report, synthesize, trial, tuning
from job.publish import card
from tests.evaluate.conftest import write_prepared
from tests.evaluate.test_judges import recogniser  # noqa: F401 - a fixture
from tests.evaluate.test_synthesize import install, settings

TRIED = (0.9, 0.72, 0.54)


def ready(checkpoint: Path, tmp_path: Path, **values: Any) -> Settings:
    """A finished run whose best checkpoint is that one."""
    work = install(checkpoint, tmp_path)
    asked = settings(work, tune_speech=True, max_new_tokens=8, **values)
    write_prepared(asked.paths, [{"text": text, "speaker": "my_voice"} for text in ("Cab.", "A cab.")], "validation")
    files.write_json(asked.paths.best / "training_state.json", {"step": 10, "loss": 1.0})
    files.write_json(asked.paths.best / tuning.DEFAULTS, {"temperature": 0.9, "top_k": 50, "max_new_tokens": 8192})
    return asked


def test_the_temperature_whose_speech_is_clearly_better_becomes_the_checkpoints(
    endless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures that a killed run has left are taken as they are: here, ones by which the lowest temperature wins."""
    asked = ready(endless, tmp_path)
    wanted = trial.asked(asked)
    for value, errors in zip(TRIED, (0.2, 0.19, 0.02), strict=True):
        tried = asked.model_copy(update={"temperature": value})
        figures = {"failed": 0.0, "cer": errors, "similarity": 0.8, "mos": 3.0}
        kept = {"key": trial._key(tried, asked.paths.best, wanted), "figures": figures}
        files.write_json(asked.paths.choosing / f"temperature-{value:g}-scale-1.json", kept)
    weights = (asked.paths.best / "model.safetensors").read_bytes()
    told = choose.run(asked)["speech"]
    assert told["temperature"] == 0.54 and told["lora_scale"] == 1.0
    assert told["why"] == ["TEMPERATURE=0.54 of 0.9, 0.72, 0.54: character error rate 2.0 %, at 0.9 20.0 %"]
    assert "saying" not in capsys.readouterr().out, "nothing was said again"
    expected = {"temperature": 0.54, "top_k": 50, "max_new_tokens": 8192, "subtalker_temperature": 0.54}
    assert files.read_json(asked.paths.best / tuning.DEFAULTS) == expected
    assert (asked.paths.best / "model.safetensors").read_bytes() == weights
    assert not asked.paths.choosing.exists()
    assert synthesize.as_tuned(asked, asked.paths.best).temperature == 0.54
    plain = asked.model_copy(update={"tune_speech": False})
    assert synthesize.as_tuned(plain, asked.paths.best).temperature == 0.9
    report.run(asked)
    assert told["why"][0] in asked.paths.report.read_text(encoding="utf-8")
    assert told["why"][0] in card.render(asked)


@pytest.mark.slow
def test_what_is_tried_is_said_and_heard_and_a_second_run_finds_the_same(
    endless: Path,
    recogniser: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever comes of real speech: one of the temperatures, with its reason, and the same one the next time."""
    asked = ready(endless, tmp_path, asr_model=str(recogniser))
    told = choose.run(asked)["speech"]
    out = capsys.readouterr().out
    for value in TRIED:
        assert f"samples with TEMPERATURE={value:g}" in out
    assert told["temperature"] in TRIED and told["why"][0] in out
    assert files.read_json(asked.paths.best / tuning.DEFAULTS)["temperature"] == told["temperature"]
    assert choose.run(asked)["speech"] == told
    counts = synthesize.run(asked)
    assert (
        counts["samples"]
        and files.read_json(asked.paths.samples / "stats.json")["settings"]["temperature"] == (told["temperature"])
    )


def test_where_judging_fails_nothing_is_changed(
    endless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ready(endless, tmp_path, asr_model=str(tmp_path / "none"))
    told = choose.run(asked)["speech"]
    assert (told["temperature"], told["lora_scale"]) == (0.9, 1.0)
    assert "as judging failed, nothing was tried: ASR_MODEL=" in told["why"][0]
    assert told["why"][0] in capsys.readouterr().err
