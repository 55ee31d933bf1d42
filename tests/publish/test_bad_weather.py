"""Publishing to a Hub of which every tenth request goes wrong: in the end it is complete, and nobody saw half of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from job.config import settings as variables
from job.core import files
from job.publish import places
from tests.hub.server import WRITE, Hub
from tests.hub.store import Repo
from tests.hub.weather import Weather
from tests.publish.test_contents import PUBLISHED

pytestmark = pytest.mark.slow

#: What is in the repo before: weights of another training, some of which must go, and what is somebody's own.
OLD: dict[str, bytes | str] = {
    "README.md": "---\nlicense: mit\n---\n# Theirs\n",
    "model-00001-of-00002.safetensors": b"old",
    "samples/99-old.wav": b"RIFF",
    "notes.md": "mine",
}

#: For each seed that it is told: `job run --from validate --until push`, then what `synthesize` would leave, then
#: `job report`, by the commands' own functions; only
#: the first of the waits between attempts and the patience with a silent Hub are made shorter.
COMMANDS = """
import json, os, sys, time
from job import pipeline
from job.config import settings
from job.core import state
from job.core.errors import JobError
from job.publish import hub_client, sessions
from job.stages import stage

hub_client.FIRST_WAIT = 0.1
sessions.PATIENCE = (5, 5)

def publish(env):
    loaded = settings.load({**os.environ, **env})
    pipeline.run(loaded, "validate", "push")
    one = stage("synthesize")
    values = pipeline.stage_values(loaded, one)
    about = {"fingerprint": pipeline.fingerprint(loaded, one, values), "outputs": [], "counts": {}, "values": values}
    state.write(loaded.paths.state, "synthesize", **about, started=time.monotonic())
    pipeline.run(loaded, "report", "report")

for line in sys.stdin:
    try:
        publish(json.loads(line))
        print("-- done", flush=True)
    except JobError as error:
        print(f"-- exit code {error.exit_code}: {error}", flush=True)
