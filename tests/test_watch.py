"""What `watch` and `report --compare` show, without a model: they read what runs have written."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from job import watch
from job.config.settings import Settings
from job.core import files
from job.core.errors import BadInput
from job.core.lock import WorkLock
from job.evaluate import compare_runs
from tests.support.commands import run_job

BEGIN = datetime.fromisoformat("2026-01-02T03:00:00+00:00")


def step(number: int, loss: float = 2.0) -> str:
    at = (BEGIN + timedelta(seconds=3 * number)).isoformat()
    return json.dumps({"step": number, "loss": loss, "frames_per_second": 850.0, "timestamp": at}) + "\n"


def run(work: Path, verdict: str, mos: float, train: dict[str, Any], **variables: Any) -> Path:
    """A work directory as a run leaves it, as far as these two look."""
    settings = Settings(work_dir=work)
    settings.paths.output.mkdir(parents=True)
    settings.paths.training_log.write_text("".join(step(n) for n in range(10, 101, 10)))
    rows = [{"step": 50, "loss": 1.5}, {"step": 100, "loss": 1.75}, {"step": 120, "loss": None}]
    settings.paths.validation_log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files.write_json(settings.paths.state / "train.json", {"counts": train, "seconds": 90.0, "variables": variables})
    stats = {
        "summary": {"verdict": f"{verdict}: all of it."},
        "comparison": [{"figure": "mos", "voice": mos}],
        "samples": [{"passed": True}, {"passed": False}],
    }
    files.write_json(settings.paths.samples / "stats.json", stats)
    return work


def test_a_run_that_has_ended_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = run(tmp_path / "one", "Good", 3.9, {})
    done = run_job(capsys, ["watch"], {"WORK_DIR": work, "MAX_STEPS": "400", "CONSOLE_LOG": tmp_path / "none"})
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "no run is in progress; done: train",
        "training: step 100 of 400, loss 2, 850 frames/s",
        "validation: loss 1.75 at step 100, best 1.5 at step 50",
        "Good: all of it.",
    ]
    empty = run_job(capsys, ["watch"], {"WORK_DIR": tmp_path / "nothing"})
    assert (empty.code, empty.out) == (0, f"no run is in progress in WORK_DIR={tmp_path}/nothing, and none has been\n")


def test_a_loss_on_training_rows_is_not_called_validation(tmp_path: Path) -> None:
    rows = [{"step": 50, "loss": 1.5, "split": "train"}]
    said = watch.summary(watch.Seen(alive=False, done=["train"], validation=rows), None)
    assert said[1:] == ["no validation rows, so of training rows: loss 1.5 at step 50, best 1.5 at step 50"]


def test_a_run_that_is_going_on_is_followed_to_its_end(tmp_path: Path) -> None:
    """One line for each change where there is no terminal; the steps come from its log, and the time from its pace."""
    work = run(tmp_path / "one", "Good", 3.9, {})
    log = tmp_path / "log.txt"
    log.write_text("[train] 100/300 steps, about 9 s left\n")
    settings = Settings(work_dir=work, console_log=log)
    shown = io.StringIO()  # not `capsys`, which loses what a thread prints while it is read

    def wait_for(text: str) -> None:
        end = time.monotonic() + 60
        while text not in shown.getvalue():
            assert view.is_alive() and time.monotonic() < end, shown.getvalue()
            time.sleep(0.01)

    with contextlib.redirect_stdout(shown):
        with WorkLock(settings.paths.state):
            view = threading.Thread(target=watch.watch, args=(settings, 0.01))
            view.start()
            wait_for("step 100 of 300")
            with settings.paths.training_log.open("a") as handle:
                handle.write(step(110))
            wait_for("step 110")
        view.join()
    out = shown.getvalue()
    assert "training: step 100 of 300, loss 2, 850 frames/s, about 10 min left" in out
    assert "training: step 110 of 300, loss 2, 850 frames/s, about 10 min left" in out
    assert out.splitlines()[-1] == "Good: all of it."
    assert out.count("validation:") == 1


def test_the_time_left_is_not_guessed() -> None:
    """From a single line, without the number of steps, or from a log without times."""
    rows = [json.loads(step(n)) for n in (10, 20)]
    assert watch.seconds_left(rows, 120) == 300
    assert watch.seconds_left(rows[:1], 120) is None
    assert watch.seconds_left(rows, None) is None
    assert watch.seconds_left([{"step": 1}, {"step": 2}], 10) is None


def test_runs_are_compared_in_a_table_and_on_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures side by side, and only the settings that differ; names tell runs of one name apart."""
    same = {"TRAIN_MODE": "lora", "WORK_DIR": "x"}
    counts = {"best_loss": 1.5, "best_step": 50, "steps": 100}
    one = run(tmp_path / "a" / "work", "Good", 3.9, counts, **same, LEARNING_RATE=1e-5)
    two = run(tmp_path / "b" / "work", "Usable", 3.1, counts, **same, LEARNING_RATE=3e-5, LORA_R=8)
    (two / "samples" / "stats.json").write_text("[damaged")
    done = run_job(capsys, ["report", "--compare", str(one), str(two)], {"WORK_DIR": tmp_path / "here"})
    assert (done.code, done.err) == (0, "")
    table = [line.removeprefix("[report] ").split("  ") for line in done.out.splitlines()]
    rows = {cells[0]: [cell.strip() for cell in cells[1:] if cell.strip()] for cells in table}
    assert rows[""] == ["a/work", "b/work"]
    assert (rows["Verdict"], rows["Naturalness (MOS)"]) == (["Good", "–"], ["3.90", "–"])
    assert (rows["Samples that pass"], rows["Best loss"]) == (["1 of 2", "–"], ["1.5000", "1.5000"])
    assert (rows["LEARNING_RATE"], rows["LORA_R"]) == (["1e-05", "3e-05"], ["–", "8"])
    assert "TRAIN_MODE" not in rows and "WORK_DIR" not in rows
    assert "b/work: no verdict yet" in done.out
    html = (tmp_path / "here" / "report" / "compare.html").read_text()
    assert '<th scope="row">LEARNING_RATE</th><td>1e-05</td><td>3e-05</td>' in html
    assert "Good: all of it." in html


def test_a_run_that_is_named_twice_has_its_path_as_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = run(tmp_path / "work", "Good", 3.9, {})
    done = run_job(capsys, ["report", "--compare", str(work), str(work)], {"WORK_DIR": tmp_path / "here"})
    assert f"[report] {work}: Good: all of it." in done.out.splitlines()


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match="not the WORK_DIR of a run"):
        compare_runs.compare(Settings(work_dir=tmp_path), [tmp_path / "none"])
    for arguments in (["report", "--compare"], ["report", str(tmp_path)]):
        refused = run_job(capsys, arguments, {"WORK_DIR": tmp_path})
        assert refused.code == 2
        assert "report --compare RUN RUN" in refused.err
