"""The demo's own recogniser hears the clips' sentences where they are said and nowhere else, and is small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from job.config import settings as variables
from job.core.errors import BadInput
from job.demo import manifest, recogniser_directory
from job.evaluate.judges.intelligibility import Transcriber, load_transcriber
from job.model.recogniser import named
from job.text.error_rates import error_rates

RATE, FRAME = 24_000, 1920


@pytest.fixture(scope="module")
def hear() -> Transcriber:
    return load_transcriber(str(recogniser_directory()), "cpu")


@pytest.fixture(scope="module")
def codec(tiny_base: Path) -> Any:
    from qwen_tts import Qwen3TTSTokenizer

    return Qwen3TTSTokenizer.from_pretrained(str(tiny_base / "speech_tokenizer"))


@pytest.fixture(scope="module")
def codes(codec: Any) -> dict[str, np.ndarray]:
    """Each clip's text, and its codes as in the prepared data."""
    waves = [soundfile.read(row["audio"], dtype="float32")[0] for row in manifest()]
    padded = [np.pad(wave, (0, -len(wave) % FRAME)) for wave in waves]
    encoded = codec.encode(padded, sr=RATE).audio_codes
    return {row["text"]: one.numpy() for row, one in zip(manifest(), encoded, strict=True)}


def decoded(codec: Any, codes: np.ndarray) -> np.ndarray:
    import torch

    (wave,), _ = codec.decode([{"audio_codes": torch.from_numpy(np.ascontiguousarray(codes))}])
    return np.asarray(wave, dtype=np.float32)


def errors(pairs: list[tuple[str, str, str]]) -> float:
    """The mean word error rate over (text, transcript, language)."""
    return float(np.mean([error_rates(*pair)[0] for pair in pairs]))


def test_it_is_under_two_megabytes() -> None:
    assert sum(path.stat().st_size for path in recogniser_directory().iterdir()) < 2e6


def test_it_hears_the_clips_as_they_are_and_through_the_codec(
    hear: Transcriber, codec: Any, codes: dict[str, np.ndarray]
) -> None:
    recorded, through = [], []
    for row in manifest():
        recorded.append((row["text"], hear(soundfile.read(row["audio"], dtype="float32")[0], RATE), row["language"]))
        through.append((row["text"], hear(decoded(codec, codes[row["text"]]), RATE), row["language"]))
    assert errors(through) <= 0.1, through
    assert errors(recorded) <= 0.2, recorded


def test_it_hears_none_of_the_sentences_in_noise_nor_in_random_codes(hear: Transcriber, codec: Any) -> None:
    """Else an untrained model, which says random codes, would be heard to speak."""
    random = np.random.default_rng(7)
    sounds = [decoded(codec, random.integers(0, 2048, (frames, 16))) for frames in (8, 12, 20, 35, 60, 80)]
    sounds += [(level * random.standard_normal(3 * RATE)).astype(np.float32) for level in (0.003, 0.03, 0.2)]
    transcripts = [hear(sound, RATE) for sound in sounds]
    for row in manifest():
        assert errors([(row["text"], heard, row["language"]) for heard in transcripts]) >= 0.9, (row, transcripts)


def test_it_hears_half_of_a_sentence_of_which_half_is_said(
    hear: Transcriber, codec: Any, codes: dict[str, np.ndarray]
) -> None:
    """It listens to the end, and does not tell a whole sentence by its beginning."""
    for language, text in (
        (
            "English",
            "The old lighthouse keeper counted the ships as they came home, one lantern after another, all winter.",
        ),
        ("German", "Im Hafen liegen heute Abend drei alte Schiffe, und auf jedem brennt ein kleines Licht."),
    ):
        half = codes[text].copy()
        half[len(half) // 2 :] = np.random.default_rng(3).integers(0, 2048, half[len(half) // 2 :].shape)
        heard = hear(decoded(codec, half), RATE)
        assert 0.3 <= errors([(text, heard, language)]) <= 0.85, heard


def test_the_demo_listens_with_it_and_nothing_else_does() -> None:
    """Of other voices and words it knows nothing: named beside them, it is refused before anything is trained."""
    assert named(variables.load({}, quiet=True)) == str(recogniser_directory())
    own = variables.load({"PRESET": "demo", "TRAIN_JSONL": "rows.jsonl"}, quiet=True)
    assert (own.asr_model, own.baselines, own.max_new_tokens) == (None, None, None)
    other = variables.load({"PRESET": "demo", "ASR_MODEL": "owner/asr"}, quiet=True)
    assert (named(other), other.check_words) == ("owner/asr", "auto")
    for beside in ("INIT_MODEL_PATH", "TRAIN_JSONL", "TOKENIZER_PATH"):
        settings = variables.load({"PRESET": "demo", "ASR_MODEL": "demo", beside: "somewhere"}, quiet=True)
        with pytest.raises(BadInput, match=f"^ASR_MODEL=demo: .*{beside} is set"):
            named(settings)