"""


@pytest.fixture
def spoken(work: Path) -> Path:
    """A work directory after the test speech, its weights small."""
    do_nothing = {"samples": [{"file": "01-my_voice.wav", "text": "It."}], "summary": {"verdict": "Good."}}
    (work / "samples").mkdir()
    (work / "samples" / "01-my_voice.wav").write_bytes(b"RIFF a sound")
    files.write_json(work / "samples" / "stats.json", do_nothing)
    return work


@dataclass
class Push:
    """What one seed publishes, and to what."""

    seed: int
    work: Path

    @property
    def old(self) -> bool:
        """Whether the repo has a voice already, with a card that somebody has edited."""
        return self.seed % 3 == 0

    @property
    def gated(self) -> bool:
        """Whether `main` has to wait for the test speech."""
        return self.seed % 2 == 0

    @property
    def killed(self) -> bool:
        """Whether it is killed on the way, and run again."""
        return self.seed % 4 == 1

    def env(self) -> str:
        """Its variables, for the process that publishes."""
        gate = {"SYNTH_GATE": "fail"} if self.gated else {}
        return json.dumps({"WORK_DIR": str(self.work), "HF_REPO_ID": f"alice/{self.seed}", **gate})

    def wrong(self, hub: Hub) -> list[str]:
        """What is not as it must be in the end."""
        repo = hub.repos["model", f"alice/{self.seed}"]
        best = self.work / "output" / "best"
        local = {name: files.digest_file(best / name) for name in PUBLISHED}
        settings = variables.load(json.loads(self.env()))
        report, figures = self.work / "report/index.html", self.work / "samples/stats.json"
        speech = {
            "report/index.html": files.digest_bytes(places.report(report, settings)),
            "samples/stats.json": files.digest_bytes(places.without_places(figures.read_text(), settings).encode()),
            "samples/01-my_voice.wav": files.digest_file(self.work / "samples/01-my_voice.wav"),
        }
        local |= speech
        theirs = {"notes.md": files.digest_bytes(b"mine")} if self.old else {}
        there = {path: blob.sha256 for path, blob in repo.head.files.items()}
        card = repo.head.files["README.md"].data
        if self.old:
            local["README.md"] = there["README.md"] if card.endswith(b"# Theirs\n") else "theirs"
        differ = {name for name in {**local, **theirs, **there} if {**local, **theirs}.get(name) != there.get(name)}
        found = [f"differ: {sorted(differ)}"] if differ else []
        found += [f"branches: {list(repo.branches)}"] if repo.branches else []
        # a run that was killed after the last commit writes its report anew, for another commit
        tagged = [commit for commit in repo.commits[-2 if self.killed else -1 :] if commit.oid in repo.tags.values()]
        whole = [commit for commit in tagged if set(speech) <= set(commit.files)]
        found += [f"tags: {repo.tags}"] if len(repo.tags) != 1 or not whole else []
        found += [f"tag: {name}" for name in repo.tags if not re.fullmatch("[0-9a-f]{8}-40", name)]
        return found + self._half(repo, local)

    def _half(self, repo: Repo, local: dict[str, str]) -> list[str]:
        """Commits on `main` that held some of the new model and not all of it, or weights of two trainings."""
        before = 2 if self.old else 1
        found = []
        for commit in repo.commits[before:]:
            has = {name: blob.sha256 for name, blob in commit.files.items()}
            whole = all(has.get(name) == local[name] for name in PUBLISHED if name != "README.md")
            if not whole or "model-00001-of-00002.safetensors" in has or "README.md" not in has:
                found.append(f"half of it in {commit.message!r}")
        wanted = 1 if self.gated else 2
        if not wanted <= len(repo.commits) - before <= wanted + self.killed:
            found.append(f"commits: {[commit.message for commit in repo.commits]}")
        return found


def told(hub: Hub, pushes: list[Push], home: Path) -> dict[int, str]:
    """Let one process publish them all, each in the weather of its seed; says what is wrong, by seed."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | hub.env(home)
    env = clean | {"TRAIN_MODE": "full", "HF_TOKEN": WRITE}
    ended = {}
    process: subprocess.Popen[str] | None = None
    for push in pushes:
        said = ""
        hub.weather = weather = Weather(push.seed, kill_at=2 + push.seed if push.killed else 0)
        for _ in range(2):
            if process is None or process.poll() is not None:
                pipe = subprocess.PIPE
                command = [sys.executable, "-c", COMMANDS]
                process = subprocess.Popen(
                    command, env=env, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
                )
            assert process.stdin is not None and process.stdout is not None
            weather.kill = process.kill
            process.stdin.write(push.env() + "\n")
            process.stdin.flush()
            for line in process.stdout:
                said += line
                if line.startswith("-- "):
                    break
            else:
                process.wait(timeout=60)
                continue  # killed: once more
            break
        found = push.wrong(hub) if said.endswith("-- done\n") else ["not published"]
        found += [] if push.killed == ("kill" in " ".join(weather.met)) else [f"met {weather.met}"]
        if found:
            ended[push.seed] = f"{found}\n{weather.met}\n{said[-3000:]}"
    if process is not None:
        process.kill()
        process.communicate(timeout=60)
    return ended


def test_twenty_pushes_in_bad_weather_are_whole(spoken: Path, tmp_path: Path) -> None:
    """429, 500, 503, cut connections before, in and after the answer, slow ones, and a kill in every fourth."""
    pushes = [Push(seed, tmp_path / str(seed)) for seed in range(20)]
    with Hub(part_size=2_000_000) as one, Hub() as other:
        for push in pushes:
            shutil.copytree(spoken, push.work)
            if push.old:
                (other if push.killed else one).add_repo("model", f"alice/{push.seed}", dict(OLD), private=True)
        with ThreadPoolExecutor(2) as pool:
            calm = pool.submit(told, one, [push for push in pushes if not push.killed], tmp_path / "home")
            killed = pool.submit(told, other, [push for push in pushes if push.killed], tmp_path / "other")
            wrong = calm.result() | killed.result()
    assert not wrong, "\n\n".join(f"{seed}: {found}" for seed, found in sorted(wrong.items()))


def test_a_hub_that_is_away_is_said_in_plain_words(tmp_path: Path) -> None:
    """Not as the printed objects of three libraries, one in the other."""
    import requests

    from job.config.settings import load
    from job.publish import hub_client

    with pytest.raises(requests.ConnectionError) as away:
        requests.get("http://127.0.0.1:9/api/whoami-v2", timeout=5)
    said = hub_client.explain(away.value, load({"WORK_DIR": str(tmp_path), "PRESET": "demo"}))
    assert said == "no connection to the Hub (Connection refused)"
