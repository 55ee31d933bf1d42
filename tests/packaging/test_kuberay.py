"""deploy/kuberay/rayjob.yaml: pods that Kubernetes takes, confined as those of k8s/; fields that KubeRay has.

KubeRay's fields are written down here from its API reference (1.6), as far as the manifest uses them.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions

from tests.k8s.owners import ANYTHING, NUMBER, TEXT, YES_OR_NO, fields, listed
from tests.k8s.pod_security import violations
from tests.packaging.platforms import Template, problems

TOP = Path(__file__).resolve().parents[2]
TEXTS = {"type": "object", "additionalProperties": TEXT}
GROUP = {"rayStartParams": TEXTS, "template": fields("spec", metadata=ANYTHING, spec=ANYTHING)}
CLUSTER = fields(
    "rayVersion headGroupSpec workerGroupSpecs",
    rayVersion=TEXT,
    authOptions=fields("mode", mode={"enum": ["token", "disabled"]}, secretName=TEXT),
    headGroupSpec=fields("template", **GROUP),
    workerGroupSpecs=listed(
        fields(
            "groupName template",
            groupName=TEXT, replicas=NUMBER, minReplicas=NUMBER, maxReplicas=NUMBER, **GROUP,
        )
    ),
)  # fmt: skip
RAYJOB = fields(
    "entrypoint rayClusterSpec",
    entrypoint=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]},
    backoffLimit=NUMBER,
    shutdownAfterJobFinishes=YES_OR_NO,
    ttlSecondsAfterFinished=NUMBER,
    activeDeadlineSeconds=NUMBER,
    rayClusterSpec=CLUSTER,
)


@pytest.fixture
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((TOP / "deploy/kuberay/rayjob.yaml").read_text()))


def pods(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Group -> its pod's template."""
    cluster = documents[1]["spec"]["rayClusterSpec"]
    workers = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **workers}


def test_a_cluster_takes_it(documents) -> None:
    """Strictly: a misspelled or misplaced field is an error."""
    for version in all_versions()[-3:]:
        kubernetes_validate.validate(documents[0], version, strict=True)
        for name, template in pods(documents).items():
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]}
            kubernetes_validate.validate(pod, version, strict=True)
    jsonschema.validate(documents[1]["spec"], RAYJOB)
    wrong = copy.deepcopy(documents[1]["spec"])
    wrong["rayClusterSpec"]["headGroupSpec"]["replicas"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, RAYJOB)


@pytest.mark.parametrize("group", ["head", "readers", "encoders"])
def test_pods_are_confined_as_all_others(documents, group) -> None:
    """The restricted standard, the image's own user, a read-only root; the head alone has the volume and the secret."""
    spec = pods(documents)[group]["spec"]
    (container,) = spec["containers"]
    assert violations(spec) == []
    (uid,) = re.findall(r"^USER (\d+):\1$", (TOP / "Dockerfile").read_text(), re.MULTILINE)
    assert {str(spec["securityContext"][key]) for key in ("runAsUser", "runAsGroup", "fsGroup")} == {uid}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/work", "/tmp", "/dev/shm"} <= mounts
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    kept = [volume for volume in spec["volumes"] if "secret" in volume or "persistentVolumeClaim" in volume]
    assert bool(kept) == (group == "head")
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (group == "encoders")


def test_it_runs_the_job_with_the_ray_that_is_locked(documents) -> None:
    config, job = documents
    env, address, entrypoint, *command = job["spec"]["entrypoint"].split()
    assert (env, address, entrypoint) == ("env", "RAY_ADDRESS=auto", "/opt/job/entrypoint.sh")
    assert problems(Template(command, config["data"])) == []
    assert config["data"]["ENGINE"] == "ray"
    cluster = job["spec"]["rayClusterSpec"]
    assert f"\nray=={cluster['rayVersion']} " in (TOP / "requirements-ray.lock").read_text()
    assert cluster["authOptions"] == {"mode": "token"}
    (encoders,) = [group for group in cluster["workerGroupSpecs"] if group["groupName"] == "encoders"]
    assert str(encoders["maxReplicas"]) == config["data"]["RAY_ENCODERS"]
