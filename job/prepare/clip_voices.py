"""X-vectors of the halves of every clip, kept in the work directory so that a rerun embeds only what is new.

Each file has those of one shard's clips. A clip is found by the contents of its recording and the part of it, and by
the encoder, so rows may move between shards, and other settings of the run change nothing. The contents of a recording
that has kept its place, size and time are not read again.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.audio.clip import Samples, Unusable, load
from job.core import console, files, storage
from job.core.threads import in_order
from job.dataset.prepared import SPLITS
from job.model.speaker_encoder import SpeakerEncoder
from job.prepare.admitted import within_limits
from job.prepare.one_voice import LONGEST, SHORTEST, embed_halves, unit
from job.prepare.readers import readers
from job.prepare.speakers import KEPT
from job.prepare.work import STAGE, Work

#: Increase it when other vectors are computed of a clip, or other files are written.
FORMAT = 1
_COLUMNS = ["position", "speaker", "audio", "start", "end", "seconds"]

Halves = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Clip:
    """A row with a recording: its place, its length (s), and the x-vectors of its halves, (2, dim) of length 1.

    Of a clip under `SHORTEST` seconds both are the whole clip's. `key` is the digest of its recording and part.
    """

    split: int
    position: int
    seconds: float
    halves: Halves
    key: str = ""


@dataclass(frozen=True, slots=True)
class _Read:
    """A row, the key of its clip ("" if that cannot be read), its stamp, and its samples unless vectors are kept."""

    shard: tuple[int, int]
    row: dict[str, Any] = field(repr=False)
    key: str = ""
    stamp: str = ""
    samples: Samples | None = field(default=None, repr=False)


def clips(work: Work, rank: int = 0, world: int = 1) -> dict[str, list[Clip]]:
    """Speaker name -> its clips. Rows that arrived encoded, and speakers that the base has, are not looked at.

    Of `world` processes, each embeds the rows of the shards that it encodes. All rows must be encoded already.
    """
    encoder = work.encoder
    found: dict[str, list[Clip]] = {}
    if encoder is None:
        return found
    rows = list(_rows(work, rank, world))
    kept = _Kept(work.settings.paths.clip_voices, encoder)
    contents: dict[Path, str] = {}

    def read(one: tuple[tuple[int, int], dict[str, Any]]) -> _Read:
        shard, row = one
        path = Path(os.fsdecode(row["audio"]))
        try:
            stamp = _digest(files.stamp(path), row)
            if (key := kept.keys.get(stamp)) is not None:
                return _Read(shard, row, key, stamp)
            if path not in contents:
                contents[path] = files.digest_ends(path)
            key = _digest(contents[path], row)
            if key in kept.halves:
                return _Read(shard, row, key, stamp)
            samples = load(path, encoder.sample_rate, start=row["start"], end=row["end"]).samples
            return _Read(shard, row, key, stamp, samples)
        except (Unusable, OSError) as error:  # it could be read when it was encoded; whoever needs it says so
            storage.check(error)
            return _Read(shard, row)

    new = 0
    ahead = in_order(rows, read, readers(work.settings, work.device, -(-world // work.settings.num_nodes)))
    shown = console.progress(ahead, stage=STAGE, total=len(rows), unit="voices")
    for (split, _), group in groupby(shown, key=lambda one: one.shard):
        of_shard: dict[str, Halves] = {}
        stamps: dict[str, str] = {}
        embedded, told = 0, True
        for one in group:
            if not one.key:
                continue
            if one.samples is not None and one.key not in kept.halves:
                kept.halves[one.key] = halves_of(one.samples, encoder)
                embedded += 1
            of_shard[one.key], stamps[one.stamp] = kept.halves[one.key], one.key
            told &= kept.keys.get(one.stamp) == one.key
            clip = Clip(split, one.row["position"], one.row["seconds"], of_shard[one.key], one.key)
            found.setdefault(one.row["speaker"], []).append(clip)
        kept.write(of_shard, stamps, embedded > 0 or not told)
        new += embedded
    if world == 1:
        kept.prune()
    if new:
        console.say(STAGE, f"x-vectors of {new} clips were computed, those of {len(rows) - new} are kept from before")
    return found


def _digest(recording: object, row: dict[str, Any]) -> str:
    """Digest of what identifies a recording, and of the part of it that a row is."""
    return files.digest_bytes(repr((recording, row["start"], row["end"])).encode("utf-8", "surrogatepass"))[:32]


def halves_of(samples: Samples, encoder: SpeakerEncoder) -> Halves:
    """X-vectors (2, dim) of length 1 of the halves of a clip; both of the whole clip if it is short."""
    rate = encoder.sample_rate
    if len(samples) >= SHORTEST * rate:
        return np.asarray(unit(embed_halves(samples, rate, encoder)), np.float16)
    whole = unit(encoder.embed(samples[: int(LONGEST * rate)], rate).numpy())
    return np.asarray(np.stack([whole, whole]), np.float16)


def _rows(work: Work, rank: int, world: int) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    """Yield the shard (split, number) and the columns of each row to look at."""
    for split in SPLITS:
        for number, table in enumerate(within_limits(work, split)):
            if number % world != rank:
                continue
            for row in table.filter(table["reason"].is_null()).select(_COLUMNS).to_pylist():
                if row["audio"] is not None and work.plans[row["speaker"]].strategy != KEPT:
                    yield (SPLITS.index(split), number), row


class _Kept:
    """The vectors on disk that this encoder computed, by the clips' keys, and the keys by the clips' stamps."""

    def __init__(self, directory: Path, encoder: SpeakerEncoder) -> None:
        self._directory = directory
        self._by = repr((FORMAT, SHORTEST, LONGEST, encoder.identity()))
        self._used: set[Path] = set()
        self.halves: dict[str, Halves] = {}
        self.keys: dict[str, str] = {}
        for path in sorted(directory.glob("*.npz")):
            try:
                with np.load(path) as stored:  # pickled contents are refused
                    if str(stored["by"]) == self._by:
                        keys = stored["keys"].tolist()
                        self.halves.update(zip(keys, stored["halves"], strict=True))
                        if "stamps" in stored:
                            stamped = (keys[n] for n in stored["stamped"].tolist())
                            self.keys.update(zip(stored["stamps"].tolist(), stamped, strict=True))
            except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
                console.warn(STAGE, f"{path} is damaged ({type(error).__name__}); its clips are embedded again")

    def write(self, of_shard: dict[str, Halves], stamps: dict[str, str], new: bool) -> None:
        """Write the vectors of a shard, unless they are there as they are; `stamps` are those of its clips' keys."""
        if not of_shard:
            return
        keys = list(of_shard)
        path = self._directory / f"{files.digest_bytes(repr((self._by, keys)).encode())[:32]}.npz"
        self._used.add(path)
        if not new and path.is_file():
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        places = {key: n for n, key in enumerate(keys)}
        contents: dict[str, Any] = {
            "by": np.array(self._by),
            "keys": np.array(keys),
            "stamps": np.array(list(stamps)),
            "stamped": np.array([places[key] for key in stamps.values()]),
            "halves": np.stack(list(of_shard.values())),
        }

        def save(temporary: Path) -> None:
            with open(temporary, "wb") as handle:
                np.savez(handle, **contents)

        files.write_with(path, save)

    def prune(self) -> None:
        """Delete the files that this run has no use for."""
        for path in self._directory.glob("*"):
            if path not in self._used:
                path.unlink(missing_ok=True)
