"""The table of checks on samples: figures, thresholds, and the messages people read."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from job.evaluate.audio_stats import AudioStats
from job.evaluate.hearing import Heard


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Attributes:
        name: name of the check; `Own.off` lists those that are disabled for a voice.
        figure: what is measured: a field of `AudioStats`, of `Heard`, or one that `speech_gate.figures` adds.
        unit: unit of the figure and of the limit.
        limit: the threshold; a figure equal to it passes.
        bad: the side of the limit that is bad.
        sentence: the message for people; `{names}` are figures.
        own: whether recordings can have the fault too: if the voice's own do, its samples may.
    """

    name: str
    figure: str
    unit: str
    limit: float
    bad: Literal["above", "below"]
    sentence: str
    own: bool = True

    def fails(self, figures: Mapping[str, Any]) -> bool:
        """Return whether the figure is on the bad side; False if it is missing."""
        value = figures.get(self.figure)
        if value is None or math.isnan(value):
            return False
        return bool(value > self.limit if self.bad == "above" else value < self.limit)


#: Silence: if one of these fails, nothing else is judged. -60 dBFS is no sound at all.
SILENCE = (
    Check("silent", "rms", "of full scale", 1e-3, "below", "silent", own=False),
    Check("nearly_silent", "silence_fraction", "share of the time", 0.95, "above", "silent", own=False),
)

#: All other checks. "Speech" below means recordings of people and synthesized speech, in a dozen languages.
CHECKS = (
    Check("not_finite", "non_finite", "samples", 0, "above", "{non_finite} samples are not finite", own=False),
    # Relative to the voice's own pace if known (`job.evaluate.pace`).
    Check("too_short", "of_shortest", "of the shortest time", 1, "below",
          "{seconds:.2f} s are too short for {letters:.0f} letters: cut off, or too fast", own=False),
    Check("too_long", "of_longest", "of the longest time", 1, "above",
          "{seconds:.2f} s are too long for {letters:.0f} letters: said several times, babble, or too slow", own=False),
    # This share of clipped samples is audible as distortion, even if the level was lowered afterwards.
    Check("clipped", "clipped", "share of the samples", 0.01, "above", "{clipped:.1%} clipped"),
    # Speech has under 0.001 there, also when it is loud.
    Check("cut_off_flat", "flat_tops", "share of the samples", 0.005, "above",
          "{flat_tops:.1%} of the waveform is cut off flat: clipped"),
    # A pause this long inside one text is a voice that lost its place.
    Check("pause", "longest_inner_silence", "s", 3.0, "above", "a pause of {longest_inner_silence:.1f} s", own=False),
    Check("late", "lead", "s", 2.0, "above", "{lead:.1f} s of silence before the first word"),
    Check("trailing", "trail", "s", 2.0, "above", "{trail:.1f} s of silence after the last word"),
    Check("soft", "loudness", "dBFS", -40.0, "below", "too soft: {loudness:.0f} dBFS"),
    Check("offset", "dc_magnitude", "of full scale", 0.03, "above", "a DC offset of {dc:.2f}"),
    Check("pops", "pops", "joints", 0, "above", "{pops} pops where the codec joins chunks", own=False),
    # White noise 0.55, pink noise 0.3; speech under 0.01, clipped under 0.06.
    Check("noise", "flatness", "of a flat spectrum", 0.15, "above", "noise: its spectrum is flat ({flatness:.2f})"),
    # A hum 1; a word of one long vowel 0.9, other speech under 0.5, music 0.8.
    Check("hum", "lines", "share of the energy", 0.95, "above", "a hum: {lines:.0%} of it is in a few lines"),
    # A hum 0.5, noise 1.5, a loop of 50 ms under 1, music 3 to 4; speech over 6.5.
    Check("drone", "modulation", "dB in 80 ms", 4.5, "below",
          "it hardly changes ({modulation:.1f} dB in 80 ms; speech has 7 and more): a drone, noise or music"),
    # Text said three times 0.98 and more, a loop 1; speech under 0.75.
    Check("repeats", "repetition", "correlation", 0.95, "above",
          "it repeats itself (a correlation of {repetition:.2f})"),
    # Telephone 3900 Hz; the poorest recording for speech recognition 7500 Hz.
    Check("muffled", "bandwidth", "Hz", 5000.0, "below",
          "nothing above {bandwidth:.0f} Hz: it sounds like a telephone"),
    Check("duller", "of_own_bandwidth", "of the voice's own bandwidth", 0.8, "below",
          "nothing above {bandwidth:.0f} Hz, where the voice's own recordings have sound", own=False),
    # Nearly every sound of a voice's recordings has more than this above 8 kHz; half-second pieces of people stay 10 dB
    # above the limit, single words of synthesizers 16 dB.
    Check("no_treble", "over_dullest", "dB over dull sounds of the voice's recordings", -6.0, "below",
          "hardly anything above 8 kHz in any sound ({brightest:.0f} dB), where the voice's own recordings have more",
          own=False),
    # Sentences of one voice differ by a fifth either way; at half or double speed the pitch is half or double.
    Check("lower", "of_lowest_pitch", "of the voice's own lowest pitch", 0.75, "below",
          "a pitch of {median_pitch:.0f} Hz, far below the voice's recordings: too slow, or not it", own=False),
    Check("higher", "of_highest_pitch", "of the voice's own highest pitch", 1.5, "above",
          "a pitch of {median_pitch:.0f} Hz, far above the voice's recordings: too fast, or not it", own=False),
    # Nearly every vocoder at one pitch is under 0.12; people over 0.7, synthesizers over 0.14.
    Check("flat_pitch", "pitch_spread", "semitones", 0.13, "below",
          "a robot: its pitch stays within {pitch_spread:.2f} semitones"),
    # Recordings of people 0.3 to 5; backwards the same with a minus. Some synthesizers' speech has 0: not to be told.
    Check("backwards", "asymmetry", "skewness", -0.3, "below", "it runs backwards: sounds swell and end at once"),
)  # fmt: skip

