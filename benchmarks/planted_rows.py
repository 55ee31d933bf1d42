"""What prepare finds of rows that are wrong: defects planted in a corpus of good rows.

    python benchmarks/planted_rows.py [--each 10] [--clean 400] [--espeak] [--only KIND,KIND]
                                      [--asr-model MODEL | --recogniser DIR]

Good rows are sentences of the embedded clips joined in another order each, by six voices (two, each at three pitches)
in two languages, in a room with some noise. With `--espeak`, and `espeak-ng` on the PATH, twelve other voices in six
languages say the good rows: voices that no threshold was set by. With `--asr-model`, that recogniser hears every row;
with `--recogniser`, a small one that is trained first (`row_recogniser.py`: it knows the voices and the words,
in random order) and kept in that directory. The table then has columns without and with it.

Beside the good rows stand `--each` rows of each kind of defect. All of them go through the stage as a run does it, with
the tiny base of `job.demo`.

A row is found when it is left out or warned of for a reason that fits; the table says by which. A kind whose second
copies are the wrong ones (duplicates) counts those.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import common  # noqa: F401 - puts the repository on the path
import numpy as np
import soundfile
import soxr

from job import prepare
from job.config.settings import Settings
from job.core import files
from tests.support import defects
from tests.support.defects import RATE, Voiced

ALONE = ("kind", "of", "left out", "warned", "by")
BOTH = (*ALONE, "heard: left out", "warned", "by")


@dataclass
class Planted:
    """One row of the corpus: its kind (`clean` for a good one), and what is said and heard in it."""

    kind: str
    row: Voiced
    split: str = "train"
    source: str = "rows.jsonl"
    format: str = "wav"


def embedded(count: int) -> list[Voiced]:
    return [defects.good_row(n) for n in range(count)]


def by_espeak(count: int) -> list[Voiced]:
    """Rows of other voices; each text is said once by each of them, with another text behind it."""
    from planted_speech import TEXTS, VOICES

    rng = np.random.default_rng(1)
    said: list[Voiced] = []
    for number in range(count):
        voice, pitch, speed, language = VOICES[number % len(VOICES)]
        texts = "|".join(TEXTS[language]).split("|")
        text = " ".join(str(one) for one in rng.choice(texts, 2, replace=False))
        command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "--stdout", text]
        wave, rate = soundfile.read(io.BytesIO(subprocess.run(command, capture_output=True, check=True).stdout))
        sound = defects.in_a_room(soxr.resample(wave, rate, RATE), rng)
        said.append(Voiced(sound, text, voice, {"fr": "French"}.get(language[:2], language), number))
    return said


def corpus(clean: int, each: int, only: set[str], espeak: bool) -> list[Planted]:
    """The good rows and, after them, the bad ones; the shifted ones are a source of their own."""
    kinds = {name: plant for name, plant in defects.SOUNDS.items() if not only or name in only}
    texts = {name: change for name, change in defects.TEXTS.items() if not only or name in only}
    good = by_espeak(clean) if espeak else embedded(clean)
    rows = [Planted("clean", one) for one in good]
    number, rng = 600, np.random.default_rng(2)

    def fresh() -> Voiced:
        nonlocal number
        number += 1
        return defects.good_row(number)

    for kind, plant in kinds.items():
        for _ in range(each):
            one = fresh()
            rows.append(Planted(kind, replace(one, wave=plant(one, rng))))
    for kind, change in texts.items():
        for _ in range(each):
            rows.append(Planted(kind, change(fresh(), fresh())))
    copies = {name: again for name, again in defects.COPIES.items() if not only or name in only}
    for kind, again in copies.items():
        for place in range(each):
            rows.append(Planted(kind, replace(good[place], wave=again(good[place].wave, rng))))
    if not only or "validation row also in train" in only:
        rows += [Planted("validation row also in train", good[each + place], "validation") for place in range(each)]
        rows += [Planted("clean", fresh(), "validation") for _ in range(each)]
    if not only or "texts shifted by one" in only:
        shifted = [fresh() for _ in range(max(30, each))]
        for here, there in zip(shifted, [*shifted[1:], shifted[0]], strict=True):
            rows.append(Planted("texts shifted by one", replace(here, text=there.text), source="shifted.jsonl"))
    return rows


def write(rows: list[Planted], directory: Path, settings: Settings) -> None:
    """The recordings and the raw manifests, as fetch leaves them."""
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, one in enumerate(rows):
        path = directory / f"{number:05d}.{one.format}"
        soundfile.write(path, np.clip(one.row.wave, -1, 1), one.row.rate, subtype="PCM_16")
        split = lines[one.split]
        empty = dict.fromkeys(("ref_audio", "ref_text", "instruct"))
        named = {"speaker": one.row.speaker, "language": one.row.language}
        about = {"id": str(number), "row": len(split) + 1, "source": one.source, "audio": str(path)}
        split.append({**empty, **about, **named, "text": one.row.text})
    for name, found in lines.items():
        files.write_jsonl(settings.paths.manifest(name), found)


def judged(settings: Settings) -> tuple[dict[str, str], dict[str, list[str]], dict[str, Any]]:
    """Reasons of the rows that were left out and warnings of those that were kept, by id; and quality.json."""
    seen: dict[str, list[str]] = defaultdict(list)
    rejected = {str(row["id"]): str(row["reason"]) for row in files.read_jsonl(settings.paths.rejected)}
    figures = json.loads(settings.paths.quality.read_text(encoding="utf-8"))
    for name, entry in figures["warnings"].items():
        for one in entry["examples"]:
            seen[str(one)].append(name)
    return rejected, seen, figures


def prepared(settings: Settings) -> tuple[dict[str, str], dict[str, list[str]], dict[str, Any]]:
    """Run the stage, and say what it judged."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
        prepare.run(settings)
    return judged(settings)


