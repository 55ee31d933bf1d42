"""A mirror on the Hub, through the real client: a branch of a private repo, which holds what is needed and no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hub.server import READ, WRITE, Hub

#: Three checkpoints to a mirror and one back, then what the first minute says of other tokens and repos.
DRIVER = """
import json, sys
from pathlib import Path
from job.config import settings
from job.core.errors import JobError
from job.mirror import addresses
from job.mirror.archive import Archive

top, tokens = Path(sys.argv[1]), sys.argv[2:]

def opened(address, token, **more):
    return addresses.opened(settings.load({"MIRROR_CHECKPOINTS": address, "HF_TOKEN": token, **more}))

store = opened("hf://alice/spot/kari", tokens[0])
assert store.listing() == {}
store.check()
archive = Archive(store, "run")
for step in (2, 4, 6):
    sources = {}
    for name, data in (("a.safetensors", f"weights {step}"), ("best/m.safetensors", "the same"), ("x.json", "{}")):
        path = top / str(step) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data)
        sources[f"output/{name}"] = path
    archive.keep(f"checkpoint-{step}", {"step": step}, sources, [f"checkpoint-{step - 4}"])
newest = max(archive.manifests(), key=lambda one: one.facts["step"])
archive.bring(newest, {"output": top / "back"})
refused = []
for address, token, more in (
    ("hf://alice/spot", tokens[1], {}),
    ("hf://choir/spot", tokens[0], {}),
    ("hf://alice/open", tokens[0], {}),
    ("hf://alice/voice", tokens[0], {"HF_REPO_ID": "alice/voice"}),
    ("hf://alice/spot", "", {}),
):
    try:
        opened(address, token, **more).check()
        refused.append("nothing")
    except JobError as error:
        refused.append(f"{error.exit_code} {error}")
try:
    opened("hf://alice/spot/kari", "").listing()
    refused.append("an empty mirror")
except Exception as error:
    refused.append(store.explain(error))
print(json.dumps({"listing": store.listing(), "refused": refused}))
"""


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Any:
    top = tmp_path_factory.mktemp("mirror")
    with Hub() as hub:
        hub.add_repo("model", "alice/open", {"README.md": "---\nlicense: mit\n---\n"})
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, str(top), WRITE, READ],
            env={**kept, **hub.env(top / "home")}, cwd=Path(__file__).parents[2], capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        yield hub, top, json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


def test_a_checkpoint_comes_back_from_the_branch(mirrored: Any) -> None:
    _, top, _, _ = mirrored
    back = {p.relative_to(top / "back").as_posix(): p.read_text() for p in (top / "back").rglob("*") if p.is_file()}
    assert back == {"a.safetensors": "weights 6", "best/m.safetensors": "the same", "x.json": "{}"}


def test_the_repo_is_private_its_main_untouched_and_its_quota_not_filled_by_what_is_gone(mirrored: Any) -> None:
    """Each checkpoint is one commit; older weights leave the branch's history with their checkpoint."""
    hub, _, said, _ = mirrored
    repo = hub.repos["model", "alice/spot"]
    assert repo.private and repo.head.files == {}
    assert sorted(repo.branches) == ["mirror"]
    assert {name for name in said["listing"] if name.endswith(("4.json", "6.json"))} >= {
        "run/checkpoint-4.json",
        "run/checkpoint-6.json",
    }
    assert "run/checkpoint-2.json" not in said["listing"]
    assert sorted(repo.objects.values()) == [b"the same", b"weights 4", b"weights 6"]
    assert len([r for r in hub.seen("POST", "/commit/mirror") if r.status == 200]) == 3


def test_what_would_fail_later_is_found_in_minute_one(mirrored: Any) -> None:
    """A read-only token, an owner who is not theirs, a public repo, the voice's own repo, no token: exit code 2."""
    _, _, said, _ = mirrored
    words = ("read-only", "may only read at choir", "is public", "the voice is published there", "set HF_TOKEN")
    for line, word in zip(said["refused"][:-1], words, strict=True):
        assert line.startswith("2 MIRROR_CHECKPOINTS=") and word in line


def test_without_a_token_the_mirror_is_unknown_and_not_empty(mirrored: Any) -> None:
    """A run that forgot its token must not begin anew."""
    assert "status 401" in mirrored[2]["refused"][-1]


def test_the_token_goes_nowhere(mirrored: Any) -> None:
    hub, _, _, output = mirrored
    assert WRITE not in output
    assert WRITE.encode() not in hub.everything_received()
