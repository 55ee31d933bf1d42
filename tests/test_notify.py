"""NOTIFY_URL: one message when a run has ended, with its reason, without secrets, and never at the run's cost."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from job import notify
from job.config import settings as variables
from job.core.errors import BadInput

TOP = Path(__file__).resolve().parents[1]


class Inbox:
    """A web hook on this machine, and what it has got."""

    def __init__(self, status: int = 200) -> None:
        self.got: list[dict[str, str]] = []
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                inbox.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://user:pa55word@127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    made = Inbox()
    yield made
    made.server.shutdown()


def settings_in(directory: Path, **more: str) -> variables.Settings:
    values = {"PRESET": "demo", "WORK_DIR": str(directory / "work"), "CONSOLE_LOG": str(directory / "log.txt")}
    return variables.load({**values, **more})


def test_a_run_that_is_done_says_so_with_its_verdict_and_where_the_voice_is(tmp_path: Path, inbox: Inbox) -> None:
    settings = settings_in(tmp_path, NOTIFY_URL=inbox.url, WANDB_RUN_NAME="kari")
    settings.paths.samples.mkdir(parents=True)
    stats = {"summary": {"verdict": "The voice is good."}}
    (settings.paths.samples / "stats.json").write_text(json.dumps(stats))
    settings.paths.state.mkdir(parents=True)
    counts = {"url": "https://hub.example/me/kari", "last": {"url": "https://hub.example/me/kari-last"}}
    (settings.paths.state / "push.json").write_text(json.dumps({"counts": counts}))
    assert notify.send(settings, 0)
    (message,) = inbox.got
    assert message["title"] == "qwen3-tts kari: done" and message["type"] == "success"
    assert message["message"].splitlines() == [
        "The voice is good.", "https://hub.example/me/kari", "https://hub.example/me/kari-last",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "said"), [(2, "refused its settings"), (4, "stopped training"), (137, "was killed"), (77, "exit code 77")]
)
def test_a_failed_run_gives_its_last_error_without_secrets(tmp_path: Path, inbox: Inbox, code: int, said: str) -> None:
    token = "hf_" + "s" * 30
    (tmp_path / "log.txt").write_text(f"error: an older one\n[train] step 7\nerror: 401 for {token} at step 7\nbye\n")
    assert notify.send(settings_in(tmp_path, NOTIFY_URL=inbox.url, HF_TOKEN=token), code)
    (message,) = inbox.got
    assert said in message["title"] and message["type"] == "failure"
    assert message["message"].splitlines() == [f"Exit code {code}.", "error: 401 for *** at step 7"]


def test_an_address_that_fails_keeps_no_other_from_the_message(tmp_path: Path, inbox: Inbox, capsys) -> None:
    refusing = Inbox(status=500)
    url = f"{refusing.url} json://user:pa55word@127.0.0.1:9/nobody {inbox.url}"
    assert not notify.send(settings_in(tmp_path, NOTIFY_URL=url), 0)
    refusing.server.shutdown()
    assert len(inbox.got) == 1
    told = capsys.readouterr()
    assert (told.out + told.err).count("no message could be sent to json://...") == 2
    assert "pa55word" not in told.out + told.err


def test_without_an_address_nothing_is_sent(tmp_path: Path) -> None:
    assert not notify.send(settings_in(tmp_path), 0)
    notify.check(settings_in(tmp_path))


def test_the_address_is_a_secret(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, NOTIFY_URL="ntfys://my-topic discord://1234/abcdef")
    assert "my-topic" not in json.dumps(settings.public()) and "abcdef" not in repr(settings)
    assert "ntfys://my-topic" in settings.secrets


@pytest.mark.parametrize("url", ["my-topic", "nonsense://x", "ntfys://my-topic nonsense://pa55word", "slack://"])
def test_an_address_of_no_known_form_is_refused_before_anything_is_spent(tmp_path: Path, url: str) -> None:
    with pytest.raises(BadInput, match="NOTIFY_URL") as refused:
        notify.check(settings_in(tmp_path, NOTIFY_URL=url))
    assert "pa55word" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "said"),
    [({"MAX_STEPS": "many"}, "error: MAX_STEPS"), ({"INIT_MODEL_PATH": "/no/such"}, "error: no training data")],
    ids=["settings that cannot be read", "a check that fails"],
)
def test_the_entrypoint_sends_it_however_the_run_ends(
    tmp_path: Path, inbox: Inbox, more: dict[str, str], said: str
) -> None:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "NOTIFY_URL": inbox.url, "WORK_DIR": str(tmp_path / "work")}
    env |= {"CONSOLE_LOG": str(tmp_path / "log.txt"), "DEVICE": "cpu", "PRESET": "demo", **more}
    done = subprocess.run([str(TOP / "entrypoint.sh")], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    (message,) = inbox.got
    assert "refused its settings or its input" in message["title"] and said in message["message"]
    assert "pa55word" not in done.stdout + done.stderr + (tmp_path / "log.txt").read_text()
