"""Makefile, set-up script, Dockerfile and CI: the promises that can be checked without building anything large.

`make check-image` builds the image and holds it to the others.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parents[2]
TARGETS = [
    "setup",
    "demo",
    "test",
    "test-slow",
    "test-thorough",
    "gpu-check",
    "walk",
    "lint",
    "bench",
    "image",
    "check-image",
    "soak",
    "sbom",
    "lock",
]
TARGETS += ["coverage", "docs", "variables", "clean", "help"]
WORKFLOWS = sorted([*(TOP / ".github/workflows").glob("*.yml"), *(TOP / ".github/actions").rglob("action.yml")])


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
    assert not re.search(r"^(ARG|ENV) .*(PIP_|TOKEN)", text, re.MULTILINE), (
        "these would stay in the image; use a secret"
    )
    assert "--require-hashes" in (TOP / "scripts/install-locked.sh").read_text()


def test_image_has_a_compiler_only_where_one_is_asked_for() -> None:
    """TORCH_COMPILE needs one at run time and is off by default; what it compiles is kept where it may be written."""
    text = (TOP / "Dockerfile").read_text()
    final = text[text.rindex("\nFROM ") :]
    assert len(re.findall(r"\bgcc\b", text)) == 1
    assert re.search(
        r'^ARG WITH_COMPILER=0\nRUN if \[ "\$WITH_COMPILER" != 0 \]; then[^\n]*\n(?: .*\n)*.*\bgcc\b', final, re.M
    )
    assert re.search(r"TORCHINDUCTOR_CACHE_DIR=/work/\S+", final) and re.search(r"TRITON_CACHE_DIR=/work/\S+", final)


def test_image_has_ray_only_where_it_is_asked_for() -> None:
    """ENGINE=ray is off by default, and nobody else downloads it."""
    text = (TOP / "Dockerfile").read_text()
    assert len(re.findall(r"install-locked\.sh \S+ requirements-ray\.lock", text)) == 1
    assert re.search(r'^ARG WITH_RAY=0\n(?:.*\n){2} *if \[ "\$WITH_RAY" != 0 \]; then', text, re.MULTILINE)
    assert "ray" not in {line.strip() for line in (TOP / "requirements.in").read_text().splitlines()}


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
    from job.config.settings import load

    monkeypatch.chdir(tmp_path)  # where no .env is
    block = re.search(r"^ENV (.*?)\n(?!\s)", (TOP / "Dockerfile").read_text(), re.MULTILINE | re.DOTALL)
    assert block
    environment = dict(re.findall(r"(\w+)=(\S+)", block.group(1)))
    assert load(environment).work_dir == Path("/work")


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda path: path.parent.name + "/" + path.name)
def test_actions_of_others_are_pinned_by_commit(file: Path) -> None:
    """A tag can be moved to other code; a commit cannot."""
    uses = re.findall(r"uses: (\S+)(.*)", file.read_text())
    assert uses
    for action, comment in uses:
        own = action.startswith("./") and (TOP / action / "action.yml").is_file()
        assert own or (re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action) and re.search(r"# v\d", comment)), action


def test_ci_runs_everything() -> None:
    steps = yaml.safe_load((TOP / ".github/workflows/ci.yml").read_text())["jobs"]["all"]["steps"]
    assert any(step.get("run") == ".ci/run" for step in steps)
    asked = set(re.findall(r"(?:run|start)_step \S+ ([a-z-]+)$", (TOP / ".ci/run").read_text(), re.MULTILINE))
    assert asked == {"setup-dev", "lint", "test", "test-slow", "walk", "check-image"}


def test_what_ci_leaves_out_is_run_every_night() -> None:
    document = yaml.safe_load((TOP / ".github/workflows/ci.yml").read_text())
    nightly = document["jobs"]["thorough"]
    assert document[True]["schedule"], "YAML reads the key `on` as true"
    assert "schedule" in nightly["if"] and nightly["steps"][-1]["run"] == "make test-thorough"


def test_workflows_have_the_rights_that_they_need_and_no_more() -> None:
    """Only the job that pushes a release may write, and only packages; no expression is pasted into a shell."""
    writes = set()
    for file in WORKFLOWS:
        document = yaml.safe_load(file.read_text())
        steps = document.get("runs", {}).get("steps", [])
        for name, job in document.get("jobs", {}).items():
            rights = job.get("permissions", document.get("permissions"))
            assert rights is not None, f"{file.name}: {name} has whatever the repository gives"
            writes |= {(name, what) for what, level in rights.items() if level != "read"}
            assert job["timeout-minutes"] <= 90
            steps += job["steps"]
        assert not any("${{" in step.get("run", "") for step in steps), file.name
    assert writes == {("publish", "packages")}


def test_a_release_is_scanned_before_it_is_pushed() -> None:
    publish = yaml.safe_load((TOP / ".github/workflows/image.yml").read_text())["jobs"]["publish"]
    assert "tag" in publish["if"] and "push" in publish["if"]
    names = [step.get("uses", step.get("name", "")).split("@")[0] for step in publish["steps"]]
    assert names.index("./.github/actions/image") < names.index("docker/login-action") < names.index("Push it")
    action = yaml.safe_load((TOP / ".github/actions/image/action.yml").read_text())["runs"]["steps"]
    used = [step.get("uses", step["name"]).split("@")[0] for step in action]
    assert used.index("Build") < used.index("Demo, confined") < used.index("anchore/scan-action")
    scan = next(step for step in action if step.get("uses", "").startswith("anchore/scan-action"))
    assert scan["with"].get("fail-build", "true") == "true" and scan["with"]["severity-cutoff"] == "critical"


@pytest.mark.slow
def test_list_of_packages_is_the_locks(tmp_path: Path) -> None:
    """`make sbom`: each package of the lock with its version and licence, and none of the tools of tests and checks."""
    command = [sys.executable, "scripts/sbom.py", str(tmp_path)]
    subprocess.run(command, cwd=TOP, check=True, capture_output=True, timeout=300)
    document = json.loads((tmp_path / "sbom.cdx.json").read_text())
    listed = {re.sub(r"[-_.]+", "-", part["name"]).lower(): part["version"] for part in document["components"]}
    assert document["bomFormat"] == "CycloneDX" and document["metadata"]["component"]["name"] == "qwen3-tts-job"
    lock = dict(re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", (TOP / "requirements.lock").read_text(), re.MULTILINE))
    assert listed.items() <= {re.sub(r"[-_.]+", "-", name): version for name, version in lock.items()}.items()
    assert {"torch", "qwen-tts", "peft"} <= listed.keys() and "pytest" not in listed
    without = {part["name"] for part in document["components"] if not part.get("licenses")}
    assert without <= {"cuda-toolkit", "nvidia-cusparselt-cu13", "protobuf"}, "these do not declare theirs"
    table = (tmp_path / "licenses.md").read_text()
    licences = {row.split("|")[1].strip(): row.split("|")[3].strip() for row in table.splitlines()[2:]}
    assert len(licences) == len(listed)
    copyleft = {name for name, licence in licences.items() if re.search(r"(?<!L)GPL", licence)}
    assert not copyleft, "an image with these could not be passed on under Apache-2.0"


@pytest.mark.parametrize("name", ["entrypoint.sh", ".ci/run"])
def test_scripts_are_executable(name: str) -> None:
    assert os.access(TOP / name, os.X_OK)


def test_hooks_before_a_commit_are_checks_of_make_lint_and_download_nothing() -> None:
    """pre-commit runs what `make lint` runs, from .venv; without repositories of others."""
    makefile = (TOP / "Makefile").read_text()
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert lint
    repositories = yaml.safe_load((TOP / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    for hook in repositories[0]["hooks"]:
        program = re.sub(r"^\.venv/bin/(python -m )?| --.*", "", hook["entry"])
        assert hook["language"] == "system" and program in lint[1], hook["id"]
        assert (TOP / hook["entry"].split()[0]).exists()


def test_every_python_is_tested_by_night_and_one_for_a_change() -> None:
    """The newest of them is the newest that the lock is made for."""
    matrix = yaml.safe_load((TOP / ".github/workflows/ci.yml").read_text())["jobs"]["all"]["strategy"]["matrix"][
        "python"
    ]
    night, change = (json.loads(versions) for versions in re.findall(r"'(\[.*?\])'", matrix))
    assert night == ["3.11", "3.12", "3.13"] and change == night[:1]
    assert "github.event_name == 'schedule' &&" in matrix
