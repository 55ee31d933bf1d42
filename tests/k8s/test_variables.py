"""The variables in the ConfigMaps are the job's own, and what the page tells people to type works."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from job.config.settings import load
from job.config.settings import variables as known_variables
from job.core.errors import BadInput
from job.train import combinations
from tests.k8s import kubectl as tool
from tests.k8s.manifests import JOBS, K8S, NODES, OVERLAYS, TOP, container, job_spec, one, variables

KNOWN = {name for variable in known_variables() for name in (variable.name, *variable.aliases)}
PAGE = (K8S / "README.md").read_text()


@pytest.mark.parametrize("overlay", JOBS)
def test_every_variable_is_one_of_the_jobs_and_loads(rendered, overlay) -> None:
    data = one(rendered[overlay], "ConfigMap")["data"]
    assert data.keys() <= KNOWN
    settings = load(variables(rendered[overlay]))
    assert str(settings.paths.work).startswith("/work/")


@pytest.mark.parametrize("overlay", ["job", "nightly"])
def test_as_they_stand_they_run_the_demo(rendered, overlay) -> None:
    """`kubectl apply` works the first time, with neither data nor token."""
    settings = load(variables(rendered[overlay]))
    assert (settings.init_model_path, settings.token) == ("demo", None)
    assert settings.paths.work == Path("/work/run"), "and on the volume"


def test_the_second_pod_of_two_knows_its_place(rendered) -> None:
    settings = load(variables(rendered["multi-node"], index=1))
    assert (settings.num_nodes, settings.node_rank, settings.num_gpus) == (2, 1, "1")
    assert settings.master_addr == "qwen3-tts-job-multi-node-0.qwen3-tts-job-multi-node"
    assert settings.master_port == 29500


def examples() -> dict[str, dict[str, str]]:
    """Where variables stand for people to copy -> the variables."""
    found = {}
    for overlay in ("job", "nightly"):
        text = (K8S / "overlays" / overlay / "kustomization.yaml").read_text()
        found[overlay] = dict(re.findall(r"^ *(?:# )?- (\w+)=(\S+)$", text, re.MULTILINE))
    head = (K8S / "job.yaml").read_text().partition("---")[0]
    found["job.yaml"] = yaml.safe_load("\n".join(re.findall(r"^#   (\w+: .*)$", head, re.MULTILINE)))
    (block,) = [b for b in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "WORK_DIR" in b]
    found["README.md"] = yaml.safe_load(block)
    return found


@pytest.mark.parametrize("where", ["job", "nightly", "job.yaml", "README.md"])
def test_examples_are_complete_and_load(where) -> None:
    """Strings all of them, as a ConfigMap wants them; and a run that publishes what it trains."""
    values = examples()[where]
    assert all(isinstance(value, str) for value in values.values())
    assert values.keys() <= KNOWN
    settings = load(values)
    assert settings.upload_to_hub is True and settings.hf_repo_id and settings.hf_token_file
    assert str(settings.train_jsonl) == "/work/input/train.jsonl"
    with pytest.raises(BadInput, match="HF_TOKEN_FILE"):
        _ = settings.token  # a Secret that was forgotten is named, not passed over


def test_image_is_the_version_of_the_project(rendered) -> None:
    version = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
    for overlay in OVERLAYS:
        assert container(rendered[overlay])["image"] == f"qwen3-tts-job:{version}"
    assert f":{version}" in PAGE


def test_the_entrypoint_takes_the_arguments(rendered) -> None:
    for overlay in JOBS:
        assert container(rendered[overlay])["args"] == ["run"]
        assert "command" not in container(rendered[overlay]), "the image's own: tini and entrypoint.sh"


@pytest.mark.parametrize("overlay", ["multi-gpu", *NODES])
def test_the_job_accepts_several_gpus(rendered, overlay) -> None:
    """What the overlays set is not refused by the checks of the first minute."""
    combinations.check(load(variables(rendered[overlay])))


def test_the_secret_of_the_page_is_the_file_that_the_job_reads(kubectl, rendered, tmp_path) -> None:
    """The page's command, by the real kubectl, short of sending it."""
    (command,) = re.findall(r"^kubectl (create secret .*)$", PAGE, re.MULTILINE)
    (tmp_path / ".cache/huggingface").mkdir(parents=True)
    (tmp_path / ".cache/huggingface/token").write_text("hf_example\n")
    script = f'"$0" {command} --dry-run=client -o yaml'
    made = subprocess.run(
        ["sh", "-c", script, kubectl], env={"HOME": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    secret = yaml.safe_load(made.stdout)
    (volume,) = [v for v in job_spec(rendered["job"])["template"]["spec"]["volumes"] if "secret" in v]
    assert secret["metadata"]["name"] == volume["secret"]["secretName"]
    (mount,) = [m for m in container(rendered["job"])["volumeMounts"] if m["name"] == volume["name"]]
    (key,) = secret["data"]
    assert f"{mount['mountPath']}/{key}" == examples()["README.md"]["HF_TOKEN_FILE"]


def test_what_the_page_names_is_there(rendered) -> None:
    for path in re.findall(r"kubectl [^\n`]*(k8s/[\w./-]+)", PAGE):
        if not path.endswith("..."):
            assert (TOP / path).exists(), path
    table = re.findall(r"^\| `([\w-]+)` \|", PAGE, re.MULTILINE)
    assert set(table) == set(OVERLAYS)
    names = {f"{d['kind']}/{d['metadata']['name']}".lower() for o in OVERLAYS for d in rendered[o]}
    assert set(re.findall(r"(?:job|pod)/qwen3[\w-]+", PAGE)) <= names
    for work in re.findall(r"-C (/work/\S+)", PAGE):
        assert work in ("/work/input", examples()["README.md"]["WORK_DIR"])


def test_a_kustomization_on_top_sets_image_and_variables(kubectl, copy) -> None:
    """The way that the page advises for changes of one's own."""
    mine = copy.parent / "mine"
    mine.mkdir()
    (mine / "kustomization.yaml").write_text(
        "resources: [../k8s/overlays/job]\n"
        "images: [{name: qwen3-tts-job, newName: registry.example.com/me/job, newTag: v2}]\n"
        "configMapGenerator: [{name: qwen3-tts-job, behavior: merge, literals: [SPEAKER_NAME=anna]}]\n"
    )
    documents = tool.render(kubectl, mine)
    assert container(documents)["image"] == "registry.example.com/me/job:v2"
    assert variables(documents)["SPEAKER_NAME"] == "anna"
    assert variables(documents)["WORK_DIR"] == "/work/run"
