"""`python -m job say`: have the trained voice say a text, write it as WAV, and play it if a player is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from job.config.names import NO_LANGUAGE, lookup_key
from job.config.settings import Settings
from job.core import console, files
from job.core.errors import BadInput
from job.evaluate import own, passages, spoken_texts
from job.evaluate.samples import describe, write_wav
from job.evaluate.speaking import speak
from job.evaluate.spoken_texts import Utterance
from job.evaluate.synthesize import as_tuned, find_checkpoint, load_voice, prepared, rows_of
from job.model.loading import read_config

if TYPE_CHECKING:
    from qwen_tts import Qwen3TTSModel

#: Programs that play a file and exit; the first one installed is used.
PLAYERS = (
    ("afplay",),
    ("paplay",),
    ("aplay", "-q"),
    ("ffplay", "-autoexit", "-nodisp", "-loglevel", "error"),
    ("play", "-q"),
)


class Voice:
    """`output/best` speaking as one of its speakers, with the settings that were chosen for it; loaded when needed.

    Raises:
        BadInput: there is no checkpoint that can speak, or no such speaker.
    """

    def __init__(self, settings: Settings, speaker: str | None) -> None:
        self.directory = find_checkpoint(settings.paths)
        self.settings = as_tuned(settings, self.directory)
        self._config = read_config(self.directory)
        known = spoken_texts.speakers_of(self._config, self.directory)
        self.speaker = known[0] if speaker is None else lookup_key(speaker)
        if self.speaker not in known:
            raise BadInput(f"--speaker {speaker}: {self.directory} speaks as {', '.join(known)}")
        summary, self.splits = prepared(settings.paths)
        self.rate = spoken_texts.frames_per_character(summary)
        languages = spoken_texts.languages_by_speaker([row for rows in rows_of(self.splits) for row in rows])
        self._language = languages.get(self.speaker, settings.language)
        self._tell_language(settings.language)

    def _tell_language(self, wanted: str) -> None:
        """Say so where LANGUAGE changes nothing: a speaker speaks the language of its rows, if the voice has it."""
        if lookup_key(wanted) in NO_LANGUAGE:
            return
        meant, said = (spoken_texts.spoken_language(self._config, one) for one in (wanted, self._language))
        if meant != said:
            console.say("say", f"in {said}, the language of {self.speaker}'s rows, and not by LANGUAGE={wanted}")
        elif meant == "Auto":
            known = ", ".join(sorted(self._config.languages))
            console.say("say", f"LANGUAGE={wanted}: this voice has no such language, and is told none (it has {known})")

    @cached_property
    def model(self) -> Qwen3TTSModel:
        """The loaded model."""
        return load_voice(self.directory, self.settings)

    def passages(self, text: str) -> tuple[str, list[Utterance]]:
        """The text as it is said, and its passages."""
        wanted = spoken_texts.utterance(self.settings, self._config, text, self.speaker, self._language)
        wanted = replace(wanted, layout=spoken_texts.LAYOUTS[self.settings.text_layout][0])
        return wanted.text, [replace(wanted, text=passage) for passage in passages.of(wanted.text)]


def say(settings: Settings, text: str, speaker: str | None = None, target: Path | None = None) -> Path:
    """Say a text with `output/best` and write it as a WAV.

    Args:
        settings: as for `synthesize`: sampling, SEED, LORA_SCALE, TEXT_LAYOUT and the checkpoint's location.
        text: any length, a long one is said in passages; rejected if it has no words.
        speaker: one of the checkpoint's; the first one if None.
        target: the file to write; by default `said.wav` in WORK_DIR.

    Returns:
        The file.

    Raises:
        BadInput: there is no checkpoint that can speak, no such speaker, nothing to say, or it cannot be written.
    """
    if not any(character.isalnum() for character in text):
        raise BadInput("say: there are no words in the text")
    path = target or settings.paths.said
    voice = Voice(settings, speaker)
    check_writable(path)
    whole, parts = voice.passages(text)
    samples_per_frame = int(voice.model.model.speech_tokenizer.get_decode_upsample_rate())  # type: ignore[attr-defined]
    said = list(speak(voice.model, parts, voice.settings, voice.rate))
    sample = said[0] if len(said) == 1 else passages.joined(said, whole, samples_per_frame)

    files.write_with(path, lambda new: write_wav(new, sample))
    own_voice = own.of_speakers(voice.model, voice.splits, [voice.speaker]).get(voice.speaker) if voice.splits else None
    found = describe(sample, path.name, samples_per_frame, own_voice)
    console.say("say", f"{path}: {found['seconds']:.2f} s as {voice.speaker}, {'; '.join(found['problems']) or 'good'}")
    return path


def check_writable(target: Path) -> None:
    """Refuse a file that cannot be written, before a model is loaded.

    Raises:
        BadInput: naming --to.
    """
    if target.is_dir():
        raise BadInput(f"--to {target}: a directory; name the WAV in it, for example {target / 'said.wav'}")
    if target.suffix.lower() not in ("", ".wav", ".wave"):
        raise BadInput(f"--to {target}: only WAV is written; name it {target.with_suffix('.wav')}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise BadInput(f"--to {target}: cannot be written ({error.strerror}); name another place") from error


def play(path: Path) -> bool:
    """Play a file if the session is interactive and a player is installed. Returns whether it was played."""
    found = next((player for player in PLAYERS if shutil.which(player[0])), None)
    if found is None or not sys.stdout.isatty():
        return False
    return subprocess.run([*found, str(path)], stdin=subprocess.DEVNULL, check=False).returncode == 0
