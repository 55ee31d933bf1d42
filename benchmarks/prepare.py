"""Preparing: seconds of audio encoded a second, against the vendor's loop and against clips one by one.

    python benchmarks/prepare.py [--runs 5] [--clips 48] [--filters 8] [--workers 0]
    python benchmarks/prepare.py --ray [--runs 3] [--clips 768] [--filters 8]

The same WAV files of log-normal lengths from 0.5 to 20 s, at 24 kHz and 44.1 kHz, from disk to codes. Ours is the
stage's own path at default settings. `vendor` is what `finetuning/prepare_data.py` does: paths as they come, 32 at a
time, to the public tokenizer's `encode`, which reads, resamples and pads them. `one by one` gives it one at a time.
Medians over the runs, the loops taking turns; the codes are compared first, but for the last frame of a clip, which
need not be whole. Peak memory is taken in a process of its own for each, as `train.py` does.

`waited` is the share of its time in which the encoder had nothing to encode, so waited for reading (where clips are
encoded side by side, of all their encoders' time). `--workers` is NUM_WORKERS.

`--ray` compares ENGINE=ray with ENGINE=local, each without its start: two workers on this machine, and two threads, in
turns. `paired` is the median over the turns of the ratio within each, and `of_cpu` that of CPU seconds (those of all of
Ray's processes are counted), by which a machine with other work can be judged. `started` are the seconds until Ray
answers, and those by which the first, uncounted, run was longer: until its workers have loaded the codec.

`--filters` is the width of the codec's first convolution: 8 is the tiny codec of `job.demo`, 64 the released one's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import common
import numpy as np
import torch

from job.config.settings import Settings
from job.core.cpus import available, limit
from job.model.loading import load_speech_tokenizer
from job.prepare.codec import Codec, Codes, load_codec
from job.prepare.encode import MOST_ENCODERS, encode_stream, read_items
from job.prepare.manifest_rows import Row
from job.prepare.on_ray.cluster import processes_of, started_with
from job.prepare.work import Work

RATES = (24000, 44100)
#: Clips that the vendor's script encodes together.
VENDOR_BATCH = 32


class Watched(Codec):
    """The stage's codec, which adds up the seconds in which it encodes."""

    def __init__(self, tokenizer: Any, codebooks: int) -> None:
        super().__init__(tokenizer, codebooks)
        self.busy = 0.0
        self._lock = threading.Lock()

    def _encode(self, padded: list[Any]) -> list[Codes]:
        start = time.perf_counter()
        codes = super()._encode(padded)
        with self._lock:
            self.busy += time.perf_counter() - start
        return codes


