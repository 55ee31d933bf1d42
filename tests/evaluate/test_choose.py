"""BEST_BY=judges: which checkpoint becomes the best, and what survives a kill or a judge that fails."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from job.config.settings import Settings
from job.core import files
from job.evaluate import choose, report, trial
from job.publish import card
from tests.evaluate.conftest import SPEAKERS, write_prepared
from tests.evaluate.test_judges import recogniser  # noqa: F401 - a fixture
from tests.evaluate.test_synthesize import settings
from tests.support.commands import run_job

GOOD = {"failed": 0.0, "cer": 0.02, "similarity": 0.8, "mos": 3.0}


@pytest.mark.parametrize(
    ("other", "winner", "reason"),
    [
        ({"failed": 0.25, "cer": 0.0, "mos": 5.0}, 10, "the lowest loss as well"),
        ({"failed": 0.08, "cer": 0.0, "similarity": 0.5}, 20, "character error rate 0.0 %, at step 10"),
        ({"cer": 0.015, "similarity": 0.85}, 20, "similarity 85 %, at step 10, which has the lowest loss, 80 %"),
        ({"cer": None, "similarity": 0.81, "mos": 3.5}, 20, "naturalness (MOS) 3.50, at step 10"),
        ({"cer": 0.025, "similarity": 0.81, "mos": 3.05}, 10, "the lowest loss as well"),
    ],
)
def test_the_first_figure_that_tells_them_apart_decides(other: dict[str, Any], winner: int, reason: str) -> None:
    """Stopping, then the words, then the voice, then the sound; where all are as good, the loss."""
    step, why = choose.pick({10: GOOD, 20: {**GOOD, **other}}, {10: 1.0, 20: 2.0}, lowest=10)
    assert step == winner
    assert reason in why
    assert why.startswith(f"chosen by judges: step {winner}, of steps 10, 20")


def candidates(asked: Settings, made: dict[int, Path], losses: dict[int, float]) -> None:
    """What training leaves: the checkpoints of the last validations, and the one with the lowest loss as the best."""
    paths = asked.paths
    for step, source in made.items():
        shutil.copytree(source, paths.candidates / f"step-{step}", dirs_exist_ok=True)
        files.write_json(
            paths.candidates / f"step-{step}" / "training_state.json", {"step": step, "loss": losses[step]}
        )
    shutil.rmtree(paths.best, ignore_errors=True)
    shutil.copytree(paths.candidates / f"step-{min(losses, key=losses.__getitem__)}", paths.best)


def other_voice(checkpoint: Path, directory: Path) -> Path:
    """The same checkpoint with another speaker, which babbles other things."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, directory)
    weights = load_file(directory / "model.safetensors")
    weights["talker.model.codec_embedding.weight"][SPEAKERS["my_voice"]] *= -4
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_the_lowest_error_rate_wins_over_the_lowest_loss_and_what_was_judged_is_kept(
    endless: Path,
    recogniser: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By a real recogniser, after a kill when both checkpoints had been judged; card and report say why."""
    asked = settings(tmp_path, asr_model=str(recogniser), greedy=True, max_new_tokens=12, best_by="judges")
    write_prepared(
        asked.paths, [{"text": text, "speaker": "my_voice"} for text in ("Cab.", "A bad cab.")], "validation"
    )
    made = {10: endless, 20: other_voice(endless, tmp_path / "other")}
    candidates(asked, made, {10: 1.0, 20: 2.0})
    texts = trial.asked(asked)
    figures = {
        step: trial.figures_of(asked, f"step-{step}", "it", asked.paths.candidates / f"step-{step}", texts)
        for step in made
    }
    better, worse = sorted(made, key=lambda step: figures[step]["cer"] or 0.0)
    candidates(asked, made, {better: 2.0, worse: 1.0})
    capsys.readouterr()
    chosen = choose.best_checkpoint(asked)
    assert (chosen["step"], chosen["lowest_loss_step"]) == (better, worse)
    assert f"chosen by judges: step {better}, of steps 10, 20; character error rate" in chosen["why"]
    assert "saying" not in capsys.readouterr().out, "nothing was said again"
    assert (asked.paths.best / "model.safetensors").read_bytes() == (made[better] / "model.safetensors").read_bytes()
    assert not asked.paths.candidates.exists()
    assert choose.best_checkpoint(asked)["why"] == chosen["why"], "once chosen, it stays so"
    report.run(asked)
    assert chosen["why"] in asked.paths.report.read_text(encoding="utf-8")
    assert f"This checkpoint was {chosen['why']}." in card.render(asked)


def test_a_kill_before_the_candidates_were_removed_changes_nothing(endless: Path, tmp_path: Path) -> None:
    asked = settings(tmp_path, best_by="judges")
    candidates(asked, {10: endless, 20: endless}, {10: 1.0, 20: 2.0})
    why = {"step": 10, "lowest_loss_step": 20, "among": [10, 20, 30], "why": "chosen by judges: step 10"}
    files.write_json(asked.paths.best / "training_state.json", {"step": 10, "loss": 1.0, "chosen": why})
    assert choose.best_checkpoint(asked) == why
    assert not asked.paths.candidates.exists()


def test_whatever_fails_in_judging_the_loss_decides_with_one_line(
    endless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = settings(tmp_path, asr_model=str(tmp_path / "none"), best_by="judges")
    candidates(asked, {10: endless, 20: endless}, {10: 2.0, 20: 1.0})
    write_prepared(asked.paths, [{"text": "Cab.", "speaker": "my_voice"}])
    chosen = choose.best_checkpoint(asked)
    assert chosen["step"] == 20
    assert [line for line in "".join(capsys.readouterr()).splitlines() if "[choose]" in line] == [
        f"[choose] warning: {chosen['why']}"
    ]
    assert chosen["why"].startswith("chosen by the loss, as judging failed: ASR_MODEL=")


@pytest.mark.slow
def test_training_keeps_the_last_checkpoints_until_one_is_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command line: two of four validations' checkpoints, then one with its reason; rerun, nothing is done."""
    run = {"PRESET": "demo", "DEVICE": "cpu", "MAX_TRAIN_SAMPLES": "4", "MAX_STEPS": "4", "EVAL_STEPS": "1"}
    run |= {"SAVE_TOTAL_LIMIT": "2", "BEST_BY": "judges", "MAX_NEW_TOKENS": "4", "WORK_DIR": str(tmp_path)}
    output = tmp_path / "output"
    assert run_job(capsys, ["run", "--until", "train"], run).code == 0
    assert sorted(path.name for path in (output / "candidates").iterdir()) == ["step-3", "step-4"]
    told = run_job(capsys, ["validate"], run)
    assert told.code == 0, told.err
    assert "chosen by judges: step" in told.out
    assert not (output / "candidates").exists()
    assert "chosen by judges: step" in (output / "best" / "README.md").read_text()
    again = run_job(capsys, ["validate"], run)
    assert "[choose] nothing to do" in again.out
