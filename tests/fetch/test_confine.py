"""What runs under `confine.py` keeps to its folder: every attack here works without it, and none with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from job.fetch.scripted import confine
from tests.fetch.scripts import attacks

ATTACKS = Path(attacks.__file__)
#: Runs a program as the job does, with a token in its own environment and in a file that it has open.
CALLER = """
import json, os, sys
from pathlib import Path
from job.core import stopping
from job.fetch.scripted import child
stopping.install()
given = json.loads(sys.argv[1])
os.set_inheritable(os.open(given["secret"], os.O_RDONLY), True)
rules = {"write": [given["own"]], "read": given["read"], "parent": os.getpid(), "abi": given["abi"]}
start = [sys.executable, "-I", given["confine"], json.dumps(rules)] if given["confine"] else [sys.executable]
env = {"HOME": given["own"], "PATH": os.environ["PATH"]}
print(*child.run([*start, *given["program"]], env, Path("/"), lambda _: None), flush=True)
"""

needs_landlock = pytest.mark.skipif(confine.landlock_abi() == 0, reason="this kernel or container has no Landlock")


def caller(tmp_path: Path, *program: str, confined: bool = True, abi: int = 99) -> subprocess.Popen[str]:
    """Start a program that starts `program`; its own folder is `own`, what is not to be touched is in `outside`."""
    own, outside = tmp_path / "own", tmp_path / "outside"
    for folder in (own, outside, tmp_path / "read"):
        folder.mkdir(exist_ok=True)
    (outside / "token").write_text(attacks.SECRET)
    (outside / "victim").write_text("victim")
    (tmp_path / "read" / "file").write_text("to be read")
    given = {
        "own": str(own),
        "read": [str(tmp_path / "read")],
        "secret": str(outside / "token"),
        "confine": confine.__file__ if confined else None,
        "abi": abi,
        "program": program,
    }
    env = {**os.environ, "HF_TOKEN": attacks.SECRET, "HUGGING_FACE_HUB_TOKEN": attacks.SECRET}
    return subprocess.Popen([sys.executable, "-c", CALLER, json.dumps(given)], env=env, stdout=-1, text=True)


def contents(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def attacked(tmp_path: Path, confined: bool, abi: int = 99) -> set[str]:
    """The attacks that worked."""
    address = f"{tmp_path}/listening"
    spec = {"outside": str(tmp_path / "outside"), "readable": str(tmp_path / "read" / "file"), "socket": address}
    with socket.socket(socket.AF_UNIX) as path, socket.socket(socket.AF_UNIX) as abstract:
        for opened, name in ((path, address), (abstract, "\0" + address)):
            opened.bind(name)
            opened.listen()
        running = caller(tmp_path, str(ATTACKS), json.dumps(spec), confined=confined, abi=abi)
        before = [contents(tmp_path / name) for name in ("outside", "read")]
        output, _ = running.communicate(timeout=60)
    code, found = output.split(" ", 1)
    assert code == "0", output
    if confined:
        assert [contents(tmp_path / name) for name in ("outside", "read")] == before
    return set(json.loads(found.strip().splitlines()[-1]))


@needs_landlock
@pytest.mark.parametrize("abi", [99, 3, 1])
def test_no_token_is_found_and_nothing_outside_is_touched(tmp_path: Path, abi: int) -> None:
    """Also on older kernels, whose Landlock knows neither of truncating nor of signals."""
    assert attacked(tmp_path, confined=True, abi=abi) == set()


@pytest.mark.skipif(sys.platform != "linux", reason="they are made for Linux")
def test_the_attacks_are_ones_that_work(tmp_path: Path) -> None:
    every = set(attacks.attacks(Path("/"), Path("/"), "").keys())
    # What the caller alone prevents; and what depends on the kernel, the container or the file system.
    prevented = {"token in the environment", "token in an inherited file", "leave its session"}
    depends = {"new namespaces", "tracing", "parent's memory", "parent's memory as a file", "attribute"}
    assert every - attacked(tmp_path, confined=False) - depends == prevented


LEAVES_A_PROCESS = """
import os, subprocess, sys
left = subprocess.Popen([sys.executable, "-I", "-c", "import time; time.sleep(600)"])
print(left.pid, flush=True)
"""
WAITS = f"""{LEAVES_A_PROCESS}
import time
open(os.environ["HOME"] + "/pids", "w").write(f"{{os.getpid()}} {{left.pid}}")
time.sleep(600)
"""


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def gone_soon(pid: int) -> bool:
    end = time.monotonic() + 10
    while not is_gone(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return is_gone(pid)


@needs_landlock
def test_what_a_script_has_started_ends_with_it(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(LEAVES_A_PROCESS)
    output, _ = caller(tmp_path, str(tmp_path / "program.py")).communicate(timeout=60)
    code, left = output.split()
    assert code == "0" and gone_soon(int(left))


@needs_landlock
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_script_ends_with_the_job(tmp_path: Path, number: int) -> None:
    (tmp_path / "program.py").write_text(WAITS)
    running = caller(tmp_path, str(tmp_path / "program.py"))
    written, end = tmp_path / "own" / "pids", time.monotonic() + 60
    while not (written.exists() and " " in written.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    script, left = map(int, written.read_text().split())
    running.send_signal(number)
    assert running.wait(60) != 0
    assert gone_soon(script)
    if number == signal.SIGTERM:
        assert gone_soon(left)
    elif not is_gone(left):  # a killed job cannot end what the script has started; the script itself ended with it
        os.kill(left, signal.SIGKILL)


def test_without_landlock_nothing_is_run(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("print('it ran')")
    output, _ = caller(tmp_path, str(tmp_path / "program.py"), abi=0).communicate(timeout=60)
    assert output.startswith(f"{confine.NOT_CONFINED} not confined: ") and "it ran" not in output