class Bench:
    """Clips on disk, a codec, and the ways to encode them.

    Attributes:
        waited: of each call of `ours`, the share of its time in which the encoder had nothing to encode.
    """

    def __init__(self, work: Path, clips: int, filters: int, workers: int | None = None) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        base = work / f"base-{filters}"
        if not base.exists():
            from job.demo.base import build

            build(base)
            if filters != 8:
                from job.demo.tiny_codec import write_codec

                write_codec(base / "speech_tokenizer", seed=0, filters=filters, hidden_size=8 * filters)
        # The made sounds are no speech: `off` keeps them, and they are judged all the same.
        self.settings = Settings(
            init_model_path=str(base), device=self.device.type, quality_gate="off", num_workers=workers
        )
        self.codec = Watched(load_codec(self.settings, 16, self.device).tokenizer, 16)
        self.waited: list[float] = []
        self.stock = load_speech_tokenizer(base / "speech_tokenizer", self.device)
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
        encoders = 1 if self.device.type != "cpu" else min(torch.get_num_threads(), MOST_ENCODERS)
        start, self.codec.busy = time.perf_counter(), 0.0
        items = encode_stream(read_items(rows, self.settings, self.codec), self.settings, self.codec)
        codes = [item.codes for item in items]
        self.waited.append(1 - self.codec.busy / encoders / (time.perf_counter() - start))
        return codes

    def vendor(self) -> list[Any]:
        """Codes of all clips, some at a time as they come."""
        return self._in_batches(VENDOR_BATCH)

    def one_by_one(self) -> list[Any]:
        """Codes of all clips, one by one."""
        return self._in_batches(1)

    def _in_batches(self, size: int) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(self.paths), size):
            output: Any = self.stock.encode([str(path) for path in self.paths[start : start + size]])
            found += [codes.cpu().numpy()[:, : self.codec.codebooks] for codes in output.audio_codes]
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
    parser.add_argument("--clips", type=int)
    parser.add_argument("--work", type=Path, help="keep the files here")
    parser.add_argument("--filters", type=int, default=8, help="width of the codec")
    parser.add_argument("--workers", type=int, help="NUM_WORKERS")
    parser.add_argument("--ray", action="store_true", help="ENGINE=ray against ENGINE=local")
    parser.add_argument("--peak", choices=("ours", "vendor", "one_by_one"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.clips = options.clips or (768 if options.ray else 1024 if torch.cuda.is_available() else 48)
    if not torch.cuda.is_available():
        torch.set_num_threads(min(2, limit() or available()))
    if options.peak:
        import qwen_tts  # noqa: F401  # what it takes is no part of the figure

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        peak = common.Peak(device)
        getattr(Bench(options.work, options.clips, options.filters, options.workers), options.peak)()
        print(json.dumps({"bytes": peak.bytes()}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        if options.ray:
            measure_ray(options.work or Path(temporary), options)
            return
        measure(options.work or Path(temporary), options)


def measure(work: Path, options: argparse.Namespace) -> None:
    """Ours against the others."""
    bench = Bench(work, options.clips, options.filters, options.workers)
    loops: dict[str, Callable[[], Any]] = {
        "ours": bench.ours,
        "vendor": bench.vendor,
        "one_by_one": bench.one_by_one,
    }
    codes = {name: loop() for name, loop in loops.items()}
    seconds = common.compare(loops, options.runs, bench.device)
    waited = statistics.median(bench.waited[-options.runs :])
    arguments = ["--clips", str(options.clips), "--filters", str(options.filters), "--work", str(work)]
    arguments += [] if options.workers is None else ["--workers", str(options.workers)]
    peaks = {name: common.in_a_process(__file__, "--peak", name, *arguments)["bytes"] for name in loops}
    device = torch.cuda.get_device_name() if bench.device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    rates = {name: bench.seconds / taken for name, taken in seconds.items()}
    for name in ("vendor", "one_by_one"):
        pairs = zip(codes["ours"], codes[name], strict=True)
        equal = np.concatenate([(ours[:-1] == other[: len(ours) - 1]).reshape(-1) for ours, other in pairs])
        common.print_case(
            f"prepare, seconds of audio a second, against {name.replace('_', ' ')}", device, rates["ours"], rates[name],
            peak_memory={"ours": peaks["ours"], "naive": peaks[name]}, filters=options.filters,
            same_codes=round(float(equal.mean()), 6), waited=round(waited, 3),
        )  # fmt: skip


def measure_ray(work: Path, options: argparse.Namespace) -> None:
    """ENGINE=ray against ENGINE=local, in turns."""
    from job.core import files

    bench = Bench(work, min(options.clips, 48), options.filters, options.workers)
    paths = [bench.paths[n % len(bench.paths)] for n in range(options.clips)]
    rows = [{"id": str(n), "audio": str(path), "text": "x", "row": n + 1} for n, path in enumerate(paths)]
    each = common.seconds_of_clips(len(bench.paths))
    seconds = float(sum(each[n % len(bench.paths)] for n in range(options.clips)))
    settings = bench.settings.model_copy(update={"work_dir": work / "ray", "check_words": "never", "ray_encoders": 2})
    settings.__dict__.pop("paths", None)
    files.write_jsonl(settings.paths.manifest("train"), rows)
    taken: dict[str, list[tuple[float, float]]] = {"ray": [], "local": []}
    found: dict[str, dict[str, bytes]] = {}
    with mock.patch.object(subprocess, "Popen", _InThisSession), ExitStack() as stack:
        begun = time.perf_counter()
        pool = started_with(settings.model_copy(update={"engine": "ray"}), stack)
        connected = time.perf_counter() - begun
        for number in range(options.runs + 1):  # the first of each is not counted: workers start, files are read
            for name, used in list({"ray": pool, "local": None}.items())[:: -1 if number % 2 else 1]:
                shutil.rmtree(settings.paths.encoding, ignore_errors=True)
                job = Work(settings, used)
                start, cpu = time.perf_counter(), _cpu_seconds()
                job.encode(("train",))
                taken[name].append((time.perf_counter() - start, _cpu_seconds() - cpu))
                made = sorted(settings.paths.encoding.glob("*.arrow"))
                found[name] = {path.name: path.read_bytes() for path in made}
    counted = {name: np.array(of[1:]) for name, of in taken.items()}  # (runs, seconds and CPU seconds)
    walls, cpus = ({name: of[:, kind] for name, of in counted.items()} for kind in (0, 1))
    common.print_case(
        "prepare, seconds of audio a second, ENGINE=ray against ENGINE=local",
        f"{bench.device.type}, {torch.get_num_threads()} threads, or 2 workers",
        seconds / float(np.median(walls["ray"])), seconds / float(np.median(walls["local"])), filters=options.filters,
        paired=round(float(np.median(walls["local"] / walls["ray"])), 3),
        of_cpu=round(float(np.median(cpus["local"] / cpus["ray"])), 3),
        seconds={name: [round(float(one), 2) for one in of] for name, of in walls.items()},
        cpu_seconds={name: [round(float(one), 2) for one in of] for name, of in cpus.items()},
        started=[round(connected, 1), round(taken["ray"][0][0] - float(np.median(walls["ray"])), 1)],
        same_bytes=found["ray"] == found["local"],
    )  # fmt: skip


class _InThisSession(subprocess.Popen[bytes]):
    """A process in this session: Linux shares cores among sessions, so that Ray would get more than its share."""

    def __init__(self, *args: Any, start_new_session: bool = False, **more: Any) -> None:
        super().__init__(*args, **more)


def _cpu_seconds() -> float:
    """CPU seconds of this process and of the Ray that it has started."""
    total = 0.0
    for number in [os.getpid(), *processes_of(Path(os.environ["RAY_AUTH_TOKEN_PATH"]).parent)]:
        try:
            fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


if __name__ == "__main__":
    main()
