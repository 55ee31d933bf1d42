"""Other words, reversed speech and another voice are faults of a sample where a judge hears them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.audio.clip import load
from job.config.settings import Settings
from job.core import files
from job.evaluate import checks, judging
from job.evaluate.judges import intelligibility
from job.evaluate.judges.judge import Clip
from job.evaluate.speaking import Sample
from job.evaluate.spoken_texts import Utterance
from tests.support import ctc

RATE = 16_000


@pytest.fixture(scope="module")
def said(clips_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, np.ndarray]]]:
    """A real recogniser that hears the embedded clips letter by letter, and the clips with their texts."""
    rows = list(files.read_jsonl(clips_dir / "metadata.jsonl"))
    clips = [(row["text"], load(clips_dir / row["audio"], RATE).samples.astype(np.float32)) for row in rows]
    texts, waves = zip(*clips, strict=True)
    return ctc.build(tmp_path_factory.mktemp("asr") / "ctc", list(waves), list(texts)), clips


def judge(recogniser: Path, work: Path, clips: Any, spoken: list[tuple[str, np.ndarray]]) -> list[dict[str, Any]]:
    """What `synthesize` would write of these samples, beside the clips as the voice's recordings."""
    settings = Settings(asr_model=str(recogniser), work_dir=work)
    words = intelligibility.load(settings, "cpu")
    assert words is not None
    samples = [
        Sample(Utterance(text, "ada", "english", None, "non_streaming"), wave, RATE, 10, True, 1.0)
        for text, wave in spoken
    ]
    everything = judging.Spoken(
        samples={"voice": samples},
        recorded={"codec": [Clip(wave, RATE, text, "Ada", "english") for text, wave in clips]},
        own={}, references=[], again={}, frames_per_character=1.0, samples_per_frame=1920,
    )  # fmt: skip
    described: list[dict[str, Any]] = [
        {"file": f"{number}.wav", "text": text, "speaker": "ada", "passed": True, "problems": [], "seconds": 1.0,
         "stopped_by_eos": True, "origin": "unseen"}
        for number, (text, _) in enumerate(spoken)
    ]  # fmt: skip
    return list(judging.judged(settings, [words], everything, described, None)["samples"])


def test_other_words_and_reversed_speech_are_faults_and_the_right_words_are_none(
    said: tuple[Path, list[tuple[str, np.ndarray]]], tmp_path: Path
) -> None:
    """Every clip with its own text, with the next one's, and backwards: none of the first, all of the others."""
    recogniser, clips = said
    texts = [text for text, _ in clips]
    others = [(text, wave) for text, (_, wave) in zip([*texts[1:], texts[0]], clips, strict=True)]
    backwards = [(text, wave[::-1].copy()) for text, wave in clips]
    told = judge(recogniser, tmp_path, clips, [*clips, *others, *backwards])
    right, wrong, reverse = (told[n * len(clips) :][: len(clips)] for n in range(3))
    assert [one["problems"] for one in right] == [[]] * len(clips)
    for kind in (wrong, reverse):
        assert all(not one["passed"] and "other words: " in one["problems"][0] for one in kind), kind


@pytest.mark.parametrize(
    ("figures", "own", "found"),
    [
        ({"similarity": 0.4}, {"similarity": 0.85}, ["another voice: similarity 40% (85% in its recordings)"]),
        ({"similarity": 0.6}, {"similarity": 0.85}, []),
        ({"similarity": 0.64, "similarity_others": 0.5, "seconds": 9.0}, {"similarity": 0.9},
         ["another voice: similarity 64% (90% in its recordings, 50% in other people's)"]),
        ({"similarity_independent": 0.64, "similarity_independent_others": 0.5, "seconds": 9.0},
         {"similarity_independent": 0.9},
         ["another voice: similarity 64% (90% in its recordings, 50% in other people's)"]),
        ({"similarity": 0.71, "similarity_others": 0.5, "seconds": 9.0}, {"similarity": 0.9}, []),
        ({"similarity": 0.64, "similarity_others": 0.5, "seconds": 2.0, "lead": 0.5, "trail": 0.5},
         {"similarity": 0.9}, []),  # a second of sound is less like anybody
        ({"similarity": 0.85, "similarity_others": 0.9}, {"similarity": 0.95}, []),  # to it all are alike
        ({"similarity": 0.1}, {"similarity": None}, []),
        ({"similarity": None}, {"similarity": 0.8}, []),
        ({"cer": 0.9}, {"cer": 0.6}, []),  # it does not understand the recordings either
        ({"cer": 0.45}, {"cer": 0.02}, []),
        ({"cer": 0.9}, {}, []),
    ],
)  # fmt: skip
def test_what_judges_say_is_measured_by_what_they_say_of_the_recordings(
    figures: dict[str, Any], own: dict[str, Any], found: list[str]
) -> None:
    assert checks.by_judges(figures, own) == found
