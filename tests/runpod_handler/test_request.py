"""What a request may say: checked without a server."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from job.config import settings as variables
from job.config.settings import Settings
from job.core.errors import BadInput

TOKEN = "hf_" + "Zq7" * 12
PATHS = sorted(f for f, info in Settings.model_fields.items() if "Path" in str(info.annotation))


@pytest.fixture
def request_module() -> ModuleType:
    import handler_request

    return handler_request


@pytest.fixture
def parse(request_module: ModuleType, tmp_path: Path) -> Any:
    (tmp_path / "volume").mkdir()
    (tmp_path / "empty").touch()

    def parsed(given: Any, **environ: str) -> Any:
        return request_module.parse(given, environ, tmp_path / "volume", tmp_path / "empty")

    return parsed


def test_the_same_work_has_the_same_directory(parse: Any) -> None:
    """Credentials, stages, spelling and what cannot change a result do not make it other work; all else does."""
    one = parse({"variables": {"DATASET_NAME": "a/b", "LEARNING_RATE": 1e-4, "HUB_PRIVATE": True}})
    same = [
        {"variables": {"LR": "0.0001", "DATASET_NAME": " a/b "}},
        {"variables": {"DATASET_NAME": "a/b", "LR": 1e-4}, "credentials": {"hf_token": TOKEN}},
        {"variables": {"DATASET_NAME": "a/b", "LR": 1e-4}, "stages": {"from": "train"}},
        {"variables": {"DATASET_NAME": "a/b", "LR": 1e-4, "LOGGING_STEPS": 3, "FORCE": True}},
    ]
    assert {parse(given).name for given in same} == {one.name}
    other = [{"DATASET_NAME": "a/c", "LR": 1e-4}, {"DATASET_NAME": "a/b", "LR": 2e-4}, {}]
    assert one.name not in {parse({"variables": given}).name for given in other}
    assert one.settings.paths.work.name == one.name


def test_a_name_keeps_the_work_when_variables_change(parse: Any) -> None:
    work = {parse({"name": "me", "variables": {"SEED": n}}).settings.paths.work for n in (1, 2)}
    assert len(work) == 1 and work.pop().parts[-2:] == ("jobs", "me")


def test_defaults_of_the_endpoint_give_way_to_the_request_by_any_name(parse: Any) -> None:
    """Also where the image's own WORK_DIR would send every request to one directory."""
    environ = {"LR": "0.5", "SEED": "7", "WORK_DIR": "/work", "CONSOLE_LOG": "/x", "NUM_NODES": "4", "HF_TOKEN": TOKEN}
    parsed = parse({"variables": {"LEARNING_RATE": 0.25}}, **environ)
    assert (parsed.settings.learning_rate, parsed.settings.seed, parsed.settings.num_nodes) == (0.25, 7, 1)
    assert parsed.settings.paths.work.parent.name == "jobs"
    assert parsed.settings.hf_token is None and TOKEN not in str(parsed)
    assert parsed.secrets.hf_token.get_secret_value() == TOKEN


def test_the_job_gets_what_it_needs_of_the_environment_and_no_more(
    request_module: ModuleType, parse: Any, tmp_path: Path
) -> None:
    environ = {
        **dict.fromkeys(("PATH", "HOME", "CUDA_VISIBLE_DEVICES", "HF_ENDPOINT", "HTTPS_PROXY", "LD_LIBRARY_PATH"), "x"),
        **dict.fromkeys(
            ("HF_TOKEN", "HF_TOKEN_PATH", "WANDB_API_KEY", "RUNPOD_AI_API_KEY", "AWS_SECRET_ACCESS_KEY"), TOKEN
        ),
        "LR": "0.5",
        "PYTHONPATH": "/evil",
        "HUGGING_FACE_HUB_TOKEN": TOKEN,
    }
    parsed = parse({"variables": {"LEARNING_RATE": 0.25}}, **environ)
    child = request_module.child_environment(parsed, environ, tmp_path / "volume")
    assert {"PATH", "HOME", "CUDA_VISIBLE_DEVICES", "HF_ENDPOINT", "HTTPS_PROXY", "LD_LIBRARY_PATH"} <= child.keys()
    assert child["LEARNING_RATE"] == "0.25" and "LR" not in child and "PYTHONPATH" not in child
    assert TOKEN not in child.values()
    assert Path(child["HF_HOME"]).is_relative_to(tmp_path / "volume"), "weights are downloaded once"
    assert variables.load(child).paths == parsed.settings.paths, "the job reads what was checked"


