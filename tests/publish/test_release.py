"""A model after its test speech, on a local Hub: where it is, what follows it, what never reaches main."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from job.core import files
from tests.hub.server import WRITE, Hub
from tests.publish.test_contents import PUBLISHED
from tests.publish.test_push import do

GATE = {"SYNTH_GATE": "fail"}
SPEECH = ["report/index.html", "samples/01-my_voice.wav", "samples/base/01-my_voice.wav", "samples/stats.json"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def spoken(work: Path) -> Path:
    """A work directory after the report."""
    (work / "samples" / "base").mkdir(parents=True)
    for name in ("01-my_voice.wav", "base/01-my_voice.wav"):
        (work / "samples" / name).write_bytes(b"RIFF" + name.encode())
    stats = {
        "samples": [{"file": "01-my_voice.wav", "text": "It says <b>this</b> | aloud."}],
        "summary": {"verdict": "Good: the sample passes the checks."},
        "table": [["", "Recordings", "Voice"], ["WER", "2 %", "3 %"]],
    }
    files.write_json(work / "samples" / "stats.json", stats)
    (work / "report").mkdir()
    (work / "report" / "index.html").write_text("<html>the report</html>")
    return work


def candidates(hub: Hub) -> list[str]:
    return list(hub.repos["model", "alice/voice"].branches)


def test_a_refused_model_never_reaches_main(hub: Hub, spoken: Path) -> None:
    """It is on its branch with its speech, the log says where, the console log joins it; main is as it was."""
    old = {"notes.md": "the old voice", "model.safetensors": b"old weights"}
    hub.add_repo("model", "alice/voice", old, private=True)
    log = {"UPLOAD_LOGS": "true", "CONSOLE_LOG": str(spoken / "console.txt")}
    (spoken / "console.txt").write_text("step 1")
    done = do(hub, spoken, "validate", "push", "refused", "log", **GATE, **log)
    assert all("result" in outcome for outcome in done.outcomes), done.outcomes
    [branch] = candidates(hub)
    assert re.fullmatch(r"candidate-[0-9a-f]{8}", branch)
    assert {name: data.decode() for name, data in hub.files("model", "alice/voice").items()} == {
        "notes.md": "the old voice",
        "model.safetensors": "old weights",
    }
    stored = hub.files("model", "alice/voice", branch)
    assert sorted(stored) == sorted([*PUBLISHED, *SPEECH, "logs/console_log.txt", "notes.md"])
    assert f"resolve/{branch}/samples/01-my_voice.wav" in stored["README.md"].decode()
    sent, said = [line for line in done.output.splitlines() if "[release]" in line]
    assert re.fullmatch(rf"\[release\] \d+ files, \S+ MB, for alice/voice, branch {branch}", sent)
    assert said == (
        "[release] main of alice/voice stays as it was: the test speech has failed, the candidate is at "
        f"{hub.url}/alice/voice/tree/{branch}"
    )


def test_main_moves_once_the_speech_has_passed(hub: Hub, spoken: Path) -> None:
    """In one commit, with nothing sent twice, the earlier weights and samples gone, the branch too; rerun: nothing."""
    old = {"model-00001-of-00002.safetensors": b"old", "samples/99-old.wav": b"RIFF", "notes.md": "mine"}
    hub.add_repo("model", "alice/voice", old, private=True)
    repo = hub.repos["model", "alice/voice"]
    first = do(hub, spoken, "validate", "push", **GATE)
    assert first.result["branch"] == candidates(hub)[0]
    assert sorted(hub.files("model", "alice/voice")) == sorted(old)
    weights = [r.path for r in hub.seen("PUT", "/_upload/")]
    do(hub, spoken, "passed", "passed", **GATE)
    stored = hub.files("model", "alice/voice")
    assert sorted(stored) == sorted([*PUBLISHED, *SPEECH, "notes.md"])
    assert len(repo.commits) == 3, "the repo's own two, and one for the new voice with all that belongs to it"
    assert candidates(hub) == []
    assert list(repo.tags.values()) == [repo.head.oid]
    sent = [r.path for r in hub.seen("PUT", "/_upload/")]
    assert len(sent) == len(weights) + 2, "the two sounds, and no weights again"
    card = stored["README.md"].decode()
    assert "| WER | 2 % | 3 % |" in card
    player = f'<audio controls src="{hub.url}/alice/voice/resolve/main/samples/01-my_voice.wav"></audio>'
    assert f"It says b this /b aloud.\n\n{player}" in card
    assert (spoken / "output" / "best" / "README.md").read_text() == card


def test_without_the_gate_the_speech_follows_in_a_second_commit(hub: Hub, spoken: Path) -> None:
    """Whatever the speech was like: main has the model, then the speech as well; the last checkpoint has none."""
    env = {"HF_LAST_REPO_ID": "alice/last"}
    shutil.copytree(spoken / "output" / "best", spoken / "output" / "last")
    do(hub, spoken, "validate", "push", "passed", **env)
    repo, last = hub.repos["model", "alice/voice"], hub.repos["model", "alice/last"]
    assert [c.message for c in repo.commits[1:]] == ["best checkpoint, step 40, loss 1.2500", "Test speech"]
    [(tag, commit)] = repo.tags.items()
    assert (commit, re.sub("^[0-9a-f]{8}", "RUN", tag)) == (repo.head.oid, "RUN-40")
    assert list(last.tags) == [tag]
    assert sorted(hub.files("model", "alice/voice")) == sorted([*PUBLISHED, *SPEECH])
    assert sorted(hub.files("model", "alice/last")) == PUBLISHED
    assert candidates(hub) == []
    seen = len(hub.requests)
    do(hub, spoken, "passed", **env)
    assert repo.tags == {tag: commit}
    assert not [r for r in hub.requests[seen:] if r.method == "PUT" or "/tag/" in r.path], "the same again: nothing"


def test_no_directory_of_this_machine_is_published(hub: Hub, spoken: Path) -> None:
    """Judges, settings and reasons name local models and folders: readers get their last parts, in each kind of file.

    The report has no link to the page about the data, which stays here; what is here keeps its whole paths.
    """
    local = str(spoken / "my models" / "asr & more")
    stats = json.loads((spoken / "samples" / "stats.json").read_text())
    why = f"Not compared with the base model: {spoken}/base/config.json is missing"
    judge = {"by": f"{local} (abc)", "rated": 1, "seconds": 0.1}
    measured = {"figure": "wer", "label": "WER", "voice": 0.03}
    stats |= {"summary": {"verdict": why}, "judges": {"intelligibility": judge}, "comparison": [measured]}
    files.write_json(spoken / "samples" / "stats.json", {**stats, "settings": {"checkpoint": f"{spoken}/output/best"}})
    page = (
        f'<link href="https://hub.test/a/b"><p><a href="../data/quality.html">All figures about the data</a></p>'
        f'<td>{html.escape(local)}</td><td>/mnt/recordings/ada/one.flac</td><audio src="../samples/01.wav"></audio>'
        '<audio src="data:audio/mpeg;base64,//uQ/a+/b/c="></audio><p>and/or, 2.50 / 3.50</p>'
    )
    (spoken / "report" / "index.html").write_text(page)
    do(hub, spoken, "validate", "push", "passed", ASR_MODEL=local)
    stored = hub.files("model", "alice/voice")
    for name, data in stored.items():
        assert str(spoken).encode() not in data, name
    assert "judge: …/asr & more (abc)" in stored["README.md"].decode()
    assert "base model: …/config.json is missing" in stored["README.md"].decode()
    figures = json.loads(stored["samples/stats.json"])
    assert (figures["settings"]["checkpoint"], figures["samples"]) == ("…/best", stats["samples"])
    assert stored["report/index.html"].decode() == (
        '<link href="https://hub.test/a/b"><td>…/asr &amp; more</td><td>…/one.flac</td>'
        '<audio src="../samples/01.wav"></audio>'
        '<audio src="data:audio/mpeg;base64,//uQ/a+/b/c="></audio><p>and/or, 2.50 / 3.50</p>'
    )
    assert local in (spoken / "samples" / "stats.json").read_text()


def test_a_card_that_was_edited_in_the_repo_stays(hub: Hub, spoken: Path) -> None:
    """Through push and release; its metadata are repaired and get the figures, and the log shows what was changed."""
    theirs = "---\nlicense: mit\nbase_model: ''\n---\n# My words\n"
    hub.add_repo("model", "alice/voice", {"README.md": theirs}, private=True)
    done = do(hub, spoken, "validate", "push", "passed")
    stored = hub.files("model", "alice/voice")["README.md"].decode()
    assert stored.startswith("---\nlicense: mit\n")
    assert stored.endswith("---\n# My words\n")
    assert "base_model: Qwen/Qwen3-TTS-12Hz-1.7B-Base" in stored
    assert "[push] README.md of alice/voice was edited and is kept, its metadata repaired:" in done.output
    assert "[push] -base_model: ''" in done.output
    assert "## How it sounds" in (spoken / "output" / "best" / "README.md").read_text(), "ours is still here"
    commits = len(hub.repos["model", "alice/voice"].commits)
    do(hub, spoken, "push", "passed")
    assert len(hub.repos["model", "alice/voice"].commits) == commits


@pytest.mark.parametrize("env", [{}, GATE])
def test_a_refused_upload_leaves_no_empty_repo(hub: Hub, work: Path, env: dict[str, str]) -> None:
    """Quota: the repo made for it is gone again; one that somebody else made, empty or not, stays."""
    hub.fail("POST", "/commit/", status=403, times=9, message="storage limit reached")
    log = {"UPLOAD_LOGS": "true", "CONSOLE_LOG": str(work / "console.txt")}
    (work / "console.txt").write_text("step 1")
    done = do(hub, work, "validate", "push", "log", **env, **log)
    assert "storage limit reached (status 403)" in done.outcomes[1]["line"]
    assert "the log could not be uploaded: storage limit reached" in done.output
    assert ("model", "alice/voice") not in hub.repos
    hub.add_repo("model", "alice/theirs", {})
    assert "storage limit" in do(hub, work, "push", HF_REPO_ID="alice/theirs", **env).refused(5)
    assert ("model", "alice/theirs") in hub.repos


#: Stops a run at its n-th request as a kill would, reruns it, and goes on with a later one until none is stopped.
KILLED = """
import os, sys
import requests
from job.config import settings
from job.publish import hub_client, push, release, validate
hub_client.FIRST_WAIT = 0.01

