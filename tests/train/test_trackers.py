"""The promises of the trackers: the logs arrive in the real trackers' files, no secret does, and no failure of theirs
stops training."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from job.config.settings import Settings
from job.core.errors import BadInput
from job.train import trackers

TOP = Path(__file__).resolve().parents[2]
HUB_TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"
WANDB_KEY = "a1b2" * 10


def settings_for(work: Path, **values) -> Settings:
    return Settings(work_dir=work, hf_token=HUB_TOKEN, dataset_name="owner/clips", learning_rate=2e-5, **values)


@contextmanager
def opened(settings, resumed_from=0):
    """The trackers of `settings`, started, with a real `Accelerator`."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    accelerator = Accelerator(
        cpu=True, log_with=trackers.names(settings), project_dir=str(trackers.directory(settings))
    )
    try:
        with trackers.Trackers(settings, accelerator) as running:
            running.start(resumed_from)
            yield running
    finally:
        AcceleratorState._reset_state(True)


def log_some(running, first=1, last=3):
    for number in range(first, last + 1):
        record = {"step": 10 * number, "epoch": 0, "loss": 3.0 / number, "timestamp": "2026-01-01T00:00:00"}
        running.log("train", record)
        running.log("validation", {"step": 10 * number, "loss": 4.0 / number, "split": "validation", "said": []})


# Which trackers


def test_jsonl_is_always_on_and_no_tracker_of_its_own(tmp_path):
    assert trackers.names(settings_for(tmp_path)) == []
    with opened(settings_for(tmp_path)) as running:
        log_some(running)
    assert not trackers.directory(settings_for(tmp_path)).exists()


def test_names_are_read_as_people_write_them(tmp_path):
    settings = settings_for(tmp_path, trackers=" WandB, jsonl,tensorboard,,wandb", use_wandb=True)
    assert trackers.names(settings) == ["wandb", "tensorboard"]
    assert trackers.names(settings_for(tmp_path, use_wandb=True)) == ["wandb"]


def test_an_unknown_tracker_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(BadInput, match=r"'tensorbord' is not one of jsonl, tensorboard, wandb, trackio"):
        trackers.check(settings_for(tmp_path, trackers="jsonl,tensorbord"))


@pytest.mark.parametrize(
    ("name", "values", "fix"),
    [
        ("trackio", {"trackers": "trackio"}, r"TRACKERS: trackio .* `pip install 'trackio<0\.21'`"),
        ("tensorboard", {"trackers": "tensorboard"}, "TRACKERS: tensorboard .* `pip install 'tensorboard'`"),
        ("wandb", {"use_wandb": True}, "USE_WANDB: wandb .* `pip install 'wandb'`"),
    ],
)
def test_a_missing_package_is_refused_with_the_command_that_installs_it(tmp_path, monkeypatch, name, values, fix):
    monkeypatch.setitem(sys.modules, name, None)  # what Python itself does for a module that must not be found
    with pytest.raises(BadInput, match=fix):
        trackers.check(settings_for(tmp_path, **values))


# TensorBoard


def scalars(directory: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))
    events.Reload()
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]


def test_tensorboard_files_hold_the_logs(tmp_path):
    settings = settings_for(tmp_path, trackers="tensorboard", wandb_project="voices")
    with opened(settings) as running:
        log_some(running)
    directory = trackers.directory(settings) / "voices"
    assert directory.is_relative_to(tmp_path / "output")
    assert scalars(directory, "train/loss") == [(10, 3.0), (20, 1.5), (30, 1.0)]
    assert scalars(directory, "validation/loss") == [(10, 4.0), (20, 2.0), (30, 4 / 3)]
    (hyperparameters,) = directory.glob("*/hparams.yml")
    assert "LEARNING_RATE: 2.0e-05" in hyperparameters.read_text()
    assert not [path for path in directory.rglob("*") if path.is_file() and HUB_TOKEN.encode() in path.read_bytes()]


def test_a_resumed_run_goes_on_in_the_same_curves(tmp_path):
    """Steps after the checkpoint that were logged before the run was cut off do not show twice."""
    settings = settings_for(tmp_path, trackers="tensorboard")
    with opened(settings) as running:
        log_some(running, 1, 3)
    identity = json.loads((trackers.directory(settings) / "run.json").read_text())
    with opened(settings, resumed_from=20) as running:
        log_some(running, 3, 4)
    assert scalars(trackers.directory(settings) / "qwen3-tts", "train/loss") == [
        (10, 3.0),
        (20, 1.5),
        (30, 1.0),
        (40, 0.75),
    ]
    assert json.loads((trackers.directory(settings) / "run.json").read_text()) == identity
    with opened(settings):
        pass
    assert json.loads((trackers.directory(settings) / "run.json").read_text()) != identity


def test_tracking_draws_no_random_numbers(tmp_path):
    """Training with trackers is the same as without."""
    import torch

    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with opened(settings_for(tmp_path, trackers="tensorboard")) as running:
        log_some(running)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


# Failures


