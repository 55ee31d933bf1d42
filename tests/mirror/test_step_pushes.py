"""PUSH_STEPS: the newest model of a training is on its branch, and neither a slow Hub nor none ever holds a step."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from job.config import settings as variables
from job.core import files
from job.core.errors import BadInput
from job.mirror import step_pushes
from job.mirror.step_pushes import StepPushes
from job.publish import card_rules
from job.train import handover
from job.train.handover import Handover
from job.train.writer import BackgroundWriter
from tests.hub.server import WRITE, Hub

STEPS = 60
#: What the repo has on `main` before.
OLD: dict[str, bytes | str] = {
    ".gitattributes": "*.safetensors filter=lfs\n",
    "README.md": "---\nlicense: mit\n---\n# The old voice\n",
    "model-00001-of-00002.safetensors": b"old weights",
    "samples/01.wav": b"RIFF",
}
#: Speaks with what stock `qwen_tts` loads from the branch, as the card of the branch says.
SPEAK = """
import sys
from huggingface_hub import snapshot_download
from qwen_tts import Qwen3TTSModel
folder = snapshot_download("alice/voice", revision="checkpoints")
model = Qwen3TTSModel.from_pretrained(folder, device_map="cpu")
[name] = model.get_supported_speakers()
waves, rate = model.generate_custom_voice(text="One.", speaker=name, language="Auto", max_new_tokens=4)
print(len(waves[0]), rate)
"""


def environment(hub_env: dict[str, str], work: Path, **more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "OMP_NUM_THREADS") if name in os.environ}
    given = {"PRESET": "demo", "WORK_DIR": str(work), "DEVICE": "cpu", "MAX_TRAIN_SAMPLES": "4", "EVAL_STEPS": "30"}
    given |= {"MAX_STEPS": str(STEPS), "LOGGING_STEPS": "1", "HF_TOKEN": WRITE, "HF_REPO_ID": "alice/voice"}
    return kept | hub_env | given | {"PUSH_STEPS": "10"} | more


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.slow
def test_steps_go_on_while_a_slow_hub_takes_its_time_and_the_branch_has_the_last_model(tmp_path: Path) -> None:
    """Each upload is answered only once training has gone on: if it held a step, none would be. Then a dead Hub."""
    work = tmp_path / "work"
    log = work / "output" / "training_log.jsonl"
    went_on: list[int] = []

    def slowly(method: str, path: str) -> None:
        if method == "PUT":
            begun, deadline = lines(log), time.monotonic() + 60
            while lines(log) < min(begun + 3, STEPS) and time.monotonic() < deadline:
                time.sleep(0.02)
            went_on.append(lines(log) - begun if begun < STEPS - 3 else 3)

    command = [sys.executable, "-m", "job", "run", "--until", "train"]
    with Hub() as hub:
        hub.add_repo("model", "alice/voice", dict(OLD), private=True)
        hub.before = slowly
        env = environment(hub.env(tmp_path / "home"), work, GRACE_SECONDS="120")
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert len(went_on) >= 2 and min(went_on) >= 3, went_on
        repo = hub.repos["model", "alice/voice"]
        assert len(repo.commits) == 2 and repo.head.files.keys() == OLD.keys(), "main is as it was"
        assert [(name, [c.message for c in history]) for name, history in repo.branches.items()] == [
            ("checkpoints", [f"Step {STEPS}"])
        ]
        there = hub.files("model", "alice/voice", "checkpoints")
        last = work / "output" / "last"
        assert files.digest_bytes(there["model.safetensors"]) == files.digest_file(last / "model.safetensors")
        assert not {"samples/01.wav", "model-00001-of-00002.safetensors"} & set(there)
        assert {".gitattributes", "config.json", "speech_tokenizer/model.safetensors"} <= set(there)
        text = there["README.md"].decode()
        assert (
            "in the middle of its training" in text
            and 'snapshot_download("alice/voice", revision="checkpoints")' in text
        )
        assert f"| this checkpoint, training data | {STEPS} |" in text
        assert card_rules.check_card(text) == []
        assert f"step {STEPS} is on branch checkpoints of {hub.url}/alice/voice" in done.stdout
        assert not (work / "output" / "to_push").exists()
        hub.before = lambda method, path: None
        spoken = subprocess.run([sys.executable, "-c", SPEAK], env=env, capture_output=True, text=True, timeout=300)
        assert spoken.returncode == 0, spoken.stderr
        assert int(spoken.stdout.split()[-2]) > 0
    env = environment({"HF_ENDPOINT": "http://127.0.0.1:9"}, work, SEED="7", GRACE_SECONDS="5")
    done = subprocess.run([sys.executable, "-m", "job", "train"], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert lines(log) == STEPS
    told = [line for line in done.stderr.splitlines() if "is not on branch checkpoints yet: " in line]
    assert told and len(set(told)) == len(told), "one line a model"
    assert all("no connection to the Hub" in line and line.endswith("; training continues") for line in told)


def test_a_model_that_is_due_waits_for_the_disk_and_no_step_does(tmp_path: Path) -> None:
    """While a checkpoint is being written, training continues, and takes the model at a later step."""

    class Model:
        taken: list[str] = []  # noqa: RUF012

        def snapshot(self) -> str:
            self.taken.append("copied")
            return "weights"

        def write(self, directory: Path, weights: Any, progress: dict[str, Any]) -> None:
            files.write_json(directory / "training_state.json", progress)

    settings = variables.load({"PRESET": "demo", "WORK_DIR": str(tmp_path), "PUSH_STEPS": "10"})
    busy = threading.Event()
    with BackgroundWriter() as writer:
        model: Any = Model()
        ours = Handover(settings, model, writer, first=True, sharded=False)
        others = Handover(settings, model, writer, first=False, sharded=False)
        assert not ours.due(9)
        writer.submit(lambda: busy.wait(60) and None)
        assert not ours.due(10) and not ours.due(11) and not others.due(10)
        busy.set()
        while not writer.idle:
            time.sleep(0.001)
        assert ours.due(12)
        ours.take(12, {"loss": 2.5})
        assert not ours.due(13) and not ours.pending
    state = files.read_json(settings.paths.to_push / "step-12" / "training_state.json")
    assert (state["step"], state["loss"], Model.taken) == (12, 2.5, ["copied"])


def test_the_newest_model_wins_and_the_one_that_is_being_uploaded_stays(tmp_path: Path) -> None:
    settings = variables.load({"PRESET": "demo", "WORK_DIR": str(tmp_path), "PUSH_STEPS": "2"})
    place = settings.paths.to_push

    def train(step: int) -> None:
        handover.write(settings.paths, step, lambda at: files.write_text(at / "model.safetensors", f"after {step}"))

    def there() -> list[str]:
        return sorted(path.name for path in place.iterdir())

    pushes = StepPushes(settings)
    assert pushes._take() is None
    train(2)
    taken = pushes._take()
    assert taken is not None and taken.name == "uploading-2"
    for step in (4, 6, 8):
        train(step)
    assert there() == ["step-8", "uploading-2"]
    newest = pushes._take()
    assert newest is not None and (newest / "model.safetensors").read_text() == "after 8"
    assert there() == ["uploading-8"]
    assert pushes._take() == newest, "tried again as long as there is none newer"


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"HF_REPO_ID": "alice/voice"}, "PUSH_STEPS=5: HF_TOKEN not set, so there is nowhere to push to"),
        ({"HF_TOKEN": WRITE, "HF_LAST_REPO_ID": "alice/last"}, "PUSH_STEPS=5: HF_REPO_ID not set"),
        ({"HF_TOKEN": WRITE, "HF_REPO_ID": "alice/voice", "UPLOAD_TO_HUB": "false"}, "PUSH_STEPS=5: UPLOAD_TO_HUB=f"),
    ],
)
def test_nowhere_to_push_to_is_found_in_minute_one(env: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        step_pushes.check(variables.load({"PRESET": "demo", "PUSH_STEPS": "5", **env}))
    step_pushes.check(variables.load({"PRESET": "demo", **env}))
