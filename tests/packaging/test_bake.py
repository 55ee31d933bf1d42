"""Weights in the image: what the build's own script downloads from a Hub, and what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub.server import READ, Hub

TOP = Path(__file__).resolve().parents[2]
FILES: dict[str, bytes | str] = {"config.json": "{}", "model.safetensors": b"\0" * 2000, "speech_tokenizer/a.json": "1"}


def bake(hub: Hub, tmp_path: Path, repo: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
    """The script as the Dockerfile calls it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | hub.env(tmp_path / "home")
    secret = tmp_path / "secret"
    if token:
        secret.write_text(token)
    environment["HF_TOKEN_SECRET"] = str(secret)
    command = ["sh", "scripts/bake-weights.sh", str(Path(sys.executable).with_name("hf")), str(tmp_path / "weights")]
    return subprocess.run(
        [*command, repo, "main"], cwd=TOP, env=environment, capture_output=True, text=True, timeout=120
    )


def left(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_a_private_repo_is_baked_whole_and_the_token_is_not(tmp_path: Path) -> None:
    with Hub() as hub:
        hub.add_repo("model", "alice/base", FILES, private=True)
        refused = bake(hub, tmp_path, "alice/base")
        assert refused.returncode != 0, "without the secret there is no image without weights"
        done = bake(hub, tmp_path, "alice/base", READ)
    assert done.returncode == 0, done.stderr
    found = left(tmp_path / "weights")
    assert found == {f"alice/base/{n}": v if isinstance(v, bytes) else v.encode() for n, v in FILES.items()}
    assert READ not in done.stdout + done.stderr
    assert all(p.stat().st_mode & 0o044 == 0o044 for p in (tmp_path / "weights").rglob("*")), "any user may read them"


def test_no_name_bakes_nothing(tmp_path: Path) -> None:
    with Hub() as hub:
        assert bake(hub, tmp_path, "").returncode == 0
        assert not hub.requests
    assert (tmp_path / "weights").is_dir() and not left(tmp_path / "weights"), "the image's layer is there and empty"


@pytest.mark.parametrize("name", ["base", "../../etc", "a/b/c", "/etc", "a/.."])
def test_what_is_no_repo_is_refused(tmp_path: Path, name: str) -> None:
    with Hub() as hub:
        refused = bake(hub, tmp_path, name)
    assert refused.returncode == 2 and refused.stderr.startswith(f"BAKE_MODEL={name}: ")
