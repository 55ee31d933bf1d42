"""What a judge is, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float32]


@dataclass(frozen=True)
class Clip:
    """Speech to be rated.

    Attributes:
        waveform: (samples,) in [-1, 1], all of it finite.
        sample_rate: Hz.
        text: what was to be said.
        speaker: whose voice it is meant to be.
        language: name of the text's language, or `Auto`.
    """

    waveform: Wave
    sample_rate: int
    text: str
    speaker: str
    language: str = "Auto"


class Judge(ABC):
    """Rates one clip at a time.

    Attributes:
        name: in the log.
        by: what rates, precisely enough that two clips rated by the same need not be rated twice.
    """

    name: str
    by: str

    def know(self, recordings: Sequence[Clip]) -> None:  # noqa: B027 - most need not
        """Learn what the voices are like from their own recordings, before anything is rated."""

    @abstractmethod
    def __call__(self, clip: Clip) -> dict[str, Any]:
        """Figures of `figures.FIGURES` by name, and other things worth keeping; None where there is nothing to tell.

        It may raise anything: the clip then has no figures of this judge.
        """


def finite(waveform: NDArray[np.floating[Any]]) -> Wave:
    """The waveform with silence for what is not a number, and full scale for what is infinite."""
    return np.nan_to_num(np.asarray(waveform, dtype=np.float32), nan=0.0, posinf=1.0, neginf=-1.0)
