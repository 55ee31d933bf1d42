"""What every platform's template must promise, whatever its format; `test_platforms.py` checks all of `PLATFORMS`.

To add a platform, write its template and a function that reads it, and add a line to `PLATFORMS`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from configparser import RawConfigParser
from dataclasses import dataclass, field
from pathlib import Path

import typer
import yaml

from job import cli
from job.config.settings import load, variables
from job.core import errors

TOP = Path(__file__).resolve().parents[2]
#: Exit codes after which a retry would only fail again, and those after which it may succeed.
FINAL = {errors.BAD_INPUT, errors.DATA_REFUSED, errors.TRAINING_STOPPED, errors.SPEECH_FAILED}
RETRIED = {1, errors.PUBLISH_FAILED}
#: Variables of libraries, and of the entrypoint, that templates may set.
OTHERS = {"OMP_NUM_THREADS", "HF_HOME"}


@dataclass(frozen=True)
class Template:
    """What a template says.

    Attributes:
        command: arguments of the image's entrypoint; empty for its default.
        environment: variables that it sets.
        not_retried: exit codes after which the platform does not start the job again; None if it never does.
        own: variables of the platform's own scripts.
        placeholder: pattern of a reference to the platform's store of secrets.
    """

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    not_retried: set[int] | None = None
    own: frozenset[str] = frozenset()
    placeholder: str = r"(?!)"


def problems(template: Template) -> list[str]:
    """Everything that is wrong with a template; empty when nothing is."""
    found = []
    known = {name for variable in variables() for name in (variable.name, *variable.aliases)}
    secret = {variable.name for variable in variables() if variable.name.endswith(("_TOKEN", "_KEY"))}
    commands = set(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
    if template.command and template.command[0] not in commands:
        found.append(f"{template.command[0]} is not a command of the job")
    for name, value in template.environment.items():
        if name not in known | OTHERS | template.own:
            found.append(f"{name} is not a variable of the job")
        if name in secret and value and not re.fullmatch(template.placeholder, value):
            found.append(f"{name} is in the template; refer to a secret of the platform")
    try:
        load({name: value for name, value in template.environment.items() if name in known - secret})
    except errors.BadInput as error:
        found.append(str(error))
    if template.not_retried is not None:
        found += [f"exit code {code} is retried" for code in sorted(FINAL - template.not_retried)]
        found += [f"exit code {code} is not retried" for code in sorted(RETRIED & template.not_retried)]
    return found


def compose(file: Path) -> Template:
    """A Docker Compose file; it never restarts the job."""
    service = yaml.safe_load(file.read_text())["services"]["job"]
    assert service["restart"] == "no"
    return Template(service.get("command", []), service["environment"])


def kubernetes(file: Path) -> Template:
    """The manifest of a Kubernetes Job, and the ConfigMap that the kustomization beside it makes."""
    kustomization = yaml.safe_load((file.parent / "kustomization.yaml").read_text())
    literals = [one for made in kustomization["configMapGenerator"] for one in made["literals"]]
    spec = yaml.safe_load(file.read_text())["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    rules = [rule["onExitCodes"] for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    final = {code for rule in rules for code in rule["values"]}
    return Template(container["args"], dict(one.split("=", 1) for one in literals), final)


def systemd(file: Path) -> Template:
    """A systemd unit that runs the Compose service."""
    parser = RawConfigParser(strict=False, comment_prefixes=("#",), delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(file)
    service = parser["Service"]
    command = service["ExecStart"].rpartition(" job")[2].split()
    return Template(command, not_retried={int(c) for c in service["RestartPreventExitStatus"].split() if c.isdigit()})


def runpod(file: Path) -> Template:
    """A template of RunPod's pods, whose start script handles exit codes itself."""
    environment = json.loads(file.read_text())["env"]
    return Template([], environment, own=frozenset({"POD_AFTER"}), placeholder=r"\{\{ RUNPOD_SECRET_\w+ \}\}")


def slurm(file: Path) -> Template:
    """A batch script of Slurm, which has its job queued again after some exit codes."""
    text = file.read_text()
    given = dict(re.findall(r"APPTAINERENV_(\w+)=(/\S+)", text))
    assert given.pop("ENV_FILE") == "/run/job.env"  # there in the container alone
    (again,) = re.findall(r"^([\d |]+)\)$", text, re.MULTILINE)
    return Template([], given, set(range(256)) - {int(code) for code in again.split("|")})


def hf_jobs(file: Path) -> Template:
    """The script that submits to Hugging Face Jobs; its variables are the user's, checked by the job's own reader."""
    text = file.read_text()
    (final,) = re.findall(r"^FINAL = \{(.*)\}$", text, re.MULTILINE)
    assert "load(" in text
    return Template(["run"], not_retried={getattr(errors, one.split(".")[1]) for one in final.split(", ")})


def retries_in_shell(text: str) -> set[int]:
    """The exit codes that a script's `case` does not try again; 143, stopped, is left to the platform."""
    (again,) = re.findall(r"^\s*([\d |]+)\)", text, re.MULTILINE)
    return set(range(256)) - {int(code) for code in again.split("|")} - {errors.STOPPED_BY_SIGNAL}


def skypilot(file: Path) -> Template:
    """A task of SkyPilot that runs the image with Docker."""
    task = yaml.safe_load(file.read_text())
    given = dict(re.findall(r"-e (\w+)=(/\S+)", task["run"]))
    assert given.pop("ENV_FILE") == "/run/job.env" and task["secrets"] == {"HF_TOKEN": None}
    assert task["resources"]["job_recovery"] == {"recover_on_exit_codes": [errors.STOPPED_BY_SIGNAL]}
    return Template(task["envs"]["JOB_COMMAND"].split(), given, retries_in_shell(task["run"]))


def dstack(file: Path) -> Template:
    """A task of dstack."""
    task = yaml.safe_load(file.read_text())
    (script,) = task["commands"]
    (command,) = re.findall(r"/opt/job/entrypoint\.sh (.*) &$", script, re.MULTILINE)
    environment = dict(one.split("=", 1) for one in task["env"])
    placeholder = r"\$\{\{ secrets\.\w+ \}\}"
    return Template(command.split(), environment, retries_in_shell(script), placeholder=placeholder)


def modal(file: Path) -> Template:
    """A function of Modal's, which it calls again when it raises; the variables are the user's."""
    text = file.read_text()
    (command,) = re.findall(r'def main\(command: str = "(.*)"\)', text)
    (final,) = re.findall(r"^FINAL = \{(.*)\}$", text, re.MULTILINE)
    return Template(command.split(), not_retried={int(code) for code in final.split(", ")})


#: Template in the repository -> the function that reads it.
PLATFORMS: dict[str, Callable[[Path], Template]] = {
    "compose.yaml": compose,
    "deploy/dstack/qwen3-tts-job.dstack.yml": dstack,
    "deploy/hf-jobs/submit.py": hf_jobs,
    "deploy/modal/qwen3_tts_job.py": modal,
    "deploy/systemd/qwen3-tts-job.service": systemd,
    "deploy/skypilot/qwen3-tts-job.yaml": skypilot,
    "deploy/slurm/qwen3-tts-job.sbatch": slurm,
    "k8s/base/job.yaml": kubernetes,
    "runpod/template.json": runpod,
}
