"""What `kubectl apply` is given: every overlay renders, to documents that the newest Kubernetes versions accept."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions

from job.config.settings import load
from job.core.errors import BadInput
from job.processes import nodes
from tests.k8s import kubectl as tool
from tests.k8s import owners
from tests.k8s.manifests import JOBS, K8S, NODES, OVERLAYS, TOP, container, job_spec, one, template, variables

NEWEST = all_versions()[-3:]


def test_the_overlays_that_the_project_promises_are_there() -> None:
    assert set(OVERLAYS) == {"job", "multi-gpu", "multi-node", "jobset", "trainjob", "nightly", "files"}


@pytest.mark.parametrize("version", NEWEST)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_documents_are_valid(rendered, overlay, version) -> None:
    """Strictly: a misspelled field is an error."""
    for document in rendered[overlay]:
        owners.check(document, version)


def test_the_namespace_is_valid() -> None:
    for version in NEWEST:
        kubernetes_validate.validate(yaml.safe_load((K8S / "namespace.yaml").read_text()), version, strict=True)


def test_validation_notices_a_misspelled_field(rendered) -> None:
    document = {**one(rendered["job"], "Job"), "spec": {**job_spec(rendered["job"]), "backofLimit": 3}}
    with pytest.raises(kubernetes_validate.ValidationError, match="backofLimit"):
        kubernetes_validate.validate(document, NEWEST[-1], strict=True)


@pytest.mark.parametrize(
    ("overlay", "kind", "old", "new"),
    [
        ("jobset", "JobSet", "enableDNSHostnames:", "enableDnsHostnames:"),
        ("jobset", "JobSet", "backoffLimit:", "backofLimit:"),
        ("trainjob", "TrainingRuntime", "mlPolicy:", "mlpolicy:"),
        ("trainjob", "TrainingRuntime", "podReplacementPolicy: Failed", "podReplacementPolicy: 7"),
        ("trainjob", "TrainJob", "numNodes: 2", "numNodes: two"),
        ("trainjob", "TrainJob", "trainer:", "podTemplateOverrides: []\n  trainer:"),
    ],
)
def test_validation_notices_wrong_fields_of_what_makes_jobs(rendered, overlay, kind, old, new) -> None:
    text = yaml.safe_dump(one(rendered[overlay], kind), sort_keys=False)
    assert old in text
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        owners.check(yaml.safe_load(text.replace(old, new)), NEWEST[-1])


def test_job_yaml_is_the_rendering_of_overlays_job(kubectl, rendered, copy) -> None:
    """After an edit: k8s/render.sh."""
    assert list(yaml.safe_load_all((K8S / "job.yaml").read_text())) == rendered["job"]

    (copy / "job.yaml").unlink()
    path = f"{kubectl.parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", copy / "render.sh"], check=True, env={**os.environ, "PATH": path})
    made = (copy / "job.yaml").read_text()
    assert list(yaml.safe_load_all(made)) == rendered["job"]
    head = made.partition("---")[0]
    assert (K8S / "job.yaml").read_text().startswith(head), "its comments are render.sh's as well"
    assert not [path for path in copy.iterdir() if path.name.startswith(".")], "nothing temporary is left"


def test_render_leaves_job_yaml_alone_when_it_fails(kubectl, copy) -> None:
    before = (copy / "job.yaml").read_text()
    (copy / "overlays/job/kustomization.yaml").write_text("resources: [missing]\n")
    path = f"{kubectl.parent}{os.pathsep}{os.environ['PATH']}"
    failed = subprocess.run(["sh", copy / "render.sh"], env={**os.environ, "PATH": path}, capture_output=True)
    assert failed.returncode != 0
    assert (copy / "job.yaml").read_text() == before
    assert not [path for path in copy.iterdir() if path.name.startswith(".")]


def test_yaml_and_script_are_clean() -> None:
    tools = Path(sys.executable).parent
    subprocess.run([sys.executable, "-m", "yamllint", "--strict", "k8s"], cwd=TOP, check=True)
    subprocess.run([tools / "shellcheck", "k8s/render.sh"], cwd=TOP, check=True)


def test_overlays_can_live_in_one_namespace(rendered) -> None:
    """No overlay changes what another one has put there."""
    names = [(d["kind"], d["metadata"]["name"]) for name in OVERLAYS for d in rendered[name]]
    assert len(names) == len(set(names))


def test_policies_and_services_select_the_pods_of_their_own_overlay_only(rendered) -> None:
    labels = {overlay: template(rendered[overlay])["metadata"]["labels"] for overlay in OVERLAYS}
    for overlay in OVERLAYS:
        for document in rendered[overlay]:
            selector = None
            if document["kind"] == "NetworkPolicy":
                selector = document["spec"]["podSelector"]["matchLabels"]
            if document["kind"] == "Service":
                selector = document["spec"]["selector"]
            if selector is not None:
                chosen = [o for o in OVERLAYS if selector.items() <= labels[o].items()]
                assert chosen == [overlay], document["metadata"]["name"]


@pytest.mark.parametrize("overlay", JOBS)
def test_what_a_pod_refers_to_is_rendered_with_it(rendered, overlay) -> None:
    documents = rendered[overlay]
    names = {(d["kind"], d["metadata"]["name"]) for d in documents}
    pod = template(documents)["spec"]
    assert variables(documents)
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    assert claims and {("PersistentVolumeClaim", claim) for claim in claims} <= names
    mounted = {mount["name"] for mount in container(documents)["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_image_is_set_in_one_place(kubectl, copy) -> None:
    for overlay in OVERLAYS:
        file = copy / "overlays" / overlay / "kustomization.yaml"
        text, count = re.subn(
            r"newName: qwen3-tts-job( +#.*)?\n +newTag: 0\.1\.0", "newName: my/own\n    newTag: v7", file.read_text()
        )
        assert count == 1, overlay
        file.write_text(text)
        assert container(tool.render(kubectl, file.parent))["image"] == "my/own:v7"


def test_nightly_runs_what_the_job_runs(rendered) -> None:
    """Only names, labels and the deadline differ."""
    cron = one(rendered["nightly"], "CronJob")["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    assert cron["startingDeadlineSeconds"] > 0
    assert {"successfulJobsHistoryLimit", "failedJobsHistoryLimit"} <= cron.keys()
    assert cron["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 24 * 3600, "it ends before the next night"
    as_job = yaml.safe_dump(cron["jobTemplate"]["spec"]).replace("qwen3-tts-job-nightly", "qwen3-tts-job")
    night = yaml.safe_load(as_job.replace("instance: nightly", "instance: job"))
    assert {**night, "activeDeadlineSeconds": 0} == {**job_spec(rendered["job"]), "activeDeadlineSeconds": 0}


def test_multi_node_names_and_numbers_agree(rendered) -> None:
    """torchrun on every node finds the first pod by the name that Kubernetes gives it."""
    documents = rendered["multi-node"]
    job, service = one(documents, "Job"), one(documents, "Service")
    spec, values = job["spec"], variables(documents, index=1)
    assert spec["completionMode"] == "Indexed"
    assert str(spec["completions"]) == str(spec["parallelism"]) == values["NUM_NODES"]
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert values["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert values["MASTER_PORT"] == str(service["spec"]["ports"][0]["port"])
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert len(values["MASTER_ADDR"].split(".")[0]) <= 63


@pytest.mark.parametrize(("overlay", "kind"), [("jobset", "JobSet"), ("trainjob", "TrainJob")])
def test_pods_find_the_first_one_by_the_name_that_a_jobset_gives_it(rendered, overlay, kind) -> None:
    """A TrainJob makes a JobSet of its own name, from the runtime that is rendered with it."""
    documents = rendered[overlay]
    name, spec, values = one(documents, kind)["metadata"]["name"], job_spec(documents), variables(documents, index=1)
    assert spec["completionMode"] == "Indexed"
    assert str(spec["completions"]) == str(spec["parallelism"]) == values["NUM_NODES"]
    assert values["MASTER_ADDR"] == f"{name}-node-0-0.{name}"
    assert len(f"{name}-node-0-0-abcde") <= 63
    assert not [d for d in documents if d["kind"] in ("Job", "Service")], "they are made"
    if kind == "TrainJob":
        runtime = one(documents, "TrainingRuntime")
        assert one(documents, kind)["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
        (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
        assert job["template"]["metadata"]["labels"]["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
        assert job["name"] == container(documents)["name"] == "node", "what image and variables of a TrainJob go to"


@pytest.mark.parametrize("overlay", NODES)
def test_nodes_share_their_work_directory(rendered, overlay) -> None:
    """Each prepares a part of the data, and all train on the whole: one volume, one place in it."""
    documents = rendered[overlay]
    assert one(documents, "PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"]
    (mount,) = [m for m in container(documents)["volumeMounts"] if m["mountPath"] == "/work"]
    assert mount.keys() == {"mountPath", "name"}, "the same directory for every pod"
    places = {variables(documents, index=index)["WORK_DIR"] for index in range(2)}
    assert len(places) == 1 and places.pop().startswith("/work")


@pytest.mark.parametrize("overlay", NODES)
def test_nodes_with_volumes_of_their_own(kubectl, copy, overlay) -> None:
    """The component as the page says to add it: no volume that two pods would have to mount, and the job knows it."""
    file = copy / "overlays" / overlay / "kustomization.yaml"
    page = (K8S / "README.md").read_text()
    component, mirror = re.findall(
        r"^  - \.\./\.\./components/own-volumes$|^      - MIRROR_CHECKPOINTS=\S+$", page, re.MULTILINE
    )
    text = file.read_text().replace("components/several-nodes", f"components/several-nodes\n{component}")
    file.write_text(text.replace("      - NUM_NODES=2\n", f"      - NUM_NODES=2\n{mirror}\n"))
    documents = tool.render(kubectl, file.parent)
    for document in documents:
        owners.check(document, NEWEST[-1])
    assert not [d for d in documents if d["kind"] == "PersistentVolumeClaim"]
    (work,) = [v for v in template(documents)["spec"]["volumes"] if v["name"] == "work"]
    assert work["ephemeral"]["volumeClaimTemplate"]["spec"]["accessModes"] == ["ReadWriteOnce"]
    settings = load(variables(documents, index=1))
    nodes.check(settings)
    assert settings.shared_work_dir == "false" and settings.num_nodes == 2
    forgotten = settings.model_copy(update={"mirror_checkpoints": None})
    with pytest.raises(BadInput, match=r"SHARED_WORK_DIR=false: .*mount the same one .*or set MIRROR_CHECKPOINTS"):
        nodes.check(forgotten)


@pytest.mark.parametrize("overlay", ["job", "multi-gpu", *NODES])
def test_gpus_asked_for_are_the_gpus_used(rendered, overlay) -> None:
    resources = container(rendered[overlay])["resources"]
    gpus = variables(rendered[overlay]).get("NUM_GPUS", "1")
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == gpus


@pytest.mark.parametrize("overlay", ["job", "nightly", *NODES])
def test_kueue_component_queues_every_kind_of_job(kubectl, copy, overlay) -> None:
    file = copy / "overlays" / overlay / "kustomization.yaml"
    file.write_text(file.read_text() + "components:\n  - ../../components/kueue\n")
    documents = tool.render(kubectl, file.parent)
    for document in documents:
        owners.check(document, NEWEST[-1])
    queued = [d["spec"]["jobTemplate"] if d["kind"] == "CronJob" else d for d in documents if "Job" in d["kind"]]
    (job,) = queued
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "user-queue"
    assert job["spec"]["suspend"] is True, "it waits for Kueue to admit it"


def test_examples_in_comments_work_when_uncommented(kubectl, copy) -> None:
    file = copy / "overlays/job/kustomization.yaml"
    text = re.sub(r"^( *)# (?=- |components:|patches:|  )", r"\1", file.read_text(), flags=re.MULTILINE)
    file.write_text(text)
    documents = tool.render(kubectl, file.parent)
    for document in documents:
        kubernetes_validate.validate(document, NEWEST[-1], strict=True)
    pod = template(documents)["spec"]
    assert {"key": "spot", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert len(pod["tolerations"]) == 2
    assert pod["nodeSelector"] and pod["runtimeClassName"] == "nvidia"
    assert one(documents, "PersistentVolumeClaim")["spec"]["storageClassName"]
    assert job_spec(documents)["suspend"] is True
    assert variables(documents)["HF_TOKEN_FILE"] and variables(documents)["TRAIN_JSONL"]


def test_a_trainjobs_example_in_comments_works_when_uncommented(kubectl, copy) -> None:
    """Nodes and taints of a cluster, as a patch of the runtime."""
    file = copy / "overlays/trainjob/kustomization.yaml"
    file.write_text(re.sub(r"^# (?=  )", "", file.read_text(), flags=re.MULTILINE))
    train = one(tool.render(kubectl, file.parent), "TrainJob")
    owners.check(train, NEWEST[-1])
    (patch,) = train["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert job["name"] == "node" and pod["nodeSelector"] and pod["tolerations"][0]["key"] == "spot"