def told(those: list[str], rejected: dict[str, str], warned: dict[str, list[str]]) -> list[str]:
    """The cells of a kind: how many of its rows are left out and warned of, and by what."""
    by = Counter(rejected.get(one) or "+".join(sorted(warned.get(one, []))) or "" for one in those)
    by.pop("", None)
    out = sum(one in rejected for one in those)
    named = sum(one not in rejected and one in warned for one in those)
    return [str(out), str(named), ", ".join(f"{name} {count}" for name, count in by.most_common())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=10, help="rows of each kind")
    parser.add_argument("--clean", type=int, default=400, help="good rows")
    parser.add_argument("--espeak", action="store_true", help="the good rows are said by espeak-ng")
    heard = parser.add_mutually_exclusive_group()
    heard.add_argument("--asr-model", help="a recogniser that hears every row (CHECK_WORDS=always)")
    heard.add_argument("--recogniser", type=Path, help="where to keep one that is trained first, if it is not there")
    parser.add_argument("--only", default="", help="these kinds alone, with commas")
    parser.add_argument("--keep", type=Path, help="a folder to keep the work directory in")
    chosen = parser.parse_args()
    if chosen.recogniser and chosen.espeak:
        parser.error("--recogniser knows the embedded voices, and those of --espeak are others")
    from job.demo.base import build
    from job.prepare import quality

    quality.EXAMPLES = 1_000_000  # every row that is warned of, not the first ones
    model = chosen.asr_model
    if chosen.recogniser:
        from row_recogniser import trained

        model = str(trained(chosen.recogniser.resolve()))
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.keep or Path(temporary)
        base = work / "base"
        if not base.exists():
            build(base)
        settings = Settings(
            init_model_path=str(base), work_dir=work / "work", device="cpu", quality_gate="warn", num_workers=0,
            check_words="never",
        )  # fmt: skip
        recordings = work / "recordings"
        recordings.mkdir(parents=True, exist_ok=True)
        rows = corpus(chosen.clean, chosen.each, set(filter(None, chosen.only.split(","))), chosen.espeak)
        write(rows, recordings, settings)
        began, used = time.perf_counter(), time.process_time()
        found = [prepared(settings)]
        wall, processor = time.perf_counter() - began, time.process_time() - used
        if model:
            found.append(prepared(settings.model_copy(update={"asr_model": model, "check_words": "always"})))
    seconds = sum(len(one.row.wave) / one.row.rate for one in rows)
    columns = BOTH if model else ALONE
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for kind in dict.fromkeys(one.kind for one in rows):
        those = [str(n) for n, one in enumerate(rows) if one.kind == kind]
        cells = [kind, str(len(those))]
        for rejected, warned, _ in found:
            cells += told(those, rejected, warned)
        print(f"| {' | '.join(cells)} |")
    for problem in found[-1][2]["problems"]:
        print(f"problem: {problem}")
    print(
        f"{len(rows)} rows, {seconds:.0f} s of sound, prepared in {wall:.1f} s without a recogniser: "
        f"{processor / len(rows) * 1000:.0f} ms of processor time a row",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
