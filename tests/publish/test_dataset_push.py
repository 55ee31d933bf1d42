"""PUSH_DATASET: what is published of the prepared data, that it is read back, and what must never be there."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
from safetensors.torch import load

from job.config import settings as variables
from job.core import files
from job.publish import dataset_card
from tests.hub.server import READ, WRITE, Hub

DRIVER = """
import json, sys
from job import pipeline
from job.config import settings
from job.core.errors import JobError
from job.publish import dataset_push, hub_client
hub_client.FIRST_WAIT = 0.01
outcomes = []
for name in sys.argv[1:]:
    loaded = settings.load()
    calls = {"check": dataset_push.check, "push": dataset_push.run}
    calls["run"] = lambda s: pipeline.run(s, "fetch", "prepare")
    try:
        outcomes.append({"result": calls[name](loaded)})
    except JobError as error:
        outcomes.append({"exit": error.exit_code, "line": str(error)})
print(json.dumps(outcomes))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def call(hub: Hub, tiny_base: Path, tmp_path: Path) -> Any:
    def run(*names: str, work: str = "work", token: str | None = WRITE, **more: Any) -> list[dict[str, Any]]:
        env = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"} | hub.env(tmp_path / "hf")
        env |= {"INIT_MODEL_PATH": str(tiny_base), "BASE_MODEL_ID": "Qwen/Qwen3-TTS-12Hz-1.7B-Base", "DEVICE": "cpu"}
        env |= {"WORK_DIR": str(tmp_path / work), "TRANSCRIBE": "never", "HF_TOKEN": token or ""}
        env |= {"PUSH_DATASET": "alice/codes", "PREPARE_ONLY": "true"} | {k: str(v) for k, v in more.items()}
        command = [sys.executable, "-c", DRIVER, *names]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert WRITE not in done.stdout + done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


@pytest.fixture
def manifest(tmp_path: Path, clips: list[dict[str, Any]]) -> Path:
    path = tmp_path / "mine.jsonl"
    rows = [{"audio": row["audio"], "text": row["text"], "language": "English"} for row in clips[:10]]
    files.write_jsonl(path, rows)
    return path


@pytest.fixture
def clips() -> list[dict[str, Any]]:
    from job.demo import manifest

    return manifest()


def test_the_card_says_whose_recordings_they_were(tmp_path: Path) -> None:
    """The built-in clips are nobody's recordings, least of all the publisher's."""
    summary = {"splits": {"train": {"rows": 2, "seconds": 9.0}}, "speakers": {"ada": {"rows": 2}}, "languages": {}}
    prepared = tmp_path / "data" / "prepared"
    prepared.mkdir(parents=True)
    (prepared / "summary.json").write_text(json.dumps({**summary, "books": 16, "frame_rate": 12.5}))
    demo = variables.load({"PRESET": "demo", "WORK_DIR": str(tmp_path)})
    text = dataset_card.render(demo, ["data/train-00000-of-00001.parquet"])
    assert "- **Source**: the clips that come with qwen3-tts-job" in text
    assert "the codec of the built-in demo model." in text
    own = variables.load({"TRAIN_JSONL": str(tmp_path / "mine.jsonl"), "WORK_DIR": str(tmp_path)})
    text = dataset_card.render(own, ["data/train-00000-of-00001.parquet"])
    assert "- **Source**: recordings of whoever publishes this" in text and str(tmp_path) not in text


@pytest.mark.slow
def test_what_is_published_trains_somebody_else_and_is_published_once(
    hub: Hub, call: Any, manifest: Path, tmp_path: Path
) -> None:
    """Private, without a recording or a path; a rerun changes nothing; read back it gives the same codes and voices."""
    consent = "Ann agreed by mail."
    mine = {"TRAIN_JSONL": manifest, "LICENSE": "cc-by-4.0", "VOICE_CONSENT": consent, "SPEAKER_NAME": "ann"}
    mine["VALIDATION_FRACTION"] = "0.2"
    assert call("run", **mine)[-1] == {"result": None}
    repo = hub.repos["dataset", "alice/codes"]
    assert repo.private
    there = hub.files("dataset", "alice/codes")
    assert set(there) - {".gitattributes"} == {
        *("README.md", "speakers.safetensors"),
        *("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"),
    }
    table = parquet.read_table(io.BytesIO(there["data/train-00000-of-00001.parquet"]))
    assert table.schema.names == ["id", "text", "speaker", "language", "instruct", "seconds", "audio_codes"]
    card = there["README.md"].decode()
    for said in ("license: cc-by-4.0", "- en", consent, "| train | ", "| `ann` | "):
        assert said in card
    everything = hub.everything_received()
    assert str(tmp_path).encode() not in everything
    assert WRITE.encode() not in everything
    assert b"RIFF" not in everything
    commits, seen = len(list(repo.every_commit())), len(hub.requests)
    assert call("run", **mine)[-1] == {"result": None}
    assert not [one for one in hub.requests[seen:] if one.method != "GET"], "nothing is even asked to be sent"
    assert call("push", **mine)[-1]["result"]["uploaded"] is False
    assert len(list(repo.every_commit())) == commits

    theirs = {"DATASET_NAME": "alice/codes", "VALIDATION_SPLIT": "validation", "PUSH_DATASET": ""}
    assert call("run", work="theirs", token=READ, **theirs)[-1] == {"result": None}
    for split in ("train", "validation"):
        one, other = (
            parquet.read_table(tmp_path / work / "data" / "prepared" / split).select(["text", "codes", "speaker"])
            for work in ("work", "theirs")
        )
        assert one.equals(other)
    vectors = load((tmp_path / "theirs" / "data" / "prepared" / "speakers.safetensors").read_bytes())
    assert {name: one.tolist() for name, one in vectors.items()} == {
        name: one.tolist() for name, one in load(there["speakers.safetensors"]).items()
    }


@pytest.mark.slow
def test_an_upload_that_breaks_off_goes_on_and_other_datasets_are_left_alone(
    hub: Hub, call: Any, manifest: Path, tmp_path: Path
) -> None:
    raw = {"data/train-00000-of-00001.parquet": b"PAR1 recordings", "README.md": "# mine"}
    hub.add_repo("dataset", "alice/raw", dict(raw))
    mine = {"TRAIN_JSONL": manifest, "SPEAKER_NAME": "ann"}
    assert "another dataset" in call("check", **mine, PUSH_DATASET="alice/raw")[-1]["line"]
    assert "HF_TOKEN" in call("check", **mine, token=None)[-1]["line"]
    assert "VOICE_CONSENT" in call("check", **mine, HUB_PRIVATE="false")[-1]["line"]
    assert "read-only" in call("check", **mine, token=READ)[-1]["line"]
    assert {name: data for name, data in hub.files("dataset", "alice/raw").items() if name in raw}.keys() == raw.keys()
    hub.fail("POST", "/commit/main", status=403, times=1, message="quota")
    assert call("run", **mine)[-1]["exit"] == 5
    sent = len(hub.seen("PUT", "/_upload/"))
    assert call("run", **mine)[-1] == {"result": None}
    assert "speakers.safetensors" in hub.files("dataset", "alice/codes")
    assert len(hub.seen("PUT", "/_upload/")) == sent, "what had arrived is not sent again"
