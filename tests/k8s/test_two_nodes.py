"""Two pods of the multi-node overlay, played on one machine: a network namespace for each, the real entrypoint.sh and
torchrun, and nothing but the rendered names and variables to find one another by.

Only training itself is replaced: by a sum over all processes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import STDOUT

import pytest

from tests.k8s.manifests import TOP, container, one, variables

WORK = """
import datetime, json, os, sys

calls = open(os.environ["CALLS"], "a")
if "RANK" not in os.environ:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
    sys.exit()
import torch, torch.distributed as distributed
distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
value = torch.tensor([10.0 ** distributed.get_rank()])
distributed.all_reduce(value)
calls.write(json.dumps([*sys.argv[1:], distributed.get_rank(), distributed.get_world_size(), value.item()]) + "\\n")
distributed.destroy_process_group()
"""

ADDRESSES = ("10.213.77.1", "10.213.77.2")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def namespaces() -> Iterator[list[str]]:
    """Two network namespaces with a cable between them."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("network namespaces need root, ip and unshare")
    names = [f"pod{os.getpid()}-{index}" for index in range(2)]
    ends = [f"v{os.getpid()}-{index}" for index in range(2)]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        for name, end, address in zip(names, ends, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.mark.slow
def test_two_pods_find_one_another_and_train_together(rendered, namespaces, tmp_path: Path) -> None:
    """Each prepares for itself, both train, and what follows is done once, by the first."""
    documents = rendered["multi-node"]
    job, service = one(documents, "Job")["metadata"]["name"], one(documents, "Service")["metadata"]["name"]
    house = tmp_path / "opt" / "job"
    shutil.copytree(TOP / "job", house / "job", ignore=shutil.ignore_patterns("__pycache__", "clips"))
    (house / "job" / "__main__.py").write_text(WORK)
    shutil.copy2(TOP / "entrypoint.sh", house)

    # What the cluster's DNS answers for the pods of an Indexed Job with a headless Service.
    names = [f"{job}-{index}" for index in range(2)]
    domain = f"{service}.default.svc.cluster.local"
    lines = [f"{a} {n}.{domain} {n}.{service} {n}" for a, n in zip(ADDRESSES, names, strict=True)]
    hosts = tmp_path / "hosts"
    hosts.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))

    pods = []
    for index in (1, 0):  # the first pod comes last, so that the other one has to wait for it
        environment = {
            **variables(documents, index=index),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "WORK_DIR": str(tmp_path / f"node-{index}"),  # on a machine without /work
            "CONSOLE_LOG": str(tmp_path / f"log-{index}"),
            "CALLS": str(tmp_path / f"calls-{index}"),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }
        become = 'mount --bind "$0" /etc/hosts && hostname "$1" && shift && exec "$@"'
        command = ["ip", "netns", "exec", namespaces[index], "unshare", "--mount", "--uts", "sh", "-c", become]
        command += [str(hosts), names[index], str(house / "entrypoint.sh"), *container(documents)["args"]]
        pods.append(subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=STDOUT))
    try:
        for pod in pods:
            output = pod.communicate(timeout=240)[0]
            assert pod.returncode == 0, output.decode()
    finally:
        for pod in pods:
            pod.terminate()  # entrypoint.sh stops what it has started
            pod.wait(timeout=60)

    def calls(index: int) -> list[list[object]]:
        return [json.loads(line) for line in (tmp_path / f"calls-{index}").read_text().splitlines()]

    prepare = ["run", "--from", "doctor", "--until", "prepare"]
    train = ["run", "--from", "train", "--until", "train"]
    after = ["run", "--from", "validate", "--until", "report"]
    assert calls(0) == [prepare, [*train, 0, 2, 11.0], after]
    assert calls(1) == [prepare, [*train, 1, 2, 11.0]]
