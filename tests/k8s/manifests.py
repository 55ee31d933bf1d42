"""Looking things up in rendered documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
K8S = TOP / "k8s"
OVERLAYS = sorted(path.parent.name for path in (K8S / "overlays").glob("*/kustomization.yaml"))
#: The overlays that run the job; `files` only holds the volume open.
JOBS = [name for name in OVERLAYS if name != "files"]
#: Those whose pods train together.
NODES = ["multi-node", "jobset", "trainjob"]

Document = dict[str, Any]


def one(documents: list[Document], kind: str) -> Document:
    """The only document of a kind."""
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def job_spec(documents: list[Document]) -> Document:
    """The spec of the Job, also of the one that a CronJob, a JobSet or a TrainJob makes."""
    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] == "CronJob":
            return spec["jobTemplate"]["spec"]
        if document["kind"] == "JobSet":
            return spec["replicatedJobs"][0]["template"]["spec"]
        if document["kind"] == "TrainingRuntime":
            nodes = one(documents, "TrainJob")["spec"]["trainer"]["numNodes"]
            job = spec["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
            return {**job, "completions": nodes, "parallelism": nodes}
    return one(documents, "Job")["spec"]


def template(documents: list[Document]) -> Document:
    """The pod, `metadata` and `spec`."""
    pods = [document for document in documents if document["kind"] == "Pod"]
    return pods[0] if pods else job_spec(documents)["template"]


def container(documents: list[Document]) -> Document:
    """The pod's only container."""
    (found,) = template(documents)["spec"]["containers"]
    return found


def variables(documents: list[Document], index: int | None = None) -> dict[str, str]:
    """The container's environment as the kubelet would make it; `index` is that of a pod of an Indexed Job."""
    environment: dict[str, str] = {}
    running = container(documents)
    for source in running.get("envFrom", []):
        (values,) = [
            d["data"]
            for d in documents
            if d["kind"] == "ConfigMap" and d["metadata"]["name"] == source["configMapRef"]["name"]
        ]
        environment.update(values)
    for variable in running.get("env", []):
        environment[variable["name"]] = variable["value"] if "value" in variable else _looked_up(variable, documents)
    if job_spec(documents).get("completionMode") == "Indexed" and index is not None:
        environment["JOB_COMPLETION_INDEX"] = str(index)
    return environment


def _looked_up(variable: Document, documents: list[Document]) -> str:
    source = variable["valueFrom"]
    if "resourceFieldRef" in source:
        kind, resource = source["resourceFieldRef"]["resource"].split(".", 1)
        return str(container(documents)["resources"][kind][resource])
    assert source["fieldRef"]["fieldPath"] == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    return "0"
