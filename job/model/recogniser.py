"""Transcribe clips in batches with a speech recogniser (ASR_MODEL), with figures for its confidence."""

from __future__ import annotations

import math
import zlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from job.audio.clip import Samples
from job.config.names import AUTO
from job.config.settings import Settings
from job.config.variables import SOURCE_VARIABLES
from job.core.errors import BadInput
from job.core.out_of_memory import is_out_of_memory
from job.demo import recogniser_directory
from job.model.loading import explained, resolve_device
from job.text.languages import Languages, UnclearLanguage

if TYPE_CHECKING:
    import torch

#: Default recognisers if ASR_MODEL is not set, by device type; devices other than a GPU are slow and get a small one.
RELEASED = {"cuda": "openai/whisper-large-v3-turbo"}
RELEASED_SMALL = "openai/whisper-small"
#: ASR_MODEL's name for the recogniser that comes with the demo (scripts/demo_recogniser.py).
BUILT_IN = "demo"
#: Sample rate of the clips, Hz, and batch size by device type.
RATE = 16_000
BATCH, BATCH_SMALL = {"cuda": 16}, 4
#: Whisper's own criteria: lowest mean log-probability per token; highest probability of no speech (if the former is low
#: as well); and highest ratio of a text's size to its compressed size, which is high for repetitive texts.
LEAST_LOGPROB, MOST_NO_SPEECH, MOST_COMPRESSION = -1.0, 0.6, 2.4
#: Reasons to reject a transcript in which the recogniser lost its place.
REPEATS, NO_END = "transcript repeats itself", "transcript has no end"
#: ISO 639 code -> Whisper's code, where they differ.
_CODES = {"nb": "no", "jv": "jw", "fil": "tl"}


@dataclass(frozen=True)
class Transcript:
    """The transcript of a clip; figures that the recogniser does not provide are None.

    Attributes:
        text: the text, without surrounding spaces.
        language: Whisper's code of the language.
        logprob: mean log-probability of the tokens, including the end token.
        no_speech: probability that nobody speaks.
        ended: whether the text ended before the token limit.
    """

    text: str
    language: str | None = None
    logprob: float | None = None
    no_speech: float | None = None
    ended: bool = True

    @property
    def confidence(self) -> float | None:
        """Geometric mean of the tokens' probabilities, 0 to 1."""
        return None if self.logprob is None else round(math.exp(self.logprob), 3)

    def doubt(self) -> tuple[str, str] | None:
        """Return the reason and the figure for rejecting the clip; None if the transcript can be trusted."""
        unsure = self.logprob is not None and self.logprob < LEAST_LOGPROB
        if not any(map(str.isalnum, self.text)):
            return "nothing was recognised", "the transcript has no words"
        if unsure and self.no_speech is not None and self.no_speech > MOST_NO_SPEECH:
            figure = f"probability {self.no_speech:.2f} that nobody speaks, {MOST_NO_SPEECH:g} at most is accepted"
            return "nothing was recognised", f"{figure}: {self.text[:60]!r}"
        encoded = self.text.encode()
        compression = len(encoded) / len(zlib.compress(encoded))
        if compression > MOST_COMPRESSION:
            figure = f"compression ratio {compression:.1f}, {MOST_COMPRESSION:g} at most is accepted"
            return REPEATS, f"{figure}: {self.text[:60]!r}"
        if unsure:
            figure = f"mean log-probability {self.logprob:.2f}, {LEAST_LOGPROB:g} at least is accepted"
            return "transcript is doubtful", f"{figure}: {self.text[:60]!r}"
        if not self.ended:
            return NO_END, f"it was cut off after {len(self.text)} characters: {self.text[:60]!r}"
        return None


def named(settings: Settings) -> str | None:
    """The directory or Hub repo of ASR_MODEL, None if unset; for `demo` the directory of the demo's own recogniser.

    Raises:
        BadInput: `demo` beside another base model, codec or recordings, of which that recogniser knows not a word.
    """
    if settings.asr_model != BUILT_IN:
        return settings.asr_model
    others = [name for name in (*SOURCE_VARIABLES, "TOKENIZER_PATH") if getattr(settings, name.lower())]
    if settings.init_model_path != "demo":
        others.insert(0, "INIT_MODEL_PATH")
    if others:
        raise BadInput(
            f"ASR_MODEL=demo: knows only the built-in clips' sentences, through the demo's codec, and "
            f"{others[0]} is set; name another recogniser or unset ASR_MODEL"
        )
    return str(recogniser_directory())


