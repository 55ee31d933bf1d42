"""Whether a cluster would take a document: Kubernetes' own kinds, and what makes Jobs of JobSet and Kubeflow Trainer.

The fields of the latter are written down here from JobSet 0.12 and Kubeflow Trainer 2.3, as far as the overlays use
them; the Job within is checked as any other. So a field that is misspelled, misplaced or of the wrong type is found,
but not one that a newer version of theirs has given up.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
from kubernetes_validate import utils

from tests.k8s.manifests import Document

utils.schema_contents = cache(utils.schema_contents)  # it reads megabytes for each document

Schema = dict[str, Any]
TEXT, NUMBER, YES_OR_NO = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
ANYTHING: Schema = {"type": "object"}  # checked by Kubernetes' own schema


def fields(required: str = "", **properties: Schema) -> Schema:
    """An object with these fields and no others."""
    return {
        "type": "object", "properties": properties, "required": required.split(), "additionalProperties": False,
    }  # fmt: skip


def listed(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def replicated(job: Schema) -> Schema:
    return fields(
        "replicatedJobs",
        ttlSecondsAfterFinished=NUMBER,
        suspend=YES_OR_NO,
        network=fields(enableDNSHostnames=YES_OR_NO, publishNotReadyAddresses=YES_OR_NO, subdomain=TEXT),
        replicatedJobs=listed(fields("name template", name=TEXT, replicas=NUMBER, template=job)),
    )


JOBSET = replicated(fields("spec", metadata=ANYTHING, spec=ANYTHING))
POD_PATCH = fields(
    nodeSelector=ANYTHING, tolerations=listed(ANYTHING), serviceAccountName=TEXT, volumes=listed(ANYTHING)
)
PATCHED_JOB = fields(metadata=ANYTHING, spec=fields(template=fields(metadata=ANYTHING, spec=POD_PATCH)))
PATCHED = fields(spec=fields(replicatedJobs=listed(fields("name", name=TEXT, template=PATCHED_JOB))))
SPECS: dict[tuple[str, str], Schema] = {
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): JOBSET,
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"): fields(
        mlPolicy=fields(numNodes=NUMBER), template=fields(metadata=ANYTHING, spec=JOBSET)
    ),
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): fields(
        "runtimeRef",
        runtimeRef=fields("name", apiGroup=TEXT, kind={"enum": ["TrainingRuntime"]}, name=TEXT),
        trainer=fields(image=TEXT, args=listed(TEXT), numNodes=NUMBER, env=listed(ANYTHING)),
        suspend=YES_OR_NO,
        runtimePatches=listed(
            fields("manager", manager={**TEXT, "pattern": "/"}, trainingRuntimeSpec=fields(template=PATCHED))
        ),
    ),
}


def check(document: Document, version: str) -> None:
    """Raise what a cluster of that version of Kubernetes would refuse the document for.

    Raises:
        kubernetes_validate.ValidationError, jsonschema.ValidationError: naming the field.
    """
    schema = SPECS.get((document["apiVersion"], document["kind"]))
    if schema is None:
        kubernetes_validate.validate(document, version, strict=True)
        return
    jsonschema.validate(document, fields("metadata spec", apiVersion=TEXT, kind=TEXT, metadata=ANYTHING, spec=schema))
    spec = document["spec"]
    for one in spec.get("template", {}).get("spec", spec).get("replicatedJobs", []):
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": one["name"]},
            "spec": one["template"]["spec"],
        }
        kubernetes_validate.validate(job, version, strict=True)
