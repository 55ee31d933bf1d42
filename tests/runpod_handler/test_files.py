"""Templates, Hub files, Dockerfile and lock: what can be checked without RunPod."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest
from packaging.requirements import Requirement

from job.config import settings as variables
from tests.runpod_handler.published import Endpoint, HubFile, Part, Template, TestsFile
from tests.runpod_handler.worker import RUNPOD, TOP, LocalServer

FORMS: dict[str, type[Part]] = {
    "hub.json": HubFile,
    "tests.json": TestsFile,
    "template.json": Template,
    "template-serverless.json": Template,
    "endpoint.json": Endpoint,
}
#: Variables of the worker itself, which the job does not know.
OWN = {"JOB_GRACE_SECONDS", "JOB_VOLUME", "POD_AFTER"}


def read(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((RUNPOD / name).read_text())
    return value


@pytest.mark.parametrize("name", FORMS)
def test_every_file_has_the_form_that_runpod_publishes(name: str) -> None:
    FORMS[name].model_validate(read(name))


def test_every_variable_that_is_offered_is_one() -> None:
    """A typo in a template would be found by its user, after paying for a machine."""
    known = {name for v in variables.variables() for name in (v.name, *v.aliases)} | OWN
    offered = {variable["key"] for variable in read("hub.json")["config"]["env"]}
    offered |= {variable["key"] for variable in read("tests.json")["config"]["env"]}
    offered |= read("template.json")["env"].keys() | read("template-serverless.json")["env"].keys()
    assert offered <= known
    pod = {k: v for k, v in read("template.json")["env"].items() if k not in OWN}
    assert variables.load({**pod, "HF_REPO_ID": "me/my-voice", "DATASET_NAME": "me/data"}).speaker_name == "my_voice"


def test_no_template_holds_a_token() -> None:
    for name in FORMS:
        for value in re.findall(r'"HF_TOKEN": "([^"]*)"', (RUNPOD / name).read_text()):
            assert re.fullmatch(r"\{\{ RUNPOD_SECRET_\w+ \}\}", value), f"{name}: refer to a RunPod secret"


def test_only_machines_whose_driver_fits_the_packages_are_taken() -> None:
    """The CUDA filter follows the CUDA that the locked torch is built for."""
    found = re.search(r"^cuda-toolkit==(\d+\.\d+)", (TOP / "requirements.lock").read_text(), re.MULTILINE)
    assert found
    built = tuple(map(int, found[1].split(".")))
    lists = [read("hub.json")["config"], read("tests.json")["config"], read("template.json")]
    lists.append(read("template-serverless.json"))
    for one in lists:
        assert min(tuple(map(int, v.split("."))) for v in one["allowedCudaVersions"]) == built
    assert read("endpoint.json")["gpu"]["minCudaVersion"] == found[1]
    assert f"RUNPOD_MIN_CUDA_VERSION={found[1]}\n" in (RUNPOD / "Dockerfile").read_text()


def test_the_inputs_that_are_given_as_examples_are_good(tmp_path: Path) -> None:
    from handler_request import parse

    (tmp_path / "empty").touch()
    examples = [test["input"] for test in read("tests.json")["tests"]] + [read("test_input.json")["input"]]
    blocks = re.findall(r"```json\n(.*?)```", (RUNPOD / "README.md").read_text(), re.DOTALL)
    examples += [body["input"] for block in blocks if "input" in (body := json.loads(block))]
    assert len(examples) >= 5
    for example in examples:
        parse(example, {}, tmp_path, tmp_path / "empty")


def test_the_endpoint_outlives_the_job() -> None:
    """RunPod ends a request after its time, 10 minutes by default: the endpoint's is hours."""
    assert read("endpoint.json")["timeout"] >= 6 * 3600 * 1000
    blocks = re.findall(r"```json\n(.*?)```", (RUNPOD / "README.md").read_text(), re.DOTALL)
    policies = [body["policy"] for block in blocks if "policy" in (body := json.loads(block))]
    assert policies and all(p["ttl"] >= p["executionTimeout"] >= 6 * 3600 * 1000 for p in policies)


def test_the_image_adds_locked_packages_beside_the_jobs_and_leaves_root() -> None:
    text = (RUNPOD / "Dockerfile").read_text()
    assert "install-locked.sh /opt/runpod/bin/python requirements.lock" in text and "pip install" not in text
    assert "/opt/venv" not in re.sub(r"/opt/venv/bin/python -m venv", "", text), "the job's environment is untouched"
    copied = set(re.findall(r"runpod/([\w.]+)", " ".join(re.findall(r"^COPY (?:.*\\\n)*.*", text, re.MULTILINE))))
    code = {path.name for path in RUNPOD.glob("*.py")} | {"start.sh", "requirements.lock"}
    assert code <= copied, "every module of the worker is in the image"
    assert "setpriv --reuid" in (RUNPOD / "start.sh").read_text()


def test_dockerfile_and_script_pass_the_linters() -> None:
    tools = Path(sys.executable).parent
    subprocess.run([tools / "hadolint", "--config", TOP / ".hadolint.yaml", RUNPOD / "Dockerfile"], check=True)
    subprocess.run([tools / "shellcheck", RUNPOD / "start.sh"], check=True)


def locked(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), re.MULTILINE))


def test_the_lock_is_hashed_complete_and_names_no_index() -> None:
    text = (RUNPOD / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[a-z0-9-]+==)", text)[1:]
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries) and len(entries) > 20
    assert not re.search(r"://|--(extra-)?index|--find-links", text)
    asked = [line.split("#")[0].strip() for line in (RUNPOD / "requirements.in").read_text().splitlines()]
    assert {Requirement(line).name for line in asked if line} <= locked(RUNPOD / "requirements.lock").keys()


def test_the_worker_reads_variables_with_the_jobs_own_versions() -> None:
    """A request is checked in one environment and runs in the other: what reads the variables must be the same."""
    mine, jobs = locked(RUNPOD / "requirements.lock"), locked(TOP / "requirements.lock")
    shared = ("pydantic", "pydantic-core", "pydantic-settings", "python-dotenv")
    assert {p: mine[p] for p in shared} == {p: jobs[p] for p in shared}, "make lock UPGRADE=1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another")
@pytest.mark.slow
def test_start_gives_the_job_its_folders_on_the_volume_and_is_not_root_any_more(sdk: Path, tmp_path: Path) -> None:
    """RunPod mounts a volume as root's. What the user has put there keeps its owner."""
    become = ["setpriv", "--reuid", "10001", "--regid", "10001", "--clear-groups", "--"]
    if subprocess.run([*become, "sh", "-c", f"test -x '{sdk}'"]).returncode:
        pytest.skip("this Python is in a directory that only root can enter")
    with tempfile.TemporaryDirectory() as place:  # pytest's own directories let nobody else in
        volume = Path(place) / "volume"
        (volume / "data").mkdir(parents=True)
        for path in (Path(place), volume, volume / "data"):
            path.chmod(0o755)
        server = LocalServer(sdk, TOP, volume)
        server.command[:2] = [str(RUNPOD / "start.sh"), "serve"]
        with server:
            assert psutil.Process(server.process.pid).uids().effective == 10001
            (result,) = server.run({"variables": {"NO": 1}})
            assert "NO is not a variable of this job" in result["error"]
        assert (volume / "jobs").stat().st_uid == (volume / ".cache").stat().st_uid == 10001
        assert volume.stat().st_uid == (volume / "data").stat().st_uid == 0
