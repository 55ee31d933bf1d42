"""Detect speech in a recording with Silero VAD (voice activity detection), whose weights ship with its package.

It gives the probability of speech for each window of 32 ms. The thresholds are measured on recordings of people and
machines in some twenty languages, also whispered, by telephone, at 0 dB of noise, and cut to 0.3 s: hardly any of them
fall below (4 of 1150 single letters and words, no sentence), and noise, hum, tones and most music do.
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
#: Windows of silence put before a clip, left out of the figures: the model must hear something before it is sure. And
#: half a window: a sound that begins with a window at full strength is more often taken for speech (siren, music).
LEAD = 6
HALF = WINDOW // 2
#: Windows to average: a single one may be a click.
SMOOTH = 3
#: RMS that clips are normalized to, so that quiet recordings are judged like loud ones.
LEVEL = 0.05
#: A window at or over this probability is speech.
SPEECH = 0.5
#: Pauses are counted between (smoothed) windows at or over this one: what may be speech is no pause.
PERHAPS = 0.25
#: (seconds, highest smoothed probability that there must be), with a line between them: a word of half a second is
#: often heard with doubt, a whole sentence never.
LEAST_SURE = ((1.0, 0.25), (3.0, 0.5))
#: From the second of these lengths on, seconds that must at least perhaps be speech.
LEAST_PERHAPS = 0.15
#: Share of speech under which a warning is given, for clips of at least a second.
LITTLE = 0.25
#: Pauses inside the speech, in seconds: a longer one than the first rejects the clip, than the second gives a warning.
LONGEST_PAUSE, LONG_PAUSE = 3.0, 1.5


@dataclass(frozen=True, slots=True)
class Heard:
    """Speech statistics of a recording of `seconds`.

    Attributes:
        speech: share of it that is speech, 0 to 1.
        pause: longest time between speech and speech in which there is none, in seconds.
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
        """Categories of problems of a recording that is kept."""
        fault = self.fault
        found = {
            "no_speech": fault == "no_speech",
            "little_speech": fault != "no_speech" and self.speech < LITTLE and self.seconds >= LEAST_SURE[0][0],
            "long_pause": self.pause > LONG_PAUSE,
        }
        return [name for name, is_so in found.items() if is_so]


class Detector:
    """Silero VAD on the CPU. One may be used by many threads at once; the figures do not depend on them."""

    def __init__(self) -> None:
        import torch

        threads = torch.get_num_threads()
        from silero_vad import load_silero_vad

        torch.set_num_threads(threads)  # importing that package sets one thread for the whole process
        self._model: Any = load_silero_vad(sequence=True)

    def probabilities(self, samples: Samples, rate: int) -> NDArray[np.float32]:
        """Probability of speech in each 32 ms of mono samples (n,) at `rate` Hz, and `LEAD` windows before them."""
        heard = resample(samples, rate, RATE)
        if not len(heard):  # a sample or two of a high rate
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
    """The process-wide detector; must first be called by the thread that starts the others."""
    return Detector()
