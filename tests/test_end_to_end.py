"""With variables alone, `./entrypoint.sh` turns any base and any recordings into a voice that stock qwen_tts speaks."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parent.parent
TEXTS = {
    "en-01": "Sannu da zuwa.",
    "en-03": "Åtte ærlige ørner!",
    "en-05": "你好，世界。",
    "de-02": "Što je to?",
    "de-04": "One, two.",
}


@pytest.fixture(scope="module")
def other_base(tmp_path_factory):
    """Other widths everywhere, other special ids, another language table, another text vocabulary."""
    from job.demo.base import build

    return build(
        tmp_path_factory.mktemp("base") / "other",
        seed=5,
        hidden_size=80,
        text_hidden_size=48,
        sub_talker_hidden_size=64,
        codec_ids={"codec_bos_id": 2201, "codec_eos_token_id": 2202, "codec_pad_id": 2203},
        languages={"chinese": 2300, "hausa": 2301},
        reserved_text_tokens=7,
    )


@pytest.fixture
def recordings(tmp_path, clips_dir):
    """Vendor-style rows: stereo 44.1 kHz and mono 16 kHz files beside FLAC, one reference, texts in any script."""
    import soxr

    rows = []
    for number, (name, text) in enumerate(TEXTS.items()):
        wave, rate = soundfile.read(clips_dir / f"{name}.flac", dtype="float32")
        target = tmp_path / f"{name}.wav"
        if number == 0:
            wave = soxr.resample(wave, rate, 44_100)
            soundfile.write(target, np.stack([wave, 0.8 * wave], axis=1), 44_100)
        elif number == 1:
            soundfile.write(target, soxr.resample(wave, rate, 16_000), 16_000)
        else:
            soundfile.write(target, wave, rate)
        rows.append({"audio": f"./{target.name}", "text": text, "ref_audio": f"./{next(iter(TEXTS))}.wav"})
    manifest = tmp_path / "train_raw.jsonl"
    manifest.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    return manifest


def entrypoint(tmp_path, **variables):
    """Run ./entrypoint.sh from another directory, as a container would."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "OMP_NUM_THREADS") if name in os.environ}
    common = {
        "WORK_DIR": "w",
        "OUTPUT_DIR": "o",
        "DEVICE": "cpu",
        "MIXED_PRECISION": "no",
        "CONSOLE_LOG": str(tmp_path / "console.txt"),
    }
    return subprocess.run(
        [ROOT / "entrypoint.sh"],
        env={**kept, **common, **{k: str(v) for k, v in variables.items()}},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )


def spoken(checkpoint, **arguments):
    """What stock qwen_tts says; returns the waveforms."""
    from qwen_tts import Qwen3TTSModel

    voice = Qwen3TTSModel.from_pretrained(str(checkpoint))
    waves, rate = voice.generate_custom_voice(speaker="my_voice", **arguments)
    assert rate == 24_000
    return waves


@pytest.mark.slow
def test_full_training_in_both_layouts_on_another_base(tmp_path, other_base, recordings):
    """TRAIN_MODE=full, TEXT_LAYOUT=mixed, a named speaker with capitals: output/best says every training sentence, code
    by code, as my_voice, in both text layouts."""
    import torch

    from job.config.paths import Paths
    from job.dataset.prepared import read_split
    from job.evaluate.recite import recite

    done = entrypoint(
        tmp_path,
        INIT_MODEL_PATH=other_base,
        TRAIN_JSONL=recordings,
        SPEAKER_NAME="My_Voice",
        TRAIN_MODE="full",
        TEXT_LAYOUT="mixed",
        MAX_STEPS=220,
        LEARNING_RATE="3e-3",
        BATCH_SIZE=5,
        UPLOAD_TO_HUB="false",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "console.txt").read_text().strip().endswith(done.stdout.strip().splitlines()[-1])
    rows = read_split(Paths(tmp_path / "w", tmp_path / "o"), "train").to_pylist()
    assert {row["speaker"] for row in rows} == {"my_voice"}
    rows = [{**row, "codes": np.asarray(row["codes"], dtype=np.int16)} for row in rows]
    for layout in ("non_streaming", "streaming"):
        recitals = recite(tmp_path / "o" / "best", rows, device=torch.device("cpu"), layout=layout)
        assert all(r.right_stop for r in recitals), (layout, recitals)
        assert min(r.match for r in recitals) >= 0.99, (layout, recitals)
    waves = spoken(tmp_path / "o" / "best", text=[TEXTS["en-01"]], do_sample=False, subtalker_dosample=False)
    assert len(waves[0]) % 1920 == 0
    assert np.abs(waves[0]).max() > 0.01


@pytest.mark.thorough
def test_lora_gives_a_checkpoint_that_stock_qwen_tts_speaks(tmp_path, other_base, recordings):
    """TRAIN_MODE=lora: merged weights that load with no code of ours, an adapter beside them, the loss has fallen."""
    done = entrypoint(
        tmp_path,
        INIT_MODEL_PATH=other_base,
        TRAIN_JSONL=recordings,
        SPEAKER_NAME="My_Voice",
        TRAIN_MODE="lora",
        MAX_STEPS=30,
        LEARNING_RATE="3e-3",
        LOGGING_STEPS=1,
        BATCH_SIZE=5,
        MAX_NEW_TOKENS=12,
        UPLOAD_TO_HUB="false",
    )
    assert done.returncode == 0, done.stderr
    best = tmp_path / "o" / "best"
    for name in ("adapter_config.json", "adapter_model.safetensors", "text_projection.safetensors"):
        assert (best / "adapter" / name).exists()
    losses = [json.loads(line)["loss"] for line in (tmp_path / "o" / "training_log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]
    for streaming in (False, True):
        waves = spoken(best, text=["Hello there."], max_new_tokens=6, non_streaming_mode=not streaming)
        assert len(waves[0]) > 0
    stats = json.loads((tmp_path / "w" / "samples" / "stats.json").read_text())
    assert stats["samples"]
