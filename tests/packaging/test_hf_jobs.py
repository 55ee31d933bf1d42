"""The script for Hugging Face Jobs: what the real client asks the Hub for, and when it asks again."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import pytest
import requests
from requests.adapters import HTTPAdapter

from job.config.settings import load
from job.core.errors import BadInput

TOP = Path(__file__).resolve().parents[2]
TOKEN = "hf_" + "t" * 34


class Hub:
    """The Hub's Jobs: keeps what it was asked for, and ends each Job as it is told."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.ends: list[tuple[str, str | None]] = [("COMPLETED", None)]
        self.looks = 0
        self.unwell = 0

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        job = {"id": f"job{len(self.asked)}", "owner": {"id": "1", "name": "me", "type": "user"}}
        if path == "/api/whoami-v2":
            return 200, {"name": "me"}
        if method == "POST" and path == "/api/jobs/me":
            self.asked.append(body)
            return 200, {**job, "id": f"job{len(self.asked)}", "status": {"stage": "SCHEDULING"}}
        assert (method, path) == ("GET", f"/api/jobs/me/job{len(self.asked)}")
        if self.unwell:
            self.unwell -= 1
            return 503, {}
        self.looks += 1
        if self.looks % 2:
            return 200, {**job, "status": {"stage": "RUNNING", "message": None}}
        stage, message = self.ends[min(len(self.asked), len(self.ends)) - 1]
        return 200, {**job, "status": {"stage": stage, "message": message}}


