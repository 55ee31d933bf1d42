"""Publishing through the real client to a Hub over HTTP: what arrives, what never does, what is said when it fails."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from job.core import files
from tests.hub.server import READ, WRITE, Hub
from tests.hub.store import Token
from tests.publish.test_contents import PUBLISHED

#: Runs functions of the package as the command line does, and prints what came of each as JSON on the last line.
DRIVER = """
import json, sys, time
from job.config import settings
from job.core.errors import JobError
from job.publish import hub_client, push, release, validate
hub_client.FIRST_WAIT = 0.01
loaded = settings.load()
outcomes = []
for name in sys.argv[1:]:
    call = {"validate": validate.run, "check": push.check, "push": push.run, "log": push.upload_log}.get(name)
    call = call or getattr(release, name)
    try:
        outcomes.append({"result": call(loaded)})
    except JobError as error:
        outcomes.append({"exit": error.exit_code, "line": str(error)})
print(json.dumps(outcomes))
"""

#: A fine-grained token; tests say what it may.
FINE = "hf_" + "F" * 34


@dataclass
class Outcome:
    """What the calls returned or refused with, and everything that was printed."""

    outcomes: list[dict[str, Any]]
    output: str

    @property
    def last(self) -> dict[str, Any]:
        return self.outcomes[-1]

    @property
    def result(self) -> dict[str, Any]:
        assert "result" in self.last, self.last
        found: dict[str, Any] = self.last["result"]
        return found

    def refused(self, code: int) -> str:
        """The one line that it was refused with."""
        assert self.last.get("exit") == code, self.last
        line = str(self.last["line"])
        assert "\n" not in line
        assert len(line) < 600
        return line


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


def do(hub: Hub, work: Path, *calls: str, token: str | None = WRITE, **env: str) -> Outcome:
    """Run calls in a process of their own; the token comes from a file, so that only what is passed on is used."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    given = {"WORK_DIR": str(work), "TRAIN_MODE": "full", "INIT_MODEL_PATH": "Qwen/Qwen3-TTS-12Hz-1.7B-Base"}
    given |= {"HF_REPO_ID": "alice/voice"}
    if token:
        secret = work.parent / "token"
        secret.write_text(token + "\n")
        given["HF_TOKEN_FILE"] = str(secret)
    env = clean | hub.env(work.parent / "home") | given | env
    env = {k: v for k, v in env.items() if v}
    done = subprocess.run([sys.executable, "-c", DRIVER, *calls], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return Outcome(json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr)


def contains(data: bytes, secret: str) -> bool:
    """Whether `data` holds the secret as it is or, at any alignment, in base64."""
    raw = secret.encode()
    forms = [raw, *(base64.b64encode(b"\0" * pad + raw)[4 * bool(pad) : -4] for pad in range(3))]
    return any(form in data for form in forms)


def test_push_publishes_exactly_the_allowed_files(hub: Hub, work: Path) -> None:
    """A private repo with every file of the list and nothing else; rerun, it uploads nothing and commits nothing."""
    first = do(hub, work, "validate", "push")
    repo = hub.repos["model", "alice/voice"]
    stored = hub.files("model", "alice/voice")
    best = work / "output" / "best"
    assert repo.private
    assert sorted(stored) == PUBLISHED
    assert all(stored[name] == (best / name).read_bytes() for name in PUBLISHED)
    assert repo.head.message == "best checkpoint, step 40, loss 1.2500"
    assert first.result["repo"] == "alice/voice"
    assert first.result["commit"] == repo.head.oid
    assert first.result["url"] == f"{hub.url}/alice/voice"
    assert (first.result["files"], first.result["uploaded"]) == (len(PUBLISHED), True)
    assert first.result["bytes"] == sum(len(data) for data in stored.values())

    commits, puts = len(repo.commits), len(hub.seen("PUT", "."))
    again = do(hub, work, "validate", "push")
    assert again.result["uploaded"] is False
    assert again.result["commit"] == first.result["commit"]
    assert (len(repo.commits), len(hub.seen("PUT", "."))) == (commits, puts)
    assert "was already up to date" in again.output


def test_the_token_goes_nowhere(hub: Hub, work: Path) -> None:
    """It is in no file, no output and no byte that is sent but the Authorization header, also when things fail."""
    log = work / "console.txt"
    log.write_text(f"login {WRITE}\nwandb: key {'ab12' * 10}\nstep 1 loss 2.0\n")
    secret = "hf_" + "Z" * 34
    hub.tokens[secret] = hub.tokens[WRITE]
    assert contains(base64.b64encode(b"x" + secret.encode() + b"y"), secret), "the search finds what is sent encoded"
    hub.fail("POST", "/api/repos/create", status=500, times=1, message=f"bad header Bearer {secret}")
    done = do(hub, work, "check", "validate", "push", "log", token=secret, UPLOAD_LOGS="true", CONSOLE_LOG=str(log))
    assert done.result is None
    assert "trying again" in done.output
    assert not contains(done.output.encode(), secret)
    assert not contains(hub.everything_received(), secret)
    written = [p for p in (*work.rglob("*"), *(work.parent / "home").rglob("*")) if p.is_file()]
    assert not [p for p in written if contains(p.read_bytes(), secret)]
    assert {
        r.headers.get("authorization") or r.headers.get("Authorization") for r in hub.seen("POST", "/api/repos")
    } == {f"Bearer {secret}"}
    uploaded = hub.files("model", "alice/voice")["logs/console_log.txt"].decode()
    assert uploaded == "login ***\nwandb: key ***\nstep 1 loss 2.0\n"


@pytest.mark.parametrize(
    ("variable", "secret"),
    [("HF_TOKEN", WRITE), ("WANDB_API_KEY", "0123abcd" * 5), ("a key of the environment", "wJalr/K7MDENG+bPxRfi")],
)
def test_a_file_that_holds_a_secret_is_not_uploaded(hub: Hub, work: Path, variable: str, secret: str) -> None:
    config = files.read_json(work / "output" / "best" / "config.json")
    files.write_json(work / "output" / "best" / "config.json", config | {"note": secret})
    line = do(
        hub, work, "validate", "push", WANDB_API_KEY="0123abcd" * 5, AWS_SECRET_ACCESS_KEY="wJalr/K7MDENG+bPxRfi"
    ).refused(5)
    assert f"config.json contains {variable}" in line
    assert ("model", "alice/voice") not in hub.repos


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "repo", "said"),
    [
        ("hf_" + "x" * 34, "alice/voice", "HF_TOKEN is refused by"),
        (READ, "alice/voice", "HF_REPO_ID=alice/voice: HF_TOKEN is read-only"),
        (WRITE, "bob/voice", "HF_TOKEN belongs to alice, who is not a member of bob"),
        (WRITE, "choir/voice", "who may only read at choir"),
        (FINE, "alice/other", "HF_TOKEN (fine-grained) may not write to alice"),
        (READ, "alice/there", "HF_TOKEN is read-only"),
        (WRITE, "bob/there", "HF_TOKEN belongs to alice, who is not a member of bob"),
        (WRITE, "alice/-bad-", "HF_REPO_ID=alice/-bad-: Repo id must"),
    ],
)
def test_missing_rights_are_found_in_minute_one(hub: Hub, work: Path, token: str, repo: str, said: str) -> None:
    """Exit 2 from the check, before anything is started, and exit 5 from push, which keeps what was trained."""
    hub.tokens[FINE] = Token("alice", "fineGrained", scoped={("model", "alice/voice"): ("repo.write",)})
    hub.add_repo("model", "alice/there", {"a.txt": "a"})
    hub.add_repo("model", "bob/there", {"a.txt": "a"})
    before = set(hub.repos)
    done = do(hub, work, "check", "validate", "push", token=token, HF_REPO_ID=repo)
    assert said in Outcome(done.outcomes[:1], "").refused(2)
    line = done.refused(5)
    assert said in line
    assert "output/best kept; rerun `python -m job push`" in line
    assert set(hub.repos) == before, "nothing is created"
    assert not hub.seen("PUT", ".")
    assert token not in done.output


