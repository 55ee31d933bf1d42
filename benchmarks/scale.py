"""Memory and time of fetch, prepare and training's data path as the rows grow. Prints one JSON line a case.

    python benchmarks/scale.py [--rows 1000 10000 100000] [--encoded 0.0] [--bucket]

The rows are synthetic: very short recordings, a few hundred under many names, each with an id and a text, through the
real stages with the tiny codec of `job.demo`. Each stage runs in a process of its own; `peak` is its highest resident
memory in bytes, `above` the same less what it had in use before the stage began (the interpreter, torch and qwen_tts;
prepare's codec counts as the stage's), `cpu_seconds` the time of all its threads, which other work on the machine
changes less than `seconds`, `files` what is left on disk under `data/`, in bytes, and `count` in how many files.

`--encoded` is the share of rows that come with codes, since most of prepare's time is the codec. With `--bucket` the
rows are Parquet shards of 1000 rows with the recordings in them, in a local S3 that this process serves
(`tests.support.bucket`).

`--stages compare` is the part of prepare that has all rows in memory, from the encoded shards to the split, of rows
that were never encoded: with the lengths, texts and fingerprints of recordings of 4 to 8 s, all different.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np

from job.config.settings import Settings
from job.core import files
from job.core.cpus import available, limit
from job.prepare.shards import LINES
from tests.support.bucket import Bucket

#: Recordings that the rows share, and the shortest and longest of them in seconds.
RECORDINGS = 300
SECONDS = (0.16, 0.4)
RATE = 24_000
BATCH = 8
#: Rows of a shard in the bucket.
SHARD = 1000
#: A part of prepare that can be measured without the codec.
COMPARE = "compare"


def settings_of(work: Path, rows: int, bucket: bool = False) -> Settings:
    """The run over so many rows."""
    source = f"s3://voices/{rows}" if bucket else str(work / f"{rows}.jsonl")
    return Settings(
        init_model_path=str(work / "base"), work_dir=work / f"{rows}{'-bucket' * bucket}", device="cpu",
        min_seconds=0.1, quality_gate="off", train_jsonl=Path(source),
    )  # fmt: skip


def recordings_in(work: Path, random: np.random.Generator) -> Path:
    """The folder of the recordings, which are made if they are not there."""
    import soundfile

    directory = work / "recordings"
    if not directory.exists():
        directory.mkdir(parents=True)
        for number in range(RECORDINGS):
            sound = 0.1 * random.standard_normal(int(RATE * random.uniform(*SECONDS)))
            soundfile.write(directory / f"{number}.wav", sound.astype(np.float32), RATE, subtype="PCM_16")
    return directory


def codes(random: np.random.Generator) -> list[list[int]]:
    """A row's codes: two to five frames."""
    found: list[list[int]] = random.integers(0, 2048, (int(random.integers(2, 6)), 16)).tolist()
    return found


