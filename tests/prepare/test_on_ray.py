"""ENGINE=ray: the same bytes as without Ray, whatever is lost on the way, and nothing left behind.

Those that start Ray take a minute or several, and skip themselves where `make setup-ray` has not installed it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from job import prepare
from job.config.settings import Settings
from job.core import files
from job.demo.base import build
from job.prepare import shards
from job.prepare.codec import Codec, load_codec
from job.prepare.manifest_rows import Row
from job.prepare.on_ray import cluster, portions, supply, workers
from tests.prepare.conftest import Make, complete, voice
from tests.prepare.test_first_codes import Faulty

TOP = Path(__file__).resolve().parents[2]
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (make setup-ray)")
#: Rows of the runs: four shards.
ROWS = 800
SECRET = "hf_" + "tokenofthetests" * 2


# ---- without Ray -----------------------------------------------------------------------------------------------------


def test_a_worker_without_the_recordings_reads_copies_and_names_the_originals(make: Make, wav, tmp_path, monkeypatch):
    """Same rows, same warnings and reasons: nothing tells of the machine on which a row was read."""
    from job.prepare.row_encoder import read
    from job.prepare.work import Work

    good = wav("good", voice(0.8, 24_000, seed=1))
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF, and nothing of the kind")
    rows = [{"audio": good}, {"audio": str(broken)}, {"audio": str(tmp_path / "none.wav")}]
    work = Work(make(rows, check_words="never"))
    given: list[Row] = list(work.manifest.read("train"))
    stamps = [files.stamp(row.audio) for row in given if row.audio is not None]
    here = list(read("train", given, work.settings, work.codec))

    elsewhere = supply.Files(supply.Supplier().read)
    monkeypatch.setattr(supply, "PIECE", 1000)
    monkeypatch.setattr(supply.files, "stamp", lambda path: (str(path), -1, -2))
    there = list(workers._read(workers.Rows("train", given, stamps), work.settings, work.codec, elsewhere))
    assert [item.row for item in there] == [item.row for item in here]
    assert np.array_equal(there[0].samples, here[0].samples) and there[0].figures == here[0].figures
    for one, other in zip(there[1:], here[1:], strict=True):
        assert (one.unusable.reason, one.unusable.detail) == (other.unusable.reason, other.unusable.detail)
    assert len(elsewhere._copies) == 3


def test_copies_are_deleted_when_there_are_too_many(tmp_path, monkeypatch):
    paths = [tmp_path / f"{n}.wav" for n in range(3)]
    for path in paths:
        path.write_bytes(b"x" * 100)
    stamps = [files.stamp(path) for path in paths]
    monkeypatch.setattr(supply.files, "stamp", lambda path: (str(path), -1, -2))
    monkeypatch.setattr(supply, "KEPT_BYTES", 250)
    elsewhere = supply.Files(supply.Supplier().read)
    copies = [elsewhere.find(stamp) for stamp in stamps]
    elsewhere.trim()
    assert [copy.exists() for copy in copies] == [False, True, True]


def test_no_token_reaches_ray(make: Make):
    """Neither by the settings that it stores, nor by the environment of the Ray that the job starts."""
    settings = make([], hf_token=SECRET, wandb_api_key=SECRET, notify_url=f"ntfy://{SECRET}")
    assert SECRET not in repr(workers.without_secrets(settings).model_dump(mode="python"))
    assert not workers.without_secrets(settings).secrets
    passed = cluster._environment({"HF_TOKEN": SECRET, "AWS_SECRET_ACCESS_KEY": SECRET, "PATH": "/bin"})
    assert SECRET not in repr(passed) and passed["PATH"] == "/bin"


def results(work: Path) -> dict[str, bytes]:
    """The prepared data and the shards of a `WORK_DIR`."""
    top = work / "data"
    found = [path for part in ("prepared", "encoding") for path in sorted((top / part).rglob("*.*"))]
    return {str(path.relative_to(top)): path.read_bytes() for path in found if path.is_file()}


class HerePool:
    """The workers' own code in this process: portions of two rows, which come back in any order."""

    device = "cpu"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.sent: list[str] = []

    def begin(self, codec: Codec, directory: Path) -> None:
        self._encoder = workers.Encoder(workers.order_for(self._settings, codec, directory, "cpu"), None)
        self._encoder.load()

    def encoded(self, split: str, due: Any, earlier: Any) -> Iterator[Any]:
        begun = [portions.begun(*one, 2, earlier) for one in due]
        yield from ((assembly.shard, assembly.items()) for assembly, lacks in begun if not lacks)
        waiting = [one for _, lacks in begun for one in lacks]
        random.Random(0).shuffle(waiting)
        for one in waiting:
            self.sent += [row.text for row in one.rows]
            stamps = [files.stamp(row.audio) for row in one.rows if row.audio is not None]
            sent = pickle.loads(pickle.dumps(workers.Rows(split, one.rows, stamps)))
            found = pickle.loads(pickle.dumps(self._encoder.encode(sent, None)))
            if (complete := one.done(found, "here")) is not None:
                yield complete.shard, complete.items()


