"""Detect speech in a recording with Silero VAD (voice activity detection), whose weights ship with its package.

It gives the probability of speech for each window of 32 ms. The thresholds were measured on recordings of people and
synthesizers in some twenty languages, including whispered, telephone, 0 dB SNR and cut to 0.3 s: hardly any of them
fall below (4 of 1150 single letters and words, no sentence), while noise, hum, tones and most music do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.audio.clip import Samples, Unusable, resample

#: The model's sample rate in Hz, and samples per window.
RATE, WINDOW = 16_000, 512
#: Windows of silence prepended to a clip, excluded from the figures: the model needs context before it is confident.
#: And half a window: a sound that starts at full level on a window boundary is more often taken for speech (siren,
#: music).
LEAD = 6
HALF = WINDOW // 2
#: Windows to average: a single one may be a click.
SMOOTH = 3
#: RMS to which clips are normalized, so that quiet recordings are judged like loud ones.
LEVEL = 0.05
#: A window at or above this probability is speech.
SPEECH = 0.5
#: Pauses are measured between (smoothed) windows at or above this probability: what may be speech is not a pause.
PERHAPS = 0.25
#: (duration in seconds, least peak of the smoothed probability), interpolated linearly: a half-second word often gets
#: a low probability, a whole sentence never does.
LEAST_SURE = ((1.0, 0.25), (3.0, 0.5))
#: From the second of these durations on, least seconds that may be speech (`PERHAPS`).
LEAST_PERHAPS = 0.15
#: Share of speech below which a warning is given, for clips of at least one second.
LITTLE = 0.25
#: Pauses within the speech, in seconds: one longer than the first rejects the clip, than the second gives a warning.
LONGEST_PAUSE, LONG_PAUSE = 3.0, 1.5


@dataclass(frozen=True, slots=True)
class Heard:
    """Speech statistics of a recording of `seconds`.

    Attributes:
        speech: share of it that is speech, 0 to 1.
        pause: longest gap between two stretches of speech, in seconds.
        surest: highest probability of speech, 0 to 1, averaged over 96 ms.
        perhaps: seconds that may be speech.
    """

    seconds: float
    speech: float
    pause: float
    surest: float
    perhaps: float

    @property
    def fault(self) -> str | None:
        """Reason for rejection: `no_speech` or `long_pause`; None if the recording is usable."""
        (short, doubtful), (long, sure) = LEAST_SURE
        least = float(np.interp(self.seconds, [short, long], [doubtful, sure]))
        sentence = self.seconds >= LEAST_SURE[-1][0]
        if self.surest < least or (sentence and self.perhaps < LEAST_PERHAPS):
            return "no_speech"
        return "long_pause" if self.pause > LONGEST_PAUSE else None

    def refuse(self, name: str) -> None:
        """Reject the recording called `name` if it has a fault.

        Raises:
            Unusable: `no_speech` or `long_pause`, with the figures.
        """
        fault = self.fault
        if fault == "no_speech":
            heard = f"no speech in its {self.seconds:.1f} s (surest {self.surest:.2f}, share {self.speech:.2f})"
            raise Unusable(fault, f"{name}: {heard}; take the row out, or set QUALITY_GATE=off if it is speech")
        if fault == "long_pause":
            heard = f"{self.pause:.1f} s without speech inside it, more than {LONGEST_PAUSE:g} s"
            raise Unusable(fault, f"{name}: {heard}; cut it there, or set QUALITY_GATE=off to keep it")

    def warnings(self) -> list[str]:
        """Categories of problems that are not bad enough to reject the recording."""
        fault = self.fault
        found = {
            "no_speech": fault == "no_speech",
            "little_speech": fault != "no_speech" and self.speech < LITTLE and self.seconds >= LEAST_SURE[0][0],
            "long_pause": self.pause > LONG_PAUSE,
        }
        return [name for name, is_so in found.items() if is_so]


class Detector:
    """Silero VAD on the CPU. Thread-safe; the results do not depend on the number of threads."""

    def __init__(self) -> None:
        import torch

        threads = torch.get_num_threads()
        from silero_vad import load_silero_vad

        torch.set_num_threads(threads)  # importing that package limits the whole process to one thread
        self._model: Any = load_silero_vad(sequence=True)

    def probabilities(self, samples: Samples, rate: int) -> NDArray[np.float32]:
        """Probability of speech per 32 ms window of mono samples (n,) at `rate` Hz, preceded by `LEAD` windows."""
        heard = resample(samples, rate, RATE)
        if not len(heard):  # a sample or two at a high rate
            heard = np.zeros(1, np.float32)
        heard = heard - heard.mean(dtype=np.float64).astype(np.float32)
        rms, peak = float(np.sqrt(np.mean(np.square(heard, dtype=np.float64)))), float(np.abs(heard).max())
        if peak > 0:
            heard = heard * np.float32(min(LEVEL / rms, 1.0 / peak))
        padded = np.pad(heard, (LEAD * WINDOW + HALF, 0))
        found: NDArray[np.float32] = self._model.audio_forward(padded)
        return found

    def listen(self, samples: Samples, rate: int) -> Heard:
        """Compute the speech statistics of mono samples (n,), n > 0, at `rate` Hz."""
        probabilities = self.probabilities(samples, rate)
        smooth = np.convolve(probabilities, np.ones(SMOOTH) / SMOOTH, "valid")
        maybe = np.flatnonzero(smooth >= PERHAPS)
        step = WINDOW / RATE
        return Heard(
            seconds=len(samples) / rate,
            speech=float((probabilities[LEAD:] >= SPEECH).mean()),
            pause=float((np.diff(maybe).max() - 1) * step) if len(maybe) > 1 else 0.0,
            surest=min(1.0, float(smooth.max())),
            perhaps=len(maybe) * step,
        )


@cache
def detector() -> Detector:
    """The process-wide detector; the first call must come from the thread that starts the others."""
    return Detector()
