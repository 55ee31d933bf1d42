"""Whether the finished checkpoint still clones other people, as the base model does.

Nobody else's recordings are at hand, as all speakers of the data were trained on. So a recording is made 3 semitones
higher or lower and as much faster or slower, which makes another person of it, in the language of the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from job.audio.clip import pad_to_frames, resample
from job.core import files
from job.evaluate import spoken_texts
from job.evaluate.baselines import Recording, through_codec
from job.evaluate.hearing import pitches
from job.evaluate.judges.judge import Clip
from job.evaluate.kept_rows import Row, Told, compared, figures_of
from job.evaluate.said_once import Saying, Side
from job.evaluate.spoken_texts import Utterance

if TYPE_CHECKING:
    from qwen_tts import Qwen3TTSModel

    from job.evaluate.speaking import Prompts
    from job.model.loading import ModelConfig
    from job.model.speaker_encoder import SpeakerEncoder

#: Texts that are said in each way and layout.
TEXTS = 3
#: The speaker's name in clips: no speaker of data can have it, as those are in lower case.
OTHER = "Another person"
#: By how much a recording is made faster and higher; slower and lower if its pitch is above that many Hz.
CHANGE, HIGH = 1.19, 165.0
WAYS = {"x_vector": "from the x-vector", "in_context": "in context"}
LAYOUTS = {"streaming": "text beside the speech (stock's default)", "non_streaming": "text ahead of the speech"}


@dataclass(frozen=True)
class Person:
    """Somebody to clone: speech (samples,) at `rate` Hz, its text, codes (frames, codebooks) and x-vector (dim,)."""

    text: str
    language: str
    rate: int
    waveform: NDArray[np.float32]
    codes: NDArray[np.int64]
    vector: NDArray[np.float32]

    @property
    def clip(self) -> Clip:
        """The speech, for judges to compare with."""
        return Clip(self.waveform, self.rate, self.text, OTHER, self.language)

    def prompts(self, way: str) -> Prompts:
        """The prompt of stock `generate_voice_clone`."""
        import torch
        from qwen_tts.inference.qwen3_tts_model import VoiceClonePromptItem

        vector = torch.from_numpy(self.vector)
        if way == "x_vector":
            return {OTHER: VoiceClonePromptItem(None, vector, True, False)}
        return {OTHER: VoiceClonePromptItem(torch.from_numpy(self.codes), vector, False, True, self.text)}


def make_person(model: Qwen3TTSModel, encoder: SpeakerEncoder, recording: Recording) -> Person:
    """Make another person of a recording; the codec of either model does."""
    (clip,) = through_codec(model, [recording])
    hertz = pitches(np.asarray(clip.waveform, dtype=np.float64), clip.sample_rate)
    change = 1 / CHANGE if hertz is not None and np.median(hertz) > HIGH else CHANGE
    tokenizer: Any = model.model.speech_tokenizer  # type: ignore[attr-defined]
    wave = resample(clip.waveform, round(clip.sample_rate * change), clip.sample_rate)
    wave = pad_to_frames(wave, int(tokenizer.get_decode_upsample_rate()))
    codes = tokenizer.encode(wave, sr=clip.sample_rate).audio_codes[0].cpu().numpy()
    vector = encoder.embed(wave, clip.sample_rate).numpy()
    return Person(clip.text, clip.language, clip.sample_rate, wave, codes.astype(np.int64), vector)


def keep_person(path: Path, key: str, person: Person) -> None:
    """Write the person for a rerun, which may need no model to say more."""
    parts: dict[str, Any] = {"key": np.array(key), **{name: np.asarray(value) for name, value in vars(person).items()}}

    def fill(target: Path) -> None:
        with open(target, "wb") as opened:
            np.savez_compressed(opened, **parts)

    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_with(path, fill)


def kept_person(path: Path, key: str) -> Person | None:
    """Read the person that a run before has made; None if there is none of this key."""
    if not path.is_file():
        return None
    with np.load(path) as stored:
        if str(stored["key"]) != key:
            return None
        text, language, rate = str(stored["text"]), str(stored["language"]), int(stored["rate"])
        return Person(text, language, rate, stored["waveform"], stored["codes"], stored["vector"])


def sayings(base: ModelConfig, language: str) -> list[Saying]:
    """What both models say as that person, in both ways of cloning and both text layouts.

    Args:
        base: the base model's config.
        language: that of the data; English if no texts in it come with the job.
    """
    said = language if spoken_texts.shipped(language) else "English"
    texts = spoken_texts.shipped(said)[:TEXTS]
    spoken = spoken_texts.spoken_language(base, said)
    utterances = tuple(Utterance(text, OTHER, spoken, layout) for layout in LAYOUTS for text in texts)
    sides: tuple[Side, ...] = ("base", "voice")
    return [Saying(f"cloning-{side}-x_vector", side, utterances, way="x_vector") for side in sides] + [
        Saying(f"cloning-{side}-in_context", side, utterances, way="in_context") for side in sides
    ]


def rows(told: Mapping[str, Sequence[Told]], trained: Sequence[str]) -> list[Row]:
    """Compare both models' clones, for each way and layout.

    Args:
        told: figures of the samples by name of a saying.
        trained: layouts that the checkpoint was trained in. It can hardly speak in another, which is no news.
    """
    found = []
    for way, how in WAYS.items():
        for layout, written in LAYOUTS.items():
            base, voice = (
                figures_of([one for one in told.get(f"cloning-{side}-{way}", ()) if one["layout"] == layout])
                for side in ("base", "voice")
            )
            row = compared("cloning", f"Cloning {how}, {written}", base, voice)
            found.append(row if layout in trained else replace(row, expected=True))
    return found