@pytest.mark.slow
def test_check_passes_and_changes_nothing(hub: Hub, work: Path) -> None:
    """With the rights that are needed: a repo to be created, one that exists, an organisation's, a short name."""
    hub.tokens[FINE] = Token("alice", "fineGrained", scoped={("user", "alice"): ("repo.content.read", "repo.write")})
    hub.add_repo("model", "alice/there", {"a.txt": "a"})
    before = {key: len(repo.commits) for key, repo in hub.repos.items()}
    for token, repo, name in (
        (WRITE, "alice/new", "alice/new"),
        (WRITE, "short", "alice/short"),
        (WRITE, "studio/new", "studio/new"),
        (FINE, "alice/new", "alice/new"),
    ):
        result = do(hub, work, "check", token=token, HF_REPO_ID=repo, HF_LAST_REPO_ID="alice/there")
        assert result.result == {"user": "alice", "repos": [name, "alice/there"]}
        assert "alice/there exists and is public" in result.output
    assert {key: len(repo.commits) for key, repo in hub.repos.items()} == before


@pytest.mark.parametrize(
    ("token", "env", "reason"),
    [
        (WRITE, {"UPLOAD_TO_HUB": "false"}, "UPLOAD_TO_HUB=false"),
        (None, {}, "HF_TOKEN not set"),
        (WRITE, {"HF_REPO_ID": ""}, "HF_REPO_ID not set"),
    ],
)
def test_skipping_is_one_line_and_no_request(
    hub: Hub, work: Path, token: str | None, env: dict[str, str], reason: str
) -> None:
    done = do(hub, work, "check", "validate", "push", token=token, **env)
    assert done.result == {"skipped": reason}
    assert f"[push] skipped: {reason}" in done.output
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "env", "said"),
    [
        (None, {"UPLOAD_TO_HUB": "true"}, "UPLOAD_TO_HUB=true needs HF_TOKEN;"),
        (WRITE, {"UPLOAD_TO_HUB": "true", "HF_REPO_ID": ""}, "UPLOAD_TO_HUB=true needs HF_REPO_ID;"),
        (WRITE, {"HF_LAST_REPO_ID": "alice/voice"}, "HF_REPO_ID and HF_LAST_REPO_ID are both alice/voice"),
        (WRITE, {"INIT_MODEL_PATH": "/models/base"}, "BASE_MODEL_ID is not set"),
    ],
)
def test_contradictions_are_bad_input(hub: Hub, work: Path, token: str | None, env: dict[str, str], said: str) -> None:
    assert said in do(hub, work, "check", token=token, **env).refused(2)


