"""A request's token reaches the job, and nothing else in the world."""

from __future__ import annotations

import json
import re
import stat
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.hub.server import WRITE, Hub
from tests.runpod_handler.platform import Platform, deployed
from tests.runpod_handler.worker import TOP, House, LocalServer, lines_of, wait_for

KEY = "wandbkey" + "0f" * 16


def told(pid: int) -> bytes:
    """Everything that /proc tells others about a process and all its descendants."""
    root = psutil.Process(pid)
    found = b""
    for process in [root, *root.children(recursive=True)]:
        for name in ("environ", "cmdline", "comm"):
            try:
                found += Path(f"/proc/{process.pid}/{name}").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def holders(directory: Path, secret: str) -> list[Path]:
    """Files that hold `secret`."""
    files = (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if secret.encode() in path.read_bytes()]


def private_places(told: bytes) -> set[Path]:
    """Where a job's processes find their tokens, by their environments; other workers have other directories."""
    return {Path(found.decode()).parent for found in re.findall(rb"(?<![^\0])HF_TOKEN_FILE=([^\0]+)", told)}


@pytest.mark.slow
def test_the_token_reaches_the_hub_and_no_file_log_process_or_result(sdk: Path, tmp_path: Path) -> None:
    """The real job asks a Hub with it; all the while /proc, and in the end every file, is searched."""
    volume = tmp_path / "volume"
    volume.mkdir()
    given = {
        "variables": {"PRESET": "demo", "HF_REPO_ID": "alice/voice", "BASE_MODEL_ID": "alice/base"},
        "credentials": {"hf_token": WRITE},
        "stages": {"until": "fetch"},
        "name": "voice",
    }
    with Hub() as hub, LocalServer(sdk, TOP, volume, HF_ENDPOINT=hub.env(tmp_path / "cache")["HF_ENDPOINT"]) as server:
        answers: list[list[dict[str, Any]]] = []
        thread = threading.Thread(target=lambda: answers.append(server.run(given)))
        thread.start()
        seen = b""
        while thread.is_alive():
            seen += told(server.process.pid)
            thread.join(0.1)
        authorizations = {request.headers.get("authorization") for request in hub.requests}
        after = told(server.process.pid)
    assert answers[0][-1]["exit_code"] == 0, answers
    assert f"Bearer {WRITE}" in authorizations, "it arrived"
    assert b"HF_TOKEN_FILE=" in seen, "the job was seen running"
    assert WRITE.encode() not in seen + after
    private = private_places(seen)
    assert private and not any(path.exists() for path in private), "its file is gone"
    assert holders(tmp_path, WRITE) == []
    assert WRITE not in json.dumps(answers) and WRITE not in server.log


@pytest.mark.slow
def test_a_job_that_blabs_is_silenced(sdk: Path, house: House) -> None:
    """A library that prints the token gives it neither to the stream nor to the result nor to the log that is kept."""
    given = {
        "variables": {"TEST_TEXTS": "blab 3"},
        "credentials": {"hf_token": WRITE, "wandb_api_key": KEY},
        "name": "blab",
    }
    with Platform() as platform, deployed(sdk, house.top, house.volume, platform) as worker:
        platform.give("a", given)
        wait_for(lambda: (worker.work("blab") / "ready").exists())
        (private,) = private_places(told(worker.process.pid))
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in private.iterdir()} == {0o600}
        assert {path.name for path in private.iterdir()} == {"empty.env", "hf_token", "netrc"}
        assert not any(secret.encode() in told(worker.process.pid) for secret in (WRITE, KEY))
        body = platform.result("a")
        everything = json.dumps([body, platform.streamed, platform.progress]) + worker.log
    assert body == {"error": "no luck with *** (exit code 4)"}
    said = lines_of(platform.streamed["a"])
    assert any(line.startswith("the token is *** and the key is in") for line in said)
    assert any("machine api.wandb.ai" in line and "password ***" in line for line in said)
    for secret in (WRITE, KEY):
        assert secret not in everything
        assert holders(house.volume, secret) == []
    assert not private.exists()


@pytest.mark.slow
def test_a_token_in_the_wrong_place_is_refused_without_being_repeated(sdk: Path, house: House) -> None:
    wrong = [
        {"variables": {"HF_TOKEN": WRITE}},
        {"variables": {"SPEAKER_NAM": WRITE}},
        {"variables": {"DEVICE": WRITE}},
        {"variables": {WRITE: "x"}},
        {WRITE: {}},
        {"credentials": {"hf_tokn": WRITE}},
        {"credentials": {"hf_token": WRITE}, "variables": {"DEVICE": f"x{WRITE}"}},
        {"stages": {"from": WRITE}},
        {"name": f"{WRITE}/"},
    ]
    with LocalServer(sdk, house.top, house.volume) as server:
        for given in wrong:
            (result,) = server.run(given)
            assert result["exit_code"] == 2, given
            assert WRITE not in json.dumps(result), given
        assert WRITE not in server.log


@pytest.mark.slow
def test_the_endpoints_own_token_is_used_when_a_request_brings_none(sdk: Path, house: House) -> None:
    """Set as a RunPod secret, it is in the worker's environment by nature; the job still gets it in a file."""
    with LocalServer(sdk, house.top, house.volume, HF_TOKEN=WRITE, WANDB_API_KEY=KEY) as server:
        result = server.run({"variables": {"TEST_TEXTS": "blab 0"}, "name": "own"})
        assert result[-1]["error"] == "no luck with *** (exit code 4)"
        names = lines_of(server.run({"variables": {"TEST_TEXTS": "environment"}, "name": "names"}))
    assert {"HF_TOKEN_FILE", "NETRC"} <= set(names)
    assert not {"HF_TOKEN", "WANDB_API_KEY"} & set(names)
