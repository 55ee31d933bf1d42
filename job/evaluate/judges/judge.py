"""The `Judge` interface, and the `Clip` that judges rate."""

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
        waveform: (samples,) in [-1, 1], all finite.
        sample_rate: Hz.
        text: the intended text.
        speaker: the intended speaker.
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
        name: its name in the log.
        by: identity of the rating model or method, precise enough that cached ratings by the same one can be reused.
    """

    name: str
    by: str

    def know(self, recordings: Sequence[Clip]) -> None:  # noqa: B027 - most need not
        """Learn the voices' properties from their own recordings, before anything is rated."""

    @abstractmethod
    def __call__(self, clip: Clip) -> dict[str, Any]:
        """Rate a clip: figures from `figures.FIGURES` by name, and other data worth storing; None where unknown.

        It may raise anything: the clip then has no figures from this judge.
        """


def finite(waveform: NDArray[np.floating[Any]]) -> Wave:
    """Replace NaN samples by silence and infinite ones by full scale."""
    return np.nan_to_num(np.asarray(waveform, dtype=np.float32), nan=0.0, posinf=1.0, neginf=-1.0)
