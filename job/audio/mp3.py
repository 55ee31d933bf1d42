"""Sounds as MP3 inside an HTML page: a tenth of a WAV, and every browser plays it."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray


def data_address(samples: NDArray[np.floating[Any]], sample_rate: int) -> str:
    """Encode a waveform, (samples,) in [-1, 1], as a `data:` address for a player."""
    import soundfile

    made = io.BytesIO()
    soundfile.write(made, samples, sample_rate, format="MP3", subtype="MPEG_LAYER_III")
    return "data:audio/mpeg;base64," + base64.b64encode(made.getvalue()).decode("ascii")
