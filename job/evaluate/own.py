"""Properties of the voice's own recordings, against which its samples are judged.

Prepared data contains each recording's duration and codes. Some are decoded, so that recordings and samples have passed
through the same codec: anything also found in the recordings (a hum, a telephone band, a whisper) is not a fault of
training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from job.evaluate import pace, spoken_texts
from job.evaluate.audio_stats import Waveform, measure
from job.evaluate.checks import CHECKS, measured
from job.evaluate.hearing import listen

if TYPE_CHECKING:
    from qwen_tts import Qwen3TTSModel

#: Number of recordings decoded for all speakers together, the minimum per speaker, and the longest length used, s.
CLIPS, FEWEST, LONGEST = 16, 2, 12.0
#: A check that this share of the recordings fails says nothing about the voice and is disabled.
SHARE = 0.25
#: Recordings less asymmetric than this sound much the same reversed, so the check cannot tell.
FORWARDS = 0.2
#: Recordings have treble if its share in their bright frames is at least this, dB.
TREBLE = -50.0
#: Minimum number of recordings with a pitch to know how much a voice's varies.
FEWEST_PITCHES = 3


@dataclass(frozen=True)
class Own:
    """Properties of one voice's recordings.

    Attributes:
        pace: how fast it speaks; None if there are too few recordings.
        off: names of the checks to skip, because its own recordings fail them.
        bandwidth: highest frequency with sound in its recordings, Hz; None if none was decoded.
        dullest: share of the treble in the dull frames of its recordings, dB; None if they have no treble.
        pitch: lowest and highest median pitch of its recordings, Hz; None if too few have one.
    """

    pace: pace.Pace | None = None
    off: frozenset[str] = frozenset()
    bandwidth: float | None = None
    dullest: float | None = None
    pitch: tuple[float, float] | None = None


def of_recordings(
    waveforms: Sequence[Waveform], sample_rate: int, said: Sequence[str], seconds: Sequence[float]
) -> Own:
    """Measure some recordings (samples,) at `sample_rate` Hz, and texts and durations (s) of all available ones."""
    heard = [measured(measure(one, sample_rate), listen(one, sample_rate)) for one in waveforms]
    fail = {check.name: sum(check.fails(one) for one in heard) for check in CHECKS if check.own}
    off = {name for name, count in fail.items() if heard and count >= SHARE * len(heard)}
    skews = [one["asymmetry"] for one in heard if one["asymmetry"] is not None]
    if skews and np.median(skews) < FORWARDS:
        off.add("backwards")
    bands = [one["bandwidth"] for one in heard if one["bandwidth"] is not None]
    pitch = [one["median_pitch"] for one in heard if one["median_pitch"] is not None]
    bright, dull = ([one[name] for one in heard if one[name] is not None] for name in ("brightest", "dullest"))
    return Own(
        pace=pace.fit(said, seconds),
        off=frozenset(off),
        bandwidth=float(np.median(bands)) if bands else None,
        dullest=float(np.median(dull)) if dull and np.median(bright) >= TREBLE else None,
        pitch=(min(pitch), max(pitch)) if len(pitch) >= FEWEST_PITCHES else None,
    )


def of_speakers(model: Qwen3TTSModel, splits: Sequence[pa.Table], speakers: Sequence[str]) -> dict[str, Own]:
    """Measure each speaker's prepared recordings; a speaker without any gets the result over all speakers.

    Args:
        model: its speech tokenizer decodes the recordings.
        splits: prepared splits, the preferred one first.
        speakers: the speakers to measure.
    """
    found = {}
    each = max(FEWEST, CLIPS // max(1, len(speakers)))
    for speaker in speakers:
        mine = [np.flatnonzero(pc.equal(table["speaker"], speaker).to_numpy()) for table in splits]
        rows = mine if any(map(len, mine)) else [np.arange(len(table)) for table in splits]
        some = [table.take(_spread(chosen, pace.MOST)) for table, chosen in zip(splits, rows, strict=True)]
        said, seconds = ([value for table in some for value in table[name].to_pylist()] for name in ("text", "seconds"))
        waveforms, sample_rate = _decoded(model, some, each)
        found[speaker] = of_recordings(waveforms, sample_rate, said, seconds)
    return found


def _spread(rows: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    return rows[spoken_texts.spread(len(rows), wanted)]


def _decoded(model: Qwen3TTSModel, tables: Sequence[pa.Table], wanted: int) -> tuple[list[Waveform], int]:
    """Decode recordings from the first table that has any that are not too long."""
    import torch

    from job.dataset.prepared import row_codes

    for table in tables:
        rows = _spread(np.flatnonzero(pc.less_equal(table["seconds"], LONGEST).to_numpy()), wanted)
        if len(rows):
            codes = [{"audio_codes": torch.from_numpy(row_codes(table, int(n)).astype(np.int64))} for n in rows]
            waveforms, sample_rate = model.model.speech_tokenizer.decode(codes)  # type: ignore[attr-defined]
            return list(waveforms), int(sample_rate)
    return [], 1
