"""Secrets planted wherever a run meets them are found nowhere: not in what is printed, written, sent or named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from job import environment_check
from job.config import settings as variables
from job.core.errors import BadInput
from tests.hub.server import WRITE, Hub
from tests.publish.test_push import contains

TOKEN, KEY, PASSWORD = "hf_" + "Zq7" * 11 + "Z", "f00d" * 10, "korrekt-Pferd.9"
PLANTED = {
    "HF_TOKEN": TOKEN,
    "WANDB_API_KEY": KEY,
    "AWS_ACCESS_KEY_ID": "AKIAQZ7QZ7QZ7QZ7QZ7Q",
    "AWS_SECRET_ACCESS_KEY": "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",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEZq7Zq7Zq7Zq7Zq7",
    "NOTIFY_URL": f"json://ada:{PASSWORD}@127.0.0.1:9/T0ken-of-a-path",
    "HTTP_PROXY": f"http://ada:{PASSWORD}@127.0.0.1:9",
    "HTTPS_PROXY": f"http://ada:{PASSWORD}@127.0.0.1:9",
}
SECRETS = [TOKEN, KEY, PASSWORD, "T0ken-of-a-path", *(PLANTED[name] for name in PLANTED if name.startswith("AWS"))]

#: Raises what nobody expects, in a thread and then in the program, as the command line would print it.
RAISES = """
import sys, threading
from job.core import console
console.mask(sys.argv[1:])
console.mask_tracebacks()
def fail():
    raise RuntimeError(f"the server said: {' '.join(sys.argv[1:])}; password http://ada:swordfish@host/")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""


def test_an_unexpected_error_shows_where_it_was_and_no_secret() -> None:
    done = subprocess.run([sys.executable, "-c", RAISES, *SECRETS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("RuntimeError: the server said: *** ***") == 2 and "in fail" in done.stderr
    assert not [secret for secret in (*SECRETS, "swordfish") if secret in done.stderr]


def test_an_endpoint_with_a_password_is_refused_without_repeating_it(tmp_path: Path) -> None:
    """It would be sent in place of the token, and be in every address that is printed and published."""
    settings = variables.load({"PRESET": "demo", "WORK_DIR": str(tmp_path)})
    with pytest.raises(BadInput, match=r"^HF_ENDPOINT: holds a user or a password") as refused:
        environment_check.check({"HF_ENDPOINT": f"https://ada:{PASSWORD}@hub.test"}, settings)
    assert PASSWORD not in str(refused.value)


@pytest.mark.slow
def test_planted_secrets_are_found_nowhere(work: Path) -> None:
    """The Hub repeats the Authorization header in its refusals; neither the proxy nor whom to notify can be reached."""
    named: set[bytes] = set()

    def look(method: str, path: str) -> None:
        """What any user of the machine sees of all processes."""
        for place in Path("/proc").glob("[0-9]*"):
            try:
                named.update((place / name).read_bytes() for name in ("cmdline", "comm"))
            except OSError:  # it has ended meanwhile
                continue

    said = ""
    log = work / "console.txt"
    with Hub() as hub:
        hub.tokens[TOKEN] = hub.tokens[WRITE]
        hub.before = look
        hub.fail("GET", "/api/whoami-v2", status=500, times=1, message="cannot read {authorization}")
        hub.fail("POST", "/api/repos/create", status=503, times=1, message="header: {authorization}")
        hub.fail("PUT", "/_upload/", status=500, times=1)  # the client warns of a signed address
        hub.fail("POST", "/commit/main", status=403, times=1, message="no rights with {authorization}")
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "AWS_")) and "proxy" not in k.lower()}
        env |= hub.env(work.parent / "home") | PLANTED | {"WORK_DIR": str(work), "TRAIN_MODE": "full"}
        env |= {"HF_REPO_ID": "alice/voice", "UPLOAD_LOGS": "true", "CONSOLE_LOG": str(log)}

        def run(*words: str) -> int:
            nonlocal said
            command = [sys.executable, "-m", "job", *words]
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
            said += done.stdout + done.stderr
            log.write_text(said)
            return done.returncode

        assert run("run", "--from", "validate", "--until", "push") == 5
        assert "no rights with Bearer ***" in said and "cannot read Bearer ***" in said
        answer = json.dumps({"errors": [{"message": f"unknown key {TOKEN}"}], "warnings": []})
        hub.answer("POST", "/api/validate-yaml", status=400, body=answer)
        assert run("validate") in (0, 2)
        hub.heal()
        assert run("run", "--from", "validate", "--until", "push") == 0
        run("report")
        assert run("upload-log") == 0
        run("notify", "5")
        received = hub.everything_received()
    assert "signature=***" in said
    written = {
        path: path.read_bytes() for place in (work, work.parent / "home") for path in place.rglob("*") if path.is_file()
    }
    assert len(named) > 5 and len(written) > 20
    for secret in SECRETS:
        assert not contains(said.encode(), secret), secret
        assert not contains(received, secret), secret
        assert not [path for path, data in written.items() if contains(data, secret)], secret
        assert not [line for line in named if secret.encode() in line], secret
