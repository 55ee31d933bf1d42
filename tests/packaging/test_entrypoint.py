"""entrypoint.sh around the real settings, with a stand-in for the work itself that behaves as each test asks.

The script and the real `job` package are copied together; only `job/__main__.py` is replaced.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]

WORK = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

command, *rest = sys.argv[1:]
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(sys.argv[1:] + [os.environ.get("WORLD_SIZE", "1")]) + "\\n")
if command == "run" and os.environ.get("EXIT"):
    print("first"); print("second", file=sys.stderr); print("third")
    sys.exit(int(os.environ["EXIT"]))
if command == "wait":
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    def stop(number, frame):
        print("stopped by", signal.Signals(number).name); time.sleep(0.5); print("last words", flush=True)
        sys.exit(143)
    signal.signal(signal.SIGTERM, stop); signal.signal(signal.SIGINT, stop)
    Path(os.environ["READY"]).write_text(str(worker.pid))
    time.sleep(600)
if command == "detach":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
if command == "pause":
    subprocess.Popen(["sh", "-c", f"sleep 1; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)
    print("went on"); sys.exit(7)
if command == "upload-log":
    print("log:", Path(os.environ["CONSOLE_LOG"]).read_text().count("first")); sys.exit(5)
if command == "chatter":
    import threading
    def talk(stream):
        for number in range(5000):
            print(f"{number:04d} " + "word " * 20, file=stream)
    threads = [threading.Thread(target=talk, args=(s,)) for s in (sys.stdout, sys.stderr)]
    [t.start() for t in threads]; [t.join() for t in threads]
if command == "where":
    print(Path.cwd())
"""


class House:
    """A checkout of its own in a path with spaces."""

    def __init__(self, directory: Path) -> None:
        self.top = directory / "a check out"
        self.top.mkdir()
        shutil.copy2(TOP / "entrypoint.sh", self.top)
        shutil.copytree(TOP / "job", self.top / "job", ignore=shutil.ignore_patterns("__pycache__", "clips"))
        (self.top / "job" / "__main__.py").write_text(WORK)
        self.log = directory / "console log.txt"
        self.calls = directory / "calls"
        self.ready = directory / "ready"
        self.cwd = directory / "else where"
        self.cwd.mkdir()

    def environment(self, **variables: str) -> dict[str, str]:
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # python3: the one of the tests
            "HOME": str(self.cwd),
            "CONSOLE_LOG": str(self.log),
            "CALLS": str(self.calls),
            "READY": str(self.ready),
            "CUDA_VISIBLE_DEVICES": "",
            **variables,
        }

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.top / "entrypoint.sh"), *arguments],
            cwd=self.cwd,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines()


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_log_holds_this_run_only_and_agrees_with_the_screen(house: House) -> None:
    house.log.write_text("an older run\n")
    result = house.run(EXIT="0")
    assert result.stdout == "first\nsecond\nthird\n", "stderr and stdout keep their order"
    assert house.log.read_text() == result.stdout


@pytest.mark.parametrize("code", [0, 2, 6])
def test_exit_code_is_the_jobs(house: House, code: int) -> None:
    assert house.run("run", EXIT=str(code)).returncode == code


def test_streams_that_are_read_apart_stay_apart(house: House) -> None:
    """The one line on stderr that names the variable can still be captured, and is in the log as well."""
    result = apart(house, EXIT="2")
    assert (result.stdout, result.stderr) == ("first\nthird\n", "second\n")
    assert sorted(house.log.read_text().splitlines()) == ["first", "second", "third"]


def test_log_has_whole_lines_when_two_streams_are_busy(house: House) -> None:
    result = apart(house, "chatter")
    lines = house.log.read_text().splitlines()
    assert len(lines) == 10_000 and sorted(lines) == sorted((result.stdout + result.stderr).splitlines())
    assert result.stdout == result.stderr, "each stream is complete and in order"


def test_arguments_arrive_as_given_and_none_means_run(house: House) -> None:
    house.run("where", "two words", "*", "", "--flag=$HOME")
    house.run(EXIT="0")
    assert house.called() == ['["where", "two words", "*", "", "--flag=$HOME", "1"]', '["run", "1"]']


def test_caller_stays_in_his_directory_and_cannot_shadow_the_job(house: House) -> None:
    """Relative paths in variables mean what the caller meant, even beside a file called job.py."""
    (house.cwd / "job.py").write_text("raise SystemExit('the wrong job')")
    assert house.run("where").stdout.strip() == str(house.cwd)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_reaches_the_job_and_its_last_words_reach_the_log(house: House, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [house.top / "entrypoint.sh", "wait"],
        cwd=house.cwd,
        env=house.environment(),
        stdout=subprocess.PIPE,
        text=True,
        # Whatever started the tests may ignore SIGINT (a shell does for what runs in the background), which is handed
        # down, and which bash cannot trap then.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    worker = int(wait_for(house.ready))
    process.send_signal(number)
    screen, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert house.log.read_text() == screen == f"stopped by {number.name}\nlast words\n"
    assert not runs(worker), "a worker of the job is still running"


def test_signal_in_the_first_moment_is_heard_by_a_containers_first_process(house: House) -> None:
    """Linux keeps signals without a trap from it, and `docker stop` would then wait for its time to kill."""
    first = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*first, "true"], capture_output=True).returncode:
        pytest.skip("no new namespace can be made here")
    early = house.cwd / "python3"
    early.write_text(f'#!/bin/sh\n[ "$1" != -c ] || kill -TERM 1\nexec "{sys.executable}" "$@"\n')
    early.chmod(0o755)
    environment = house.environment(EXIT="0")
    environment["PATH"] = f"{house.cwd}:{environment['PATH']}"
    done = subprocess.run([*first, house.top / "entrypoint.sh"], cwd=house.cwd, env=environment, timeout=60)
    assert done.returncode == 143
    assert not house.calls.exists(), "nothing was started"