def shards(work: Path, rows: int, encoded: float) -> dict[str, bytes]:
    """Parquet shards with the recordings in them, by their names in the bucket; some rows have codes instead."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    random = np.random.default_rng(0)
    directory = recordings_in(work, random)
    sounds = [(directory / f"{number}.wav").read_bytes() for number in range(RECORDINGS)]
    found = {}
    for first in range(0, rows, SHARD):
        numbers = range(first, min(rows, first + SHARD))
        columns: dict[str, Any] = {"id": [f"row-{n}" for n in numbers], "text": [f"Row {n}." for n in numbers]}
        given = [codes(random) if encoded and random.random() < encoded else None for _ in numbers]
        columns["audio"] = [
            {"bytes": sounds[random.integers(RECORDINGS)], "path": None} if one is None else None for one in given
        ]
        if encoded:
            columns["audio_codes"] = pa.array(given, pa.list_(pa.list_(pa.int16())))
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.table(columns), sink, row_group_size=100)
        found[f"{rows}/train-{first // SHARD:05d}.parquet"] = sink.getvalue().to_pybytes()
    return found


def write_rows(work: Path, rows: int, encoded: float) -> None:
    """A JSONL file of `rows` rows; a share of them comes with codes and without a recording."""
    random = np.random.default_rng(0)
    directory, own_names = recordings_in(work, random), work / f"recordings-{rows}"
    shutil.rmtree(own_names, ignore_errors=True)
    own_names.mkdir(parents=True)

    def lines() -> Any:
        for number in range(rows):
            row: dict[str, Any] = {"id": f"row-{number}", "text": f"Row {number}."}
            if random.random() < encoded:
                row["audio_codes"] = codes(random)
            else:
                # A name of its own: fetch leaves out rows that say different things of one file.
                own = own_names / f"{number}.wav"
                os.link(directory / f"{random.integers(RECORDINGS)}.wav", own)
                row["audio"] = str(own)
            yield row

    files.write_jsonl(work / f"{rows}.jsonl", lines())


def fetch(settings: Settings) -> dict[str, Any]:
    """The stage."""
    from job.fetch import run

    return run(settings)


def prepare(settings: Settings) -> dict[str, Any]:
    """The stage."""
    from job.prepare import run

    return run(settings)


def train(settings: Settings) -> dict[str, Any]:
    """One epoch of batches, as training lays them out, without the model."""
    from job.dataset.prepared import read_speakers, read_split
    from job.loss.layout import SpecialIds
    from job.loss.rows import Rows
    from job.model.loading import base_directory
    from job.train.order import ahead, epoch_order

    base = base_directory(settings)
    vectors = {name: vector.numpy() for name, vector in read_speakers(settings.paths).items()}
    rows = Rows(
        read_split(settings.paths, "train"), SpecialIds.from_config(files.read_json(base / "config.json")),
        common.tokenizer_of(base), vectors, text_layout="mixed", icl_fraction=0.1,
    )  # fmt: skip
    begun = time.perf_counter()
    order = epoch_order(rows, epoch=0, seed=0, batch_size=BATCH, tokens_per_batch=2048)
    ordered = time.perf_counter()
    frames = 0
    for _, batch in ahead(order, lambda chosen: rows.batch(chosen, 0)):
        frames += batch.target_frames
    taken = {"order": round(ordered - begun, 2), "batches": round(time.perf_counter() - ordered, 2)}
    return {"rows": len(rows), "frames": frames, "seconds_of": taken}


class MadeShards:
    """Shards of rows that were never recorded: 4 to 8 s each, all different, with the codes of one shard for all."""

    def __init__(self) -> None:
        import pyarrow as pa

        from job.prepare.parquet_store import shard_schema

        self._schema = shard_schema(16)
        random = np.random.default_rng(0)
        self._frames = random.integers(50, 100, LINES)
        books = pa.FixedSizeListArray.from_arrays(
            pa.array(random.integers(0, 2048, 16 * self._frames.sum()).astype(np.int16)),
            type=self._schema.field("codes").type.value_type,
        )
        ends = np.concatenate([[0], np.cumsum(self._frames)]).astype(np.int32)
        self._codes = pa.ListArray.from_arrays(pa.array(ends), books, type=self._schema.field("codes").type)

    def tables(self, split: str, rows: int) -> Iterator[Any]:
        """As `job.prepare.shards.Shards.tables`."""
        for first in range(0, rows, LINES):
            yield self._table(first).slice(0, rows - first)

    def _table(self, first: int) -> Any:
        import pyarrow as pa

        from job.audio.flaws import PRINT_SIZE

        random = np.random.default_rng(first + 1)
        numbers = range(first, first + LINES)
        seconds = self._frames / 12.5
        prints = random.integers(-128, 128, (LINES, PRINT_SIZE)).astype(np.int8)
        texts = [f"In row {n} somebody says this, and then they say some more of it." for n in numbers]
        values: dict[str, Any] = {
            "id": [f"row-{n}" for n in numbers], "text": texts, "speaker": ["one"] * LINES,
            "language": ["auto"] * LINES, "seconds": seconds, "codes": self._codes,
            "position": list(numbers), "number": list(numbers),
            "source": [f"train-{n // SHARD:05d}.parquet" for n in numbers], "warnings": [[]] * LINES,
            "characters": [len(text) for text in texts], "letters": random.uniform(12, 16, LINES) * seconds,
            "heard": seconds, "digest": random.integers(1, 1 << 62, LINES, dtype=np.uint64),
            "rms": random.uniform(-30, -20, LINES), "rate": np.full(LINES, RATE), "channels": np.ones(LINES),
            "print": [one.tobytes() for one in prints],
        }  # fmt: skip
        arrays = [
            values[field.name]
            if field.name == "codes"
            else pa.array(values.get(field.name, [None] * LINES)).cast(field.type)
            for field in self._schema
        ]
        return pa.Table.from_arrays(arrays, schema=self._schema)


def compare(settings: Settings, rows: int) -> dict[str, Any]:
    """What prepare does once all rows are encoded, up to the split: it is here that all rows are in memory."""
    from types import SimpleNamespace

    from job.prepare import stage
    from job.prepare.admitted import Admitted

    work: Any = SimpleNamespace(
        shards=MadeShards(), settings=settings, limits=lambda split: (None, None),
        manifest=SimpleNamespace(rows={"train": rows, "validation": 0}),
        codec=SimpleNamespace(codebooks=16, codebook_size=2048, frame_rate=12.5),
    )  # fmt: skip
    tally = stage._gather(work, Admitted(work))
    stage._hold_out(tally, work)
    return {"rows": tally.kept, "validation": int(tally.validation.sum()), "rejected": tally.refused}


STAGES: dict[str, Callable[[Settings], dict[str, Any]]] = {"fetch": fetch, "prepare": prepare, "train": train}


def measure(stage: str, settings: Settings, rows: int) -> dict[str, Any]:
    """Run a stage in this process; its figures."""
    import qwen_tts  # noqa: F401  # before the stage: what it takes does not depend on the rows
    import torch

    torch.set_num_threads(min(2, limit() or available()))
    sys.stdout, out = sys.stderr, sys.stdout
    before = common.resident()
    begun, used = time.perf_counter(), time.process_time()
    counts = compare(settings, rows) if stage == COMPARE else STAGES[stage](settings)
    seconds, used = time.perf_counter() - begun, time.process_time() - used
    sys.stdout = out
    peak = common.highest()
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(used, 2),
        "peak": peak,
        "above": peak - before,
        "counts": counts,
    }


def size(directory: Path) -> int:
    """Bytes of the files under a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def run_stage(work: Path, stage: str, rows: int, more: Sequence[str], env: Mapping[str, str]) -> dict[str, Any]:
    """A stage in a process of its own; its figures."""
    command = [sys.executable, __file__, "--work", str(work), "--stage", stage, "--rows", str(rows), *more]
    variables = {**os.environ, **env}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=variables
    )
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Print the cases as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--encoded", type=float, default=0.0, help="share of rows that come with codes")
    parser.add_argument("--bucket", action="store_true", help="Parquet shards in a local S3")
    parser.add_argument("--work", type=Path, help="keep the files here")
    parser.add_argument("--stages", nargs="+", choices=[*STAGES, COMPARE], default=list(STAGES))
    parser.add_argument("--stage", choices=[*STAGES, COMPARE], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        settings = settings_of(options.work, options.rows[0], options.bucket)
        print(json.dumps(measure(options.stage, settings, options.rows[0])))
        return
    with tempfile.TemporaryDirectory() as temporary, Bucket() as bucket:
        more, env = (["--bucket"], bucket.env) if options.bucket else ([], {})
        work = options.work or Path(temporary)
        if not (work / "base").exists():
            from job.demo.base import build

            build(work / "base")
        for rows in options.rows:
            if options.stages == [COMPARE]:
                settings_of(work, rows).paths.raw.mkdir(parents=True)
            elif options.bucket:
                bucket.objects = shards(work, rows, options.encoded)
            else:
                write_rows(work, rows, options.encoded)
            for stage in options.stages:
                found = run_stage(work, stage, rows, more, env)
                data = settings_of(work, rows, options.bucket).paths.prepared.parent
                left = {"files": size(data), "count": sum(path.is_file() for path in data.rglob("*"))}
                print(json.dumps({"case": stage, "rows": rows, **found, **left}), flush=True)


if __name__ == "__main__":
    main()
