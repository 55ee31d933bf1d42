"""What libraries read in the environment by themselves is found wrong at the start and by name, not in a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import run_job

TOP = Path(__file__).resolve().parent.parent


@pytest.fixture
def demo(tmp_path):
    return {"PRESET": "demo", "WORK_DIR": tmp_path / "work", "DEVICE": "cpu"}


def refused(result, *words):
    assert result.code == 2, (result.code, result.err)
    assert len(result.errors) == 1 and "Traceback" not in result.err
    for word in words:
        assert str(word) in result.errors[0], result.errors[0]


def of_its_own(arguments, **given):
    """The command in a process of its own, where nothing is imported yet."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": str(TOP), **given}
    command = [sys.executable, "-m", "job", *arguments]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize(
    ("name", "value"),
    [("HF_HUB_DOWNLOAD_TIMEOUT", "30s"), ("HF_HUB_ETAG_TIMEOUT", "1.5"), ("HF_DATASETS_IN_MEMORY_MAX_SIZE", "much")],
)
def test_numbers_that_an_import_fails_at(name, value, tmp_path):
    """huggingface_hub and datasets cannot even be imported with them."""
    done = of_its_own(["push"], **{name: value, "WORK_DIR": str(tmp_path)})
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith(f"error: {name}={value}: must be a number")


def test_what_can_be_mended_is_and_is_said(tmp_path):
    """A fast-transfer package that is not there, blank addresses and blank numbers: doctor passes, as without them."""
    given = {"HF_HUB_ENABLE_HF_TRANSFER": "yes", "HF_ENDPOINT": "", "HF_HUB_ETAG_TIMEOUT": " ", "HF_HOME": ""}
    program = (
        "from job.config.settings import load; load(); import huggingface_hub.constants as c; import os\n"
        "print(c.HF_HUB_ENABLE_HF_TRANSFER, c.ENDPOINT, c.HF_HUB_ETAG_TIMEOUT, os.path.isabs(c.HF_HOME))"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(TOP), **given}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=100)
    assert done.stdout.split() == ["False", "https://huggingface.co", "10", "True"], done.stderr
    assert done.stderr.count("\n") == 1 and "HF_HUB_ENABLE_HF_TRANSFER=yes is ignored" in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_ENDPOINT", "huggingface.co"),
        ("HF_ENDPOINT", "ftp://hub.test"),
        ("HF_ENDPOINT", "https://hub.test:port"),
        ("HF_HUB_OFFLINE", "maybe"),
        ("TRANSFORMERS_OFFLINE", "2"),
        ("HF_HUB_DISABLE_XET", "y"),
        ("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem"),
        ("SSL_CERT_FILE", "/nowhere/ca.pem"),
        ("CURL_CA_BUNDLE", "/etc/passwd"),
        ("TMPDIR", "/nowhere/tmp"),
    ],
)
def test_values_that_fail_later(capsys, demo, name, value):
    """Each is refused by its own name before any stage starts."""
    refused(run_job(capsys, ["run"], {**demo, name: value}), name)
    assert not (demo["WORK_DIR"] / "data").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "TRANSFORMERS_CACHE", "XDG_CACHE_HOME", "HF_XET_CACHE"),
        *("TORCHINDUCTOR_CACHE_DIR", "WANDB_DIR"),
    ],
)
def test_directories_that_cannot_be_written(capsys, demo, name, tmp_path):
    """A cache below a file, or a file itself; one that is only not there yet is made."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "cache"):
        refused(run_job(capsys, ["run"], {**demo, name: path}), f"{name}={path}")
    assert run_job(capsys, ["doctor"], {**demo, name: tmp_path / "new" / "cache"}).code == 0
    assert (tmp_path / "new" / "cache").is_dir()


PROXIES = ["http://", "proxy:port", "gopher://proxy:70", "http://me:hunter2@pro xy:1"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, marks=() if number % 3 == place else pytest.mark.thorough)
        for number, value in enumerate(PROXIES)
        for place, name in enumerate(["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
    ],
)
def test_proxies_that_are_none(capsys, demo, name, value):
    """Refused where something is to be fetched, without the password; a run that fetches nothing does not care."""
    result = run_job(capsys, ["run"], {**demo, "INIT_MODEL_PATH": "someone/base", name: value})
    refused(result, name)
    assert "hunter2" not in result.err
    assert run_job(capsys, ["doctor"], {**demo, name: value}).code == 0


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:9", "socks5h://me:x@proxy:1080"])
def test_a_socks_proxy_needs_its_package(capsys, demo, value, monkeypatch):
    from job import environment_check

    monkeypatch.setattr(environment_check, "find_spec", lambda name: None)
    result = run_job(capsys, ["run"], {**demo, "INIT_MODEL_PATH": "someone/base", "ALL_PROXY": value})
    refused(result, "ALL_PROXY", "PySocks")


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_and_the_hub_is_wanted(capsys, demo, name):
    """Publishing or a dataset on the Hub: refused in minute one, not after training."""
    repo = {"HF_TOKEN": "hf_" + "x" * 20, "HF_REPO_ID": "me/voice"}
    refused(run_job(capsys, ["run"], {**demo, **repo, name: "1"}), f"{name}=1", "me/voice", "UPLOAD_TO_HUB=false")
    refused(run_job(capsys, ["run"], {**demo, "DATASET_NAME": "me/data", name: "on"}), f"{name}=on", "me/data")
    assert run_job(capsys, ["doctor"], {**demo, name: "1"}).code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [("WANDB_MODE", "sometimes"), ("WANDB_BASE_URL", "no address"), ("WANDB_INIT_TIMEOUT", "long")],
)
def test_wandb_refuses_its_variables_in_one_line(tmp_path, name, value):
    """Where it is to be used; W&B is asked itself."""
    pytest.importorskip("wandb")
    given = {"PRESET": "demo", "WORK_DIR": str(tmp_path), "DEVICE": "cpu", name: value}
    done = of_its_own(["doctor"], **given, TRACKERS="wandb")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith(f"error: {name}: W&B rejects it")]


@pytest.mark.parametrize("value", ["0;1", "all", "0,0", "gpu0", "0,"])
def test_gpus_that_are_no_list(capsys, demo, value):
    """CUDA would take what it can read of it, and train on fewer GPUs or none; a run on the CPU does not care."""
    refused(
        run_job(capsys, ["doctor"], {**demo, "DEVICE": "auto", "CUDA_VISIBLE_DEVICES": value}), "CUDA_VISIBLE_DEVICES"
    )
    assert run_job(capsys, ["doctor"], {**demo, "CUDA_VISIBLE_DEVICES": value}).code == 0


def test_a_run_whose_doctor_has_nothing_to_do_is_checked_too(capsys, demo):
    """The next machine's environment is another one."""
    assert run_job(capsys, ["doctor"], demo).code == 0
    again = run_job(capsys, ["doctor"], demo)
    assert again.code == 0 and "nothing to do" in again.out
    refused(run_job(capsys, ["doctor"], {**demo, "SSL_CERT_FILE": "/nowhere"}), "SSL_CERT_FILE")
