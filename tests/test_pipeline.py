"""Stages: state files, fingerprints, no-op reruns, FORCE, kills, and exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile

from job import cli, stages
from job.config import settings
from job.core import state
from job.metrics import Metrics
from tests.support.commands import run_job

ROOT = Path(__file__).parent.parent


def test_help_is_quick():
    """`python -m job --help` answers in under 0.5 s: it must not import torch (nor anything else that is slow)."""
    code = "import sys, job.cli; print([m for m in ('torch', 'numpy', 'pydantic', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_stages_names_need_no_packages_of_the_stages():
    """RunPod's worker checks requests with them, and is installed without what fetch and training need."""
    code = "import sys, job.stages; print([m for m in ('torch', 'numpy', 'soundfile', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_light_modules_do_not_import_torch():
    """A rerun that has nothing to do, and every refusal of settings, come without torch's seconds."""
    code = (
        "import sys, job.config.settings, job.pipeline, job.doctor, job.fetch, job.prepare, job.train,"
        " job.publish.push, job.publish.validate, job.evaluate.synthesize, job.evaluate.report, job.model.loading;"
        "print([m for m in ('torch', 'transformers', 'qwen_tts', 'datasets', 'librosa') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_commands_have_the_stages_names(capsys):
    """Every stage is a command, and `run` goes through them in the documented order."""
    assert stages.NAMES == ("doctor", "fetch", "prepare", "train", "validate", "push", "synthesize", "report")
    shown = run_job(capsys, ["--help"], {}).out
    for name in (*stages.NAMES, "run", "plan", "settings", "demo", "evaluate"):
        assert f"\n  {name}" in shown


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One short run over all stages, as a shell would start it."""
    work = tmp_path_factory.mktemp("run")
    variables = {
        "PRESET": "demo",
        "WORK_DIR": str(work),
        "MAX_STEPS": "2",
        "MAX_TRAIN_SAMPLES": "4",
        "MAX_NEW_TOKENS": "4",
        "TEST_TEXTS": "One.|Two.",
        "SYNTH_GATE": "off",
        "DEVICE": "cpu",
    }
    done = start(variables)
    out, err = done.communicate(timeout=300)
    assert done.returncode == 0, err
    return work, variables, out


def start(variables, arguments=("run",)):
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "OMP_NUM_THREADS") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-m", "job", *arguments],
        env={**kept, **variables},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_every_stage_leaves_its_state(finished):
    """state/<stage>.json holds fingerprint, outputs, counts, seconds and versions."""
    work, _, _ = finished
    for name in stages.NAMES:
        saved = json.loads((work / "state" / f"{name}.json").read_text())
        assert {"fingerprint", "outputs", "counts", "seconds", "versions", "variables"} <= set(saved)
        assert saved["versions"]["torch"] != "missing"


def test_a_second_run_does_nothing_and_says_so(finished):
    """Under 15 s, one line a stage, no output touched."""
    work, variables, _ = finished
    before = {p: p.stat().st_mtime_ns for p in work.rglob("*") if p.is_file()}
    started = time.monotonic()
    done = start(variables)
    out, err = done.communicate(timeout=60)
    assert done.returncode == 0, err
    assert time.monotonic() - started < 15
    for name in stages.NAMES:
        assert f"[{name}] nothing to do" in out
    assert out.splitlines()[-1].startswith("[run] nothing new: no variable names data (TRAIN_JSONL")
    assert {p: p.stat().st_mtime_ns for p in work.rglob("*") if p.is_file()} == before


def test_the_grafana_board_asks_for_just_the_figures_that_a_run_has(finished):
    """Every name in its queries is at METRICS_PORT (GPU memory where there is a GPU), and each is shown somewhere."""
    _work, variables, _ = finished
    board = json.loads((ROOT / "deploy/grafana/qwen3-tts-job.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [one["query"] for one in board["templating"]["list"]]
    asked = {name for query in queries for name in re.findall(r"qwen3_tts_\w+", query)}
    there = {family.name for family in Metrics(settings.load(variables)).collect()}
    assert asked == there | {"qwen3_tts_gpu_memory_bytes"}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_no_partial_files_are_left(finished):
    """After a run no temporary name is in the work directory."""
    work, _, _ = finished
    left = [p for p in work.rglob("*") if p.name.startswith(".") or p.name.endswith(".partial")]
    assert left == []


def test_what_depends_on_a_change_is_redone_and_nothing_else(finished, capsys):
    """Other test texts redo synthesis and report (and doctor, which checks them), not training."""
    _work, variables, _ = finished
    result = run_job(capsys, ["run"], {**variables, "TEST_TEXTS": "Three."})
    assert result.code == 0, result.err
    for name in ("fetch", "prepare", "train", "validate", "push"):
        assert f"[{name}] nothing to do" in result.out
    for name in ("doctor", "synthesize", "report"):
        assert f"[{name}] done in" in result.out


def test_where_it_runs_does_not_redo_work(finished, capsys):
    """NUM_WORKERS and the like: nothing that is done is redone for them."""
    _work, variables, _ = finished
    result = run_job(capsys, ["run", "--from", "fetch", "--until", "train"], {**variables, "NUM_WORKERS": "1"})
    assert result.out.count("nothing to do") == 3, result.out


@pytest.mark.slow
def test_recordings_that_were_only_copied_train_nothing_again(tmp_path, capsys):
    """A job that brings its recordings anew each night gives each a new time: they are read, and nothing else.

    What is trained again says why.
    """
    source = tmp_path / "in"
    source.mkdir()
    for name in ("en-01", "en-02", "en-03", "en-05"):
        shutil.copy(ROOT / "job" / "demo" / "clips" / f"{name}.flac", source)
        (source / f"{name}.txt").write_text(f"What {name} says.")
    variables = {"PRESET": "demo", "DATA_DIR": source, "WORK_DIR": tmp_path / "work", "MAX_STEPS": "1", "SEED": "7"}
    variables |= {"QUALITY_GATE": "off", "SPEAKER_NAME": "ada", "LANGUAGE": "English", "ASR_MODEL": ""}
    command = ["run", "--until", "train"]
    assert run_job(capsys, command, variables).code == 0
    for times in range(2):
        for path in source.iterdir():
            os.utime(path, (1.9e9 + times, 1.9e9 + times))
        again = run_job(capsys, command, variables)
        assert again.code == 0 and "[prepare] done" in again.out and "[train] nothing to do" in again.out, again
    other = run_job(capsys, command, variables | {"LEARNING_RATE": "0.001", "LORA_R": "4"}).out
    assert "[train] done before, but LEARNING_RATE was 0.003 and is 0.001; LORA_R was 16 and is 4\n" in other
    path = tmp_path / "work" / "state" / "train.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | {"fingerprint": "", "variables": {"A_VARIABLE": 1}}))
    assert (
        "[train] done before, but by a version of this job with other variables\n"
        in run_job(capsys, command, variables).out
    )
    assert "[train] done" in run_job(capsys, command, variables | {"FORCE": "true"}).out
    (source / "en-01.txt").write_text("Something else.")
    assert "[train] done" in run_job(capsys, command, variables).out


def test_the_report_follows_the_rejected_rows_alone(tmp_path, capsys):
    """A recording that is left out for another reason now changes no prepared data, and the report tells of it."""
    names = ("en-01", "en-02", "torn", "torn-too")
    for name in names[:2]:
        shutil.copy(ROOT / "job" / "demo" / "clips" / f"{name}.flac", tmp_path / f"{name}.wav")
    for name in names[2:]:
        (tmp_path / f"{name}.wav").write_bytes(b"RIFF torn")
    rows = [json.dumps({"audio": f"{name}.wav", "text": f"What {name} says."}) for name in names]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    variables = {"PRESET": "demo", "TRAIN_JSONL": tmp_path / "rows.jsonl", "WORK_DIR": tmp_path / "work"}
    variables |= {"QUALITY_GATE": "off", "SPEAKER_NAME": "ada", "LANGUAGE": "English", "VALIDATION_FRACTION": "0"}

    def night():
        result = run_job(capsys, ["run", "--until", "prepare"], variables)
        assert result.code == 0, result.err
        digest = state.digest(tmp_path / "work" / "state", "prepare")
        out = run_job(capsys, ["report"], variables).out
        page = (tmp_path / "work" / "report" / "index.html").read_text()
        return digest, out, dict(re.findall(r'<th scope="row">rejected · (\w+)</th><td>(\d+)</td>', page))

    digest, _, rejected = night()
    assert rejected == {"unreadable": "2"}
    soundfile.write(tmp_path / "torn.wav", [0.0] * 24000, 24000)
    again, out, rejected = night()
    assert again == digest, "the prepared data are others"
    assert "[report] done" in out and rejected == {"unreadable": "1", "silent": "1"}
    assert "[report] nothing to do" in run_job(capsys, ["report"], variables).out


def test_force_redoes_a_stage(finished, capsys):
    """FORCE=true redoes what is done; what builds on it is then redone too."""
    work, variables, _ = finished
    before = state.digest(work / "state", "fetch")
    assert run_job(capsys, ["fetch"], {**variables, "FORCE": "true"}).code == 0
    assert state.digest(work / "state", "fetch") != before


def test_a_stage_that_was_begun_with_other_settings_is_done_again(tmp_path, capsys):
    """A fetch that failed half way has replaced the rows; with the settings as they were, they are those of before."""
    names = [f"en-0{number}.flac" for number in (1, 2, 3)]
    for name in names:
        shutil.copy(ROOT / "job" / "demo" / "clips" / name, tmp_path)
    rows = [json.dumps({"audio": name, "text": f"Some words of {name}."}) for name in names]
    for name, lines in (("good", rows[:1]), ("other", rows[1:]), ("empty", ['{"audio": "none.wav", "text": "x"}'])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    variables = {"PRESET": "demo", "WORK_DIR": tmp_path / "work", "SPEAKER_NAME": "ada", "LANGUAGE": "English"}
    good = {**variables, "TRAIN_JSONL": tmp_path / "good.jsonl"}
    manifest = tmp_path / "work/data/raw/train.jsonl"
    assert run_job(capsys, ["fetch"], good).code == 0
    before = manifest.read_bytes()
    other = {**variables, "TRAIN_JSONL": tmp_path / "other.jsonl", "VALIDATION_JSONL": tmp_path / "empty.jsonl"}
    assert run_job(capsys, ["fetch"], other).code == 2
    assert manifest.read_bytes() != before, "or there is nothing to be taken back"
    assert "[fetch] done" in run_job(capsys, ["fetch"], good).out
    assert manifest.read_bytes() == before
    assert "nothing to do" in run_job(capsys, ["fetch"], good).out


def test_a_lost_output_is_made_again(finished, capsys):
    """Deleting an output and rerunning brings it back, with a line that says why."""
    work, variables, _ = finished
    report = work / "report" / "index.html"
    assert run_job(capsys, ["report"], variables).code == 0
    report.unlink()
    result = run_job(capsys, ["report"], variables)
    assert result.code == 0
    assert "is gone" in result.out
    assert report.exists()


def test_a_torn_state_file_is_not_trusted(finished, capsys):
    """A state file cut short by a crash of the machine means: not done."""
    work, variables, _ = finished
    path = work / "state" / "report.json"
    path.write_text(path.read_text()[:40])
    result = run_job(capsys, ["report"], variables)
    assert result.code == 0
    assert "[report] done in" in result.out


def test_prepare_only_stops_there(tmp_path, capsys):
    """PREPARE_ONLY=true ends after prepare with exit 0 and no training."""
    variables = {"PRESET": "demo", "WORK_DIR": tmp_path, "PREPARE_ONLY": "true", "MAX_TRAIN_SAMPLES": "3"}
    result = run_job(capsys, ["run"], variables)
    assert result.code == 0, result.err
    assert "[prepare] done in" in result.out
    assert "[train]" not in result.out


def test_data_mode_none_needs_prepared_data(tmp_path, capsys):
    """DATA_MODE=none without prepared data: exit 2."""
    result = run_job(capsys, ["run"], {"DATA_MODE": "none", "INIT_MODEL_PATH": "demo", "WORK_DIR": tmp_path})
    assert result.code == 2
    assert "DATA_MODE" in result.errors[0]


def test_data_mode_none_trains_on_what_is_there(finished, capsys):
    """DATA_MODE=none leaves fetch and prepare out."""
    _work, variables, _ = finished
    result = run_job(capsys, ["run", "--until", "prepare"], {**variables, "DATA_MODE": "none"})
    assert result.code == 0, result.err
    assert "[prepare] skipped" in result.out


@pytest.mark.slow
def test_a_signal_ends_with_143_and_the_run_goes_on(tmp_path):
    """SIGINT in training: exit 143, one line, no traceback, nothing half-written; the rerun finishes."""
    variables = {"PRESET": "demo", "WORK_DIR": str(tmp_path), "MAX_STEPS": "100000", "MAX_TRAIN_SAMPLES": "4"}
    process = start(variables, ("run", "--until", "train"))
    for line in process.stdout:
        if line.startswith("[train] speakers"):
            break
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("error: stopped by SIG")
    assert not list(tmp_path.rglob("*.partial"))
    assert not (tmp_path / "state" / "train.json").exists()
    again = start({**variables, "MAX_STEPS": "2"}, ("run", "--until", "train"))
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert "[prepare] nothing to do" in out


@pytest.mark.slow
def test_a_kill_in_training_leaves_a_rerun_that_finishes(tmp_path):
    """SIGKILL at any moment: what was finished is kept, the rest is done again."""
    variables = {"PRESET": "demo", "WORK_DIR": str(tmp_path), "MAX_STEPS": "40", "EVAL_STEPS": "1"}
    process = start(variables, ("run", "--until", "train"))
    for line in process.stdout:
        if line.startswith("[train] speakers"):
            break
    time.sleep(3)
    process.kill()
    process.communicate(timeout=30)
    again = start({**variables, "MAX_STEPS": "2"}, ("run", "--until", "train"))
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert sorted(p.name for p in (tmp_path / "output").iterdir()) == [
        "best",
        "last",
        "training_log.jsonl",
        "validation_log.jsonl",
    ]


def test_errors_are_one_line(capsys, monkeypatch):
    """Whatever a message holds, stderr gets one line."""
    with pytest.raises(SystemExit) as left:
        cli._fail("two\nlines  and   spaces", 3)
    assert left.value.code == 3
    assert capsys.readouterr().err == "error: two lines and spaces\n"