def test_leftover_workers_do_not_keep_the_run_from_ending(house: House) -> None:
    started = time.monotonic()
    assert house.run("detach").returncode == 0
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_a_job_that_is_paused_goes_on(house: House) -> None:
    """SIGSTOP, by an operator or a debugger: bash says that it has ended, and it would be killed."""
    done = house.run("pause")
    assert (done.returncode, house.log.read_text()) == (7, "went on\n")


def test_log_that_cannot_be_written_is_bad_input(house: House) -> None:
    house.log.mkdir()
    result = house.run("where")
    assert result.returncode == 2
    assert result.stdout.startswith("CONSOLE_LOG=") and result.stdout.count("\n") == 1
    assert not house.calls.exists(), "nothing was started"


def test_log_may_have_any_name(house: House) -> None:
    """A line end in it changes neither the log's place nor what is read beside it."""
    house.log = house.log.with_name(" a\nTrue \t*$HOME'\"")
    assert house.run(EXIT="0").returncode == 0
    assert house.log.read_text() == "first\nsecond\nthird\n"
    assert len(house.called()) == 1, "and nothing was uploaded"


def test_log_that_is_no_file_is_left_where_it_is(house: House) -> None:
    """`CONSOLE_LOG=/dev/null` as root must not make a file of it for the whole machine."""
    house.log.symlink_to("/dev/null")
    assert house.run(EXIT="3").returncode == 3
    assert house.log.is_symlink() and house.log.is_char_device()
    house.log.unlink()
    house.log.symlink_to(house.cwd / "planted")
    assert house.run(EXIT="0").returncode == 0
    assert house.log.is_file() and not house.log.is_symlink(), "a link to a file is replaced, not followed"


def test_temporary_directory_that_is_not_there_is_bad_input(house: House) -> None:
    result = house.run(EXIT="0", TMPDIR="/no/such/place")
    assert (result.returncode, result.stdout.count("\n")) == (2, 1)
    assert result.stdout.startswith("TMPDIR=/no/such/place:")
    assert not house.calls.exists(), "nothing was started"


def test_upload_of_the_log_comes_last_and_cannot_change_the_exit_code(house: House) -> None:
    result = house.run(EXIT="3", UPLOAD_LOGS="true")
    assert result.returncode == 3
    assert [call.split('"')[1] for call in house.called()] == ["run", "upload-log"]
    assert "log: 1" in result.stdout, "the uploaded log holds the run"


def test_variables_of_the_env_file_count(house: House) -> None:
    (house.cwd / ".env").write_text("UPLOAD_LOGS=true\n")
    house.run(EXIT="0")
    assert len(house.called()) == 2


def test_real_command_line_answers_through_the_entrypoint(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CONSOLE_LOG": str(log)}
    command = [TOP / "entrypoint.sh", "settings"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "INIT_MODEL_PATH" in result.stdout and not log.exists(), "it is no run"


def apart(house: House, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run with stdout and stderr captured separately."""
    command = [house.top / "entrypoint.sh", *arguments]
    environment = house.environment(**variables)
    return subprocess.run(command, cwd=house.cwd, env=environment, capture_output=True, text=True, timeout=60)


def runs(process: int) -> bool:
    """Whether a process is alive; one that has ended and waits for its parent to notice is not."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.05)
    raise TimeoutError(path)


@pytest.mark.parametrize("form", ['"{}"', "'{}' # mine"])
def test_a_quoted_log_is_the_file_that_was_meant(house: House, form: str) -> None:
    """Quotation marks that docker hands over are no part of the log's name, also when the settings are refused."""
    done = house.run("where", CONSOLE_LOG=form.format(house.log), BATCH_SIZE="two")
    assert done.returncode == 0, done.stdout
    assert str(house.cwd) in house.log.read_text()
    assert not list(house.cwd.iterdir())


def test_the_log_of_a_run_that_still_goes_is_left_to_it(house: House) -> None:
    """A second run at once, refused or of another voice, neither empties nor replaces what the first one writes."""
    entry, seen = [house.top / "entrypoint.sh", "wait"], house.environment()
    first = subprocess.Popen(entry, cwd=house.cwd, env=seen, stdout=subprocess.PIPE, text=True)
    wait_for(house.ready)
    marked = house.log.stat().st_ino
    second = house.run("run", EXIT="2", UPLOAD_LOGS="true", TMPDIR=str(house.cwd))
    assert second.returncode == 2
    (own,) = house.cwd.glob("console_log.*")
    assert f"CONSOLE_LOG={house.log}: another run writes to it; the log of this one is {own}" in second.stdout
    assert own.read_text().startswith("first\nsecond\nthird\n") and "log: 1" in second.stdout, "and it is uploaded"
    first.terminate()
    first.communicate(timeout=60)
    assert house.log.stat().st_ino == marked and "last words" in house.log.read_text()
    assert "first" not in house.log.read_text()
    assert house.run("run", EXIT="2").returncode == 2 and "third" in house.log.read_text(), "and is free afterwards"


@pytest.mark.parametrize("command", ["watch", "plan", "say", "settings"])
def test_what_tells_of_a_run_leaves_its_log(house: House, command: str) -> None:
    house.log.write_text("of the night\n")
    assert house.run(command, UPLOAD_LOGS="true", NOTIFY_URL="https://ntfy.sh/x").returncode == 0
    assert house.log.read_text() == "of the night\n"
    assert len(house.called()) == 1, "the log is not uploaded, and nobody is told that a run has ended"