@pytest.mark.slow
def test_last_goes_to_its_own_repo(hub: Hub, work: Path) -> None:
    shutil.copytree(work / "output" / "best", work / "output" / "last")
    (work / "output" / "last" / "training_state.json").unlink()
    env = {"HF_LAST_REPO_ID": "studio/voice-last", "HUB_PRIVATE": "false", "VOICE_CONSENT": "Alice agreed."}
    result = do(hub, work, "validate", "push", **env).result
    assert result["last"]["repo"] == "studio/voice-last"
    assert sorted(hub.files("model", "studio/voice-last")) == PUBLISHED
    assert hub.repos["model", "studio/voice-last"].head.message == "last checkpoint, step 40, loss 1.0000"
    assert not hub.repos["model", "studio/voice-last"].private


@pytest.mark.slow
def test_passing_failures_are_tried_again(hub: Hub, work: Path) -> None:
    """5xx, 429 (as long as the Hub asks for) and broken connections at any request: the push comes through."""
    hub.fail("GET", "/api/whoami-v2", status=503, times=2)
    hub.fail("POST", "/api/repos/create", status=500, times=2)
    hub.fail("POST", "/preupload/", status=429, times=1, retry_after="1")
    hub.fail("PUT", "/_upload/", status=500, times=1)
    hub.drop("PUT", "/_upload/", times=1, after=1000)
    hub.fail("POST", "/commit/main", status=502, times=2)
    hub.drop("GET", "/api/models/alice/voice", times=1)
    started = time.monotonic()
    done = do(hub, work, "validate", "push")
    assert done.result["uploaded"] is True
    assert time.monotonic() - started >= 1, "Retry-After is kept"
    assert sorted(hub.files("model", "alice/voice")) == PUBLISHED
    assert "uploading to alice/voice: fault 502 (status 502); trying again" in done.output
    assert len(hub.repos["model", "alice/voice"].commits) == 2


