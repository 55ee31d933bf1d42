"""Sharded storage of encoded rows: a killed run resumes after its last finished shard; processes share the shards.

A shard holds consecutive lines of a raw manifest: `<split>-<number>.arrow`, and a JSON sidecar, written last, with its
fingerprint (a hash of everything that determines its contents) and its checksum.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from job.core import files
from job.core.console import warn
from job.dataset.prepared import row_codes
from job.prepare.codec import Codec, Codes
from job.prepare.earlier import Earlier, key_of
from job.prepare.edits import Edit, lay_over
from job.prepare.encode import Item
from job.prepare.leaving_out import with_column
from job.prepare.manifest_rows import Row
from job.prepare.parquet_store import shard_table

#: Manifest lines per shard. A kill loses at most one shard: a few seconds of GPU or a few minutes of CPU time.
LINES = 256
#: Format version; increment it when the columns of a shard or their meaning change.
FORMAT = 4


@dataclass(frozen=True, slots=True)
class Shard:
    """Identity of a shard: the lines of a split's manifest from `number * LINES` on, in their current state.

    `keys` are those of its rows, one after the other (`job.prepare.earlier`).
    """

    split: str
    number: int
    fingerprint: str
    keys: bytes


@dataclass(frozen=True, slots=True)
class Contents:
    """What a shard's file contains, an Arrow `table`; `rows` and `frames` are those that are not rejected."""

    table: bytes
    rows: int
    frames: int


@dataclass(slots=True)
class _Seen:
    """Total rows and frames of the shards numbered below `end`, except those in `missing`."""

    end: int = 0
    rows: int = 0
    frames: int = 0
    missing: set[int] = field(default_factory=set)


