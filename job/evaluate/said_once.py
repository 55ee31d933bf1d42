"""Texts that a model says once: the speech is kept on disk, so that a killed run does not say it again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from job.config.settings import Settings
from job.core import files
from job.evaluate.speaking import Sample, conditions, speak_with_seeds
from job.evaluate.spoken_texts import FRAMES_PER_CHARACTER, Utterance

if TYPE_CHECKING:
    from qwen_tts import Qwen3TTSModel

    from job.evaluate.speaking import Prompts

#: The base model, and the finished checkpoint.
Side = Literal["base", "voice"]


@dataclass(frozen=True)
class Saying:
    """What one of the two models says.

    Attributes:
        name: of the file that keeps it.
        by: which model.
        utterances: what is said.
        seeds: how often, each time with another seed.
        way: how a speaker is cloned, `x_vector` or `in_context`; None for speakers of the model's own.
    """

    name: str
    by: Side
    utterances: tuple[Utterance, ...]
    seeds: tuple[int, ...] = (0,)
    way: Literal["x_vector", "in_context"] | None = None


def key_of(saying: Saying, settings: Settings, model: Path, reference: str) -> str:
    """A digest of everything that the speech depends on; `reference` is that of the speaker to clone."""
    how, weights = conditions(settings, model)
    return files.digest_bytes(repr((saying, how, weights, reference)).encode())


def say(model: Qwen3TTSModel, saying: Saying, settings: Settings, prompts: Prompts | None) -> list[Sample]:
    """Say it, seed by seed. A model of either kind clones: stock `generate_voice_clone` asks only for its name."""
    core: Any = model.model
    kind = core.tts_model_type
    if saying.way is not None:
        core.tts_model_type = "base"
    try:
        by_seed = speak_with_seeds(model, saying.utterances, settings, FRAMES_PER_CHARACTER, saying.seeds, prompts)
    finally:
        core.tts_model_type = kind
    return [sample for some in by_seed for sample in some]


def keep(path: Path, key: str, samples: Sequence[Sample]) -> None:
    """Write the speech as one file."""
    about = [{**vars(one), "utterance": asdict(one.utterance), "waveform": None} for one in samples]
    waves: dict[str, Any] = {f"wave_{number}": one.waveform for number, one in enumerate(samples)}

    def fill(target: Path) -> None:
        with open(target, "wb") as opened:
            np.savez_compressed(opened, about=np.array(json.dumps({"key": key, "samples": about})), **waves)

    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_with(path, fill)


def kept(path: Path, key: str) -> list[Sample] | None:
    """Read speech that was kept; None if there is none of this key."""
    if not path.is_file():
        return None
    with np.load(path) as stored:
        about = json.loads(str(stored["about"]))
        if about["key"] != key:
            return None
        return [
            Sample(**{**one, "utterance": Utterance(**one["utterance"]), "waveform": stored[f"wave_{number}"]})
            for number, one in enumerate(about["samples"])
        ]