def test_workers_get_the_rows_that_are_new_and_the_bytes_are_those_of_local(make: Make, wav, tmp_path, monkeypatch):
    """Also with a rejected row, altered copies, and rows in front of others, which change all shards behind them."""
    pools: list[HerePool] = []

    def started(settings: Settings, _: Any) -> HerePool:
        pools.append(HerePool(settings))
        return pools[-1]

    monkeypatch.setattr(cluster, "started_with", started)
    monkeypatch.setattr(supply, "_files", supply.Files(supply.Supplier().read))
    monkeypatch.setattr(shards, "LINES", 4)
    rows = [{"audio": wav(str(n), voice(0.5 + n / 20, 24_000, seed=n)), "text": f"Row {n} of them."} for n in range(10)]
    rows[5]["audio"] = str(tmp_path / "none.wav")
    how = {"check_words": "never", "augment_volume": True}
    changed = [rows[9], *rows[:2], {**rows[2], "text": "Row 2, corrected."}, *rows[3:8]]
    for given, new in ((rows[:9], rows[:9]), (changed, [rows[9], changed[3], rows[5]])):
        of = [make(given, work=engine, engine=engine, **how) for engine in ("ray", "local")]
        for settings in of:
            prepare.run(settings)
        ray, local = (results(settings.work_dir) for settings in of)
        assert ray == local and len(ray) > 6
        copies = [row["text"] for row in given]
        assert sorted(pools[-1].sent) == sorted([row["text"] for row in new] + copies)


def test_codes_that_differed_on_a_worker_are_a_line_of_the_jobs_log(make: Make, wav, monkeypatch, capsys):
    """The log of a worker is on its machine, and gone with it; the machine that computed wrongly is named."""
    monkeypatch.setattr(cluster, "started_with", lambda settings, _: HerePool(settings))
    monkeypatch.setattr(supply, "_files", supply.Files(supply.Supplier().read))

    def loads(settings: Settings, codebooks: int, device: Any) -> Codec:
        return Faulty(load_codec(settings, codebooks, device).tokenizer, codebooks, lambda call: call == 1)

    monkeypatch.setattr(workers, "load_codec", loads)
    rows = [{"audio": wav(str(n), voice(0.5 + n / 20, 24_000, seed=n)), "text": f"Row {n} of them."} for n in range(4)]
    of = [make(rows, work=engine, engine=engine, check_words="never") for engine in ("ray", "local")]
    for settings in of:
        prepare.run(settings)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "got other codes" in line]
    assert said.startswith("[prepare] warning: a Ray worker on here: ") and "2 rows are encoded once more" in said
    ray, local = (results(settings.work_dir) for settings in of)
    assert ray == local


