"""A CPU limit is seen, whoever set it: torch would otherwise start a thread for each CPU of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from job.config import surroundings
from job.core import cpus

#: What is mounted and what /proc/self/cgroup says, as container runtimes and systemd leave them; CPUs that are granted.
LAYOUTS = {
    "a container of version 2": ("0::/\n", {"cpu.max": "200000 100000"}, 2),
    "a share of a CPU is one": ("0::/\n", {"cpu.max": "50000 100000"}, 1),
    "a CPU and a half are two": ("0::/\n", {"cpu.max": "150000 100000"}, 2),
    "no limit": ("0::/\n", {"cpu.max": "max 100000"}, None),
    "more than the machine has": ("0::/\n", {"cpu.max": "9900000 100000"}, None),
    "the narrowest of all groups counts": (
        "0::/kubepods.slice/pod.slice/container.scope\n",
        {
            "kubepods.slice/cpu.max": "800000 100000",
            "kubepods.slice/pod.slice/cpu.max": "300000 100000",
            "kubepods.slice/pod.slice/container.scope/cpu.max": "max 100000",
        },
        3,
    ),
    "a container of version 1, whose path is the host's": (
        "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n",
        {"cpu,cpuacct/cpu.cfs_quota_us": "400000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        4,
    ),
    "version 1 under its other name": (
        "4:cpuacct,cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "50000"},
        2,
    ),
    "version 1 without a limit": (
        "4:cpu,cpuacct:/\n",
        {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        None,
    ),
    "a group outside of what is mounted": ("0::/../../other\n", {"cpu.max": "200000 100000"}, 2),
    "nonsense": ("0::/\nx\n", {"cpu.max": "many few"}, None),
    "no control groups": ("", {}, None),
}


@pytest.mark.parametrize(("own", "mounted", "granted"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_limits_are_read(own, mounted, granted, tmp_path, monkeypatch):
    monkeypatch.setattr(cpus, "available", lambda: 16)
    (tmp_path / "own").write_text(own)
    for name, content in mounted.items():
        file = tmp_path / "mount" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n")
    assert cpus.limit(tmp_path / "mount", tmp_path / "own") == granted


def test_torch_gets_as_many_threads_as_are_granted_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(cpus, "limit", lambda: 3)
    for env, wanted in (({}, "3"), ({"OMP_NUM_THREADS": "7"}, "7"), ({"OMP_NUM_THREADS": ""}, "3")):
        surroundings.settle(env)
        assert env["OMP_NUM_THREADS"] == wanted
    env = {}
    monkeypatch.setattr(cpus, "limit", lambda: None)
    surroundings.settle(env)
    assert "OMP_NUM_THREADS" not in env


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="binding to CPUs is Linux's")
def test_cpus_that_a_process_is_bound_to_are_counted():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from job.core.cpus import available; print(available())"
    )
    top = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=top, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_threads_that_wait_give_up_their_core_unless_told_otherwise(name):
    for env, wanted in (({}, surroundings.SPINS), ({"GOMP_SPINCOUNT": ""}, surroundings.SPINS)):
        surroundings.settle(env)
        assert env["GOMP_SPINCOUNT"] == wanted
    env = {name: "77"}
    surroundings.settle(env)
    assert {key: value for key, value in env.items() if "OMP_" in key and key != "OMP_NUM_THREADS"} == {name: "77"}


@pytest.mark.slow
def test_how_threads_wait_is_known_before_their_library_is_loaded(tmp_path):
    """It reads the environment once; a command's settings are loaded before torch is."""
    code = "import sys; from job import cli; cli._settings(quiet=True); import os; print('torch' in sys.modules)"
    top = Path(__file__).parent.parent
    shown = subprocess.run(
        [sys.executable, "-c", code + "; import torch"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(top), "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    if "GOMP_SPINCOUNT" not in shown.stderr:
        pytest.skip("this torch brings another OpenMP than GNU's")
    assert shown.stdout == "False\n" and f"GOMP_SPINCOUNT = '{surroundings.SPINS}'" in shown.stderr


@pytest.mark.parametrize("name", ["ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY"])
def test_few_compiled_convolutions_are_kept_unless_told_otherwise(name):
    for env in ({}, {name: " "}):
        surroundings.settle(env)
        assert env["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == surroundings.COMPILED
    env = {name: "77"}
    surroundings.settle(env)
    assert {key: value for key, value in env.items() if key.endswith("CACHE_CAPACITY")} == {name: "77"}


@pytest.mark.slow
@pytest.mark.parametrize(("given", "kept"), [({}, False), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024"}, True)])
def test_of_batches_of_many_lengths_what_was_compiled_for_the_first_is_let_go(tmp_path, given, kept):
    """oneDNN reads the variable at the first convolution; it says itself what it compiles."""
    code = """if 1:
        import sys
        from job import cli
        cli._settings(quiet=True)
        assert "torch" not in sys.modules
        import torch
        layer = torch.nn.Conv1d(256, 256, 3)
        for length in (*range(100, 120), 100):
            print("length", length, flush=True)
            layer(torch.zeros(4, 256, length))
    """
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent.parent)}
    told = subprocess.run(
        [sys.executable, "-c", code], env=env | given | {"ONEDNN_VERBOSE": "2"}, capture_output=True, text=True,
        cwd=tmp_path, check=True,
    ).stdout  # fmt: skip
    first, *_, again = told.split("length ")[1:]
    if "create:cache_miss,cpu,convolution" not in first:
        pytest.skip("this torch computes convolutions in another way")
    assert ("create:cache_miss,cpu,convolution" not in again) == kept