def run_python(code: str, *arguments: object, home: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """A fresh process, so that neither its environment nor the trackers' global state is this one's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "TRACKIO_"))}
    environ = {**kept, "HOME": str(home), "PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1", **environ}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environ,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=240,
    )


OPEN_AND_LOG = """
import sys
from pathlib import Path
from job.train import trackers
from tests.train.test_trackers import log_some, opened, settings_for
trackers.WANDB_START_SECONDS = 2.0
settings = settings_for(Path(sys.argv[1]), trackers=sys.argv[2], wandb_run_name="first try")
trackers.check(settings)
with opened(settings) as running:
    log_some(running)
print("trained to the end")
"""


@pytest.mark.slow
def test_a_tracker_that_cannot_start_is_warned_of_and_the_others_go_on(tmp_path):
    """W&B's server does not answer: TensorBoard still gets everything, and training its end."""
    done = run_python(
        OPEN_AND_LOG,
        tmp_path / "work",
        "wandb,tensorboard",
        home=tmp_path,
        WANDB_BASE_URL="http://127.0.0.1:9",
        WANDB_API_KEY=WANDB_KEY,
    )
    assert done.returncode == 0, done.stderr
    assert "trained to the end" in done.stdout
    assert done.stderr.count("TRACKERS: wandb failed and is left out from now on") == 1
    assert WANDB_KEY not in done.stdout + done.stderr
    assert len(scalars(tmp_path / "work" / "output" / "trackers" / "qwen3-tts", "train/loss")) == 3


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tests.train.test_trackers import opened, settings_for
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
settings = settings_for(Path(sys.argv[1]), trackers="tensorboard")
with opened(settings) as running:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    for step in range(1, 2000):
        running.log("train", {"step": step, "loss": 1.0 / step})
print("trained to the end")
"""


@pytest.mark.slow
def test_a_tracker_that_fails_later_is_warned_of_once_and_training_goes_on(tmp_path):
    """A file that cannot grow any more, as on a full disk."""
    done = run_python(FULL_DISK, tmp_path / "work", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trained to the end" in done.stdout
    assert done.stderr.count("TRACKERS: tensorboard failed and is left out from now on") == 1


# Weights & Biases


def records(path: Path):
    """The records of a `.wandb` file: LevelDB's log format behind seven bytes of header."""
    from wandb.proto import wandb_internal_pb2

    data, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


@pytest.mark.slow
def test_an_offline_wandb_run_holds_the_logs_and_no_secret(tmp_path):
    done = run_python(
        OPEN_AND_LOG, tmp_path / "work", "wandb", home=tmp_path, WANDB_MODE="offline", WANDB_API_KEY=WANDB_KEY
    )
    assert done.returncode == 0, done.stderr
    directory = tmp_path / "work" / "output" / "trackers" / "wandb"
    (path,) = directory.glob("offline-run-*/run-*.wandb")  # one run, not one more for the configuration
    config, rows, names, exits, kinds = {}, [], set(), [], set()
    for record in records(path):
        kind = record.WhichOneof("record_type")
        kinds.add(kind)
        if kind == "run":
            names.add((record.run.project, record.run.display_name))
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            rows.append({i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item})
        elif kind == "exit":
            exits.append(record.exit.exit_code)
    assert names == {("qwen3-tts", "first try")}
    assert config["LEARNING_RATE"] == 2e-5 and config["DATASET_NAME"] == "owner/clips"
    assert "HF_TOKEN" not in config
    logged = [(row["_step"], row["train/loss"], row["validation/loss"]) for row in rows]
    assert logged == [(10, 3.0, 4.0), (20, 1.5, 2.0), (30, 1.0, pytest.approx(4 / 3))]
    assert exits == [0]
    kept = b"".join(file.read_bytes() for file in directory.rglob("*") if file.is_file())
    assert HUB_TOKEN.encode() not in kept and WANDB_KEY.encode() not in kept
    # Host name, command line and paths are in a record of this kind, packages in a file.
    assert "environment" not in kinds and not list(directory.rglob("requirements.txt"))


CHECK = """
import sys
from pathlib import Path
from job.core.errors import BadInput
from job.train import trackers
from tests.train.test_trackers import settings_for
try:
    print(trackers.check(settings_for(Path("work"), use_wandb=True)))
except BadInput as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({}, "set WANDB_API_KEY, or WANDB_MODE=offline"),
        ({"WANDB_MODE": "offline"}, "['wandb']"),
        ({"WANDB_API_KEY": WANDB_KEY}, "['wandb']"),
        ({"WANDB_API_KEY": "too-short"}, "WANDB_API_KEY: "),
    ],
)
def test_a_missing_wandb_key_is_noticed_in_the_first_minute(tmp_path, environ, says):
    """And nobody is asked for one on a terminal that is not there, nor is the server, which may be away."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        done = run_python(CHECK, home=tmp_path, WANDB_BASE_URL=url, **environ)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert says in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / ".netrc").exists()


# What is logged as the configuration


def test_the_configuration_holds_what_decides_a_result_and_no_secret(tmp_path):
    settings = settings_for(tmp_path, text_column="https://me:password123@host/column", max_steps=7)
    config = trackers._config(settings)
    assert config["MAX_STEPS"] == 7 and config["TRAIN_MODE"] == "lora"
    assert not {"HF_TOKEN", "TRACKERS", "WANDB_PROJECT"} & set(config)
    assert "password123" not in str(config) and HUB_TOKEN not in str(config)
    assert all(isinstance(value, str | bool | int | float) for value in config.values())


# trackio


def test_trackio_logs_into_its_local_database(tmp_path):
    pytest.importorskip("trackio", reason="trackio is not among the requirements")
    done = run_python(OPEN_AND_LOG, tmp_path / "work", "trackio", home=tmp_path, TRACKIO_AUTO_LOG_GPU="0")
    assert done.returncode == 0, done.stderr
    read = run_python(
        "import sys, json; from trackio.sqlite_storage import SQLiteStorage as s\n"
        "(run,) = s.get_runs('qwen3-tts'); print(run); print(json.dumps(s.get_logs('qwen3-tts', run), default=str))",
        home=tmp_path,
        TRACKIO_DIR=str(tmp_path / "work" / "output" / "trackers" / "trackio"),
    )
    run, logs = read.stdout.strip().splitlines()[-2:]
    assert run.startswith("first try-")
    losses = {entry["step"]: entry["train/loss"] for entry in json.loads(logs) if "train/loss" in entry}
    assert losses == {10: 3.0, 20: 1.5, 30: 1.0}