@pytest.mark.parametrize("field", [*PATHS, "init_model_path", "tokenizer_path", "test_texts", "resume", "dataset_name"])
def test_no_variable_leads_out_of_the_volume(parse: Any, tmp_path: Path, field: str) -> None:
    """Neither by an absolute path nor by dots, a home directory or a symbolic link. (A new path is covered as well.)"""
    name = variables.names_of(field)[0]
    (tmp_path / "outside").mkdir()
    (tmp_path / "volume" / "link").symlink_to(tmp_path / "outside")
    for value in ("/etc/hostname", "../outside/x", "a/../../outside", "~root/x", "link/x", "/proc/self/environ"):
        with pytest.raises(BadInput, match=name) as refused:
            parse({"variables": {name: value}})
        assert "\n" not in str(refused.value)


def test_paths_on_the_volume_and_plain_texts_pass(parse: Any, tmp_path: Path) -> None:
    inside = str(tmp_path / "volume" / "data" / "train.jsonl")
    for value in (inside, "data/train.jsonl", "./data/x..y.jsonl"):
        parse({"variables": {"TRAIN_JSONL": value}})
    for text in ("Hello ... there.|What? ~ 5", "x" * 5000, "Ünïcode|日本語"):
        assert parse({"variables": {"TEST_TEXTS": text}}).settings.test_texts == text
    parse({"variables": {"INIT_MODEL_PATH": "Qwen/Qwen3-TTS-12Hz-0.6B-Base", "DATASET_NAME": "me/data"}})
    parsed = parse({"variables": {"WORK_DIR": "jobs/mine", "OUTPUT_DIR": "jobs/mine/out"}})
    assert parsed.name == "mine" and parsed.settings.paths.output.parts[-3:] == ("jobs", "mine", "out")


def test_values_arrive_as_the_job_reads_them(parse: Any) -> None:
    given = {"BATCH_SIZE": 3, "LEARNING_RATE": 1e-7, "LORA_MLP": False, "SPEAKER_NAME": "Ünal = 'x'\n$HOME #no"}
    settings = parse({"variables": given}).settings
    assert (settings.batch_size, settings.learning_rate, settings.lora_mlp) == (3, 1e-7, False)
    assert settings.speaker_name == given["SPEAKER_NAME"]


KEY = "0123abcd" * 5


@pytest.mark.parametrize(
    "given",
    [
        {"variables": {"DEVICE": KEY}},
        {"variables": {KEY: "x"}},
        {"variables": {"HF_REPO_ID": f"https://me:{TOKEN}@huggingface.co/me/voice"}},
        {"variables": {"TRAIN_MODE": f"\\n{TOKEN}"}},
        {"variables": {"X": {"hf_token": TOKEN}}},
        {"credentials": {"hf_token": [TOKEN]}},
        {"credentials": {"wandb_api_key": {"key": KEY}}},
        {"credentials": {KEY: "x"}},
        {"stages": {"until": KEY}},
    ],
)
def test_a_key_anywhere_is_not_repeated(parse: Any, given: Any) -> None:
    """By form, since nobody has said that it is one: in an address, nested, as a name, without a word about W&B."""
    with pytest.raises(BadInput) as refused:
        parse(given)
    assert TOKEN not in str(refused.value) and KEY not in str(refused.value)


def test_a_refusal_is_a_line_that_can_be_read(parse: Any) -> None:
    """However much is wrong."""
    with pytest.raises(BadInput, match=r"and 4995 more$") as refused:
        parse({f"x{number}": 1 for number in range(5000)})
    assert len(str(refused.value)) < 1000


def test_more_than_a_program_can_be_started_with_is_refused(parse: Any) -> None:
    given = {v.name: "x" * 99_000 for v in variables.variables()}
    with pytest.raises(BadInput, match="1000000 bytes in all"):
        parse({"variables": given})


@pytest.mark.parametrize("given", ["soon", "nan", "0", "-3", "inf"])
def test_patience_of_the_worker_is_a_number(given: str) -> None:
    import handler_child

    with pytest.raises(SystemExit, match="JOB_GRACE_SECONDS="):
        handler_child._grace(given)
    assert (handler_child._grace(""), handler_child._grace("5")) == (30.0, 5.0)