def model_name(settings: Settings, device: torch.device) -> str:
    """Name of the recogniser to use: ASR_MODEL, or the default Whisper for the device."""
    return named(settings) or RELEASED.get(device.type, RELEASED_SMALL)


def whisper_code(language: str, asr_model: str | None, where: str) -> str | None:
    """Return Whisper's code of a language; None to detect the language, or if ASR_MODEL is to handle one it lacks.

    Raises:
        BadInput: it is not a language, or Whisper does not know it and ASR_MODEL does not name another recogniser.
    """
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    try:
        found = Languages().find(language)
    except UnclearLanguage as question:
        raise BadInput(f"{where}: {question}") from None
    code = _CODES.get(found.code or "", found.code)
    if found.key == AUTO or code in LANGUAGES:
        return None if found.key == AUTO else code
    if asr_model is None or asr_model.startswith("openai/whisper-"):
        raise BadInput(
            f"{where}: Whisper does not know {found.name}, so its recordings cannot be transcribed; set ASR_MODEL to a "
            "recogniser that does, or give the recordings their texts (TRANSCRIBE=never leaves out those without)"
        )
    return None


def check(settings: Settings, task: str, otherwise: str) -> None:
    """Find out, without loading it, whether there is a recogniser; arguments and errors are those of `Recogniser`."""
    name = model_name(settings, resolve_device(settings))
    with _loading(settings, name, task, otherwise):
        _kind(settings, name)


def _kind(settings: Settings, name: str) -> str:
    from transformers import AutoConfig

    return str(AutoConfig.from_pretrained(name, token=settings.token).model_type)


def _loading(settings: Settings, name: str, task: str, otherwise: str) -> AbstractContextManager[None]:
    """Load a recogniser in the body of this; see `Recogniser`."""
    named = f"ASR_MODEL={name}" if settings.asr_model else f"{name} (ASR_MODEL is not set)"
    return explained(named, f" to {task}", f"give a model directory or a Hub repo, or set {otherwise}")


