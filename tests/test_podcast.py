"""The podcast recipe, run as its page has it: untranscribed episodes of two people become one voice, or two."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from scipy.signal import butter, sosfilt

from job.audio import speech
from job.audio.clip import load
from job.audio.decode import recording_of_parts
from job.config.paths import Paths
from job.core import files
from job.dataset.prepared import read_speakers, read_split
from job.demo import manifest
from job.fetch import pauses
from job.prepare import people_names, shards
from tests.hub.server import Hub
from tests.hub.store import Token
from tests.packaging.test_docs import TOP, fences
from tests.support import whisper
from tests.support.commands import run_job

PAGE = TOP / "docs/recipes/podcast.md"
RATE = 24_000
TOKEN = "hf_" + "P" * 34
#: Built-in clips that are said together as one sentence, by number: the host's in English, and the guest's in German.
HOST = [
    (5,),
    (4, 3),
    (3, 4),
    (4, 1),
    (5, 0),
    (1, 5),
    (3, 5),
    (4, 2, 0),
    (2, 3, 1),
    (0, 4, 3),
    (5, 4),
    (2, 5),
    (1, 4, 2),
]
GUEST = [(4, 0), (5,), (4, 1), (5, 0), (3, 4), (1, 5), (2, 3, 1), (0, 4)]
#: Seconds between two sentences.
PAUSE = 1.0


@dataclass
class Podcast:
    """Where the episodes are, what is said in them by whom, and a recogniser that has learnt to hear it."""

    home: Path
    said: dict[str, list[tuple[float, float, str, str]]]
    recogniser: Path

    def owner(self, row: dict[str, Any]) -> tuple[str, str]:
        """Who says a clip, and what."""
        name, middle = Path(row["audio"]).name, (row["start"] + row["end"]) / 2
        (found,) = [(who, text) for start, end, who, text in self.said[name] if start < middle < end]
        return found


def sentence(who: str, clips: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """A sentence of one of the built-in voices, each with a strong resonance: the tiny base's encoder is random."""
    rows = [row for row in manifest() if row["speaker"] == {"host": "ada", "guest": "emil"}[who]]
    parts = [soundfile.read(rows[number]["audio"], dtype="float32")[0] for number in clips]
    wave = np.concatenate([np.concatenate([part, np.zeros(RATE // 8, np.float32)]) for part in parts])
    low = {"host": 900, "guest": 300}[who]
    wave = wave + 30 * sosfilt(butter(2, [low, low * 1.7], "band", fs=RATE, output="sos"), wave)
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32), " ".join(rows[number]["text"] for number in clips)


@pytest.fixture(scope="module")
def podcast(tmp_path_factory: pytest.TempPathFactory) -> Podcast:
    home = tmp_path_factory.mktemp("podcast")
    folder = home / "recordings" / "podcast"
    folder.mkdir(parents=True)
    order = [("host", one) for one in HOST]
    for number, one in enumerate(GUEST):
        order.insert(2 + 2 * number + number // 2, ("guest", one))
    said: dict[str, list[tuple[float, float, str, str]]] = {}
    for name, part in (("01.wav", order[:11]), ("02.wav", order[11:])):
        waves, at = [np.zeros(int(PAUSE * RATE), np.float32)], PAUSE
        for who, clips in part:
            wave, text = sentence(who, clips)
            said.setdefault(name, []).append((at, at + len(wave) / RATE, who, text))
            waves += [wave, np.zeros(int(PAUSE * RATE), np.float32)]
            at += len(wave) / RATE + PAUSE
        assert at > 30, "shorter ones are not cut"
        soundfile.write(folder / name, np.concatenate(waves), RATE)
    found = Podcast(home, said, home / "whisper")
    heard, texts = [], []
    for path in sorted(folder.iterdir()):
        recording, end = recording_of_parts(path), soundfile.info(path).duration
        for piece in pauses.pieces(pauses.stretches(recording, 0.0, end, 20.0), 0.0, end, 20.0):
            _, text = found.owner({"audio": str(path), "start": piece.start, "end": piece.end})
            heard.append(load(path, speech.RATE, start=piece.start, end=piece.end).samples)
            texts.append(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whisper, "WINDOW", 5)
        whisper.build(found.recogniser, heard, texts, steps=140)
    return found


@pytest.mark.slow
def test_the_recipe_runs_as_written(
    podcast: Podcast, tiny_base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    look, train, split = fences(PAGE, "env")
    home, work = podcast.home, podcast.home / "work"
    paths = Paths(work, work / "output")
    given = {"WORK_DIR": work, "INIT_MODEL_PATH": tiny_base, "DEVICE": "cpu", "ASR_MODEL": podcast.recogniser}
    given |= {"HF_HUB_OFFLINE": 1}
    monkeypatch.chdir(home)
    monkeypatch.setattr(shards, "LINES", 4)

    # Once, to look at it: clips, their transcripts, and other people's.
    (home / ".env").write_text(look)
    done = run_job(capsys, ["run"], given)
    assert done.code == 0, done.err
    rows = list(files.read_jsonl(paths.manifest("train")))
    written = list(files.read_jsonl(paths.transcripts))
    assert len(rows) == len(written) == len(HOST) + len(GUEST)
    assert all(row["text"] == podcast.owner(row)[1] and 0.5 < row["confidence"] <= 1 for row in written)
    other = [row for row in files.read_jsonl(paths.rejected) if row["reason"] == "other_speaker"]
    guests = [number for number, row in enumerate(rows, start=1) if podcast.owner(row)[0] == "guest"]
    assert [rows.index(next(r for r in rows if r["id"] == row["id"])) + 1 for row in other] == guests
    assert all("similarity" in row["detail"] for row in other)
    assert f"{len(HOST)} of {len(rows)} clips of 'host'" in done.out
    assert not paths.best.exists(), "PREPARE_ONLY"

    # A correction: taken on the next run, which hears nothing again and encodes one shard of six.
    place = next(n for n, row in enumerate(written) if podcast.owner(row)[0] == "host")
    written[place]["text"] = "It was never late."
    files.write_jsonl(paths.transcripts, written)
    log = paths.heard.read_bytes()
    done = run_job(capsys, ["run"], given)
    assert done.code == 0, done.err
    assert f"{len(rows) - 4} train rows were encoded by a run before this one" in done.out
    assert "x-vectors of" not in done.out and paths.heard.read_bytes() == log
    texts = {row["text"] for split in ("train", "validation") for row in read_split(paths, split).to_pylist()}
    assert "It was never late." in texts and len(texts) == len(HOST)

    # Then train, and publish to a Hub; in a process of its own, whose clients know that Hub alone.
    (home / ".env").write_text(train)
    few = {"MAX_STEPS": 4, "BATCH_SIZE": 4, "MAX_NEW_TOKENS": 12, "TRAIN_MODE": "full", "HF_TOKEN": TOKEN}
    few |= {"BASE_MODEL_ID": "Qwen/Qwen3-TTS-12Hz-1.7B-Base"}  # the tiny base is a directory
    with Hub() as hub:
        hub.tokens[TOKEN] = Token("me", "write", {})
        env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        env |= hub.env(home / "hub") | {name: str(value) for name, value in (given | few).items()}
        del env["HF_HUB_OFFLINE"]
        command = [sys.executable, "-m", "job", "run"]
        ended = subprocess.run(
            command, env=env | {"PYTHONPATH": str(TOP)}, cwd=home, capture_output=True, text=True, timeout=900
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        stored = hub.files("model", "me/host")
    assert {"README.md", "config.json", "model.safetensors"} <= set(stored)
    assert set(read_speakers(paths)) == {"host"}

    # Two voices of them, without any other settings; so few clips are enough here.
    monkeypatch.setattr(people_names, "FEWEST_OWN", 6)
    monkeypatch.setattr(people_names, "LEAST_OWN", 10.0)
    (home / ".env").write_text(split)
    few |= {"UPLOAD_TO_HUB": "false"}
    done = run_job(capsys, ["run"], given | few)
    assert done.code == 0, done.err
    assert set(read_speakers(paths)) == {"host", "host_2"}
    assert "x-vectors of" not in done.out
    speakers = {
        row["id"]: row["speaker"] for one in ("train", "validation") for row in read_split(paths, one).to_pylist()
    }
    assert speakers == {row["id"]: {"host": "host", "guest": "host_2"}[podcast.owner(row)[0]] for row in rows}
    assert {sample["speaker"] for sample in files.read_json(paths.samples / "stats.json")["samples"]} == set(
        read_speakers(paths)
    )
    assert "host_2" in (paths.best / "README.md").read_text() and "host_2" in paths.report.read_text()
    for name in ("host", "host_2"):
        assert run_job(capsys, ["say", "Good evening.", "--speaker", name], given | few).code == 0