class Killed(BaseException):
    pass

whole, left = requests.Session.send, [10**9]

def send(session, request, **kw):
    left[0] -= 1
    if left[0] == -1:
        if os.environ["WHEN"] == "after":
            whole(session, request, **kw)
        raise Killed
    return whole(session, request, **kw)

requests.Session.send = send
validate.run(settings.load())
for weights in settings.load().paths.best.rglob("*.safetensors"):
    weights.write_bytes(b"few" + weights.parent.name.encode())
stop, killed = 0, True
while killed:
    loaded = settings.load({**os.environ, "HF_REPO_ID": f"alice/{stop}"})
    left[0], killed = stop, False
    try:
        push.run(loaded)
        release.passed(loaded)
    except Killed:
        killed = True
        left[0] = 10**9
        push.run(loaded)
        release.passed(loaded)
    stop += int(os.environ["EVERY"])
"""


@pytest.mark.parametrize(
    ("when", "every"),
    [
        ("after", 7),
        pytest.param("before", 1, marks=pytest.mark.slow),
        pytest.param("after", 1, marks=pytest.mark.slow),
    ],
)
def test_a_kill_at_any_request_and_a_rerun_end_in_the_same_state(hub: Hub, spoken: Path, when: str, every: int) -> None:
    """Before the request has been sent, or after it has been answered."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | hub.env(spoken.parent / "home")
    env |= {"WORK_DIR": str(spoken), "TRAIN_MODE": "full", "HF_TOKEN": WRITE, "HF_REPO_ID": "alice/x", "WHEN": when}
    env["EVERY"] = str(every)
    done = subprocess.run([sys.executable, "-c", KILLED], env=env | GATE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    repos = {key[1]: repo for key, repo in hub.repos.items()}
    assert len(repos) > 15 // every, "each request was one to be stopped at"
    for name, repo in repos.items():
        stored = {path: blob.data for path, blob in repo.head.files.items()}
        assert sorted(stored) == sorted([*PUBLISHED, *SPEECH]), name
        assert json.loads(stored["samples/stats.json"])
        assert (len(repo.commits), repo.branches, len(repo.tags)) == (2, {}, 1), name


#: Publishes as `python -m job` does, with the state that a `synthesize` whose speech passed would have left.
COMMANDS = """
import os
import time
from job import pipeline
from job.config import settings
from job.core import state
from job.stages import stage
loaded = settings.load()
pipeline.run(loaded, "validate", "push")
pipeline.run(loaded, "report", "report")
one = stage("synthesize")
values = pipeline.stage_values(loaded, one)
now = pipeline.fingerprint(loaded, one, values)
about = {"fingerprint": now, "outputs": [], "counts": {}, "values": values, "started": time.monotonic()}
state.write(loaded.paths.state, "synthesize", **about)
print("-- heard")
pipeline.run(loaded, "report", "report")
print("-- again")
pipeline.run(loaded, "report", "report")
print("-- other settings")
other = settings.load({**os.environ, "SYNTH_GATE_SHARE": "0.5"})
pipeline.run(other, "report", "report")
"""


def test_the_report_command_ends_the_publishing_of_just_what_has_passed(hub: Hub, spoken: Path) -> None:
    """Not before the speech has been heard; once; and not for speech that was heard with other settings."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | hub.env(spoken.parent / "home")
    env |= {"WORK_DIR": str(spoken), "TRAIN_MODE": "full", "HF_TOKEN": WRITE, "HF_REPO_ID": "alice/voice"}
    done = subprocess.run([sys.executable, "-c", COMMANDS], env=env | GATE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    before, rest = done.stdout.split("-- heard")
    heard, rest = rest.split("-- again")
    again, other = rest.split("-- other settings")
    assert "main of alice/voice stays as it was: the test speech has not passed yet" in before
    assert "the test speech has passed, main has the new voice" in heard
    assert "[release] nothing to do" in again
    assert "[run] nothing new" not in again + other, "one stage is not a run"
    assert "stays as it was: the test speech has not passed yet" in other
    assert sorted(hub.files("model", "alice/voice")) == sorted([*PUBLISHED, *SPEECH])
    assert len(hub.repos["model", "alice/voice"].commits) == 2
    assert candidates(hub) == []


@pytest.mark.slow
def test_a_model_of_noise_is_not_published_by_a_whole_run(hub: Hub, tmp_path: Path) -> None:
    """From recordings to exit code 6: main is empty, the candidate is complete; without the gate main has it."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "OMP_NUM_THREADS") if name in os.environ}
    env = kept | hub.env(tmp_path / "home") | GATE
    env |= {"PRESET": "demo", "WORK_DIR": str(tmp_path / "work"), "MAX_STEPS": "2", "MAX_TRAIN_SAMPLES": "4"}
    env |= {
        "TEST_TEXTS": "One.",
        "DEVICE": "cpu",
        "HF_TOKEN": WRITE,
        "HF_REPO_ID": "alice/voice",
        "MAX_NEW_TOKENS": "4",
    }
    command = [sys.executable, "-m", "job", "run"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 6, done.stderr
    [branch] = candidates(hub)
    assert f"the test speech has failed, the candidate is at {hub.url}/alice/voice/tree/{branch}" in done.stdout
    assert hub.files("model", "alice/voice") == {}
    stored = hub.files("model", "alice/voice", branch)
    assert {"model.safetensors", "samples/stats.json", "report/index.html"} <= set(stored)
    assert any(name.endswith(".wav") for name in stored)
    done = subprocess.run(command, env=env | {"SYNTH_GATE": "warn"}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert set(hub.files("model", "alice/voice")) == set(stored)
    assert candidates(hub) == []
    seen, tags = len(hub.requests), dict(hub.repos["model", "alice/voice"].tags)
    assert len(tags) == 1
    done = subprocess.run(command, env=env | {"SYNTH_GATE": "warn"}, capture_output=True, text=True, timeout=600)
    assert done.stdout.splitlines()[-1].startswith("[run] nothing new: ")
    assert {request.method for request in hub.requests[seen:]} <= {"GET", "HEAD"}, "a night without anything new"
    assert hub.repos["model", "alice/voice"].tags == tags