class ToTheTest(HTTPAdapter):
    """The client's own address of the Hub cannot be changed: what is sent there goes to a server of the test's."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.there = f"http://127.0.0.1:{port}"

    def send(self, request: requests.PreparedRequest, *rest: Any, **more: Any) -> requests.Response:
        request.url = re.sub(r"^https://[^/]+", self.there, request.url or "")
        return super().send(request, *rest, **more)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def reply(self) -> None:
            assert self.headers["Authorization"] == f"Bearer {TOKEN}"
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
            status, answer = hub.answer(self.command, self.path, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = reply

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def session() -> requests.Session:
        made = requests.Session()
        made.trust_env = False
        made.mount("https://", ToTheTest(server.server_port))
        return made

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    huggingface_hub.configure_http_backend(session)
    yield hub
    huggingface_hub.configure_http_backend()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hf_jobs_submit", TOP / "deploy/hf-jobs/submit.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PAUSE = 0
    return module


@pytest.fixture
def own(tmp_path: Path) -> dict[str, str]:
    """What the user sets; the file of variables holds a secret and a quoted text."""
    file = tmp_path / "kari.env"
    file.write_text(
        'DATASET_NAME=me/recordings\nSPEAKER_NAME=kari\nTEST_TEXTS="Hei. # Nei."\nHF_REPO_ID=me/kari\n'
        "WANDB_API_KEY=wwww\nMIRROR_CHECKPOINTS=hf://me/kari-work\n"
    )
    return {"JOB_IMAGE": "ghcr.io/me/job:1", "JOB_ENV": str(file)}


def test_the_job_gets_command_variables_secrets_and_time(hub: Hub, script: ModuleType, own: dict[str, str]) -> None:
    assert script.main(["run", "--until", "prepare"], own) == 0
    (asked,) = hub.asked
    entrypoint = json.loads(re.findall(r"^ENTRYPOINT (.*)$", (TOP / "Dockerfile").read_text(), re.MULTILINE)[0])
    assert asked["command"] == [*entrypoint, "run", "--until", "prepare"]
    assert asked["dockerImage"] == "ghcr.io/me/job:1" and asked["flavor"] == "a10g-large"
    assert asked["timeoutSeconds"] == 12 * 3600, "half an hour, were it not set"
    assert asked["secrets"] == {"HF_TOKEN": TOKEN, "WANDB_API_KEY": "wwww"}
    assert not {TOKEN, "wwww"} & set(asked["environment"].values())
    # What Jobs set besides is not taken for misspelled variables.
    machine = {"JOB_ID": "x", "ACCELERATOR": "a10g-large", "CPU_CORES": "12", "MEMORY": "46Gi"}
    settings = load({**machine, **asked["environment"]})
    assert (settings.dataset_name, settings.speaker_name, settings.test_texts) == (
        "me/recordings",
        "kari",
        "Hei. # Nei.",
    )


def test_flavor_time_and_payer_can_be_chosen(hub: Hub, script: ModuleType, own: dict[str, str]) -> None:
    more = {"JOB_FLAVOR": "h200x2", "JOB_TIMEOUT": "1.5h", "JOB_NAMESPACE": "me"}
    assert script.main(["run"], {**own, **more}) == 0
    assert (hub.asked[0]["flavor"], hub.asked[0]["timeoutSeconds"]) == ("h200x2", 5400)


@pytest.mark.parametrize(
    ("end", "code", "again"),
    [
        (("ERROR", "Job failed with exit code: 1. Reason: Error"), 1, True),
        (("ERROR", "Job failed with exit code: 2. Reason: Error"), 2, False),
        (("ERROR", "Job failed with exit code: 3"), 3, False),
        (("ERROR", "Job failed with exit code: 4"), 4, False),
        (("ERROR", "Job failed with exit code: 5"), 5, True),
        (("ERROR", "Job failed with exit code: 6"), 6, False),
        (("ERROR", "Job failed with exit code: 137. Reason: OOMKilled"), 137, True),
        (("ERROR", "Job failed with exit code: 143"), 143, True),
        (("ERROR", "Job timeout"), 143, True),
        (("ERROR", None), 1, True),
        (("CANCELED", None), 143, False),
    ],
)
def test_what_another_try_may_mend_is_submitted_again(
    hub: Hub, script: ModuleType, own: dict[str, str], end: tuple[str, str | None], code: int, again: bool
) -> None:
    """The same Job again: the same variables, so the same place of its checkpoints."""
    hub.ends = [end, ("COMPLETED", None)]
    assert script.main(["run"], own) == (0 if again else code)
    assert len(hub.asked) == 1 + again and hub.asked[0] == hub.asked[-1]
    hub.ends, hub.asked = [end], []
    assert script.main(["run"], {**own, "JOB_TRIES": "2"}) == code
    assert len(hub.asked) == 1 + again, "not for ever"


def test_without_a_place_for_checkpoints_there_is_one_try(
    hub: Hub, script: ModuleType, own: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(own["JOB_ENV"])
    file.write_text(re.sub("MIRROR_CHECKPOINTS.*\n", "", file.read_text()))
    hub.ends = [("ERROR", "Job timeout")]
    assert script.main(["run"], own) == 143 and len(hub.asked) == 1
    assert "MIRROR_CHECKPOINTS is not set" in capsys.readouterr().out


def test_a_hub_that_does_not_answer_for_a_while_does_not_end_the_watch(
    hub: Hub, script: ModuleType, own: dict[str, str]
) -> None:
    hub.unwell = script.UNANSWERED - 1
    assert script.main(["run"], own) == 0 and len(hub.asked) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("BATCH_SIZE=many", "BATCH_SIZE"),
        ("DATA_DIR=/home/me/clips", "DATASET_NAME"),
        ("SPEAKER_NAM=me", "SPEAKER_NAME"),
    ],
)
def test_what_is_wrong_is_said_before_a_machine_is_paid_for(
    hub: Hub, script: ModuleType, own: dict[str, str], line: str, said: str
) -> None:
    Path(own["JOB_ENV"]).write_text(f"SPEAKER_NAME=kari\n{line}\n")
    with pytest.raises(BadInput, match=said):
        script.main(["run"], own)
    assert hub.asked == []


@pytest.mark.parametrize("wrong", ["JOB_IMAGE=", "JOB_ENV=nowhere.env", "JOB_TRIES=zero", "JOB_TIMEOUT=12hours"])
def test_what_is_wrong_of_the_scripts_own_variables_is_named(
    hub: Hub, script: ModuleType, own: dict[str, str], wrong: str
) -> None:
    name, value = wrong.split("=")
    with pytest.raises(BadInput, match=name):
        script.main(["run"], {**own, name: value})
    assert hub.asked == []


def test_every_secret_of_the_job_is_sent_as_one(script: ModuleType) -> None:
    assert {"HF_TOKEN", "WANDB_API_KEY", "NOTIFY_URL"} <= script.SECRETS
    assert not {name for name in script.SECRETS if name.endswith("_FILE")}