class Recogniser:
    """A speech recogniser on its `device`. `name` is the directory or repo that it was loaded from."""

    def __init__(
        self,
        settings: Settings,
        task: str = "transcribe recordings without texts",
        otherwise: str = "TRANSCRIBE=never to leave those recordings out",
    ) -> None:
        """Load the recogniser; if it is not a directory, it is downloaded from the Hub on first use.

        Args:
            settings: ASR_MODEL, DEVICE, HF_TOKEN.
            task: what it is needed for, for the error.
            otherwise: what to set in order to go on without it, for the error.

        Raises:
            BadInput: it cannot be loaded.
            Unreachable: the Hub cannot be reached.
        """
        import torch

        self.device = resolve_device(settings)
        self.name = model_name(settings, self.device)
        self._dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self._batch = BATCH.get(self.device.type, BATCH_SMALL)
        with _loading(settings, self.name, task, otherwise):
            self._load(settings.token, whisper=_kind(settings, self.name) == "whisper")

    def _load(self, token: str | None, whisper: bool) -> None:
        from transformers import AutoProcessor, WhisperForConditionalGeneration, pipeline

        if not whisper:
            kind: Any = "automatic-speech-recognition"
            self._pipeline: Any = pipeline(kind, model=self.name, device=self.device, token=token)
            return
        self._pipeline = None
        processor: Any = AutoProcessor
        self._processor = processor.from_pretrained(self.name, token=token)
        model: Any = WhisperForConditionalGeneration.from_pretrained(self.name, dtype=self._dtype, token=token)
        if not hasattr(model.generation_config, "no_timestamps_token_id"):
            raise ValueError("its generation_config.json is incomplete; copy that of the Whisper that it was made from")
        self._model = model.to(self.device).eval()

    def transcribe(self, clips: list[Samples], language: str | None) -> list[Transcript]:
        """Transcribe mono clips at `RATE` Hz in a language (Whisper's code; None detects it for each clip).

        The batch size is halved when a batch does not fit in GPU memory.

        Raises:
            BadInput: the recogniser knows English only.
        """
        found: list[Transcript] = []
        while len(found) < len(clips):
            some = clips[len(found) : len(found) + self._batch]
            try:
                found += self._heard(some, language)
            except RuntimeError as error:
                if self._batch == 1 or not is_out_of_memory(error):
                    raise
                self._batch = max(1, self._batch // 2)
        return found

    def _heard(self, clips: list[Samples], language: str | None) -> list[Transcript]:
        import torch

        if self._pipeline is not None:
            inputs = [{"raw": clip, "sampling_rate": RATE} for clip in clips]
            return [Transcript(str(one["text"]).strip()) for one in self._pipeline(inputs, batch_size=len(inputs))]
        with torch.inference_mode():
            return self._whispered(clips, language)

    def _whispered(self, clips: list[Samples], language: str | None) -> list[Transcript]:
        import torch

        model, config, tokenizer = self._model, self._model.generation_config, self._processor.tokenizer
        inputs = self._processor.feature_extractor(clips, sampling_rate=RATE, return_tensors="pt")
        encoded = model.get_encoder()(inputs.input_features.to(self.device, self._dtype))
        prompt = torch.full((len(clips), 1), config.decoder_start_token_id, device=self.device)
        options: dict[str, Any] = {}
        tokens: list[str] = []
        if getattr(config, "is_multilingual", None) is False and language not in (None, "en"):
            raise BadInput(f"ASR_MODEL={self.name}: knows English only, and LANGUAGE or a row says {language}")
        if getattr(config, "lang_to_id", None):
            tokens = self._language_tokens(encoded, language, len(clips))
            options = {"language": tokens, "task": "transcribe"}
            ids = [[config.lang_to_id[token], config.task_to_id["transcribe"]] for token in tokens]
            prompt = torch.cat([prompt, torch.tensor(ids, device=self.device)], dim=1)
        prompt = torch.cat([prompt, torch.full_like(prompt[:, :1], config.no_timestamps_token_id)], dim=1)
        options |= {"attention_mask": torch.ones(inputs.input_features.shape[::2], device=self.device)}  # no padding
        said = model.generate(encoder_outputs=encoded, return_timestamps=False, num_beams=1, do_sample=False, **options)
        end = model.config.eos_token_id
        texts = [[token for token in row if token < end] for row in said.tolist()]  # special tokens follow the end
        most = model.config.max_target_positions - prompt.shape[1] - 1
        width = max(map(len, texts)) + 1
        padded = torch.tensor([row + [end] * (width - len(row)) for row in texts], device=self.device)
        whole = torch.cat([prompt, padded], dim=1)[:, : model.config.max_target_positions]
        logits = model(encoder_outputs=encoded, decoder_input_ids=whole[:, :-1]).logits.float()
        silent = logits[:, 0].softmax(-1)[:, config.no_timestamps_token_id - 1].tolist()  # the token <|nospeech|>
        # Not by log_softmax, which would need as much memory again.
        chances = logits.gather(-1, whole[:, 1:, None])[..., 0] - logits.logsumexp(-1)
        found = []
        for number, row in enumerate(texts):
            sure = chances[number, prompt.shape[1] - 1 :][: len(row) + 1].mean().item()
            code = tokens[number].strip("<|>") if tokens else language
            text = tokenizer.decode(row, skip_special_tokens=True).strip()
            found.append(Transcript(text, code, sure, silent[number], len(row) < most))
        return found

    def _language_tokens(self, encoded: Any, language: str | None, count: int) -> list[str]:
        """Return the model's language token for each clip: the given language if the model has it, else as detected."""
        known: dict[str, int] = self._model.generation_config.lang_to_id
        if f"<|{language}|>" in known:
            return [f"<|{language}|>"] * count
        by_id = {number: token for token, number in known.items()}
        return [by_id[number] for number in self._model.detect_language(encoder_outputs=encoded).tolist()]