class Shards:
    """The encoded shards of a work directory.

    Args:
        directory: where the shards are stored; created when the first one is written.
        codec: the codec that encodes them.
        identities: split -> what determines the codes besides the rows: settings and the codec's weights.
        run: hash of the current manifests and settings; `sizes` counts only shards written for it.
        edits: split -> manifest line -> what a person decided about it, applied whenever shards are read.
    """

    def __init__(
        self,
        directory: Path,
        codec: Codec,
        identities: dict[str, Any],
        run: str,
        edits: Mapping[str, Mapping[int, Edit]] | None = None,
    ) -> None:
        self.directory = directory
        self._codec = codec
        self._identities = {split: json.dumps([FORMAT, LINES, one], default=str) for split, one in identities.items()}
        self._run = run
        self._edits = edits or {}
        self._speakers: Mapping[str, Mapping[int, str]] = {}
        self._right: set[Shard] = set()
        self._earlier = Earlier(directory / "earlier")
        self._seen: dict[str, _Seen] = {}

    def cut(self, split: str, rows: Iterable[Row]) -> Iterator[tuple[Shard, list[Row]]]:
        """Split the rows into shards. Reads the size and modification time of every recording."""
        stream = iter(rows)
        number = 0
        while chunk := list(islice(stream, LINES)):
            stamped = [(row, _stamp(row)) for row in chunk]
            identity = "\n".join([self._identities[split], *(_identity(*one) for one in stamped)])
            keys = b"".join(key_of(self._identities[split], *one) for one in stamped)
            yield Shard(split, number, files.digest_bytes(identity.encode("utf-8", "surrogatepass")), keys), chunk
            number += 1

    def keep_earlier(self) -> None:
        """Keep the shards that are there until `prune`, so that rows of those that are replaced can be taken over."""
        self._earlier.keep(self.directory)

    def encoded_earlier(self, row: Row) -> pa.Table | None:
        """What an earlier run encoded of a row, as a table of one row; its place may be another one now."""
        return self._earlier.find(key_of(self._identities[row.split], row, _stamp(row)))

    def is_finished(self, shard: Shard) -> bool:
        """Whether the shard exists, is intact, and matches the current rows and settings. Warns if it is damaged."""
        if shard in self._right:
            return True
        note = self._note(shard.split, shard.number)
        if note.get("fingerprint") != shard.fingerprint:
            return False
        path = self._path(shard.split, shard.number)
        try:
            whole = files.digest_file(path) == note.get("sha256")
        except OSError:
            whole = False
        if not whole:
            warn("prepare", f"{path} is damaged; its rows are encoded again")
            return False
        self._right.add(shard)
        return True

    def write(self, shard: Shard, items: Sequence[Item]) -> None:
        """Write a shard of these items; see `store`."""
        self.store(shard, contents_of(items, self._codec))

    def store(self, shard: Shard, contents: Contents) -> None:
        """Write a shard atomically: a kill leaves either the whole shard or nothing.

        Raises:
            OSError: with the file's name, when the disk is full.
        """
        path = self._path(shard.split, shard.number)
        note = {
            "fingerprint": shard.fingerprint,
            "sha256": files.digest_bytes(contents.table),
            "run": self._run,
            "keys": shard.keys.hex(),
            "rows": contents.rows,
            "frames": contents.frames,
        }
        self._note_path(shard.split, shard.number).unlink(missing_ok=True)  # describes the old contents
        files.write_with(path, lambda temporary: temporary.write_bytes(contents.table))
        files.write_json(self._note_path(shard.split, shard.number), note)
        self._right.add(shard)

    def sizes(self, split: str, before: int) -> tuple[int, int]:
        """Count rows and frames of the finished shards below `before`, whichever process wrote them (a lower bound).

        Only shards written for the current manifests and settings (`run`) count. When called with increasing numbers,
        it rereads a shard's sidecar only until that shard is finished.
        """
        seen = self._seen.get(split)
        if seen is None or before < seen.end:
            seen = self._seen[split] = _Seen()
        for number in [*seen.missing, *range(seen.end, before)]:
            note = self._note(split, number)
            if note.get("run") == self._run:
                seen.rows, seen.frames = seen.rows + int(note["rows"]), seen.frames + int(note["frames"])
                seen.missing.discard(number)
            else:
                seen.missing.add(number)
        seen.end = before
        return seen.rows, seen.frames

    def prune(self) -> None:
        """Delete what belongs to no shard that this run wrote or found finished."""
        self._earlier.drop()
        kept = {self._path(one.split, one.number) for one in self._right}
        kept |= {path.with_suffix(".json") for path in kept}
        for path in self.directory.glob("*"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def present(self, split: str) -> int:
        """Number of finished shards of a split, whether up to date or not."""
        return sum(1 for _ in self.directory.glob(f"{split}-*.json"))

    def tables(self, split: str, rows: int) -> Iterator[pa.Table]:
        """Yield the shards of a manifest of `rows` lines in order; columns as in `store.shard_schema`."""
        for number in range(-(-rows // LINES)):
            yield self._table(split, number)

    def take(self, split: str, chosen: NDArray[np.bool_], columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield `columns` of the kept rows whose manifest lines the mask `chosen` (lines,) selects, in order."""
        last = np.flatnonzero(chosen)
        for table in self.tables(split, int(last[-1]) + 1 if len(last) else 0):
            kept = chosen[table["position"].to_numpy()] & table["reason"].is_null().to_numpy()
            if kept.any():
                yield table.select(columns).filter(pa.array(kept))

    def call_speakers(self, names: Mapping[str, Mapping[int, str]]) -> None:
        """From now on read rows, by split and manifest line, with these speaker names instead of their own."""
        self._speakers = names

    def row(self, split: str, position: int) -> dict[str, Any]:
        """All columns but the codes for one manifest line."""
        table = self._table(split, position // LINES).drop_columns("codes")
        found: dict[str, Any] = table.slice(position % LINES, 1).to_pylist()[0]
        return found

    def codes(self, split: str, position: int) -> Codes:
        """Codes (frames, codebooks) of one manifest line."""
        return row_codes(self._table(split, position // LINES), position % LINES)

    def _table(self, split: str, number: int) -> pa.Table:
        with pa.memory_map(str(self._path(split, number))) as source:
            table = pa.ipc.open_file(source).read_all()
        edits = self._edits.get(split)
        table = lay_over(table, edits) if edits else table
        if not (names := self._speakers.get(split)) or not len(table):
            return table
        pairs = zip(table["position"].to_pylist(), table["speaker"].to_pylist(), strict=True)
        return with_column(table, "speaker", [names.get(position, own) for position, own in pairs])

    def _note(self, split: str, number: int) -> dict[str, Any]:
        try:
            note = files.read_json(self._note_path(split, number))
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}

    def _path(self, split: str, number: int) -> Path:
        return self.directory / f"{split}-{number:06d}.arrow"

    def _note_path(self, split: str, number: int) -> Path:
        return self.directory / f"{split}-{number:06d}.json"


def contents_of(items: Sequence[Item], codec: Codec) -> Contents:
    """The contents of a shard of these items. The bytes depend only on the items."""
    table = shard_table(items, codec)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    frames = pc.list_value_length(table.filter(pc.is_null(table["reason"]))["codes"])
    return Contents(sink.getvalue().to_pybytes(), len(frames), pc.sum(frames).as_py() or 0)


def _stamp(row: Row) -> tuple[str, int, int] | None:
    return None if row.audio is None else files.stamp(row.audio)


def _identity(row: Row, recording: tuple[str, int, int] | None) -> str:
    """Everything about a row that determines its part of a shard."""
    about = (row.id, row.number, row.source, row.text, row.speaker, row.language, row.instruct, row.codes)
    return repr((about, str(row.ref_audio), recording, row.start, row.end))
