"""`python -m job say`: have the trained voice say a text, write it as WAV, and play it if a player is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from job.config.names import lookup_key
from job.config.settings import Settings
from job.core import console, files
from job.core.errors import BadInput
from job.evaluate import own, passages, spoken_texts
from job.evaluate.samples import describe, write_wav
from job.evaluate.speaking import speak
from job.evaluate.synthesize import as_tuned, find_checkpoint, load_voice, prepared, rows_of
from job.model.loading import read_config

#: Programs that play a file and exit; the first one installed is used.
PLAYERS = (
    ("afplay",),
    ("paplay",),
    ("aplay", "-q"),
    ("ffplay", "-autoexit", "-nodisp", "-loglevel", "error"),
    ("play", "-q"),
)


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
    if target is not None:
        _check_writable(target)
    directory = find_checkpoint(settings.paths)
    settings = as_tuned(settings, directory)
    config = read_config(directory)
    known = spoken_texts.speakers_of(config, directory)
    chosen = known[0] if speaker is None else lookup_key(speaker)
    if chosen not in known:
        raise BadInput(f"--speaker {speaker}: {directory} speaks as {', '.join(known)}")
    summary, splits = prepared(settings.paths)
    languages = spoken_texts.languages_by_speaker([row for rows in rows_of(splits) for row in rows])
    wanted = spoken_texts.utterance(settings, config, text, chosen, languages.get(chosen, settings.language))
    wanted = replace(wanted, layout=spoken_texts.LAYOUTS[settings.text_layout][0])
    parts = [replace(wanted, text=passage) for passage in passages.of(wanted.text)]
    model = load_voice(directory, settings)
    rate = spoken_texts.frames_per_character(summary)
    samples_per_frame = int(model.model.speech_tokenizer.get_decode_upsample_rate())  # type: ignore[attr-defined]
    said = list(speak(model, parts, settings, rate))
    sample = said[0] if len(said) == 1 else passages.joined(said, wanted.text, samples_per_frame)

    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_with(path, lambda new: write_wav(new, sample))
    voice = own.of_speakers(model, splits, [chosen]).get(chosen) if splits else None
    found = describe(sample, path.name, samples_per_frame, voice)
    console.say("say", f"{path}: {found['seconds']:.2f} s as {chosen}, {'; '.join(found['problems']) or 'good'}")
    return path


def _check_writable(target: Path) -> None:
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
