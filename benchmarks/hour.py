"""An hour-long recording of known sentences through `python -m job fetch`: do they come out whole?

    python benchmarks/hour.py [--minutes 60] [--cases wav+text m4a+asr ...] [--work DIR] [--seed 0]

A synthesizer reads sentences of a made-up language (`made_speech.py`), so that it is known what is said when. The
recording is written as WAV and as m4a (AAC, 44.1 kHz), and each goes through fetch three times, in a process of its
own, as a user would run it: with its chapter text (ALIGN_MODEL), with subtitles (SRT) whose times are up to 0.15 s off
and whose longer sentences take two cues, and with nothing at all (ASR_MODEL). Both models are one small CTC model of
transformers' classes, trained here on twenty minutes of other sentences of the same voice (`letter_model.py`).

The rows of the manifests are compared with the truth. A sentence is whole if it lies entirely in one row, and that
row's text has it: subtitles and chapters every letter, transcripts all but `--wrong` of its letters. A cut inside a
word is one strictly between the start and the end of a word. The character error rate compares each row's text (without
case and punctuation, but with spaces) to the words that are said in it.

Prints one JSON line a case, and a table. The exit code is 1 if a case has fewer than 97 % whole sentences, any cut
inside a word, or an error rate above 2 %.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import textwrap
import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: What each case is held to: share of whole sentences, cuts inside a word, character error rate.
WHOLE, CUT, ERRORS = 0.97, 0, 0.02
#: Minutes of speech that the model learns from, and steps of training by the letters of frames and by the CTC loss.
LEARNT, STEPS = 20.0, (600, 250)
#: Largest error of a subtitle's times, seconds, and most letters that are shown at once.
LATE, SHOWN = 0.15, 60
CASES = ("wav+text", "wav+srt", "wav+asr", "m4a+text", "m4a+srt", "m4a+asr")


@dataclass(frozen=True)
class Told:
    """A sentence as it is written, and each of its words with its start and end in seconds."""

    text: str
    words: list[tuple[str, float, float]]


def plain(text: str) -> str:
    """The letters of a text in lower case, and a space between words."""
    return " ".join("".join(c for c in word if c.isalpha()) for word in text.lower().split())


# ---- what is made, in a process of its own: the benchmark stays small, so that the peak of the others is their own


def make(work: Path, minutes: float, learnt: float, steps: tuple[int, int], seed: int) -> None:
    """Write the recording as WAV and m4a, what is said in it, and the model."""
    sys.path[:0] = [str(ROOT)]
    import letter_model
    import made_speech
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    wav = work / "read.wav"
    paragraphs = made_speech.read_aloud(wav, minutes * 60, seed)
    _as_m4a(wav, work / "read.m4a")
    known = [
        [{"text": one.text, "words": [[w.text, w.start, w.end] for w in one.words]} for one in paragraph]
        for paragraph in paragraphs
    ]
    (work / "truth.json").write_text(json.dumps(known), encoding="utf-8")
    if not (work / "model").is_dir():
        other = made_speech.read_aloud(work / "other.wav", learnt * 60, seed + 1)
        said = [one for paragraph in other for one in paragraph]
        letter_model.train(work / "unfinished", work / "other.wav", said, *steps)
        (work / "unfinished").rename(work / "model")


def _as_m4a(wav: Path, path: Path) -> None:
    import av
    import numpy as np
    import soundfile
    import soxr

    rate = 44_100
    with soundfile.SoundFile(wav) as sound, av.open(str(path), "w", format="ipod") as film:
        stream: Any = film.add_stream("aac", rate=rate, layout="mono")
        stream.bit_rate = 96_000
        higher = soxr.ResampleStream(sound.samplerate, rate, 1)
        held, at = np.zeros(0, np.float32), 0
        while True:
            read = sound.read(sound.samplerate, dtype="float32")
            held = np.concatenate([held, higher.resample_chunk(read, last=not len(read))])
            size = len(held) // 1024 * 1024 if len(read) else len(held)
            for first in range(0, size, 1024):
                frame = av.AudioFrame.from_ndarray(held[None, first : min(size, first + 1024)], "fltp", "mono")
                frame.sample_rate, frame.pts = rate, at + first
                film.mux(stream.encode(frame))
            held, at = held[size:], at + size
            if not len(read):
                break
        film.mux(stream.encode(None))


# ---- what a user would have beside the recording


def chapter(paragraphs: list[list[Told]]) -> str:
    """The text as a codebook has it: a heading, which nobody reads, and paragraphs in lines of 72 letters."""
    parts = [textwrap.fill(" ".join(one.text for one in paragraph), 72) for paragraph in paragraphs]
    return "\n\n".join(["Sutaf nemora", *parts]) + "\n"


def subtitles(sentences: list[Told], seed: int) -> str:
    """SRT with loose times; a sentence that is too long to be shown at once is in two cues."""
    rng = random.Random(seed)
    cues: list[tuple[float, float, str]] = []
    for one in sentences:
        told = one.text.split()
        halves = [(0, len(told))]
        if len(one.text) > SHOWN:
            middle = min(range(1, len(told)), key=lambda at: abs(len(" ".join(told[:at])) - len(one.text) / 2))
            halves = [(0, middle), (middle, len(told))]
        for first, last in halves:
            start = one.words[first][1] + rng.uniform(-LATE, LATE)
            end = one.words[last - 1][2] + rng.uniform(-LATE, LATE)
            start = max(0.0, start, cues[-1][1] if cues else 0.0)
            cues.append((start, max(end, start + 0.3), " ".join(told[first:last])))
    return "\n".join(f"{n}\n{_clock(a)} --> {_clock(b)}\n{text}\n" for n, (a, b, text) in enumerate(cues, start=1))


def _clock(seconds: float) -> str:
    whole = round(seconds * 1000)
    return f"{whole // 3_600_000:02}:{whole // 60_000 % 60:02}:{whole // 1000 % 60:02},{whole % 1000:03}"


# ---- how a case went


def compare(rows: list[dict[str, Any]], sentences: list[Told], wrong: float) -> dict[str, Any]:
    """Compare the rows of the manifests with what was said."""
    from rapidfuzz.distance import Levenshtein

    words = [(word, start, end, number) for number, one in enumerate(sentences) for word, start, end in one.words]
    starts, ends = [start for _, start, *_ in words], [end for _, _, end, _ in words]
    uncut: set[int] = set()
    whole: set[int] = set()
    exact: set[int] = set()
    cuts: list[float] = []
    edits = letters = misspelled = spelled = 0
    for row in rows:
        cuts += [
            at
            for at in (row["start"], row["end"])
            if (n := bisect_right(starts, at) - 1) >= 0 and at < ends[n] and at > starts[n]
        ]
        first, last = bisect_left(ends, row["start"]), bisect_right(starts, row["end"])
        inside = [one for one in words[first:last] if row["start"] <= (one[1] + one[2]) / 2 <= row["end"]]
        said, text = " ".join(one[0] for one in inside), plain(row["text"])
        changes = [change.src_pos for change in Levenshtein.editops(said, text)]
        edits, letters = edits + len(changes), letters + len(said)
        joined = said.replace(" ", "")
        misspelled += Levenshtein.distance(joined, text.replace(" ", ""))
        spelled += len(joined)
        at = 0
        for number in dict.fromkeys(one[3] for one in inside):
            length = len(" ".join(one[0] for one in inside if one[3] == number))
            bad = sum(at <= place < at + length for place in changes)
            at += length + 1
            told = sentences[number].words
            if row["start"] <= told[0][1] and told[-1][2] <= row["end"]:
                uncut.add(number)
                whole |= {number} if bad <= wrong * length else set()
                exact |= {number} if not bad else set()
    return {
        "sentences": len(sentences),
        "rows": len(rows),
        "uncut": round(len(uncut) / len(sentences), 4),
        "whole": round(len(whole) / len(sentences), 4),
        "word_for_word": round(len(exact) / len(sentences), 4),
        "cut_words": len(cuts),
        "cuts": [round(at, 3) for at in cuts[:20]],
        "error_rate": round(edits / max(1, letters), 5),
        "error_rate_without_spaces": round(misspelled / max(1, spelled), 5),
        "lost": [number for number in range(len(sentences)) if number not in whole][:20],
    }


def run(work: Path, case: str, paragraphs: list[list[Told]], seed: int) -> tuple[Path, dict[str, Any]]:
    """Run fetch on a case; returns its work directory, and what it took."""
    kind, beside = case.split("+")
    folder, out = work / case / "in", work / case / "work"
    subprocess.run(["rm", "-rf", str(work / case)], check=True)
    folder.mkdir(parents=True)
    os.link(work / f"read.{kind}", folder / f"read.{kind}")
    if beside == "text":
        (folder / "read.txt").write_text(chapter(paragraphs), encoding="utf-8")
    elif beside == "srt":
        flat = [one for paragraph in paragraphs for one in paragraph]
        (folder / "read.srt").write_text(subtitles(flat, seed), encoding="utf-8")
    variable = {"text": "ALIGN_MODEL", "asr": "ASR_MODEL", "srt": "ALIGN_MODEL"}[beside]
    options = {"DATA_DIR": folder, "WORK_DIR": out, variable: work / "model", "DEVICE": "cpu", "LANGUAGE": "English"}
    return out, _job("fetch", options, work / case / "log")


def _job(stage: str, options: dict[str, Any], log: Path) -> dict[str, Any]:
    """Run a stage of the job; returns seconds, seconds of processor time, and the peak of its memory in bytes."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "OMP_NUM_THREADS", "TMPDIR")}
    begun = time.perf_counter()
    with open(log, "ab") as file:
        command = [sys.executable, "-m", "job", stage]
        process = subprocess.Popen(
            command, cwd=ROOT, env=kept | {k: str(v) for k, v in options.items()}, stdout=file, stderr=file
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{stage} ended with {process.returncode}:\n{log.read_text(errors='replace')[-3000:]}")
    return {
        "seconds": round(time.perf_counter() - begun, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_memory": used.ru_maxrss * 1024,
    }


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The rows of the manifests that fetch wrote."""
    found: list[dict[str, Any]] = []
    for path in (out / "data" / "raw").glob("*.jsonl"):
        found += [row for line in path.read_text(encoding="utf-8").splitlines() if "start" in (row := json.loads(line))]
    return sorted(found, key=lambda row: row["start"])


def main() -> None:
    """Make the recording, run the cases, say how they went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the recording")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--wrong", type=float, default=0.1, help="share of a sentence's letters that may be misheard")
    parser.add_argument("--learn", type=float, default=LEARNT, help="minutes of speech that the model is trained on")
    parser.add_argument("--steps", type=int, nargs=2, default=STEPS, help="steps by letters of frames, and by CTC loss")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="keep the files here; what is there of the recording is used again")
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(options.work, options.minutes, options.learn, options.steps, options.seed)
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "truth.json").is_file() or not (work / "model").is_dir():
            begun = time.perf_counter()
            command = [sys.executable, __file__, "--make", "--work", str(work), "--minutes", str(options.minutes)]
            command += ["--learn", str(options.learn), "--steps", *map(str, options.steps), "--seed", str(options.seed)]
            subprocess.run(command, check=True, stdout=sys.stderr)
            print(json.dumps({"case": "made", "seconds": round(time.perf_counter() - begun, 1)}), flush=True)
        truth = json.loads((work / "truth.json").read_text(encoding="utf-8"))
        paragraphs = [[Told(one["text"], one["words"]) for one in paragraph] for paragraph in truth]
        sentences = [one for paragraph in paragraphs for one in paragraph]
        table = ["| case | rows | whole | cut words | error rate | seconds | CPU seconds | peak |", "|" + " --- |" * 8]
        good = True
        for case in options.cases:
            out, taken = run(work, case, paragraphs, options.seed)
            found = compare(rows_of(out), sentences, options.wrong if case.endswith("asr") else 0.0)
            held = found["whole"] >= WHOLE and found["cut_words"] <= CUT and found["error_rate"] <= ERRORS
            good &= held
            print(json.dumps({"case": case, "device": "cpu", "held": held, **found, **taken}), flush=True)
            table.append(
                f"| {case} | {found['rows']} | {found['whole']:.1%} of {found['sentences']} | {found['cut_words']} | "
                f"{found['error_rate']:.2%} | {taken['seconds']:.0f} | {taken['cpu_seconds']:.0f} | "
                f"{taken['peak_memory'] / 1e9:.2f} GB |"
            )
        print(
            "\n".join(
                [
                    "",
                    *table,
                    "",
                    f"aims: {WHOLE:.0%} whole, {CUT} cut words, {ERRORS:.0%} errors: {'held' if good else 'MISSED'}",
                ]
            )
        )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