# ---- with Ray --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A base and a manifest; `WORK_DIR`s are made beside them."""
    top = tmp_path_factory.mktemp("on_ray")
    build(top / "base")
    for n in range(6):
        soundfile.write(top / f"{n}.wav", voice(0.3 + 0.05 * n, 24_000, seed=n), 24_000)
    rows = [{"audio": str(top / f"{n % 7}.wav"), "text": f"Row {n} of them."} for n in range(ROWS)]  # 6.wav is missing
    files.write_jsonl(top / "train.jsonl", complete(rows, "train"))
    return top


class Job:
    """`python -m job prepare` in a process of its own."""

    def __init__(self, data: Path, name: str, **variables: str) -> None:
        self.work = data / name
        self.encoding = self.work / "data" / "encoding"
        (self.work / "data" / "raw").mkdir(parents=True, exist_ok=True)
        shutil.copy2(data / "train.jsonl", self.work / "data" / "raw")
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
        own = {"INIT_MODEL_PATH": str(data / "base"), "WORK_DIR": str(self.work), "DEVICE": "cpu", "MIN_SECONDS": "0.1"}
        off = {"QUALITY_GATE": "off", "CHECK_WORDS": "never", "OMP_NUM_THREADS": "1", "HF_TOKEN": SECRET}
        self.env = {**kept, **own, **off, "RAY_ENCODERS": "2", **variables}

    def start(self) -> Job:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "job", "prepare"], env=self.env, cwd=TOP, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        return self

    def shards(self) -> int:
        return len(list(self.encoding.glob("train-*.json")))

    def until_shards(self, count: int) -> Job:
        wait_for(lambda: self.shards() >= count or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()
        return self

    def end(self) -> tuple[int, str, str]:
        said, warned = self.process.communicate(timeout=400)
        assert SECRET not in said + warned
        return self.process.returncode, said, warned

    def finished(self) -> str:
        code, said, warned = self.end()
        assert code == 0, said + warned
        return said + warned

    def results(self) -> dict[str, bytes]:
        return results(self.work)


def wait_for(true: Callable[[], Any], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def processes(mark: bytes, title: bytes = b"") -> list[int]:
    """Processes with `mark` in their environment, and `title` in their name."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes() and title in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def head(directory: Path, port: int | None = None) -> Iterator[tuple[dict[str, str], subprocess.Popen[bytes]]]:
    """A Ray with two CPUs of its own. Yields the variables with which a job finds it, and its process."""
    directory.mkdir(exist_ok=True)
    token = directory / "token"
    token.write_text("a" * 64)
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    place = Path(tempfile.mkdtemp(prefix="", dir=directory)) / "0"
    more = [] if port is None else [f"--port={port}"]
    env = {**cluster._environment(os.environ), **access, "ITS_PLACE": str(place)}
    process = cluster._start(place, env, "--num-cpus=2", *more)
    try:
        yield {"ENGINE": "ray", "RAY_ADDRESS": str(cluster._address(process, place)), **access}, process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(cluster.STOP_SECONDS)
        for number in [process.pid, *processes(f"ITS_PLACE={place}".encode())]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def short() -> Iterator[Path]:
    """A directory with a short name, for sockets."""
    path = Path(f"/tmp/r-{os.getpid()}")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def local(data: Path) -> dict[str, bytes]:
    """What ENGINE=local makes of the rows."""
    job = Job(data, "local").start()
    job.finished()
    assert job.shards() == 4
    return job.results()


def end_head(process: subprocess.Popen[bytes], mark: bytes) -> None:
    """Kill a Ray's head and what it runs, as when its machine is lost; the job is left alone."""
    for victim in processes(mark, b"/gcs_server") + processes(mark, b"/raylet"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    process.wait()


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_worker_and_a_head_that_is_started_anew_lose_nothing(data: Path, local: dict[str, bytes], short: Path):
    """In the middle of prepare. A head at the same address is another cluster: 143, and the same command resumes."""
    job, port = Job(data, "anew"), free_port()
    mark = str(short).encode()
    with head(short, port) as (variables, process):
        job.env |= variables
        job.start().until_shards(1)
        (victim, *_) = processes(mark, b"ray::Encoder")
        os.kill(victim, signal.SIGKILL)
        job.until_shards(2)
        end_head(process, mark)
    with head(short, port) as (variables, _):
        assert job.env["RAY_ADDRESS"] == variables["RAY_ADDRESS"]
        code, said, warned = job.end()
        assert code == 143, said + warned
        assert "was lost" in warned and "are encoded again" in warned and "Traceback" not in warned
        assert f"the Ray cluster at {variables['RAY_ADDRESS']}" in warned.splitlines()[-1]
        before = {path: path.stat().st_mtime_ns for path in job.encoding.glob("*.arrow")}
        assert len(before) >= 2 and not (job.work / "data" / "prepared").exists()
        said = job.start().finished()
    assert "were encoded by a run before this one" in said
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was finished is left alone"
    assert job.results() == local


@needs_ray
@pytest.mark.thorough
@pytest.mark.timeout(1500)
def test_a_lost_head_and_a_killed_reader_change_nothing(data: Path, local: dict[str, bytes], short: Path):
    """A head that does not come back ends the run within a minute; readers of their own are repeated by Ray."""
    job = Job(data, "lost")
    mark = str(short).encode()
    with head(short) as (variables, process):
        job.env |= variables
        job.start().until_shards(1)
        end_head(process, mark)
        start = time.monotonic()
        code, said, warned = job.end()
        assert time.monotonic() - start < 60
    assert code == 143, said + warned
    assert "Traceback" not in warned and "(raylet)" not in said + warned
    assert "the Ray cluster" in warned.splitlines()[-1]
    with head(short) as (variables, _):
        job.env |= {**variables, "RAY_READERS": "true"}
        job.start()
        wait_for(lambda: processes(mark, b"ray::read_rows") or job.process.poll() is not None)
        for victim in processes(mark, b"ray::read_rows")[:1]:
            os.kill(victim, signal.SIGKILL)
        said = job.finished()
    assert "were encoded by a run before this one" in said
    assert job.results() == local


@needs_ray
@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_sigterm_ends_the_ray_that_the_job_started_and_a_rerun_continues(data: Path, local: dict[str, bytes]):
    """Exit code 143 within GRACE_SECONDS, no process and no directory left, and the same bytes in the end."""
    before = set(Path("/tmp").glob("ray-*"))
    job = Job(data, "stopped", ENGINE="ray", TMPDIR="/tmp").start().until_shards(1)
    (directory,) = set(Path("/tmp").glob("ray-*")) - before
    mark = f"RAY_AUTH_TOKEN_PATH={directory}".encode()
    assert processes(mark, b"ray::Encoder")
    job.process.terminate()
    code, said, warned = job.end()
    assert code == 143, said + warned
    assert "Traceback" not in warned and "run the same command again" in warned.splitlines()[-1]
    assert not processes(mark) and not directory.exists()

    said = job.start().finished()
    assert "were encoded by a run before this one" in said
    assert job.results() == local
    assert set(Path("/tmp").glob("ray-*")) <= before


@needs_ray
@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_rows_in_front_of_others_leave_those_their_codes(data: Path, local: dict[str, bytes]):
    """What the one engine has encoded the other keeps: a row in front changes all shards, and is the only one sent."""
    rows = list(files.read_jsonl(data / "train.jsonl"))
    rows = [{**rows[1], "id": "new", "text": "In front of them."}, *rows]
    said, found = [], []
    for engine in ("ray", "local"):
        shutil.copytree(data / "local" / "data", data / f"more-{engine}" / "data")
        job = Job(data, f"more-{engine}", ENGINE=engine, TMPDIR="/tmp")
        files.write_jsonl(job.work / "data" / "raw" / "train.jsonl", rows)
        said.append(job.start().finished())
        found.append(job.results())
    kept = len([row for row in rows[1:] if not row["audio"].endswith("/6.wav")])  # those were rejected
    assert all(f"{kept} train rows have another place than before, and keep their codes" in one for one in said), said
    assert found[0] == found[1] and found[0] != local
