"""Preparing: seconds of audio encoded a second, against encoding clips one by one as they come.

    python benchmarks/prepare.py [--runs 5] [--clips 48]

The same WAV files of log-normal lengths from 0.5 to 20 s, at 24 kHz and 44.1 kHz, from disk to codes. Ours is the
stage's own path at default settings: decode and resample (NUM_WORKERS), batches of similar length (PREPARE_BATCH_SIZE).
The naive loop reads, resamples and encodes one clip after the other through the public tokenizer's `encode`, as public
preparation scripts do. Medians over the runs, the two taking turns; the codes are compared first.
Peak memory is taken in a process of its own for each, as `train.py` does.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

from job.prepare.codec import load_codec
from job.prepare.encode import encode_items, read_items
from job.prepare.rows import Row
from job.settings import Settings

RATES = (24000, 44100)


class Bench:
    """Clips on disk, a codec, and the two ways to encode them."""

    def __init__(self, work: Path, clips: int) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        base = work / "base"
        if not base.exists():
            from job.demo.base import build

            build(base)
        self.settings = Settings(init_model_path=str(base), device=self.device.type)
        self.codec = load_codec(self.settings, 16, self.device)
        self.paths = write_clips(work / "clips", clips)
        self.seconds = float(common.seconds_of_clips(clips).sum())

    def ours(self) -> list[Any]:
        """Codes of all clips by the stage's own path."""
        rows = [
            Row(
                id=str(number), split="train", number=number + 1, source="benchmark", audio=path, codes=None, text="x",
                speaker="one", language="auto", instruct=None, ref_audio=None,
            )
            for number, path in enumerate(self.paths)
        ]  # fmt: skip
        items = encode_items(read_items(rows, self.settings, self.codec), self.codec, self.settings.prepare_batch_size)
        return [item.codes for item in items]

    def naive(self) -> list[Any]:
        """Codes of all clips, one by one."""
        import librosa

        found = []
        for path in self.paths:
            samples, _ = librosa.load(path, sr=self.codec.sample_rate, mono=True)
            output: Any = self.codec.tokenizer.encode(samples, sr=self.codec.sample_rate)
            found.append(output.audio_codes[0][:, : self.codec.books].cpu().numpy())
        return found


def write_clips(directory: Path, count: int) -> list[Path]:
    """WAV files of voiced sound, alternating between the rates of `RATES`."""
    import soundfile

    from job.demo.weights import voiced

    paths = []
    directory.mkdir(parents=True, exist_ok=True)
    for number, seconds in enumerate(common.seconds_of_clips(count)):
        path = directory / f"{number:04d}.wav"
        paths.append(path)
        if path.exists():
            continue
        rate = RATES[number % len(RATES)]
        sound = np.asarray(voiced(0, f"clip {number}", float(seconds)))  # at 24 kHz; played faster where it is 44.1
        soundfile.write(path, np.resize(sound, int(seconds * rate)), rate)
    return paths


def main() -> None:
    """Print the case as a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--clips", type=int, default=1024 if torch.cuda.is_available() else 48)
    parser.add_argument("--work", type=Path, help="keep the files here")
    parser.add_argument("--peak", choices=("ours", "naive"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        torch.set_num_threads(min(2, os.cpu_count() or 1))
    if options.peak:
        import qwen_tts  # noqa: F401  # what it takes is no part of the figure

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        peak = common.Peak(device)
        getattr(Bench(options.work, options.clips), options.peak)()
        print(json.dumps({"bytes": peak.bytes()}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        measure(options.work or Path(temporary), options)


def measure(work: Path, options: argparse.Namespace) -> None:
    """Ours against naive."""
    bench = Bench(work, options.clips)
    same = [
        bool(np.array_equal(one[:-1], other[: len(one) - 1]))  # the last frame of a clip need not be whole
        for one, other in zip(bench.ours(), bench.naive(), strict=True)
    ]
    loops: dict[str, Callable[[], Any]] = {"ours": bench.ours, "naive": bench.naive}
    seconds = common.compare(loops, options.runs, bench.device)
    arguments = ["--clips", str(options.clips), "--work", str(work)]
    peaks = {name: common.in_a_process(__file__, "--peak", name, *arguments)["bytes"] for name in loops}
    device = torch.cuda.get_device_name() if bench.device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    rates = {name: bench.seconds / taken for name, taken in seconds.items()}
    common.print_case(
        "prepare, seconds of audio a second", device, rates["ours"], rates["naive"], peak_memory=peaks,
        same_codes=round(float(np.mean(same)), 4),
    )  # fmt: skip


if __name__ == "__main__":
    main()
