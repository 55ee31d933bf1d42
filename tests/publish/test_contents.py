"""What is published is whole, finite, and nothing more."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from job.config import settings as variables
from job.core import files
from job.core.errors import BadInput, PublishFailed
from job.publish import contents, validate

PUBLISHED = [
    *("README.md", "config.json", "generation_config.json", "merges.txt", "model.safetensors"),
    *("preprocessor_config.json", "special_tokens_map.json", "speech_tokenizer/config.json"),
    *("speech_tokenizer/model.safetensors", "speech_tokenizer/preprocessor_config.json", "tokenizer_config.json"),
    "vocab.json",
]


def settings_of(work: Path, **env: str) -> variables.Settings:
    return variables.load({"WORK_DIR": str(work), "TRAIN_MODE": "full", "INIT_MODEL_PATH": "demo", **env})


def test_only_the_listed_files_are_published(work: Path) -> None:
    """Optimizer states, logs, caches and partial files stay here; everything stock qwen_tts needs goes."""
    result = validate.run(settings_of(work))
    assert contents.published(work / "output" / "best") == PUBLISHED
    assert result["files"] == len(PUBLISHED)
    assert result["speakers"] == ["my_voice"]
    assert not [p for p in (work / "output" / "best").iterdir() if p.name.startswith(".README")]


def test_last_gets_a_card_too(work: Path) -> None:
    """Of its own: its step and its loss, its repo, and which the best one is."""
    shutil.copytree(work / "output" / "best", work / "output" / "last")
    files.write_json(work / "output" / "last" / "training_state.json", {"step": 60, "loss": 1.5, "split": "validation"})
    validate.run(settings_of(work, HF_REPO_ID="alice/voice", HF_LAST_REPO_ID="alice/voice-last"))
    best, last = ((work / "output" / name / "README.md").read_text() for name in ("best", "last"))
    assert "| this checkpoint, validation | 40 | 1.2500 |" in best
    assert "| this checkpoint, validation | 60 | 1.5000 |" in last
    assert 'from_pretrained("alice/voice-last"' in last
    assert (
        "the checkpoint after the last step of its training; the one that was kept as the best is `alice/voice`."
        in last
    )
    assert "after the last step" not in best


def _edit_config(best: Path, **talker: object) -> None:
    config = files.read_json(best / "config.json")
    config["talker_config"] |= talker
    files.write_json(best / "config.json", config)


def _kind(best: Path) -> None:
    files.write_json(best / "config.json", files.read_json(best / "config.json") | {"tts_model_type": "base"})


def _poison(path: Path, value: float) -> None:
    """One bad number in the middle of the codec's largest fp32 tensor."""
    tensors = load_file(path)
    name = max((n for n in tensors if tensors[n].dtype == np.float32), key=lambda n: tensors[n].size)
    tensors[name].reshape(-1)[tensors[name].size // 2] = value
    save_file(tensors, path)


def _poison_bf16(path: Path) -> None:
    """Bits of a bf16 infinity (0x7F80) as the file's last number."""
    data = bytearray(path.read_bytes())
    data[-2:] = b"\x80\x7f"
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda best: (best / "generation_config.json").unlink(), "generation_config.json is missing"),
        (lambda best: (best / "model.safetensors").unlink(), "*.safetensors is missing"),
        (lambda best: (best / "merges.txt").unlink(), "merges.txt is missing"),
        (lambda best: shutil.rmtree(best / "speech_tokenizer"), "speech_tokenizer/config.json is missing"),
        (_kind, "tts_model_type is 'base'"),
        (lambda best: _edit_config(best, spk_id={"My_Voice": 3000}), "'My_Voice' has capitals"),
        (lambda best: _edit_config(best, spk_id={}), "names no speaker"),
        (lambda best: _edit_config(best, spk_id={"my_voice": 99999}), "has row 99999"),
        (lambda best: _edit_config(best, spk_id={"other": 3000}), "'my_voice' of the data is not among"),
        (lambda best: _poison(best / "speech_tokenizer" / "model.safetensors", np.nan), "not finite"),
        (lambda best: _poison(best / "speech_tokenizer" / "model.safetensors", np.inf), "not finite"),
        (lambda best: _poison_bf16(best / "model.safetensors"), "model.safetensors: 1 tensors are not finite"),
        (lambda best: (best / "model.safetensors").write_bytes(b"{}"), "cannot be read"),
        (
            lambda best: (best / "model.safetensors").write_bytes((best / "model.safetensors").read_bytes()[:-1]),
            "cannot be read",
        ),
    ],
)
def test_a_broken_checkpoint_is_refused(work: Path, damage: Callable[[Path], object], said: str) -> None:
    """Each fault is one line with exit code 5, before anything goes up."""
    damage(work / "output" / "best")
    with pytest.raises(PublishFailed) as caught:
        validate.run(settings_of(work))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adapter_alone_needs_its_files(work: Path) -> None:
    with pytest.raises(PublishFailed, match=r"adapter_config\.json is missing"):
        validate.run(settings_of(work, TRAIN_MODE="lora", EXPORT="adapter"))


def test_no_checkpoint_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="run `python -m job train` first"):
        validate.run(settings_of(tmp_path))
