"""Makefile, set-up script, Dockerfile and CI: the promises that can be checked without building anything large."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parents[2]
TARGETS = ["setup", "demo", "test", "test-slow", "lint", "bench", "image", "soak", "lock", "clean", "help"]


def test_make_alone_lists_the_targets() -> None:
    shown = subprocess.run(["make"], cwd=TOP, capture_output=True, text=True, check=True).stdout
    assert set(TARGETS) <= set(re.findall(r"^make (\S+)", shown, re.MULTILINE))


@pytest.fixture
def small_house(tmp_path: Path) -> Path:
    """A checkout with a space in its path, and a lock that takes seconds: real setup script, real pip, real hashes."""
    top = tmp_path / "a check out"
    shutil.copytree(TOP / "scripts", top / "scripts")
    shutil.copy2(TOP / "Makefile", top)
    lock = (TOP / "requirements.lock").read_text()
    entries = [re.search(rf"^{name}==.*?(?=^\S)", lock, re.MULTILINE | re.DOTALL) for name in ("setuptools", "tqdm")]
    (top / "requirements.lock").write_text("".join(entry.group() for entry in entries if entry))
    return top


def make_setup(top: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    outside = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}  # `make test` may be running this
    environment = {**outside, "PYTHON": sys.executable, **variables}
    return subprocess.run(["make", "setup"], cwd=top, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_setup_is_done_once_and_a_killed_one_is_redone(small_house: Path) -> None:
    first = make_setup(small_house)
    assert first.returncode == 0, first.stderr
    subprocess.run([small_house / ".venv/bin/python", "-c", "import tqdm"], check=True)

    again = make_setup(small_house)
    assert (again.returncode, again.stdout) == (0, ""), "nothing to do, nothing said"

    (small_house / ".venv/unfinished").touch()  # what a killed set-up leaves
    shutil.rmtree(next((small_house / ".venv/lib").glob("python3*")) / "site-packages" / "tqdm")
    assert make_setup(small_house).returncode == 0
    assert not (small_house / ".venv/unfinished").exists()
    subprocess.run([small_house / ".venv/bin/python", "-c", "import tqdm"], check=True)


@pytest.mark.slow
def test_setup_refuses_a_file_with_another_hash(small_house: Path) -> None:
    lock = small_house / "requirements.lock"
    lock.write_text(re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, lock.read_text()))
    result = make_setup(small_house)
    assert result.returncode != 0 and "hash" in result.stderr.lower()
    assert not (small_house / ".venv/requirements.lock").exists(), "the next call tries again"


def test_setup_names_the_variable_when_python_does_not_fit(small_house: Path) -> None:
    result = make_setup(small_house, PYTHON="/bin/false")
    assert result.returncode != 0
    assert "PYTHON=/bin/false" in result.stderr
    assert not (small_house / ".venv").exists()


def test_image_installs_from_the_lock_only_and_is_not_root() -> None:
    text = (TOP / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE_IMAGE=\S+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert "requirements.lock" in text and "pip install" not in text
    assert "--require-hashes" in (TOP / "scripts/install-locked.sh").read_text()


def test_image_context_holds_no_secrets() -> None:
    """.dockerignore lets in what the Dockerfile copies and nothing else: no .env, no recordings, no .git."""
    lines = (TOP / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (TOP / "Dockerfile").read_text(), re.MULTILINE)
    assert rules[0] == "*"
    assert allowed == {source.rstrip("/") for line in copied for source in line.split()}


def test_names_in_the_image_are_not_taken_for_misspelled_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader of settings refuses names that are one typo from a known one; the image sets many names."""
    from job.settings import load

    monkeypatch.chdir(tmp_path)  # where no .env is
    block = re.search(r"^ENV (.*?)\n(?!\s)", (TOP / "Dockerfile").read_text(), re.MULTILINE | re.DOTALL)
    assert block
    environment = dict(re.findall(r"(\w+)=(\S+)", block.group(1)))
    assert load(environment).work_dir == Path("/work")


def test_ci_pins_its_actions_by_commit() -> None:
    text = (TOP / ".github/workflows/ci.yml").read_text()
    uses = re.findall(r"uses: (\S+)", text)
    assert uses and all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", use) for use in uses)
    steps = yaml.safe_load(text)["jobs"]["all"]["steps"]
    assert any(step.get("run") == ".ci/run" for step in steps)


@pytest.mark.parametrize("name", ["entrypoint.sh", ".ci/run"])
def test_scripts_are_executable(name: str) -> None:
    assert os.access(TOP / name, os.X_OK)