#: Checks of what judges say of a sample, beside what they say of the voice's own recordings. Another text's letters are
#: heard wrong by 0.7 and more, reversed speech by more than 1. Similarity is compared with that of other people's
#: speech as well, by the encoder of the x-vectors and by an independent one.
JUDGED = (
    Check("other_words", "wrong_of_understood", "share of what is understood in recordings", 0.5, "above",
          "other words: {cer:.0%} of the letters are heard wrong ({own_cer:.0%} in its recordings)"),
    Check("other_voice", "of_own_similarity", "of the recordings' similarity", 0.6, "below",
          "another voice: similarity {similarity:.0%} ({own_similarity:.0%} in its recordings)"),
    *(
        Check("other_voice", f"towards_own{by}", "of the way to the recordings, less what is wanted", 0, "below",
              f"another voice: similarity {{similarity{by}:.0%}} ({{own_similarity{by}:.0%}} in its recordings, "
              f"{{similarity{by}_others:.0%}} in other people's)")
        for by in ("", "_independent")
    ),
)  # fmt: skip

#: A recogniser that hears this share of the letters wrong in the recordings is not believed about samples either.
UNDERSTOOD = 0.5
#: Seconds of sound, and how far from other people's speech (0) to the recordings (1) a similarity must be: short sounds
#: are less similar to anybody. Of 15 people in pieces of 3 s, none had less than 0.7, of 1 s 0.3.
WAY = ((0.5, 1.0, 2.0), (0.0, 0.25, 0.5))
#: An encoder to which other people are nearly as similar as the recordings is not believed: of twelve synthesizers'
#: voices Resemblyzer has 0.2 to 0.4, an untrained encoder up to 0.2.
APART = 0.2

#: Labels and formats of the checks' figures in tables. Those relative to a text or a voice appear only in sentences.
LABELS = {
    "rms": ("RMS", ".4f"),
    "silence_fraction": ("Silence", ".1%"),
    "non_finite": ("Not finite", ".0f"),
    "clipped": ("Clipped", ".1%"),
    "flat_tops": ("Cut off flat", ".1%"),
    "longest_inner_silence": ("Longest pause (s)", ".2f"),
    "lead": ("Before the first word (s)", ".2f"),
    "trail": ("After the last word (s)", ".2f"),
    "loudness": ("Loudness (dBFS)", ".0f"),
    "dc_magnitude": ("DC offset", ".3f"),
    "pops": ("Pops", ".0f"),
    "flatness": ("Flatness of the spectrum", ".3f"),
    "lines": ("In a few lines", ".0%"),
    "modulation": ("Change in 80 ms (dB)", ".1f"),
    "repetition": ("Repetition", ".2f"),
    "bandwidth": ("Bandwidth (Hz)", ".0f"),
    "pitch_spread": ("Spread of the pitch (semitones)", ".2f"),
    "asymmetry": ("Asymmetry", ".2f"),
}


def measured(stats: AudioStats, heard: Heard) -> dict[str, Any]:
    """Return the figures of a waveform that need neither its text nor its voice."""
    return {**stats.as_dict(), **heard.as_dict(), "dc_magnitude": abs(stats.dc)}


def by_judges(figures: Mapping[str, Any], own: Mapping[str, float | None]) -> list[str]:
    """Return the sentences of failed checks of what judges said.

    Args:
        figures: the judges' figures for a sample, and its `seconds`, `lead` and `trail`, if known.
        own: their mean figures for the speaker's own recordings.
    """
    told: dict[str, Any] = {name: value for name, value in figures.items() if value is not None}
    told |= {f"own_{name}": value for name, value in own.items() if value is not None}
    if "cer" in told and told.get("own_cer", 1.0) < UNDERSTOOD:
        told["wrong_of_understood"] = (told["cer"] - told["own_cer"]) / (1 - told["own_cer"])
    if "similarity" in told and told.get("own_similarity", 0.0) > 0:
        told["of_own_similarity"] = told["similarity"] / told["own_similarity"]
    for by in ("", "_independent"):
        names = (f"similarity{by}_others", f"similarity{by}", f"own_similarity{by}")
        others, similarity, recordings = (told.get(name, math.nan) for name in names)
        if recordings - others >= APART:
            seconds = told.get("seconds", math.inf) - told.get("lead", 0.0) - told.get("trail", 0.0)
            wanted = float(np.interp(seconds, *WAY))
            told[f"towards_own{by}"] = (similarity - others) / (recordings - others) - wanted
    found: dict[str, str] = {}  # one sentence each: there are three ways to tell another voice
    for check in JUDGED:
        if check.fails(told):
            found.setdefault(check.name, check.sentence.format(**told))
    return list(found.values())


def judge(figures: Mapping[str, Any], off: Collection[str] = ()) -> list[str]:
    """Return the sentences of failed checks, in the table's order; the checks in `off` are skipped."""
    if any(check.fails(figures) for check in SILENCE):
        return ["silent"]
    return [check.sentence.format(**figures) for check in CHECKS if check.name not in off and check.fails(figures)]