@pytest.mark.slow
def test_a_refusal_is_not_tried_again(hub: Hub, work: Path) -> None:
    hub.fail("POST", "/commit/main", status=403, times=9, message="storage limit reached")
    line = do(hub, work, "validate", "push").refused(5)
    assert "storage limit reached (status 403)" in line
    assert len(hub.seen("POST", "/commit/main")) == 1


@pytest.mark.slow
def test_a_push_that_broke_off_goes_on(hub: Hub, work: Path) -> None:
    """The Hub goes away in the middle of the upload: exit 5, all kept; the rerun sends only what had not arrived."""
    hub.fail("POST", "/commit/main", status=500, times=99)
    line = do(hub, work, "validate", "push").refused(5)
    assert "fault 500 (status 500)" in line
    assert "kept; rerun `python -m job push`" in line
    assert hub.files("model", "alice/voice") == {}
    arrived = len(hub.seen("PUT", "/_upload/"))
    assert arrived == 2, "both weight files are there"
    hub.heal()
    assert do(hub, work, "push").result["uploaded"] is True
    assert len(hub.seen("PUT", "/_upload/")) == arrived
    assert sorted(hub.files("model", "alice/voice")) == PUBLISHED


@pytest.mark.slow
def test_an_upload_that_broke_off_in_the_middle_goes_on(hub: Hub, work: Path) -> None:
    """One of two weight files cannot be sent: exit 5 and no commit; the rerun sends that one only."""
    codec = work / "output" / "best" / "speech_tokenizer" / "model.safetensors"
    oid = files.digest_file(codec)
    hub.fail("PUT", oid, status=403, times=99)  # what the store answers when a signed address has run out
    line = do(hub, work, "validate", "push").refused(5)
    assert "(status 403)" in line
    assert len(hub.seen("PUT", oid)) > 1, "another attempt gets another address"
    assert hub.files("model", "alice/voice") == {}
    sent = len(hub.seen("PUT", "/_upload/"))
    hub.heal()
    assert do(hub, work, "push").result["uploaded"] is True
    assert [r.path.split("?")[0].split("/")[-1] for r in hub.seen("PUT", "/_upload/")[sent:]] == [oid]
    assert hub.files("model", "alice/voice")["speech_tokenizer/model.safetensors"] == codec.read_bytes()


@pytest.mark.slow
def test_weights_of_an_earlier_training_are_removed(hub: Hub, work: Path) -> None:
    """A loader must not find shards of one training beside the index of another; the owner's other files stay."""
    old = {"model-00001-of-00002.safetensors": b"old", "adapter_config.json": "{}", "samples/a.wav": b"RIFF"}
    hub.add_repo("model", "alice/voice", {**old, "notes.md": "mine"}, private=True)
    do(hub, work, "validate", "push")
    assert sorted(hub.files("model", "alice/voice")) == sorted([*PUBLISHED, "notes.md", "samples/a.wav"])


def test_what_arrived_is_compared_with_what_was_sent(hub: Hub, work: Path) -> None:
    """A file that the Hub has not, or has in another size, is exit 5, although the commit went through."""
    lost = {"id": "alice/voice", "sha": "0" * 40, "private": True, "siblings": [{"rfilename": "README.md", "size": 1}]}
    hub.answer("GET", "blobs=True", status=200, body=json.dumps(lost))
    line = do(hub, work, "validate", "push").refused(5)
    assert f"alice/voice has {len(PUBLISHED)} files that differ from the local ones, first README.md" in line


