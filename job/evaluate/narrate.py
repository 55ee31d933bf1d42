"""`python -m job say --file`: read files aloud, each into a WAV of its name; what was said before is not said again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from job.audio import audio_files
from job.config.settings import Settings
from job.core import console, files
from job.core.errors import BadInput
from job.evaluate import said_once
from job.evaluate.passages import joined
from job.evaluate.samples import describe, write_wav
from job.evaluate.say import Voice, check_writable
from job.evaluate.speaking import BATCH, Sample, conditions, speak
from job.evaluate.spoken_texts import Utterance
from job.text import written_marks

#: Folder beside the WAVs with a folder for each of them: its passages, each in a file of its own.
PASSAGES = ".passages"
#: Number of marks, and of passages with problems, that the log names.
_NAMED = 5
#: Endings of audio that is not written: a folder of such a name would be a surprise.
_OTHER_AUDIO = {*audio_files.READABLE, ".m4a", ".m4b", ".aac", ".wma", ".webm"} - {".wav"}


def narrate(settings: Settings, sources: Sequence[Path], speaker: str | None, target: Path | None) -> list[Path]:
    """Read files aloud with `output/best`, in passages of whole sentences; a killed run resumes at the next ones.

    Args:
        settings: as for `say`.
        sources: texts in UTF-8 (or UTF-16 with its mark), also with Markdown or tags, which are not said.
        speaker: one of the checkpoint's; the first one if None.
        target: a folder, or for one file the WAV to write; by default `said` in WORK_DIR.

    Returns:
        The WAVs.

    Raises:
        BadInput: there is no checkpoint that can speak, no such speaker, or a file cannot be read or written.
    """
    written = {source: written_marks.taken_out(_written(source)) for source in sources}
    wavs = _wavs(list(written), target or settings.paths.narrated)
    _leave_out_wordless(wavs, written)
    for wav in wavs.values():
        check_writable(wav)
    voice = Voice(settings, speaker)
    for source, wav in wavs.items():
        _read_aloud(voice, source, *written[source], wav)
    return list(wavs.values())


def _leave_out_wordless(wavs: dict[Path, Path], written: dict[Path, tuple[str, list[str]]]) -> None:
    """Drop files without words, such as a book's cover, before the first one is said: the others are still said.

    Raises:
        BadInput: none has words.
    """
    wordless = [source for source in wavs if not any(character.isalnum() for character in written[source][0])]
    if len(wordless) == len(wavs):
        raise BadInput(f"--file {wordless[0]}: there are no words in it")
    for source in wordless:
        console.warn("say", f"--file {source}: there are no words in it; it is left out")
        del wavs[source]


def _read_aloud(voice: Voice, source: Path, text: str, marks: Sequence[str], wav: Path) -> None:
    if marks:
        some = ", ".join(repr(" ".join(mark.split())[:20]) for mark in dict.fromkeys(marks[:_NAMED]))
        console.say("say", f"{source}: {len(marks)} marks are not said, such as {some}")
    whole, parts = voice.passages(text)
    folder = wav.parent / PASSAGES / wav.stem
    keys = [_key(voice, part) for part in parts]
    paths = [folder / f"{key[:32]}.npz" for key in keys]
    missing = {path: (part, key) for path, part, key in zip(paths, parts, keys, strict=True) if not path.is_file()}
    if missing:
        _say(voice, missing)
    said = [_kept(path, key) for path, key in zip(paths, keys, strict=True)]
    samples_per_frame = round(said[0].waveform.size / max(1, said[0].frames))
    sample = said[0] if len(said) == 1 else joined(said, whole, samples_per_frame)
    files.write_with(wav, lambda new: write_wav(new, sample))
    for path in set(folder.glob("*.npz")) - set(paths):
        path.unlink()
    known = len(set(paths)) - len(missing)
    before = f", {known} of them said before" if known else ""
    seconds = sample.waveform.size / sample.sample_rate
    console.say("say", f"{wav}: {seconds:.2f} s as {voice.speaker}; {len(parts)} passages{before}")
    _name_problems(source, said, samples_per_frame)


def _say(voice: Voice, missing: dict[Path, tuple[Utterance, str]]) -> None:
    """Say passages, those of about one length together, and keep each as soon as it is said."""
    ordered = sorted(missing.items(), key=lambda item: len(item[1][0].text))
    groups = [ordered[first : first + BATCH] for first in range(0, len(ordered), BATCH)]
    for group in console.progress(groups, stage="say", total=len(groups), unit="batches of passages"):
        for sample, (path, (_, key)) in zip(
            speak(voice.model, [part for _, (part, _) in group], voice.settings, voice.rate), group, strict=True
        ):
            said_once.keep(path, key, [sample])


def _key(voice: Voice, part: Utterance) -> str:
    how, weights = conditions(voice.settings, voice.directory)
    return files.digest_bytes(repr((part, how, weights, voice.rate)).encode())


def _kept(path: Path, key: str) -> Sample:
    found = said_once.kept(path, key)
    if found is None:
        raise BadInput(f"{path}: its contents are not what its name says; remove it")
    return found[0]


def _name_problems(source: Path, said: Sequence[Sample], samples_per_frame: int) -> None:
    """Warn of passages that fail the checks of speech, each with its first words."""
    bad = []
    for sample in said:
        problems = describe(sample, "", samples_per_frame)["problems"]
        if problems:
            bad.append(f"{sample.utterance.text[:40]!r} ({problems[0]})")
    if bad:
        more = f", and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        listed = ", ".join(bad[:_NAMED])
        console.warn(
            "say", f"{source}: {len(bad)} of {len(said)} passages fail a check: {listed}{more}; another SEED may help"
        )


def _written(source: Path) -> str:
    try:
        content = source.read_bytes()
    except OSError as error:
        raise BadInput(f"--file {source}: cannot be read ({error.strerror})") from error
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"--file {source}: not UTF-8; save it as UTF-8") from None


def _wavs(sources: Sequence[Path], target: Path) -> dict[Path, Path]:
    """The WAV of each file: in a folder by the file's name, or `target` itself if it names a WAV.

    Raises:
        BadInput: two would be the same, also where a volume does not tell capitals from small letters; or `target` has
            the name of another kind of audio.
    """
    if target.suffix.lower() in (".wav", ".wave"):
        if len(sources) > 1:
            raise BadInput(f"--to {target}: one WAV for {len(sources)} files; name a folder")
        return {sources[0]: target}
    if target.suffix.lower() in _OTHER_AUDIO and not target.is_dir():
        raise BadInput(f"--to {target}: only WAV is written; name it {target.with_suffix('.wav')}, or name a folder")
    found: dict[Path, Path] = {}
    for source in sources:
        wav = target / f"{source.stem}.wav"
        if other := next((one for one, taken in found.items() if taken.name.casefold() == wav.name.casefold()), None):
            raise BadInput(f"--file {source} and {other} would both be {wav}; say them one by one, with --to")
        found[source] = wav
    return found
