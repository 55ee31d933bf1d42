"""Two pods of the multi-node overlay, played on one machine: a network namespace for each, the real entrypoint.sh, the
real job on the tiny model, and nothing but the rendered names and variables to find one another by.

Only what the machine lacks is replaced: the GPU, and the volume at /work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import STDOUT

import pytest

from tests.k8s.manifests import TOP, Document, container, one, variables
from tests.support.namespaces import ADDRESSES, NoNamespaces, two_namespaces

STEPS = 4


@pytest.fixture
def namespaces() -> Iterator[list[str]]:
    """Two network namespaces with a cable between them."""
    try:
        with two_namespaces() as found:
            yield [name for name, _ in found]
    except NoNamespaces as error:
        pytest.skip(str(error))


def hosts(documents: list[Document], file: Path) -> list[str]:
    """Write what the cluster's DNS answers for pods of an Indexed Job with a headless Service; returns their names."""
    job, service = one(documents, "Job")["metadata"]["name"], one(documents, "Service")["metadata"]["name"]
    names = [f"{job}-{index}" for index in range(2)]
    domain = f"{service}.default.svc.cluster.local"
    lines = [f"{a} {n}.{domain} {n}.{service} {n}" for a, n in zip(ADDRESSES, names, strict=True)]
    file.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    return names


def pod(documents: list[Document], index: int, namespace: str, name: str, place: Path) -> subprocess.Popen[str]:
    """Start the overlay's container as pod `index`; the volume at /work is `place`/volume."""
    rendered = variables(documents, index=index)
    environment = {
        **rendered,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(place / "volume"),
        "WORK_DIR": rendered["WORK_DIR"].replace("/work", str(place / "volume"), 1),
        "CONSOLE_LOG": str(place / f"log-{index}"),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "DEVICE": "cpu",
        "MAX_STEPS": str(STEPS),
        "PROBE_SENTENCES": "0",
        "TEST_TEXTS": "Hello.",
        "MAX_NEW_TOKENS": "12",
        "RENDEZVOUS_TIMEOUT": "180",
    }
    become = 'mount --bind "$0" /etc/hosts && hostname "$1" && shift && exec "$@"'
    command = ["ip", "netns", "exec", namespace, "unshare", "--mount", "--uts", "sh", "-c", become, place / "hosts"]
    command += [name, TOP / "entrypoint.sh", *container(documents)["args"]]
    return subprocess.Popen(
        [str(word) for word in command], env=environment, cwd=place, stdout=subprocess.PIPE, stderr=STDOUT, text=True
    )


@pytest.mark.slow
def test_two_pods_find_one_another_and_train_one_voice(rendered, namespaces, tmp_path: Path) -> None:
    """Both prepare and train, in one directory; what comes before and after is done once, by the first."""
    documents = rendered["multi-node"]
    names = hosts(documents, tmp_path / "hosts")
    (tmp_path / "volume").mkdir()
    # The first pod comes last, so that the other one has to wait for it.
    pods = {index: pod(documents, index, namespaces[index], names[index], tmp_path) for index in (1, 0)}
    said = {}
    try:
        for index, running in pods.items():
            said[index] = running.communicate(timeout=300)[0]
        for index, running in pods.items():
            assert running.returncode == 0, f"pod {index}: {said[index]}"
    finally:
        for running in pods.values():
            running.terminate()  # entrypoint.sh stops what it has started
            running.wait(timeout=60)

    (work,) = [path.parent for path in (tmp_path / "volume").rglob("output") if path.is_dir()]
    steps = [json.loads(line) for line in (work / "output/training_log.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in steps) == STEPS
    assert (work / "output/best/model.safetensors").is_file() and (work / "report/index.html").is_file()
    for stage in ("doctor", "fetch", "validate", "push", "synthesize", "report"):
        assert said[0].count(f"[{stage}] started") == 1 and f"[{stage}] started" not in said[1], stage
    assert said[0].count("[train] started") == 1, "the two have one training between them"
    assert "prepare to train" in said[0] and "prepare to train" in said[1], "and both take part in it"
