"""Figures of waveforms that we know by construction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from job.evaluate.audio_stats import measure

RATE = 24_000


def tone(seconds: float, amplitude: float = 0.5, hertz: float = 220.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def test_a_sine_has_the_rms_of_a_sine():
    stats = measure(tone(1.0), RATE)
    assert stats.seconds == 1.0
    assert stats.rms == pytest.approx(0.5 / np.sqrt(2), abs=1e-4)
    assert stats.absmax == pytest.approx(0.5, abs=1e-3)
    assert stats.dc == pytest.approx(0, abs=1e-4)
    assert (stats.clipped, stats.silence_fraction, stats.longest_inner_silence, stats.non_finite) == (0, 0, 0, 0)


def test_an_offset_is_reported_as_dc_and_not_as_sound_only():
    assert measure(tone(1.0, 0.1) + 0.25, RATE).dc == pytest.approx(0.25, abs=1e-4)


def test_silence_is_counted_in_windows_and_only_inner_silence_is_a_pause():
    quiet = np.zeros(RATE, dtype=np.float32)
    stats = measure(np.concatenate([quiet, tone(1.0), quiet[: RATE // 2], tone(1.0), quiet, quiet]), RATE)
    assert stats.silence_fraction == pytest.approx(3.5 / 5.5, abs=0.02)
    assert stats.longest_inner_silence == pytest.approx(0.5, abs=0.04)


def test_all_silence_is_all_silence_and_no_pause():
    stats = measure(np.zeros(RATE, dtype=np.float32), RATE)
    assert (stats.silence_fraction, stats.longest_inner_silence, stats.rms) == (1.0, 0.0, 0.0)


def test_clipping_is_the_share_of_samples_at_full_scale():
    waveform = tone(1.0, 0.5)
    waveform[:2400] = 1.0
    waveform[2400:4800] = -1.0
    assert measure(waveform, RATE).clipped == pytest.approx(0.2)


def test_samples_that_are_not_finite_are_counted_and_do_not_spoil_the_other_figures():
    waveform = tone(1.0)
    clean = measure(waveform, RATE)
    waveform[[5, 6, 7]] = [np.nan, np.inf, -np.inf]
    stats = measure(waveform, RATE)
    assert stats.non_finite == 3
    assert stats.rms == pytest.approx(clean.rms, rel=1e-3)
    assert stats.clipped == 0


def test_no_samples_at_all():
    stats = measure(np.zeros(0, dtype=np.float32), RATE)
    assert (stats.seconds, stats.rms, stats.absmax, stats.silence_fraction) == (0.0, 0.0, 0.0, 1.0)


def test_a_step_where_the_codec_joins_chunks_is_a_pop_and_a_smooth_joint_is_none():
    waveform = tone(50.0, 0.3)
    assert measure(waveform, RATE, samples_per_frame=1920).pops == 0
    waveform[300 * 1920 :] += 0.3
    assert measure(waveform, RATE, samples_per_frame=1920).pops == 1
    assert measure(waveform, RATE).pops == 0


def test_speech_that_is_loud_at_the_joint_is_no_pop():
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 25 * RATE).astype(np.float32)
    assert measure(noise, RATE, samples_per_frame=1920).pops == 0


def test_stereo_and_impossible_rates_are_refused():
    with pytest.raises(ValueError, match="shape"):
        measure(np.zeros((2, 100)), RATE)
    with pytest.raises(ValueError, match="rate"):
        measure(np.zeros(100), 0)


@settings(deadline=None)
@given(arrays(np.float32, st.integers(0, 3000), elements=st.floats(-1, 1, width=32)), st.sampled_from([8000, 24_000]))
def test_figures_stay_in_their_ranges(waveform: np.ndarray, rate: int):
    stats = measure(waveform, rate)
    assert 0 <= stats.rms <= stats.absmax + 1e-9 <= 1 + 1e-9
    assert abs(stats.dc) <= stats.rms + 1e-9
    assert 0 <= stats.clipped <= 1 and 0 <= stats.silence_fraction <= 1
    assert 0 <= stats.longest_inner_silence <= stats.seconds
