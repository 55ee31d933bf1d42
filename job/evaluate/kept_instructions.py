"""Whether instructions still change how the voice speaks, beside how much they change the base model's presets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from job.evaluate import spoken_texts
from job.evaluate.comparison import mean
from job.evaluate.kept_rows import Row, Told
from job.evaluate.said_once import Saying, Side
from job.evaluate.speaking import Sample
from job.evaluate.spoken_texts import Utterance

if TYPE_CHECKING:
    from job.model.loading import ModelConfig

#: Two opposite instructions, for a base model that was trained with such.
OPPOSITES = (
    "Speak very fast, in a high, excited voice.",
    "Speak very slowly, in a low, calm voice.",
)
#: Texts that are said with each instruction, and with how many seeds.
TEXTS, SEEDS = 2, (0, 1)
#: A change of rate (a share), and one of pitch, in semitones, that is clear; of one of the base's this share is kept.
CLEAR, KEPT = {"rate_change": 0.15, "pitch_change": 2.0}, 1 / 3


@dataclass(frozen=True)
class Pair:
    """Two instructions, or one and none, and who says what with them.

    Attributes:
        instructs: both.
        preset: a speaker of the base model that does it too; None if the base has none that could.
        speaker: the voice's speaker.
        language: of the texts.
    """

    instructs: tuple[str, str | None]
    preset: str | None
    speaker: str
    language: str


def pair_of(base: ModelConfig, presets: Sequence[str], used: Sequence[str], speaker: str, language: str) -> Pair | str:
    """Return the instructions to try, or why there are none.

    Args:
        base: the base model's config.
        presets: its speakers that were not trained on.
        used: instructions of the data, the most frequent ones first.
        speaker: the voice's.
        language: of the data; English if no texts in it come with the job.
    """
    if str(base.raw.get("tts_model_size")) in "0b6":  # as in stock `generate_custom_voice`
        return "models of this size take no instructions"
    language = language if spoken_texts.shipped(language) else "English"
    if base.kind == "custom_voice" and presets:
        return Pair(OPPOSITES, presets[0], speaker, language)
    if used:
        return Pair((used[0], used[1] if len(used) > 1 else None), None, speaker, language)
    return "neither the base model nor the data has any"


def sayings(base: ModelConfig, pair: Pair) -> list[Saying]:
    """The same texts with either instruction, by the voice, and by the base where it can.

    Not in one batch: so the same random numbers are drawn, and speech is the same where an instruction changes nothing.
    """
    texts = spoken_texts.shipped(pair.language)[:TEXTS]
    language = spoken_texts.spoken_language(base, pair.language)
    sides: tuple[tuple[Side, str | None], ...] = (("base", pair.preset), ("voice", pair.speaker))
    return [
        Saying(
            f"instructions-{side}-{number}",
            side,
            tuple(Utterance(text, speaker, language, instruct=how) for text in texts),
            SEEDS,
        )
        for side, speaker in sides
        if speaker is not None
        for number, how in enumerate(pair.instructs)
    ]


def row(told: Mapping[str, Sequence[Told]], samples: Mapping[str, Sequence[Sample]], pair: Pair) -> Row:
    """Compare what the instructions change: less than a third of what is clear in the base's speech is lost."""
    names = {side: [f"instructions-{side}-{number}" for number in (0, 1)] for side in ("base", "voice")}
    base, voice = (
        _changes([told.get(name, ()) for name in some], [samples.get(name, ()) for name in some])
        for some in names.values()
    )
    label = f"Instructions: {pair.instructs[0]!r} against {pair.instructs[1] or 'none'!r}"
    if voice is None:
        return Row("instructions", label, base, voice)
    if voice["identical"] == 1.0:
        return Row("instructions", label, base, voice, True, "both give the same speech, to the sample")
    if base is None:
        return Row("instructions", label, base, voice)
    shares = []
    for name, least in CLEAR.items():
        there, here = base[name], voice[name]
        if there is not None and here is not None and abs(there) >= least:
            shares.append(here / there)
    if not shares:
        return Row("instructions", label, base, voice)
    lost = max(shares) < KEPT
    why = "rate and pitch change by less than a third of what they change in the base's speech" if lost else ""
    return Row("instructions", label, base, voice, lost, why)


def _changes(told: Sequence[Sequence[Told]], samples: Sequence[Sequence[Sample]]) -> dict[str, float | None] | None:
    """What the first instruction changes against the second: rate, pitch, and the share of samples left the same."""
    if not all(told):
        return None
    same = [np.array_equal(one.waveform, other.waveform) for one, other in zip(*samples, strict=True)]
    rates, pitches = ([mean(some, name) for some in told] for name in ("letters_per_second", "pitch"))
    return {
        "rate_change": round(rates[0] / rates[1] - 1, 6) if rates[0] and rates[1] else None,
        "pitch_change": round(12 * math.log2(pitches[0] / pitches[1]), 6) if pitches[0] and pitches[1] else None,
        "identical": sum(same) / len(same),
    }
