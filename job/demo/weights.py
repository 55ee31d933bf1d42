"""Seeded weights and the sounds that calibrate them.

Every tensor has a random generator of its own, seeded by its name: the same seed gives the same bytes whatever the
order of construction, and whatever vector instructions torch's own generator would have used.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from job.core.threads import one_torch_thread

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 24_000

Array = NDArray[np.float32]


@contextmanager
def one_thread() -> Iterator[None]:
    """Context manager: compute on one thread, without gradients, and restore torch's random state.

    Sums split over threads round differently, which would change the bytes of the calibrated weights.
    """
    import torch

    with one_torch_thread(), torch.random.fork_rng(devices=[]), torch.no_grad():
        yield


def generator(seed: int, name: str) -> np.random.Generator:
    """The random generator of the tensor (or sound) called `name`."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def normal(seed: int, name: str, shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
    """An fp32 tensor of independent normal values with standard deviation `scale`."""
    import torch

    values = generator(seed, name).standard_normal(shape) * scale
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def fan_in(shape: tuple[int, ...]) -> int:
    """The fan-in of a linear or convolution weight: inputs that one output sums over."""
    return int(np.prod(shape[1:])) or 1


def fill(
    module: Any,
    seed: int,
    prefix: str,
    *,
    gains: dict[str, float] | None = None,
    deviations: dict[str, float] | None = None,
    constants: dict[str, float] | None = None,
) -> None:
    """Overwrite every floating-point parameter and buffer of `module` in place.

    The keys of the three tables are parts of tensor names; where several match, the longest counts. Without a match a
    tensor of two or more dimensions gets a standard deviation of 1 / sqrt(fan in), a norm's weight 1 and a bias 0.

    Args:
        module: a torch module.
        seed: the model's seed.
        prefix: prepended to the names, so that equal modules in different places get different values.
        gains: factor on 1 / sqrt(fan in), for tensors of two or more dimensions.
        deviations: the standard deviation itself, for tensors of any shape.
        constants: one value everywhere.
    """
    import torch

    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            shape = tuple(tensor.shape)
            constant, deviation = _match(constants, name), _match(deviations, name)
            if constant is not None:
                tensor.fill_(constant)
            elif deviation is not None:
                tensor.copy_(normal(seed, prefix + name, shape, deviation))
            elif tensor.dim() >= 2:
                gain = _match(gains, name)
                tensor.copy_(normal(seed, prefix + name, shape, (1.0 if gain is None else gain) / fan_in(shape) ** 0.5))
            else:
                tensor.fill_(1.0 if name.endswith("weight") else 0.0)


def _match(table: dict[str, float] | None, name: str) -> float | None:
    found = [key for key in table or {} if key in name]
    return (table or {})[max(found, key=len)] if found else None


def voiced(seed: int, name: str, seconds: float) -> Array:
    """Synthesise a speech-like sound for calibration: syllables of a buzzing source through three resonances.

    Pitch, resonances, loudness and voicing change with every syllable; a fifth of the syllables are pauses. Returns
    (samples,) fp32 at 24 kHz with a peak of 0.7.
    """
    from scipy.signal import lfilter

    random = generator(seed, name)
    base_pitch, tract = random.uniform(80, 240), random.uniform(0.85, 1.2)
    pieces: list[NDArray[np.float64]] = []
    remaining = int(seconds * SAMPLE_RATE)
    while remaining > 0:
        size = min(remaining, int(random.uniform(0.06, 0.3) * SAMPLE_RATE))
        remaining -= size
        if random.random() < 0.2:
            # From a noisy room down to digital silence.
            pieces.append(random.standard_normal(size) * 10 ** random.uniform(-7, -2.5))
            continue
        pitch = base_pitch * np.exp(random.normal(0, 0.15) + np.linspace(0, random.normal(0, 0.1), size))
        phase = np.cumsum(pitch / SAMPLE_RATE)
        source = np.where(np.diff(np.floor(phase), prepend=0.0) > 0, 1.0, 0.0) * random.uniform(0, 8)
        sound = source + random.standard_normal(size) * random.uniform(0.01, 0.4)
        for low, high, width in ((250, 900, 90), (850, 2600, 120), (2300, 3600, 160)):
            centre = random.uniform(low, high) * tract
            radius = np.exp(-np.pi * width / SAMPLE_RATE)
            poles = [1.0, -2 * radius * np.cos(2 * np.pi * centre / SAMPLE_RATE), radius**2]
            sound = lfilter([1.0 - radius], poles, sound)
        sound = sound / (np.abs(sound).max() + 1e-9) * random.uniform(0.1, 1.0)
        pieces.append(sound * np.hanning(size) ** 0.5)
    wave = np.concatenate(pieces)
    return np.asarray(wave / (np.abs(wave).max() + 1e-9) * 0.7, dtype=np.float32)
