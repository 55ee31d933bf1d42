"""Safety: what a pod may do, what it may reach, who sees the token, and what becomes of each exit code."""

from __future__ import annotations

import copy as copies
import re
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import yaml

from job.core import errors
from tests.k8s.manifests import JOBS, NODES, OVERLAYS, TOP, container, job_spec, one, template, variables
from tests.k8s.pod_security import violations

#: What becomes of a pod that ends with each code, as docs/troubleshooting.md and the exit codes' own texts promise.
OUTCOMES = {
    errors.BAD_INPUT: "FailJob",
    errors.DATA_REFUSED: "FailJob",
    errors.TRAINING_STOPPED: "FailJob",
    errors.SPEECH_FAILED: "FailJob",
    errors.PUBLISH_FAILED: "Count",
    errors.STOPPED_BY_SIGNAL: "Ignore",
}


# ---- the pod ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_restricted_pod_security_standard(rendered, overlay) -> None:
    assert violations(template(rendered[overlay])["spec"]) == []


MUTATIONS: list[tuple[str, Any]] = [
    ("hostNetwork", lambda s: s.update(hostNetwork=True)),
    ("hostPath", lambda s: s["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
    ("runAsNonRoot", lambda s: s["securityContext"].pop("runAsNonRoot")),
    ("runAsUser", lambda s: s["containers"][0]["securityContext"].update(runAsUser=0)),
    ("seccompProfile", lambda s: s["securityContext"].pop("seccompProfile")),
    ("allowPrivilegeEscalation", lambda s: s["containers"][0]["securityContext"].pop("allowPrivilegeEscalation")),
    ("privileged", lambda s: s["containers"][0]["securityContext"].update(privileged=True)),
    ("capabilities.drop", lambda s: s["containers"][0]["securityContext"].pop("capabilities")),
    ("capabilities.add", lambda s: s["containers"][0]["securityContext"]["capabilities"].update(add=["SYS_PTRACE"])),
    ("hostPort", lambda s: s["containers"][0].update(ports=[{"hostPort": 80, "containerPort": 80}])),
    ("allowPrivilegeEscalation", lambda s: s.update(initContainers=[{"name": "more"}])),
]


@pytest.mark.parametrize("problem, mutate", MUTATIONS)
def test_the_check_of_the_standard_notices(rendered, problem, mutate) -> None:
    spec = copies.deepcopy(template(rendered["job"])["spec"])
    mutate(spec)
    assert any(problem in found for found in violations(spec))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_more_than_the_standard(rendered, overlay) -> None:
    """The image's own user, a read-only root with room to write, and no way to the Kubernetes API."""
    pod, running = template(rendered[overlay])["spec"], container(rendered[overlay])
    (uid,) = re.findall(r"^USER (\d+):\1$", (TOP / "Dockerfile").read_text(), re.MULTILINE)
    security = pod["securityContext"]
    assert str(security["runAsUser"]) == str(security["runAsGroup"]) == str(security["fsGroup"]) == uid
    assert running["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False, "variables of other services in the namespace stay out"


@pytest.mark.parametrize("overlay", JOBS)
def test_there_is_room_where_the_job_writes(rendered, overlay) -> None:
    """/work lasts; /tmp and /dev/shm are the pod's own, and bounded; shared memory fits into the memory limit."""
    pod, running = template(rendered[overlay])["spec"], container(rendered[overlay])
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    at = {mount["mountPath"]: (volumes[mount["name"]], mount) for mount in running["volumeMounts"]}
    for path in ("/work", "/tmp", "/dev/shm"):
        assert not at[path][1].get("readOnly")
    assert "persistentVolumeClaim" in at["/work"][0]
    assert at["/dev/shm"][0]["emptyDir"]["medium"] == "Memory"
    limits = running["resources"]["limits"]
    assert gibibytes(at["/dev/shm"][0]["emptyDir"]["sizeLimit"]) < gibibytes(limits["memory"])
    assert gibibytes(at["/tmp"][0]["emptyDir"]["sizeLimit"]) < gibibytes(limits["ephemeral-storage"])
    work = variables(rendered[overlay])["WORK_DIR"]
    assert work.startswith("/work/")


def gibibytes(quantity: str) -> int:
    assert quantity.endswith("Gi"), quantity
    return int(quantity.removesuffix("Gi"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_resources_are_requested_and_limited(rendered, overlay) -> None:
    resources = container(rendered[overlay])["resources"]
    for kind in ("requests", "limits"):
        assert {"cpu", "memory"} <= resources[kind].keys()
    assert ("nvidia.com/gpu" in resources["limits"]) == (overlay in JOBS)


# ---- the token -------------------------------------------------------------------------------------------------------

SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|(^|_)KEY$", re.IGNORECASE)


def leaks(documents: list[dict[str, Any]]) -> list[str]:
    """Variables that hold a secret, however they come by it; files that hold one are fine."""
    found = [f"Secret {d['metadata']['name']} is rendered" for d in documents if d["kind"] == "Secret"]
    running = container(documents)
    found += [f"envFrom {source}" for source in running.get("envFrom", []) if "secretRef" in source]
    for variable in running.get("env", []):
        if "secretKeyRef" in variable.get("valueFrom", {}):
            found.append(variable["name"])
    values = {v["name"]: v.get("value", "") for v in running.get("env", [])}
    for document in documents:
        if document["kind"] == "ConfigMap":
            values.update(document["data"])
    for name, value in values.items():
        if (SECRET.search(name) and not name.endswith("_FILE")) or re.search(r"\bhf_\w{8,}", value):
            found.append(name)
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_token_in_a_plain_variable(rendered, overlay) -> None:
    assert leaks(rendered[overlay]) == []


@pytest.mark.parametrize(
    "variable",
    [
        {"name": "HF_TOKEN", "value": "x"},
        {"name": "WANDB_API_KEY", "value": "x"},
        {"name": "NOTE", "value": "hf_abcdefgh1234"},
        {"name": "ANY", "valueFrom": {"secretKeyRef": {"name": "huggingface", "key": "token"}}},
    ],
)
def test_the_check_for_tokens_notices(rendered, variable) -> None:
    documents = copies.deepcopy(rendered["job"])
    container(documents)["env"].append(variable)
    assert leaks(documents) == [variable["name"]]


@pytest.mark.parametrize("overlay", JOBS)
def test_the_token_is_a_file_that_only_the_job_can_read(rendered, overlay) -> None:
    """And without the Secret the pod starts all the same."""
    pod, running = template(rendered[overlay])["spec"], container(rendered[overlay])
    (volume,) = [v for v in pod["volumes"] if "secret" in v]
    (mount,) = [m for m in running["volumeMounts"] if m["name"] == volume["name"]]
    assert volume["secret"]["optional"] is True
    assert volume["secret"]["defaultMode"] & 0o337 == 0, "owner and group may read, and that is all"
    assert mount["readOnly"] is True
    mentioned = re.findall(r"HF_TOKEN_FILE[=:] ?(\S+)", (TOP / "k8s/overlays/job/kustomization.yaml").read_text())
    assert mentioned == [f"{mount['mountPath']}/token"]
    assert mentioned == re.findall(r"HF_TOKEN_FILE: (\S+)", (TOP / "k8s/job.yaml").read_text())


# ---- the network -----------------------------------------------------------------------------------------------------


def reachable(policy: dict[str, Any], address: str, port: int, protocol: str = "TCP") -> bool:
    """Whether the policy lets the pod connect to an address outside the cluster's own pods."""
    for rule in policy["spec"]["egress"]:
        ports = rule.get("ports", [{"port": port, "protocol": protocol}])
        if {"port": port, "protocol": protocol} not in ports:
            continue
        blocks = [peer["ipBlock"] for peer in rule.get("to", []) if "ipBlock" in peer]
        if "to" not in rule:
            return True
        for block in blocks:
            ip = ip_address(address)
            if ip in ip_network(block["cidr"]) and not any(ip in ip_network(e) for e in block.get("except", [])):
                return True
    return False


@pytest.mark.parametrize("overlay", JOBS)
def test_the_network_reaches_the_hub_and_no_further(rendered, overlay) -> None:
    policy = one(rendered[overlay], "NetworkPolicy")
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert reachable(policy, "10.96.0.10", 53, "UDP"), "names"
    assert reachable(policy, "18.164.174.55", 443) and reachable(policy, "2600:9000::1", 443), "the Hub"
    assert not reachable(policy, "18.164.174.55", 22)
    assert not reachable(policy, "169.254.169.254", 443) and not reachable(policy, "169.254.169.254", 80), "metadata"
    assert not reachable(policy, "10.96.0.1", 443) and not reachable(policy, "fd00::1", 443), "the cluster's API"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_comes_in_but_the_jobs_own_pods(rendered, overlay) -> None:
    policy, labels = one(rendered[overlay], "NetworkPolicy"), template(rendered[overlay])["metadata"]["labels"]
    if overlay not in NODES:
        assert policy["spec"]["ingress"] == []
        return
    own = [{"podSelector": {"matchLabels": labels}}]
    assert policy["spec"]["ingress"] == [{"from": own}]
    assert {"to": own} in policy["spec"]["egress"], "rendezvous and NCCL, on any port"


# ---- the end of a pod ------------------------------------------------------------------------------------------------


def outcome(spec: dict[str, Any], code: int, *, disrupted: bool = False) -> str:
    """What the Job controller does about a failed pod: the action of the first rule that matches, or Count."""
    for rule in spec["podFailurePolicy"]["rules"]:
        conditions, codes = rule.get("onPodConditions", []), rule.get("onExitCodes")
        if disrupted and {"type": "DisruptionTarget", "status": "True"} in conditions:
            return rule["action"]
        if codes and (code in codes["values"]) == (codes["operator"] == "In"):
            return rule["action"]
    return "Count"


def test_every_exit_code_of_the_job_has_an_outcome() -> None:
    """A code that is added to job/core/errors.py must be given one here and in k8s/base/job.yaml."""
    codes = {value for name, value in vars(errors).items() if name.isupper() and isinstance(value, int)}
    assert OUTCOMES.keys() == codes - {errors.OK}


@pytest.mark.parametrize("overlay", JOBS)
def test_exit_codes_fail_at_once_retry_or_are_not_counted(rendered, overlay) -> None:
    spec = job_spec(rendered[overlay])
    assert {code: outcome(spec, code) for code in OUTCOMES} == OUTCOMES
    codes = [rule["onExitCodes"] for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert {one["containerName"] for one in codes} == {container(rendered[overlay])["name"]}
    assert outcome(spec, 1) == outcome(spec, 137) == "Count", "a crash, or memory that ran out, is not tried for ever"
    assert outcome(spec, 137, disrupted=True) == outcome(spec, 5, disrupted=True) == "Ignore", "a drained node"
    assert outcome(spec, 4, disrupted=True) == "FailJob", "training that diverged diverges again"
    assert spec["template"]["spec"]["restartPolicy"] == "Never", "the policy needs it"
    assert spec["podReplacementPolicy"] == "Failed", "never two pods on one volume"


@pytest.mark.parametrize("overlay", JOBS)
def test_retries_outlast_a_short_outage_and_everything_ends(rendered, overlay) -> None:
    spec = job_spec(rendered[overlay])
    waits = [min(10 * 2**n, 360) for n in range(spec["backoffLimit"])]  # Kubernetes: 10 s, doubled, at most 6 minutes
    assert 5 * 60 <= sum(waits) <= 30 * 60
    assert 0 < spec["activeDeadlineSeconds"] <= 7 * 24 * 3600
    owner = next((d for d in rendered[overlay] if d["kind"] in ("JobSet", "TrainJob")), None)
    if owner is None:
        assert spec["ttlSecondsAfterFinished"] >= 24 * 3600, "time to read the log"
    else:
        assert "ttlSecondsAfterFinished" not in spec, "it would vanish from under its owner"
        assert owner["spec"].get("ttlSecondsAfterFinished", 24 * 3600) >= 24 * 3600
    assert container(rendered[overlay])["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_the_namespace_insists_on_the_restricted_standard() -> None:
    labels = yaml.safe_load((TOP / "k8s/namespace.yaml").read_text())["metadata"]["labels"]
    levels = {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")}
    assert levels == {"restricted"}
