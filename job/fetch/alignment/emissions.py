"""Compute what a CTC model hears in a recording, in overlapping windows, on disk, so that a killed run resumes.

For each frame of about 20 ms that is the log-probability of each character of its vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from job.audio.clip import Samples, resample
from job.audio.decode import Recording
from job.audio.measure import mix
from job.config.settings import Settings
from job.fetch.alignment.spelling import Spelling
from job.model.loading import explained, resolve_device

if TYPE_CHECKING:
    import numpy.typing as npt

#: The model that is used if ALIGN_MODEL is not set: MMS, 1130 languages, romanised.
RELEASED = "MahmoudAshraf/mms-300m-1130-forced-aligner"
#: Sample rate of the models, Hz; seconds of a window, and of context on either side whose frames are discarded.
RATE = 16_000
CORE, CONTEXT = 20.0, 2.0
#: Windows computed together, by device type.
BATCH = {"cuda": 8}


def model_name(settings: Settings) -> str:
    """The model to use: ALIGN_MODEL, or the released one."""
    return settings.align_model or RELEASED


def check(settings: Settings) -> None:
    """Check that there is such a model, which reads its description only.

    Raises:
        BadInput: it does not exist or is no CTC model.
        Unreachable: the Hub cannot be reached.
    """
    from transformers import AutoConfig

    with _loading(settings):
        found = AutoConfig.from_pretrained(model_name(settings), token=settings.token)
        if not any("CTC" in name for name in found.architectures or ["CTC"]):
            raise ValueError(f"it is a {found.architectures[0]}, and no model with CTC")


class CtcModel:
    """A CTC model on its `device`.

    Attributes:
        name: the directory or repo that it was loaded from.
        spelling: its vocabulary.
        hop: samples per frame, at `RATE` Hz.
        size: log-probabilities per frame.
    """

    def __init__(self, settings: Settings) -> None:
        """Load the model; if it is not a directory, it is downloaded from the Hub on first use.

        Raises:
            BadInput: it cannot be loaded.
            Unreachable: the Hub cannot be reached.
        """
        import torch
        from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer, Wav2Vec2FeatureExtractor

        check(settings)
        self.name = model_name(settings)
        self.device = resolve_device(settings)
        self._dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self._batch = BATCH.get(self.device.type, 1)
        default: Any = Wav2Vec2FeatureExtractor
        extractors: Any = AutoFeatureExtractor
        tokenizers: Any = AutoTokenizer
        with _loading(settings):
            tokenizer = tokenizers.from_pretrained(self.name, token=settings.token)
            try:
                self._extractor = extractors.from_pretrained(self.name, token=settings.token)
            except (OSError, ValueError):  # a repo with nothing but the model
                self._extractor = default()
            model: Any = AutoModelForCTC.from_pretrained(self.name, dtype=self._dtype, token=settings.token)
            self._model = model.to(self.device).eval()
            self.hop = int(getattr(model.config, "inputs_to_logits_ratio", 320))
            self.size = int(model.config.vocab_size)
            # tokenizers add special tokens that the model does not have
            own = {name: token for name, token in tokenizer.get_vocab().items() if token < self.size}
            self.spelling = Spelling(own, tokenizer.pad_token, getattr(tokenizer, "word_delimiter_token", None))

    @property
    def step(self) -> float:
        """Seconds per frame."""
        return self.hop / RATE

    def emissions(self, recording: Recording, begin: float, end: float, path: Path) -> npt.NDArray[np.float16]:
        """Return log-probabilities (frames, size) of the part from `begin` to `end` (seconds), a memory map of `path`.

        What the file has from an interrupted run is not computed again.
        """
        core, context = (round(seconds / self.step) for seconds in (CORE, CONTEXT))
        frames = int(np.ceil((end - begin) / self.step))
        places = list(range(0, frames, core))
        groups = [places[at : at + self._batch] for at in range(0, len(places), self._batch)]
        path.parent.mkdir(parents=True, exist_ok=True)
        row = self.size * np.dtype(np.float16).itemsize
        with open(path, "ab") as file:
            done = 0
            while done < len(groups) and min(frames, groups[done][-1] + core) * row <= file.tell():
                done += 1
            file.truncate(min(frames, groups[done - 1][-1] + core) * row if done else 0)
            for group in groups[done:]:
                windows = [self._window(recording, begin, place - context, core + 2 * context) for place in group]
                for place, found in zip(group, self._heard(windows), strict=True):
                    file.write(found[context : context + min(core, frames - place)].tobytes())
                file.flush()
        return np.memmap(path, np.float16, "r", shape=(frames, self.size))

    def _window(self, recording: Recording, begin: float, first: int, frames: int) -> Samples:
        """Read a window of `frames` from frame `first` on, at `RATE` Hz; silence outside of the recording."""
        start = begin + first * self.step
        read = mix(
            recording.read_part(
                round(max(0.0, start) * recording.rate), round((start + frames * self.step) * recording.rate)
            )
        )
        samples = resample(np.nan_to_num(read, posinf=1.0, neginf=-1.0), recording.rate, RATE) if len(read) else read
        before = round(max(0.0, -start) * RATE)
        window = np.zeros(frames * self.hop, np.float32)
        count = min(len(samples), len(window) - before)
        window[before : before + count] = samples[:count]
        return window

    def _heard(self, windows: list[Samples]) -> Iterator[npt.NDArray[np.float16]]:
        import torch

        inputs = self._extractor(windows, sampling_rate=RATE, return_tensors="pt")
        name = "input_values" if "input_values" in inputs else "input_features"
        with torch.inference_mode():
            logits = self._model(inputs[name].to(self.device, self._dtype)).logits.float()
        yield from logits.log_softmax(-1).half().cpu().numpy()


def _loading(settings: Settings) -> AbstractContextManager[None]:
    """Load the model, or its description, in the body of this."""
    name = model_name(settings)
    return explained(
        f"ALIGN_MODEL={name}" if settings.align_model else f"{name} (ALIGN_MODEL is not set)",
        " to find the sentences of long recordings",
        "give a CTC model as a directory or a Hub repo, or set ALIGN_MODEL=none to leave recordings over MAX_SECONDS "
        "out",
    )
