"""Whether the preset speakers of a CustomVoice base (Vivian, Ryan and so on) still sound as before training."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from job.evaluate import spoken_texts
from job.evaluate.judges.judge import Clip
from job.evaluate.kept_rows import Row, Told, compared, figures_of
from job.evaluate.said_once import Saying
from job.evaluate.samples import heard_as
from job.evaluate.speaking import Sample
from job.evaluate.spoken_texts import Utterance
from job.model.loading import by_lookup_key

if TYPE_CHECKING:
    from job.model.loading import ModelConfig

#: Presets that are said, at most.
PRESETS = 8
#: Semitones of pitch from which a preset is another voice, where no judge can tell voices apart.
OTHER_PITCH = 4.0


def presets_of(base: ModelConfig, trained: Collection[str]) -> list[str]:
    """Speakers of the base model that were not trained on: some of them, evenly spaced, if there are many."""
    names = sorted(set(by_lookup_key(base.talker.get("spk_id"))) - set(trained))
    return [names[position] for position in spoken_texts.spread(len(names), PRESETS)]


def sayings(base: ModelConfig, presets: Sequence[str]) -> list[Saying]:
    """The same short sentence as each preset: by the base with two seeds, by the voice with the first of them."""
    text = spoken_texts.shipped("English")[0]
    language = spoken_texts.spoken_language(base, "English")
    said = tuple(Utterance(text, name, language) for name in presets)
    return [Saying("presets-base", "base", said, (0, 1)), Saying("presets-voice", "voice", said)]


def references(samples: Mapping[str, Sequence[Sample]]) -> list[Clip]:
    """What a preset is compared with: its first sample by the base model."""
    before = samples.get("presets-base", ())
    return [heard_as(one) for one in before[: (len(before) + 1) // 2] if one.waveform.size]


def rows(told: Mapping[str, Sequence[Told]], presets: Sequence[str]) -> list[Row]:
    """Compare each preset after training with how much it varies between two seeds before."""
    before, after = told.get("presets-base", ()), told.get("presets-voice", ())
    found = []
    for name in presets:
        mine = [one for one in before if one["speaker"] == name]
        base = figures_of(mine[1:])  # the first one is what is compared with
        voice = figures_of([one for one in after if one["speaker"] == name])
        row = compared("preset", f"Preset speaker {name}", base, voice)
        if base and voice and not row.lost and base["similarity"] is None and base["similarity_independent"] is None:
            row = _by_pitch(row, base["pitch"], voice["pitch"])
        found.append(row)
    return found


def _by_pitch(row: Row, before: float | None, after: float | None) -> Row:
    """A preset that is a third of an octave higher or lower is not the same; one that is not may be, or not."""
    if before is None or after is None:
        return replace(row, lost=None)
    if abs(12 * math.log2(after / before)) <= OTHER_PITCH:
        return replace(row, lost=None)
    return replace(row, lost=True, why=f"a pitch of {after:.0f} Hz, before training {before:.0f} Hz")