@pytest.mark.slow
def test_what_arrived_is_compared_by_its_hash(hub: Hub, work: Path) -> None:
    """Small files by git's, weights by SHA-256: another file of the same size is found."""
    do(hub, work, "validate", "push")
    there = hub.repos["model", "alice/voice"].head.files
    siblings = [{"rfilename": n, "size": b.size, "blobId": b.git_oid} for n, b in there.items()]
    for one in siblings:
        if there[one["rfilename"]].large:
            one["lfs"] = {"sha256": "0" * 64, "size": one["size"], "pointerSize": 1}
    siblings[0]["blobId"] = "0" * 40
    lost = {"id": "alice/voice", "sha": "0" * 40, "private": True, "siblings": siblings}
    hub.answer("GET", "blobs=True", status=200, body=json.dumps(lost))
    assert "alice/voice has 3 files that differ from the local ones" in do(hub, work, "push").refused(5)


@pytest.mark.slow
def test_an_empty_base_model_is_caught_everywhere(hub: Hub, work: Path) -> None:
    """By our check before the push, and by the Hub's own: the failure that cost others a night's training."""
    do(hub, work, "validate")
    readme = work / "output" / "best" / "README.md"
    text = readme.read_text().replace("base_model: Qwen/Qwen3-TTS-12Hz-1.7B-Base", 'base_model: ""')
    readme.write_text(text)
    assert "base_model is empty (set BASE_MODEL_ID)" in do(hub, work, "push").refused(2)
    assert not hub.seen("POST", "/commit")


@pytest.mark.slow
def test_a_card_from_before_the_base_had_a_name_is_not_published(hub: Hub, work: Path) -> None:
    """Trained from a directory and validated without a token; then a token comes, and then BASE_MODEL_ID."""
    local = {"INIT_MODEL_PATH": str(work / "base")}
    do(hub, work, "validate", token=None, **local)
    assert "BASE_MODEL_ID is not set" in do(hub, work, "push", **local).refused(2)
    named = local | {"BASE_MODEL_ID": "Qwen/Other"}
    assert "does not name the base model Qwen/Other; then run" in do(hub, work, "push", **named).refused(2)
    do(hub, work, "validate", "push", **named)
    assert b"base_model: Qwen/Other" in hub.files("model", "alice/voice")["README.md"]


@pytest.mark.slow
def test_the_hub_is_asked_about_the_card(hub: Hub, work: Path) -> None:
    """Its refusal is ours, in its words; when it cannot be asked, the stage continues with a warning."""
    refusal = json.dumps({"errors": [{"message": '"language" is odd'}], "warnings": []})
    hub.answer("POST", "/api/validate-yaml", status=400, body=refusal)
    assert 'the Hub rejects the model card: "language" is odd' in do(hub, work, "validate").refused(2)
    hub.heal()
    hub.fail("POST", "/api/validate-yaml", status=503, times=1)
    done = do(hub, work, "validate")
    assert done.result["files"] == len(PUBLISHED)
    assert "could not check the model card (status 503)" in done.output
    unreachable = do(hub, work, "validate", "check", HF_ENDPOINT="http://127.0.0.1:9")
    assert "could not check the model card" in unreachable.output
    assert "http://127.0.0.1:9: cannot check whether publishing will work: no connection" in unreachable.refused(1)


@pytest.mark.slow
def test_the_log_never_fails_the_run(hub: Hub, work: Path) -> None:
    """Whatever happens to the log is a warning: the exit code is that of the run."""
    missing = do(hub, work, "log", UPLOAD_LOGS="true", CONSOLE_LOG=str(work / "none.txt"))
    assert "log not uploaded" in missing.output
    (work / "log.txt").write_text("x")
    env = {"UPLOAD_LOGS": "true", "CONSOLE_LOG": str(work / "log.txt")}
    refused = do(hub, work, "log", token=READ, **env)
    assert "the log could not be uploaded: You don't have the rights" in refused.output
    off = do(hub, work, "log", CONSOLE_LOG=str(work / "log.txt"))
    assert "log" not in off.output
